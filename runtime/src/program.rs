//! Programs of the host's that a front door starts beside a container, as one that logs. How one is started is
//! [`berth_init::program`]'s.

use std::{
    cell::Cell,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::program;

use crate::{Result, arena::Arena, rlimit};

/// What to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Absolute.
    pub path: &'a Path,
    /// The words after its name.
    pub args: &'a [String],
    /// The whole of its environment.
    pub env: &'a [String],
    /// Its descriptors from 0 on. It gets no others.
    pub fds: &'a [BorrowedFd<'a>],
}

/// Starts it with the limit of open files that the runtime was given and all signals at their defaults, and returns when
/// it executes; gives its pid and pidfd.
///
/// # Errors
/// A zero byte in a word; it cannot be executed. Nothing is left.
pub fn start(program: &Program<'_>) -> Result<(i32, OwnedFd)> {
    let arena = Arena::default();
    let path = arena.path(program.path, "program's path")?;
    let mut args = vec![path.as_ptr()];
    for word in program.args {
        args.push(arena.text(word, "program's arguments")?.as_ptr());
    }
    args.push(std::ptr::null());
    let mut env = Vec::with_capacity(program.env.len() + 1);
    for word in program.env {
        env.push(Cell::new(arena.text(word, "program's environment")?.as_ptr()));
    }
    env.push(Cell::new(std::ptr::null()));
    // Above every number that is given away, so that putting one in place cannot close another.
    let clear = i32::try_from(program.fds.len()).unwrap_or(i32::MAX).saturating_add(3);
    let above: Vec<OwnedFd> =
        program.fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, clear)).collect::<Result<_, _>>()?;
    let fds: Vec<BorrowedFd<'_>> = above.iter().map(AsFd::as_fd).collect();
    let (args, env) = (arena.list(args), arena.list(env));
    Ok(program::start(&program::Program { path, args, env, fds: &fds, limit: rlimit::given() })?)
}
