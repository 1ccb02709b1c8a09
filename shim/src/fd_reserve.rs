//! Spare descriptors. The shim closes them when it has no other descriptor left and must still signal a process, end a
//! container or accept a connection.
//!
//! They are opened first, so their numbers are low and stay below a limit that is lowered later (prlimit(1)).

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    process::{Resource, getrlimit},
    stdio::stdin,
};

/// The number of spare descriptors. The deepest urgent operation has this many open (a pidfd; the directories of the
/// state, of the cgroup and of a nested one; a file in that), and a connection may need one meanwhile.
const SPARE_FDS: usize = 6;
/// Descriptors are scarce when fewer than this many are left.
const LOW_WATER: u64 = 16;

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { spare: Vec::new(), wanted: 0 });

#[derive(Debug)]
struct Reserve {
    spare: Vec<OwnedFd>,
    wanted: usize,
}

/// Opens the reserve. Without this call there is none.
pub fn fill() {
    let mut reserve = lock();
    reserve.wanted = SPARE_FDS;
    reserve.refill();
}

/// Runs `work`. If descriptors are scarce, the reserve is closed for `work` and opened again afterwards.
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

/// Closes one spare descriptor for a connection that needs it. Returns false if none was left.
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
    // The size of the directory is the number of open descriptors (Linux 6.2). The call needs no descriptor.
    let open = rustix::fs::stat("/proc/self/fd").map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
    if open > 0 {
        return open + LOW_WATER > limit;
    }
    let tried: Vec<_> = std::iter::repeat_with(dup_stdin).take(SPARE_FDS).collect();
    tried.iter().any(Result::is_err)
}

/// Duplicates descriptor 0, which costs a number and no kernel object.
fn dup_stdin() -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(stdin(), 0)
}

fn lock() -> MutexGuard<'static, Reserve> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}
