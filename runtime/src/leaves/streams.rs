//! Whose the standard streams are, in a user namespace.
//!
//! A process may open a stream anew, by `/dev/stdout`, when it is the payload's user's; init gives it to that user as far as
//! it may. A pipe that the host's root has made is nobody's in there, and init may do nothing about it: so it is given
//! to the container's root here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{FileType, Gid, Uid, fchown, fstat},
    io::Errno,
};

use crate::{Context, Result, id_maps::Ids};

/// Where a process gets its standard streams. One with a terminal gets that, and its master comes back.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// `/dev/null`.
    Null,
    /// stdin, stdout, stderr.
    Fds([OwnedFd; 3]),
    /// As `Null`, but a terminal will be shown on another one, which turns newlines into what it needs: so the
    /// process' own must not.
    Relayed,
}

/// Gives the pipes among the streams to the container's root, whose `ids` are asked for when there are any. Only pipes: a
/// file that was opened to be read would become one that the container can write to.
///
/// # Errors
/// What keeps a pipe of the runtime's own from that; with one of its caller's it is not insisted on.
pub fn give(stdio: &Stdio, ids: impl FnOnce() -> Result<Ids>) -> Result<()> {
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
    fn ids_are_asked_for_only_when_there_is_a_pipe() {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let asked = std::cell::Cell::new(false);
        let ids = || {
            asked.set(true);
            Err(crate::Error::invalid("asked"))
        };
        give(&Stdio::Fds([null(), null(), null()]), ids).unwrap();
        assert!(!asked.get());
        let (_read, write) = std::io::pipe().unwrap();
        let error = give(&Stdio::Fds([null(), write.into(), null()]), ids).unwrap_err();
        assert_eq!(error.to_string(), "asked");
    }
}
