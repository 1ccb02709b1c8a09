//! One process of `criu swrk`, and the conversation with it.

use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

use super::message::{self, Feature, Options, Response, Verb};
use crate::{
    Context, Error, Kind, Result,
    host::program::{self, Program},
    sys,
};

/// Most bytes of a message of CRIU.
const MAX: usize = 40 << 10;
/// Longest time for an answer that takes no work.
const PROMPT: Duration = Duration::from_secs(10);
/// Longest time that a working CRIU may use neither a processor nor a file. During a restore it waits while the restored
/// processes read their memory, which takes 300 s for 60 GB at 200 MB/s.
const QUIET: Duration = Duration::from_secs(300);
/// Longest time from the answer to the end of the process.
const END: Duration = Duration::from_secs(10);
/// The programs that CRIU itself executes (tar, iptables, nft) are the system's.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// CRIU's version as one number: 4.1.1 is 40101. A build from git counts as the next minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    fn of(([major, minor, sublevel], from_git): ([u32; 3], bool)) -> Self {
        let [major, minor, sublevel] = [major, minor, sublevel].map(|part| part.min(99));
        Self(if from_git { major * 10000 + (minor + 1) * 100 } else { major * 10000 + minor * 100 + sublevel })
    }
}

/// A step of CRIU's work.
#[derive(Debug)]
pub enum Event {
    /// CRIU waits for [`Session::acknowledge`].
    Notified(Notification),
    /// CRIU has succeeded. The number is the pid of a restored process.
    Done(i32),
    /// CRIU has given up.
    Failed {
        /// An errno, or 0. The log tells the reason.
        errno: i32,
    },
}

/// A notification.
#[derive(Debug)]
pub struct Notification {
    /// Its name, such as `post-restore`.
    pub script: String,
    /// The process that it is about, or 0.
    pub pid: i32,
    /// The file that came with it.
    pub file: Option<OwnedFd>,
}

/// A process of CRIU. Dropping it kills the process.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    ended: bool,
    /// CRIU may wait for another machine, so silence is no fault.
    patient: bool,
}

