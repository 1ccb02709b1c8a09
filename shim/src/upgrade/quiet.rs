//! A moment at which nothing is in flight that a document cannot say.

use std::{sync::Arc, time::Duration};

use berth_runtime::{Kind, Result};
use tokio::time::{Instant, sleep};

use crate::{
    carry, detach,
    io::worker::{self, Hold},
    link::Links,
    service::Service,
};

/// The time that requests wait for such a moment before the server goes on. containerd gives up a State after 2 s.
const HOLD: Duration = Duration::from_millis(500);
/// The time that the server then goes on before the next attempt. A call that ends within it does not fail the upgrade.
const GO_ON: Duration = Duration::from_millis(200);
/// The time after which the server is busy.
const LIMIT: Duration = Duration::from_secs(5);
/// The pause between two looks.
const LOOK: Duration = Duration::from_micros(500);
/// The time that containerd has to acknowledge the events.
const FLUSH: Duration = Duration::from_secs(1);

/// Finds quiet moments of a server.
#[derive(Debug)]
pub struct Quiet<'a> {
    service: &'a Service,
    links: &'a Arc<Links>,
}

/// Requests and writes to files wait until it is dropped.
struct Held<'a> {
    links: &'a Links,
    _files: Hold,
}

impl<'a> Held<'a> {
    fn begin(links: &'a Links) -> Self {
        links.hold();
        Self { links, _files: Hold::begin() }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.links.release();
    }
}

impl<'a> Quiet<'a> {
    /// Looks at these parts of a server.
    pub fn new(service: &'a Service, links: &'a Arc<Links>) -> Self {
        Self { service, links }
    }

    /// Calls `act` at a quiet moment, with the time of the monotonic clock at which the requests began to wait, in µs. What
    /// `act` finds to be in flight makes it no quiet moment.
    ///
    /// # Errors
    /// There was no such moment within 5 s: the message says what was in flight. Or `act` failed.
    pub async fn find<T>(&self, mut act: impl FnMut(u64) -> Result<T>) -> Result<T> {
        let end = Instant::now() + LIMIT;
        let delivered = self.service.publisher().flush(FLUSH).await;
        loop {
            let (held, since) = (Held::begin(self.links), Instant::now());
            let paused_at = now();
            let why = loop {
                let why = match self.in_flight(delivered) {
                    Some(what) => what,
                    None => match act(paused_at) {
                        Err(e) if e.kind() == Kind::FailedPrecondition => e.to_string(),
                        done => return done,
                    },
                };
                if since.elapsed() >= HOLD || Instant::now() >= end {
                    break why;
                }
                sleep(LOOK).await;
            };
            drop(held);
            if Instant::now() >= end {
                return Err(carry::busy(format!("busy, try again later: {why}")));
            }
            sleep(GO_ON).await;
        }
    }

    /// The first thing that is in flight, in words.
    fn in_flight(&self, delivered: bool) -> Option<String> {
        let pool = self.service.pool();
        let changes = detach::in_flight();
        if let Some(what) = self.links.in_flight() {
            return Some(what);
        }
        if changes > 0 {
            return Some(format!("{changes} changes are in flight"));
        }
        if pool.is_busy() || worker::is_busy() {
            return Some("a thread works".into());
        }
        // containerd was there: its acknowledgement is about to come.
        (delivered && self.service.publisher().is_sending()).then(|| "an event is on its way".into())
    }
}

/// The time of the monotonic clock in µs. It goes on over an execve(2).
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, rest) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec / 1000));
    seconds.unwrap_or_default() * 1_000_000 + rest.unwrap_or_default()
}
