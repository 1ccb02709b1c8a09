//! A thread for writes that may block, for as long as a disk does. Each stream has one of its own, made for the first
//! write and kept for a moment. So a hanging disk delays no other stream and takes no thread of the pool.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

/// The time that an idle thread stays.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The maximal number of such threads in the shim. A thread that hangs in the kernel outlives its stream.
const MAX_THREADS: usize = 64;
/// The stack of a thread, in bytes: one buffer and its frames.
const STACK: usize = 128 * 1024;

static THREADS: AtomicUsize = AtomicUsize::new(0);

type Work = Box<dyn FnOnce() + Send>;

/// The switch that lets new work of all workers wait.
static HELD: Held = Held { held: AtomicBool::new(false), released: Notify::const_new() };
static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Held {
    held: AtomicBool,
    released: Notify,
}

impl Held {
    async fn released(&self) {
        while self.held.load(Ordering::Relaxed) {
            // The registration comes before the check, so that no notification is lost between the two.
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            if self.held.load(Ordering::Relaxed) {
                released.await;
            }
        }
    }
}

/// Lets new work wait until the value is dropped. Work that runs goes on.
#[derive(Debug)]
pub struct Hold;

impl Hold {
    /// Begins the wait. There is one at a time.
    pub fn begin() -> Self {
        HELD.held.store(true, Ordering::Relaxed);
        Self
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.held.store(false, Ordering::Relaxed);
        HELD.released.notify_waiters();
    }
}

/// Reports whether work runs on a thread.
pub fn is_busy() -> bool {
    RUNNING.load(Ordering::Acquire) > 0
}

/// Counts one work that has not ended.
struct Running;

impl Running {
    fn new() -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Release);
    }
}

/// The thread of one stream, if it has one now.
#[derive(Debug, Default)]
pub struct Worker(Mutex<Option<SyncSender<Work>>>);

impl Worker {
    /// Runs `work` on the thread. Returns `None` if it was not run: no thread was available, or the last one has just
    /// ended.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        HELD.released().await;
        let (answer, outcome) = oneshot::channel();
        let running = Running::new();
        let work: Work = Box::new(move || {
            let done = work();
            drop(running);
            let _ = answer.send(done);
        });
        self.submit(work)?;
        outcome.await.ok()
    }

    fn submit(&self, work: Work) -> Option<()> {
        let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let work = match thread.take() {
            Some(sender) => match sender.try_send(work) {
                Ok(()) => {
                    *thread = Some(sender);
                    return Some(());
                }
                Err(mpsc::TrySendError::Disconnected(work) | mpsc::TrySendError::Full(work)) => work,
            },
            None => work,
        };
        let sender = start()?;
        sender.try_send(work).ok()?;
        *thread = Some(sender);
        Some(())
    }
}

fn start() -> Option<SyncSender<Work>> {
    let slot = Slot::take()?;
    let (sender, works) = mpsc::sync_channel(1);
    let body = move || serve(&works, &slot);
    match thread::Builder::new().stack_size(STACK).spawn(body) {
        Ok(_) => Some(sender),
        Err(e) => {
            log::warn!("start a thread for a log file: {e}");
            None
        }
    }
}

fn serve(works: &Receiver<Work>, _slot: &Slot) {
    while let Ok(work) = works.recv_timeout(KEEP_ALIVE) {
        work();
    }
}

/// Counts one thread against [`MAX_THREADS`].
struct Slot;

impl Slot {
    fn take() -> Option<Self> {
        let more = |threads| (threads < MAX_THREADS).then_some(threads + 1);
        THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::runtime;

    #[test]
    fn one_thread_does_the_work_of_a_stream() {
        let worker = Worker::default();
        runtime().block_on(async {
            let first = worker.run(|| thread::current().id()).await;
            assert!(first.is_some() && first != Some(thread::current().id()));
            assert_eq!(worker.run(|| thread::current().id()).await, first);
        });
    }

    #[test]
    fn a_hanging_thread_delays_no_other_worker() {
        let (stuck, free) = (Worker::default(), Worker::default());
        let (release, held) = mpsc::channel::<()>();
        runtime().block_on(async {
            let hanging = stuck.run(move || held.recv().is_err());
            tokio::pin!(hanging);
            let beside = async { free.run(|| 7).await };
            tokio::select! {
                biased;
                _ = &mut hanging => panic!("it was to hang"),
                seven = beside => assert_eq!(seven, Some(7)),
            }
            drop(release);
            assert_eq!(hanging.await, Some(true));
        });
    }
}