impl Session {
    /// Starts CRIU with these standard streams, which restored processes may get, and `files` from descriptor 4 on.
    ///
    /// # Errors
    /// As socketpair(2), clone(2) and execve(2).
    pub fn start(criu: &Path, streams: [BorrowedFd<'_>; 3], files: &[BorrowedFd<'_>]) -> Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).context("socketpair")?;
        let [stdin, stdout, stderr] = streams;
        let fds = [&[stdin, stdout, stderr, theirs.as_fd()], files].concat();
        let args = ["swrk".to_owned(), "3".to_owned()];
        let program = Program { path: criu, args: &args, env: &[PATH.to_owned()], fds: &fds };
        let (pid, pidfd) = program::start(&program).with_context(|| format!("execute {}", criu.display()))?;
        // With the far end open only in the process, its death is the end of the stream.
        drop(theirs);
        Ok(Self { socket, pid, pidfd, ended: false, patient: false })
    }

    /// Returns the pid of the process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets CRIU be silent for any time, because it waits for another program or machine.
    pub fn wait_without_bound(&mut self) {
        self.patient = true;
    }

    /// Asks for the version.
    ///
    /// # Errors
    /// CRIU ends, or does not answer within 10 s.
    pub fn version(&mut self) -> Result<Version> {
        self.send(&message::version_request())?;
        let (answer, _) = self.receive(Some(PROMPT))?;
        if answer.success {
            Ok(Version::of(answer.version))
        } else {
            Err(Error::new(Kind::Internal, "criu: no version"))
        }
    }

    /// Checks that CRIU has these features on this kernel.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] with the missing ones, in runc's words.
    pub fn require(&mut self, wanted: &[Feature]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.send(&message::feature_request(wanted))?;
        let (answer, _) = self.receive(Some(PROMPT))?;
        let missing: Vec<_> = wanted.iter().filter(|feature| !answer.has(**feature)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::unsupported(format!("criu is missing features: {missing:?}")))
    }

    /// Begins some work. [`Session::next`] tells its steps.
    ///
    /// # Errors
    /// CRIU has ended.
    pub fn begin(&mut self, verb: Verb, options: &Options) -> Result<()> {
        self.send(&message::request(verb, options))
    }

    /// Waits for the next step.
    ///
    /// # Errors
    /// [`Kind::Internal`] if CRIU ends before its answer, or hangs.
    pub fn next(&mut self) -> Result<Event> {
        let (answer, file) = self.receive(None)?;
        Ok(if answer.is_notification() {
            Event::Notified(Notification { script: answer.script, pid: answer.about, file })
        } else if answer.success {
            Event::Done(answer.pid)
        } else {
            Event::Failed { errno: answer.errno }
        })
    }

    /// Lets CRIU go on after a notification.
    ///
    /// # Errors
    /// CRIU has ended.
    pub fn acknowledge(&mut self) -> Result<()> {
        self.send(&message::acknowledgement())
    }

    /// Waits for the end of the process after its answer, and reaps it.
    pub fn finish(&mut self) {
        // The process goes on with the next packet, and the closed socket tells it that there is none.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if wait(&[self.pidfd.as_fd()], END).is_ok_and(|ready| ready) {
            sys::reap(self.pidfd.as_fd());
        } else {
            self.kill();
        }
        self.ended = true;
    }

    /// Kills and reaps the process.
    pub fn kill(&mut self) {
        if !self.ended {
            self.ended = true;
            sys::kill_and_reap(self.pidfd.as_fd());
        }
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        let mut control = SendAncillaryBuffer::default();
        match sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::new(Kind::Internal, CRASHED)),
            Err(e) => Err(e).context("send a request to criu"),
        }
    }

    /// Reads one message. Without a `bound` CRIU may take as long as it does something.
    fn receive(&mut self, bound: Option<Duration>) -> Result<(Response, Option<OwnedFd>)> {
        match bound {
            Some(bound) => {
                if !wait(&[self.socket.as_fd()], bound)? {
                    return Err(self.hangs(bound));
                }
            }
            None => self.wait_while_it_works()?,
        }
        let mut buffer = vec![0; MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(Error::new(Kind::Internal, CRASHED)),
                received => break received.context("receive a message of criu")?,
            }
        };
        let mut files = VecDeque::new();
        for control in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = control {
                files.extend(fds);
            }
        }
        if received.bytes == 0 {
            return Err(Error::new(Kind::Internal, CRASHED));
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(Error::new(Kind::Internal, format!("criu: a message of more than {MAX} bytes")));
        }
        let response = Response::parse(buffer.get(..received.bytes).unwrap_or_default())?;
        Ok((response, files.pop_front()))
    }

    /// Waits for a message. CRIU may write memory for hours, so only a process that does nothing counts as hanging.
    fn wait_while_it_works(&mut self) -> Result<()> {
        let step = Duration::from_secs(5);
        let (mut before, mut since) = (self.progress(), Instant::now());
        while !wait(&[self.socket.as_fd()], step)? {
            let now = self.progress();
            if now != before || self.patient {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() >= QUIET {
                return Err(self.hangs(QUIET));
            }
        }
        Ok(())
    }

    /// Returns text that changes while the process or its children compute, read or write.
    fn progress(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        let times: Vec<_> = read("stat")
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split(' ')
            .skip(12)
            .take(4)
            .map(str::to_owned)
            .collect();
        read("io") + &times.join(" ")
    }

    fn hangs(&mut self, bound: Duration) -> Error {
        self.kill();
        Error::new(Kind::Internal, format!("criu hangs: killed after {} s", bound.as_secs()))
    }
}

/// The error for a process that closes its end early.
const CRASHED: &str = "criu has ended without an answer";

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until one of the files is readable; returns false after `bound`.
fn wait(files: &[BorrowedFd<'_>], bound: Duration) -> Result<bool> {
    let until = Instant::now() + bound;
    loop {
        let mut fds: Vec<_> = files.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready.context("wait for criu")? > 0),
        }
    }
}

/// Returns the number of a descriptor of this process, which CRIU opens through /proc (its peer's pid).
pub fn number(fd: impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(Version::of(([4, 1, 1], false)), Version(40101));
        assert_eq!(Version::of(([3, 17, 0], true)), Version(31800));
        assert!(Version::of(([3, 9, 9], false)) < Version::of(([3, 15, 0], false)));
    }

    #[test]
    fn criu_that_ends_early_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut session = Session::start(Path::new("/bin/true"), [null.as_fd(); 3], &[]).unwrap();
        let error = session.version().unwrap_err();
        assert_eq!(error.to_string(), CRASHED);
    }
}
