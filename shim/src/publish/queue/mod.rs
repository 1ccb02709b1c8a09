//! The queue between the senders and the task that delivers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_proto::{Message, events::ForwardRequest};
use berth_runtime::{Error, Kind, Result};
use tokio::sync::Notify;

use super::event::Retention;
use crate::carry::{self, Bytes};

/// The maximal number of OOM events of one container. They all say that the kernel killed one of its processes.
const MAX_OOM_EVENTS: usize = 16;

/// The events in order. The front one stays in the queue during its delivery.
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
    /// The front event is being delivered, so it must not be dropped.
    front_in_flight: bool,
    dropped: u64,
}

impl Inner {
    fn count_dropped(&mut self) {
        self.dropped += 1;
        // Logs at powers of two, since a line for each event would flood the log.
        if self.dropped.is_power_of_two() {
            log::error!("the event queue is full: {} events dropped so far", self.dropped);
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

    /// Appends an event, unless its container has too many OOM events. In a full queue the oldest event that may be
    /// dropped makes room, else the oldest OOM event. Exits and deletes are never dropped and always appended.
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

    /// The oldest event. It stays until [`pop`](Self::pop).
    pub fn front(&self) -> Option<Arc<ForwardRequest>> {
        let mut inner = self.lock();
        let front = inner.entries.front().map(|entry| entry.request.clone());
        inner.front_in_flight = front.is_some();
        front
    }

    /// Removes the event that [`front`](Self::front) returned.
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

    /// Reports whether the front event may be on its way.
    pub fn front_in_flight(&self) -> bool {
        self.lock().front_in_flight
    }

    /// Writes all events down, in order.
    pub fn carry(&self) -> Result<Vec<carry::Event>> {
        let inner = self.lock();
        let entry = |Entry { request, retention }: &Entry| {
            let request = request.write_to_bytes().map_err(|e| Error::new(Kind::Internal, format!("event: {e}")))?;
            Ok(carry::Event { request: Bytes(request), retention: retention.carry() })
        };
        inner.entries.iter().map(entry).collect()
    }

    /// Appends events that were written down.
    pub fn adopt(&self, events: Vec<carry::Event>) {
        for carry::Event { request: Bytes(request), retention } in events {
            match ForwardRequest::parse_from_bytes(&request) {
                Ok(request) => self.push(request, Retention::adopt(retention)),
                Err(e) => log::error!("an event that was handed over is lost: {e}"),
            }
        }
    }

    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Returns when an event was appended since the last call.
    pub async fn wait_pushed(&self) {
        self.filled.notified().await;
    }

    /// Returns when the queue is empty.
    pub async fn wait_empty(&self) {
        loop {
            // The registration comes before the check, so that no notification is lost between the two.
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
