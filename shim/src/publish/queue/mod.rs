//! The queue between whoever sends and the one task that delivers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_proto::events::ForwardRequest;
use tokio::sync::Notify;

use super::event::Retention;

/// How many OOM events of one container are kept. Each says the same: that something of it was killed.
const MAX_OOM_EVENTS: usize = 16;

/// Requests in order. The front one stays in place while it is on its way.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    inner: Mutex<Inner>,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    /// The front entry is being delivered: it must not give way.
    front_in_flight: bool,
    dropped: u64,
}

impl Inner {
    fn count_dropped(&mut self) {
        self.dropped += 1;
        // powers of two: a line now and then, not one an event
        if self.dropped.is_power_of_two() {
            log::error!("the queue of events is full: {} dropped so far", self.dropped);
        }
    }
}

#[derive(Debug)]
struct Entry {
    request: Arc<ForwardRequest>,
    retention: Retention,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::default(), filled: Notify::new(), drained: Notify::new() }
    }

    /// Appends, unless it is one OOM event too many. When the queue is full the oldest entry gives way that nobody waits
    /// for, then the oldest OOM event; the end of a process never does, nor is it kept out.
    pub fn push(&self, request: ForwardRequest, retention: Retention) {
        if self.capacity == 0 {
            return;
        }
        let mut inner = self.lock();
        if matches!(retention, Retention::Oom(_))
            && inner.entries.iter().filter(|e| e.retention == retention).count() >= MAX_OOM_EVENTS
        {
            return inner.count_dropped();
        }
        if inner.entries.len() >= self.capacity {
            let first = usize::from(inner.front_in_flight);
            let oldest = |fits: fn(&Retention) -> bool| {
                inner.entries.iter().skip(first).position(|entry| fits(&entry.retention)).map(|at| at + first)
            };
            let victim = oldest(|retention| *retention == Retention::DropFirst)
                .or_else(|| oldest(|w| matches!(w, Retention::Oom(_))));
            match victim {
                Some(victim) => {
                    inner.entries.remove(victim);
                    inner.count_dropped();
                }
                None if retention == Retention::Keep => {}
                None => return inner.count_dropped(),
            }
        }
        inner.entries.push_back(Entry { request: Arc::new(request), retention });
        drop(inner);
        self.filled.notify_one();
    }

    /// The oldest, which stays until [`pop`](Self::pop).
    pub fn front(&self) -> Option<Arc<ForwardRequest>> {
        let mut inner = self.lock();
        let front = inner.entries.front().map(|entry| entry.request.clone());
        inner.front_in_flight = front.is_some();
        front
    }

    /// Removes the one that [`front`](Self::front) gave.
    pub fn pop(&self) {
        let mut inner = self.lock();
        inner.entries.pop_front();
        inner.front_in_flight = false;
        let empty = inner.entries.is_empty();
        if empty {
            inner.entries.shrink_to(16);
        }
        drop(inner);
        if empty {
            self.drained.notify_waiters();
        }
    }

    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Returns when something was appended since the last call.
    pub async fn wait_pushed(&self) {
        self.filled.notified().await;
    }

    /// Returns when the queue is empty.
    pub async fn wait_empty(&self) {
        loop {
            // registered before the look, so that no notice falls between
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            drained.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
