//! Spare descriptors. The shim closes them when it has no other descriptor left and must still signal a process, end a
//! container or accept a connection.
//!
//! They are opened first, so their numbers are low and stay below a limit that is lowered later (prlimit(1)).

use std::{
    os::fd::OwnedFd,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    process::{Resource, getrlimit},
    stdio::stdin,
};

/// The descriptors of one urgent operation. The deepest has this many open: a pidfd; the directories of the state, of the
/// cgroup and of a nested one; a file in that.
const WORK_FDS: usize = 6;
/// The descriptors of connections that are made meanwhile: of a restarted containerd, and of the publisher.
const CONNECTION_FDS: usize = 4;
/// Descriptors are scarce when fewer than this many are left.
const LOW_WATER: u64 = 16;
/// The time that an urgent operation waits for another one to return the reserve. A longer wait would stop the event
/// loop, where the operation runs if there is no thread.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { spare: Vec::new(), wanted: 0, lent: false });
static RETURNED: Condvar = Condvar::new();

#[derive(Debug)]
struct Reserve {
    spare: Vec<OwnedFd>,
    wanted: usize,
    /// An urgent operation has the numbers of [`WORK_FDS`] descriptors. Two at once would lack some.
    lent: bool,
}

/// Opens the reserve. Without this call there is none.
pub fn fill() {
    let mut reserve = lock();
    reserve.wanted = WORK_FDS + CONNECTION_FDS;
    reserve.refill();
}

/// Runs `work`. If descriptors are scarce, a part of the reserve is closed for `work` and opened again afterwards; such
/// works run one after another.
pub fn with_spare_fds<T>(work: impl FnOnce() -> T) -> T {
    let loan = Loan::take();
    let done = work();
    drop(loan);
    done
}

/// The reserve while an urgent operation uses it. Drop opens it again.
struct Loan;

impl Loan {
    /// Closes a part of the reserve, or returns `None` if there are enough descriptors.
    fn take() -> Option<Self> {
        let mut reserve = lock();
        if reserve.wanted == 0 || !is_scarce() {
            reserve.refill();
            return None;
        }
        (reserve, _) = RETURNED
            .wait_timeout_while(reserve, TURN_TIMEOUT, |reserve| reserve.lent)
            .unwrap_or_else(PoisonError::into_inner);
        reserve.lent = true;
        let kept = reserve.spare.len().saturating_sub(WORK_FDS);
        reserve.spare.truncate(kept);
        Some(Self)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut reserve = lock();
        reserve.lent = false;
        reserve.refill();
        RETURNED.notify_one();
    }
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
    let tried: Vec<_> = std::iter::repeat_with(dup_stdin).take(WORK_FDS).collect();
    tried.iter().any(Result::is_err)
}

/// Duplicates descriptor 0, which costs a number and no kernel object.
fn dup_stdin() -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(stdin(), 0)
}

fn lock() -> MutexGuard<'static, Reserve> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}
