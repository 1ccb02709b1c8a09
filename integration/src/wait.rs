//! Waits for a condition, with a bound. No test sleeps for a fixed time instead.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// The bound of anything that usually takes well under a second. A loaded machine or a slow disk only takes longer. All
/// bounds of the library are this one.
pub const LONG: Duration = Duration::from_secs(180);

/// Asks `condition` until it returns a value. Panics with `what` if it has not within `limit`.
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

/// Like [`until`] for a condition that is true or false.
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until(what, limit, || condition().then_some(()));
}
