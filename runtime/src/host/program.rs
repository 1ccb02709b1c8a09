//! Starts programs of the host: a log program beside a container, newuidmap(1), ps(1). [`berth_init::program`] holds
//! the child's half.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::File,
    io::{Read, Seek},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use berth_init::program::{self, memfd};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Access, Mode, OFlags},
    io::Errno,
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    host::{environment, open_files, signals},
    sys,
};

/// Longest time that [`run`] waits for a program.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of each output stream that [`run`] reads.
const MAX_OUTPUT: u64 = 64 << 20;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// The absolute path of the executable.
    pub path: &'a Path,
    /// The arguments without the program's name.
    pub args: &'a [String],
    /// The complete environment, as `NAME=value`.
    pub env: &'a [String],
    /// The file descriptors from 0 on. The program gets no others.
    pub fds: &'a [BorrowedFd<'a>],
}

/// Starts a program, and returns its pid and pidfd after a successful execve(2).
///
/// The program gets the caller's limit of open files, and all signals at their defaults.
///
/// # Errors
/// [`Kind::InvalidArgument`] for a NUL byte in an argument. The error of execve(2). Then no process is left.
pub fn start(program: &Program<'_>) -> Result<(i32, OwnedFd)> {
    start_as(program.path.as_os_str().as_bytes(), program.path, program.args, program.env, program.fds)
}

/// Does the same with `name` as the program's first argument.
fn start_as(
    name: &[u8],
    path: &Path,
    words: &[impl AsRef<[u8]>],
    variables: &[impl AsRef<[u8]>],
    fds: &[BorrowedFd<'_>],
) -> Result<(i32, OwnedFd)> {
    let arena = Arena::default();
    let path = arena.path(path, "program's path")?;
    let mut args = vec![arena.text(name, "program's name")?.as_ptr()];
    for word in words {
        args.push(arena.text(word, "program's arguments")?.as_ptr());
    }
    args.push(std::ptr::null());
    let mut env = Vec::with_capacity(variables.len() + 1);
    for word in variables {
        env.push(Cell::new(arena.text(word, "program's environment")?.as_ptr()));
    }
    env.push(Cell::new(std::ptr::null()));
    // The numbers above those of the program, so that dup2(2) in the child cannot close a source.
    let clear = i32::try_from(fds.len()).unwrap_or(i32::MAX).saturating_add(3);
    let above: Vec<OwnedFd> =
        fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, clear)).collect::<Result<_, _>>()?;
    let fds: Vec<BorrowedFd<'_>> = above.iter().map(AsFd::as_fd).collect();
    let (args, env) = (arena.list(args), arena.list(env));
    let (limit, ignored_signals) = (open_files::inherited_nofile(), signals::ignored());
    Ok(program::start(&program::Program { path, args, env, fds: &fds, limit, ignored_signals })?)
}

/// The output and the exit status of a program.
pub struct Output {
    /// The exit status; `None` if a signal ended the program.
    pub status: Option<i32>,
    /// Its standard output, with replacement characters for bytes that are not UTF-8.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
}

/// Runs a program from `PATH` to its end, with this process's environment and an empty standard input.
///
/// # Errors
/// [`Kind::NotFound`] if `PATH` has no such program. [`Kind::Internal`] if it runs longer than 30 s; it is then killed.
pub fn run(name: &str, args: &[String]) -> Result<Output> {
    let path = find(name)?;
    let env = environment::of_caller();
    let null =
        rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")?;
    let (stdout, stderr) = (memfd(c"stdout")?, memfd(c"stderr")?);
    let streams = [null.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let (_, pidfd) = start_as(name.as_bytes(), &path, args, &env, &streams).with_context(|| name.to_owned())?;
    let status = wait_for_exit(name, pidfd.as_fd())?;
    Ok(Output { status, stdout: read_output(stdout)?, stderr: read_output(stderr)? })
}

/// Finds a program in `PATH`, as execvp(3) does.
fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = path.as_bytes().split(|byte| *byte == b':').map(|dir| match dir {
        [] => Path::new(".").join(name),
        dir => Path::new(OsStr::from_bytes(dir)).join(name),
    });
    let found = places.find(|place| place.is_file() && rustix::fs::access(place, Access::EXEC_OK).is_ok());
    found.ok_or_else(|| Error::new(Kind::NotFound, format!("{name}: executable file not found in $PATH")))
}

/// Waits for the end of a program and returns its exit status.
fn wait_for_exit(name: &str, pidfd: BorrowedFd<'_>) -> Result<Option<i32>> {
    let timeout = Timespec::try_from(RUN_TIMEOUT).ok();
    let ended = loop {
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            ended => break ended.context("poll")? > 0,
        }
    };
    if !ended {
        sys::kill_and_reap(pidfd);
        return Err(Error::new(Kind::Internal, format!("{name}: did not end within {} s", RUN_TIMEOUT.as_secs())));
    }
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            status => return Ok(status.context("waitid")?.and_then(|status| status.exit_status())),
        }
    }
}

fn read_output(file: OwnedFd) -> Result<String> {
    let mut file = File::from(file);
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Output {
        run("sh", &["-c".to_owned(), script.to_owned()]).unwrap()
    }

    #[test]
    fn program_is_run_to_its_end_with_default_signals() {
        let out = sh("cat; echo out; echo err >&2; exit 7");
        assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (Some(7), "out\n", "err\n"));
        assert_eq!(sh("kill -9 $$").status, None);
        assert_eq!(run("no-such-program", &[]).err().unwrap().kind(), Kind::NotFound);
        let status = sh("cat /proc/self/status").stdout;
        assert!(
            status.contains("SigIgn:\t0000000000000000\n") && status.contains("SigBlk:\t0000000000000000\n"),
            "{status}"
        );
        // No pipeline: the shell would still have its pipe open. `true` keeps it from executing ls in its own place.
        assert_eq!(sh("ls /proc/$$/fd; true").stdout, "0\n1\n2\n");
    }

    #[test]
    fn file_that_is_not_executable_is_an_error() {
        let program = Program { path: Path::new("/etc/passwd"), args: &[], env: &[], fds: &[] };
        assert_eq!(start(&program).unwrap_err().errno(), Some(libc::EACCES));
    }
}
