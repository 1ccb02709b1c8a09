//! Waiting for a condition, with a bound. Nothing in the tests sleeps for a time and hopes.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take that normally takes well under a second: a loaded machine, or one with a slow disk, is slow,
/// not broken. All bounds of the harness are this one.
pub const LONG: Duration = Duration::from_secs(180);

/// Asks `condition` until it gives a value, and panics naming `what` when it has not within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Like [`until`] for a condition that is only true or false.
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until(what, limit, || condition().then_some(()));
}
