//! The keeper of a hook that has a timeout: a process between the runner and the hook. It is a subreaper
//! (`PR_SET_CHILD_SUBREAPER`), so all processes that the hook makes stay its descendants, also those that have made a
//! session of their own and lost their parent. After the timeout it kills them all. A hook that ends in time may leave
//! processes in the background.

use rustix::{
    event::{PollFd, Timespec, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{self, Mode, OFlags},
    io::{self, Errno},
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getppid, kill_process, pidfd_send_signal, waitid},
};

use crate::{fds, sys};

/// The pause between two searches for processes that are still alive, and the number of searches: 10 s in all.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
const SEARCHES: usize = 2000;
/// The seconds that the keeper may take beyond the hook's timeout.
pub(crate) const MARGIN: u32 = 20;

/// The keeper's report: the hook's end.
pub(crate) enum End {
    /// The hook has ended with this wait(2) status.
    Status(i32),
    /// It was killed after its timeout, with all its processes.
    TimedOut,
}

impl End {
    /// The bytes of a report; an errno has four bytes.
    const LEN: usize = 5;

    fn encode(&self) -> [u8; Self::LEN] {
        let (kind, status) = match self {
            Self::Status(status) => (0, *status),
            Self::TimedOut => (1, 0),
        };
        let [a, b, c, d] = status.to_ne_bytes();
        [kind, a, b, c, d]
    }

    /// Reads a report from the pipe; `None` if the keeper was killed.
    pub(crate) fn read(pipe: &OwnedFd) -> Option<Self> {
        let mut bytes = [0u8; Self::LEN];
        match io::read(pipe, &mut bytes) {
            Ok(Self::LEN) => {}
            _ => return None,
        }
        let [kind, a, b, c, d] = bytes;
        Some(if kind == 0 { Self::Status(i32::from_ne_bytes([a, b, c, d])) } else { Self::TimedOut })
    }
}

/// Becomes the keeper: starts the hook, waits `seconds` for its end, and writes its report to `pipe`. `become_hook` gets
/// the keeper's pid, and does not return.
pub(crate) fn keep(
    runner: Pid,
    seconds: u32,
    streams: [BorrowedFd<'_>; 3],
    [errno_pipe, pipe]: [OwnedFd; 2],
    become_hook: impl FnOnce(Pid, OwnedFd),
) -> ! {
    let watch = || -> io::Result<End> {
        sys::prctl(libc::PR_SET_PDEATHSIG, u64::from(libc::SIGKILL.unsigned_abs()), 0)?;
        if getppid() != Some(runner) {
            return Err(Errno::CANCELED);
        }
        // The runtime's fds, such as pipes of containers, must not stay open as long as the hook runs.
        let [a, b, c] = streams.map(|fd| fd.as_raw_fd());
        let mut kept = [a, b, c, errno_pipe.as_raw_fd(), pipe.as_raw_fd()];
        kept.sort_unstable();
        fds::close_all_but(0, &kept).map_err(|failure| Errno::from_raw_os_error(failure.errno))?;
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
        let keeper = rustix::process::getpid();
        let pidfd = match sys::clone_hook()? {
            sys::Side::Child => {
                become_hook(keeper, errno_pipe);
                sys::exit(127)
            }
            sys::Side::Parent(_, pidfd) => pidfd,
        };
        drop(errno_pipe);
        if sys::wait_readable(pidfd.as_fd(), None, Some(seconds))? {
            return reap(&pidfd).map(End::Status);
        }
        // An error is ignored: the wait below returns in any case.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        reap(&pidfd)?;
        end_descendants();
        Ok(End::TimedOut)
    };
    if let Ok(end) = watch() {
        let _ = io::write(&pipe, &end.encode());
    }
    sys::exit(0)
}

/// Waits for the end of a process, and returns its wait(2) status.
pub(crate) fn reap(pidfd: &OwnedFd) -> io::Result<i32> {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            status => return status.map(wait_status),
        }
    }
}

/// The wait(2) status of a process that has ended.
fn wait_status(status: Option<WaitIdStatus>) -> i32 {
    status.map_or(0, |s| match (s.exit_status(), s.terminating_signal()) {
        (Some(code), _) => code << 8,
        (None, Some(signal)) => signal | if s.dumped() { 0x80 } else { 0 },
        (None, None) => 0xff00,
    })
}

/// Kills all children until none is left. The children of a killed process become children of this one.
fn end_descendants() {
    for _ in 0..SEARCHES {
        kill_children();
        loop {
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Err(Errno::CHILD) => return,
                Ok(Some(_)) | Err(Errno::INTR) => {}
                _ => break,
            }
        }
        let _ = poll(&mut [] as &mut [PollFd<'_>; 0], Some(&PAUSE));
    }
}

/// Sends SIGKILL to the children that /proc lists (proc_tid_children(5)). A number that is no child of this process
/// belongs to another pid namespace, and gets no signal.
fn kill_children() {
    let Ok(file) = fs::open(c"/proc/thread-self/children", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let mut buffer = [0u8; 4096];
    let length = io::read(&file, &mut buffer[..]).unwrap_or(0);
    let numbers = buffer.get(..length).unwrap_or_default().split(|byte| *byte == b' ');
    for pid in numbers.filter_map(|digits| core::str::from_utf8(digits).ok()?.parse().ok()).filter_map(Pid::from_raw) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(pid), options).is_ok() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_of_a_keeper_is_read_back() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        io::write(&writer, &End::Status(0x100).encode()).unwrap();
        io::write(&writer, &End::TimedOut.encode()).unwrap();
        assert!(matches!(End::read(&reader), Some(End::Status(0x100))));
        assert!(matches!(End::read(&reader), Some(End::TimedOut)));
        drop(writer);
        assert!(End::read(&reader).is_none());
    }
}
