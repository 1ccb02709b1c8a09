//! Descriptors that are kept to be given up: for the signals, the ends and the connections that must be possible when the
//! process has no other descriptor left.
//!
//! They are made first, so that their numbers are low: a limit that is lowered later still has them in it.

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    process::{Resource, getrlimit},
    stdio::stdin,
};

/// How many are kept: what the deepest of the urgent verbs has open at once (a pidfd, a directory of the state, of a
/// cgroup and of one below it, a file in that), and one for a connection meanwhile.
const SPARE_FDS: usize = 6;
/// With fewer than this left, descriptors are scarce.
const LOW_WATER: u64 = 16;

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { spare: Vec::new(), wanted: 0 });

#[derive(Debug)]
struct Reserve {
    spare: Vec<OwnedFd>,
    wanted: usize,
}

/// Keeps a reserve from now on. Before that, and in a process that does not call this, there is none.
pub fn fill() {
    let mut reserve = lock();
    reserve.wanted = SPARE_FDS;
    reserve.refill();
}

/// Does `work`; where descriptors are scarce, with those of the reserve, which are taken back afterwards.
pub fn with_spare_fds<T>(work: impl FnOnce() -> T) -> T {
    let released = {
        let mut reserve = lock();
        let scarce = reserve.wanted > 0 && is_scarce();
        if scarce {
            reserve.spare.clear();
        } else {
            reserve.refill();
        }
        scarce
    };
    let done = work();
    if released {
        lock().refill();
    }
    done
}

/// Gives up one descriptor, for a connection that could not be made without; whether there was one.
pub fn release_one() -> bool {
    lock().spare.pop().is_some()
}

impl Reserve {
    fn refill(&mut self) {
        while self.spare.len() < self.wanted
            && let Ok(fd) = dup_stdin()
        {
            self.spare.push(fd);
        }
    }
}

fn is_scarce() -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return false };
    // How many are open (Linux 6.2); a look that costs no descriptor.
    let open = rustix::fs::stat("/proc/self/fd").map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
    if open > 0 {
        return open + LOW_WATER > limit;
    }
    let tried: Vec<_> = std::iter::repeat_with(dup_stdin).take(SPARE_FDS).collect();
    tried.iter().any(Result::is_err)
}

/// One more of what is open anyway; it costs nothing but its number.
fn dup_stdin() -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(stdin(), 0)
}

fn lock() -> MutexGuard<'static, Reserve> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}
