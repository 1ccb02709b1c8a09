//! Delivers events to containerd: one queue, in order. An event stays in it until containerd has acknowledged it.
//!
//! ```text
//! send() ──> queue ──> front ──Forward──> containerd      acknowledged: the next event
//!              ^                                          connection lost: the same event again
//!              └ bounded; when it is full, the oldest     rejected as malformed: logged and dropped
//!                event but exits and deletes is dropped
//! ```
//!
//! Delivery is at least once: an event is sent again if its acknowledgement was lost with the connection. The order is
//! that of the calls to [`Publisher::send`]. While containerd is away, events stay in the queue. Most are exits then,
//! since containerd itself causes all starts and pauses. The connection is made for the first event and closed after a
//! quiet time, so an idle pod holds none.

mod event;
mod queue;

use std::{sync::Arc, time::Duration};

use berth_proto::{
    events::{EventsClient, ForwardRequest},
    ttrpc::{
        self, Code,
        asynchronous::{Client, transport::Socket},
    },
};
use tokio::{net::UnixStream, time::timeout};

pub use self::event::Event;
use self::queue::Queue;
use crate::{carry, fd_reserve};

/// The maximal number of events. Exits and deletes are kept beyond it. An event takes about half a kilobyte.
const CAPACITY: usize = 8192;
/// The time that containerd has to acknowledge before the connection is closed. It is long, since the event is sent
/// twice if containerd was only stopped.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// The first and the longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The time that an unused connection stays open.
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// The number of attempts for an event that containerd answers with an error that may pass.
const ATTEMPTS: u32 = 10;

/// A handle of the queue. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: Arc<Queue>,
    namespace: Arc<str>,
}

impl Publisher {
    /// Starts the delivery to `address`, containerd's ttrpc socket, with or without `unix://`. Must be called inside
    /// the tokio runtime. With an empty address (a shim run by hand) events are dropped.
    pub fn new(address: &str, namespace: &str) -> Self {
        let open = !address.is_empty();
        let queue = Arc::new(Queue::new(if open { CAPACITY } else { 0 }));
        if open {
            let path = address.strip_prefix("unix://").unwrap_or(address).to_owned();
            tokio::spawn(Delivery { queue: queue.clone(), path, client: None }.run());
        }
        Self { queue, namespace: namespace.into() }
    }

    /// Writes the events down that are not acknowledged.
    ///
    /// # Errors
    /// One of them cannot be encoded.
    pub fn carry(&self) -> berth_runtime::Result<Vec<carry::Event>> {
        self.queue.carry()
    }

    /// Queues events that were written down.
    pub fn adopt(&self, events: Vec<carry::Event>) {
        self.queue.adopt(events);
    }

    /// Reports whether an event is on its way. It would be sent again by another program.
    pub fn is_sending(&self) -> bool {
        self.queue.front_in_flight()
    }

    /// Queues an event with the current time. Never blocks and never fails. Any thread may call it.
    pub fn send(&self, event: impl Into<Event>) {
        let event = event.into();
        match event.request(&self.namespace) {
            Ok(request) => self.queue.push(request, event.retention()),
            Err(e) => log::error!("event {} cannot be encoded: {e}", event.topic()),
        }
    }

    /// Waits until all events are delivered, at most `limit`. Returns true if they are.
    pub async fn flush(&self, limit: Duration) -> bool {
        timeout(limit, self.queue.wait_empty()).await.is_ok()
    }

    /// The number of events that are not acknowledged yet.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }
}

/// The task that delivers the events of the queue.
struct Delivery {
    queue: Arc<Queue>,
    path: String,
    client: Option<EventsClient>,
}

enum ForwardError {
    /// There is no connection, or it broke: containerd is away.
    Unreachable(String),
    /// containerd answered with an error that may pass.
    Transient(String),
    /// containerd will never accept this event.
    Rejected(String),
}

impl Delivery {
    async fn run(mut self) {
        let (mut pause, mut attempts, mut away) = (BACKOFF.0, 0, false);
        loop {
            let Some(request) = self.queue.front() else {
                if self.client.is_none() {
                    self.queue.wait_pushed().await;
                } else if timeout(CONNECTION_IDLE, self.queue.wait_pushed()).await.is_err() {
                    self.client = None;
                }
                continue;
            };
            let done = match self.forward(&request).await {
                Ok(()) => true,
                Err(ForwardError::Rejected(e)) => {
                    log::error!("event {} was rejected and is dropped: {e}", request.envelope.topic);
                    true
                }
                Err(ForwardError::Transient(e)) if attempts + 1 >= ATTEMPTS => {
                    log::error!("event {} failed {ATTEMPTS} times and is dropped: {e}", request.envelope.topic);
                    true
                }
                Err(ForwardError::Transient(e)) => {
                    log::warn!("event {} failed and is sent again: {e}", request.envelope.topic);
                    attempts += 1;
                    false
                }
                Err(ForwardError::Unreachable(e)) => {
                    if !away {
                        log::warn!("containerd is away, events are kept: {e}");
                    }
                    (self.client, away) = (None, true);
                    false
                }
            };
            if done {
                if away {
                    log::info!("containerd is back, {} events to deliver", self.queue.len());
                }
                self.queue.pop();
                (pause, attempts, away) = (BACKOFF.0, 0, false);
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> Result<(), ForwardError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => {
                let mut stream = UnixStream::connect(&self.path).await;
                if stream.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EMFILE)) && fd_reserve::release_one() {
                    stream = UnixStream::connect(&self.path).await;
                }
                let stream = stream.map_err(|e| ForwardError::Unreachable(format!("connect to {}: {e}", self.path)))?;
                none.insert(EventsClient::new(Client::new(Socket::from(stream))))
            }
        };
        match client.forward(ttrpc::context::with_duration(ACK_TIMEOUT), request).await {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) => Err(match status.code() {
                Code::UNKNOWN
                | Code::INTERNAL
                | Code::ABORTED
                | Code::CANCELLED
                | Code::DEADLINE_EXCEEDED
                | Code::RESOURCE_EXHAUSTED
                | Code::UNAVAILABLE => ForwardError::Transient(status.message),
                _ => ForwardError::Rejected(status.message),
            }),
            Err(e) => Err(ForwardError::Unreachable(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
