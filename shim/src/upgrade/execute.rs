//! The new program: it is tried with a document, and then executed in place of this one.

use std::{
    ffi::{CString, OsString},
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    sync::Arc,
    time::Duration,
};

use berth_runtime::{Context, Error, Kind, Result, open_files, sealed::Program};
use nix::{
    fcntl::{AtFlags, OFlag},
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{signal::SigSet, stat::Mode},
    unistd::execveat,
};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid},
};
use serde::{Deserialize, Serialize};
use tokio::{io::Interest, time::timeout};

use crate::{
    args::handover::FLAG,
    carry::{self, Document, Known},
    reap::{self, Children},
    watch::watch,
};

/// The time that the new program has to read a document. A server serves on meanwhile.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The descriptor on which a trial gets the document.
const TRIAL_DOCUMENT: i32 = 3;
/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// The answer of a program that is tried.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// A program of this version can take over.
    Understood(String),
    /// It cannot, for this reason.
    Refused(String),
}

/// A sealed program, and a descriptor of the one that runs.
pub struct Executable(Program);

impl Executable {
    /// Takes a sealed program.
    pub fn new(program: Program) -> Self {
        Self(program)
    }

    /// Lets the program read a document without any effect; returns its version.
    ///
    /// # Errors
    /// The program cannot be executed, does not answer in time or not as a shim of berth does, or refuses the document.
    pub async fn try_on(&self, memory: &OwnedFd, children: &Arc<Children>) -> Result<String> {
        let (answer, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context("pipe")?;
        let spawning = children.begin_spawn();
        let pid = self.spawn_trial(memory, &writer)?;
        let raw = Pid::from_raw(pid).ok_or_else(|| Error::new(Kind::Internal, "the trial has no pid"))?;
        // The child is not reaped, so its pid names it.
        let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(e) => {
                let _ = kill_process(raw, Signal::KILL);
                let _ = waitpid(Some(raw), WaitOptions::empty());
                return Err(e).context("pidfd_open");
            }
        };
        children.register(&spawning, pid);
        drop((spawning, writer));
        let said = timeout(TRIAL_TIMEOUT, read(&answer)).await;
        if said.is_err() {
            let _ = berth_runtime::send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        let ended = timeout(TRIAL_TIMEOUT, reap::wait_exit(&pidfd)).await;
        if ended.is_err() {
            let _ = berth_runtime::send_signal(pidfd.as_fd(), libc::SIGKILL);
            reap::wait_exit(&pidfd).await;
        }
        children.unregister(pid);
        let refused = |text: String| Err(Error::invalid(text));
        let (Ok(said), Ok(exit)) = (said, ended) else {
            return refused(format!("it did not answer within {} s", TRIAL_TIMEOUT.as_secs()));
        };
        match serde_json::from_slice(&said?) {
            Ok(Verdict::Understood(version)) if exit.status == 0 => Ok(version),
            Ok(Verdict::Refused(why)) => refused(format!("it refuses: {why}")),
            _ => refused(format!("it is no shim that can take over (a trial ended with status {})", exit.status)),
        }
    }

    /// Spawns the trial: descriptor 1 is the answer, [`TRIAL_DOCUMENT`] the document, and it has no others. Nothing here
    /// waits for longer than the spawn takes.
    fn spawn_trial(&self, memory: &OwnedFd, answer: &OwnedFd) -> Result<i32> {
        // The document's own descriptor has an offset that both would share.
        let document = File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).context("open the document")?;
        let mut files = PosixSpawnFileActions::init().context("posix_spawn")?;
        let spawned = (|| {
            files.add_open(0, c"/dev/null", OFlag::O_RDWR, Mode::empty())?;
            files.add_dup2(0, 2)?;
            files.add_dup2(answer.as_raw_fd(), 1)?;
            files.add_dup2(document.as_raw_fd(), TRIAL_DOCUMENT)?;
            let mut attributes = PosixSpawnAttr::init()?;
            attributes.set_sigmask(&SigSet::empty())?;
            attributes.set_sigdefault(&SigSet::all())?;
            attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
            let words = [c"containerd-shim-berth-v2", c"-handover-check"];
            posix_spawn(self.0.path().as_path(), &files, &attributes, &words, &environment())
        })();
        Ok(spawned.context("execute it")?.as_raw())
    }

    /// Executes the program in place of this one; returns the error if that fails. All that the document names stays
    /// open, and all else is closed.
    pub fn execute(&self, document: &Document, memory: &OwnedFd) -> Error {
        let old = match File::open("/proc/self/exe").context("open the running program") {
            Ok(old) => OwnedFd::from(old),
            Err(e) => return e,
        };
        let words = [FLAG.to_owned(), format!("{}:{}", memory.as_raw_fd(), old.as_raw_fd())];
        let passed = [memory.as_fd(), old.as_fd()];
        let error = replace(&self.0, &document.arguments, &document.fds, &passed, &words);
        // This program serves on.
        let _ = carry::inherit(&document.fds, false);
        error
    }
}

/// Executes `program` in place of this one, with `line` and `words` as arguments; it inherits `fds` and `passed`. Returns
/// the error if that fails.
pub fn replace(
    program: impl AsFd,
    line: &[String],
    fds: &[Known],
    passed: &[BorrowedFd<'_>],
    words: &[String],
) -> Error {
    let arguments = line.iter().chain(words).map(|word| CString::new(word.as_str()));
    let Ok(arguments) = arguments.collect::<Result<Vec<_>, _>>() else {
        return Error::invalid("an argument has a NUL byte");
    };
    let kept = carry::inherit(fds, true).and_then(|()| {
        passed.iter().try_for_each(|fd| {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).context("pass a descriptor on")
        })
    });
    if let Err(e) = kept {
        return e;
    }
    // The next program raises its limit itself, and remembers the one from before.
    open_files::lower_own();
    let Err(e) = execveat(program, c"", &arguments, &environment(), AtFlags::AT_EMPTY_PATH);
    open_files::raise_own();
    Error::from(e).context("execute it")
}

fn environment() -> Vec<CString> {
    let pair = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec()).ok()
    };
    std::env::vars_os().filter_map(pair).collect()
}

/// Reads the answer to its end.
async fn read(answer: &OwnedFd) -> Result<Vec<u8>> {
    let source = watch(answer.as_fd(), Interest::READABLE).context("watch the trial")?;
    let mut said = Vec::new();
    while said.len() < MAX_ANSWER {
        let mut guard = source.readable().await.context("watch the trial")?;
        let mut chunk = [0; 1024];
        match rustix::io::read(answer, &mut chunk) {
            Ok(0) => break,
            Ok(n) => said.extend(chunk.get(..n).unwrap_or_default()),
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("read the answer of the trial"),
        }
    }
    Ok(said)
}

/// The action `-handover-check`: reads the document on descriptor 3 and prints the verdict.
///
/// # Errors
/// The verdict cannot be written.
pub fn print_verdict() -> Result<()> {
    let read = carry::read(carry::borrow(TRIAL_DOCUMENT)).and_then(|json| Document::decode(&json));
    let verdict = match read {
        Ok(_) => Verdict::Understood(berth_version::VERSION.to_owned()),
        Err(e) => Verdict::Refused(e.to_string()),
    };
    let json = serde_json::to_vec(&verdict).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    std::io::Write::write_all(&mut std::io::stdout(), &json).context("write the verdict")
}
