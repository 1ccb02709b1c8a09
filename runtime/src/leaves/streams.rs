//! Makes the standard streams accessible in a user namespace.
//!
//! A payload may reopen a stream through `/dev/stdout` only if its user owns the file. init changes the owner to that
//! user if it can. A pipe that root of the host has created has an owner without a mapping in the namespace, so init
//! cannot change it. Therefore the runtime gives pipes to the container's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{FileType, Gid, Uid, fchown, fstat},
    io::Errno,
};

use crate::{Context, Result, id_maps::Ids};

/// The standard streams of a process. A process with `process.terminal` gets a pty instead, and the caller gets its
/// master.
#[derive(Debug)]
pub enum Stdio {
    /// The runtime's own streams.
    Inherit,
    /// `/dev/null`.
    Null,
    /// These files, in the order stdin, stdout, stderr.
    Fds([OwnedFd; 3]),
    /// As `Null`. A pty's output is relayed to the caller's terminal, which translates newlines itself. Therefore the
    /// pty must not translate them (`ONLCR`, termios(3)).
    Relayed,
}

/// Gives the pipes among the streams to the container's root. Calls `ids` only if there is a pipe.
///
/// Other files keep their owner: the container could otherwise write to a file that was opened for reading.
///
/// # Errors
/// As fchown(2) for pipes in [`Stdio::Fds`]. For inherited streams, `EPERM` and `EROFS` are ignored.
pub fn chown_pipes_to_root(stdio: &Stdio, ids: impl FnOnce() -> Result<Ids>) -> Result<()> {
    let what = "process.user: give the standard streams to the container's root";
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let (streams, own): ([BorrowedFd<'_>; 3], bool) = match stdio {
        Stdio::Null | Stdio::Relayed => return Ok(()),
        Stdio::Inherit => ([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], false),
        Stdio::Fds(fds) => (fds.each_ref().map(AsFd::as_fd), true),
    };
    let pipe = |stream| {
        let seen = fstat(stream).ok()?;
        (FileType::from_raw_mode(seen.st_mode) == FileType::Fifo).then_some((stream, seen))
    };
    let mut pipes = streams.into_iter().filter_map(pipe).peekable();
    if pipes.peek().is_none() {
        return Ok(());
    }
    let ids = ids()?;
    let (uid, gid) = (ids.host_uid(0, "linux.uidMappings")?, ids.host_gid(0, "linux.gidMappings")?);
    for (stream, seen) in pipes {
        if (seen.st_uid, seen.st_gid) == (uid, gid) {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            Err(Errno::PERM | Errno::ROFS) if !own => {}
            done => done.context(what)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_mappings_are_read_only_if_a_stream_is_a_pipe() {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let asked = std::cell::Cell::new(false);
        let ids = || {
            asked.set(true);
            Err(crate::Error::invalid("asked"))
        };
        chown_pipes_to_root(&Stdio::Fds([null(), null(), null()]), ids).unwrap();
        assert!(!asked.get());
        let (_read, write) = std::io::pipe().unwrap();
        let error = chown_pipes_to_root(&Stdio::Fds([null(), write.into(), null()]), ids).unwrap_err();
        assert_eq!(error.to_string(), "asked");
    }
}
