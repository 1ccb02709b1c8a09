//! The queue between whoever sends and the one task that delivers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_proto::events::ForwardRequest;
use tokio::sync::Notify;

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
    taken: bool,
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    request: Arc<ForwardRequest>,
    awaited: bool,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::default(), filled: Notify::new(), drained: Notify::new() }
    }

    /// Appends. When the queue is full the oldest entry that nobody waits for gives way, else the oldest of all.
    pub fn push(&self, request: ForwardRequest, awaited: bool) {
        if self.capacity == 0 {
            return;
        }
        let mut inner = self.lock();
        if inner.entries.len() >= self.capacity {
            let first = usize::from(inner.taken);
            let loser = inner.entries.iter().skip(first).position(|entry| !entry.awaited).unwrap_or(0) + first;
            inner.entries.remove(loser);
            inner.dropped += 1;
            // powers of two: a line now and then, not one an event
            if inner.dropped.is_power_of_two() {
                log::error!("the queue of events is full: {} dropped so far", inner.dropped);
            }
        }
        inner.entries.push_back(Entry { request: Arc::new(request), awaited });
        drop(inner);
        self.filled.notify_one();
    }

    /// The oldest, which stays until [`pop`](Self::pop).
    pub fn front(&self) -> Option<Arc<ForwardRequest>> {
        let mut inner = self.lock();
        let front = inner.entries.front().map(|entry| entry.request.clone());
        inner.taken = front.is_some();
        front
    }

    /// Removes the one that [`front`](Self::front) gave.
    pub fn pop(&self) {
        let mut inner = self.lock();
        inner.entries.pop_front();
        inner.taken = false;
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
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Returns when the queue is empty.
    pub async fn drained(&self) {
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
mod tests {
    use super::*;
    use berth_proto::MessageField;
    use berth_proto::events::Envelope;

    fn request(topic: &str) -> ForwardRequest {
        let envelope = Envelope { topic: topic.into(), ..Envelope::default() };
        ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() }
    }

    fn drain(queue: &Queue) -> Vec<String> {
        let next = || queue.front().inspect(|_| queue.pop()).map(|request| request.envelope.topic.clone());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_nobody_waits_for_gives_way_first() {
        let queue = Queue::new(3);
        for (topic, awaited) in [("exit1", true), ("added", false), ("started", false), ("exit2", true)] {
            queue.push(request(topic), awaited);
        }
        assert_eq!(drain(&queue), ["exit1", "started", "exit2"]);
    }

    #[test]
    fn then_the_oldest() {
        let queue = Queue::new(2);
        for topic in ["a", "b", "c"] {
            queue.push(request(topic), true);
        }
        assert_eq!(drain(&queue), ["b", "c"]);
    }

    #[test]
    fn the_one_on_its_way_stays() {
        let queue = Queue::new(2);
        queue.push(request("a"), false);
        assert_eq!(queue.front().unwrap().envelope.topic, "a");
        for topic in ["b", "c"] {
            queue.push(request(topic), false);
        }
        queue.pop();
        assert_eq!(drain(&queue), ["c"]);
    }

    #[test]
    fn no_capacity_keeps_nothing() {
        let queue = Queue::new(0);
        queue.push(request("a"), true);
        assert_eq!(queue.len(), 0);
    }
}
