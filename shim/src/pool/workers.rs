//! Threads that are made for a job and end a moment after it. An idle shim has none.
//!
//! A thread that cannot be made is an error here, and the job is given back. tokio's blocking pool panics instead, and
//! a panic ends the shim.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::trim;

/// The time that an idle thread stays.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Work for a thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// The threads, and the jobs that wait for them.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    max_threads: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Jobs that an idle thread is about to take. There is one idle thread for each.
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs, {} threads, {} idle", self.jobs.len(), self.threads, self.idle)
    }
}

impl Workers {
    /// Makes no thread yet, and never more than `max_threads`.
    pub fn new(max_threads: usize) -> Self {
        Self { shared: Arc::default(), max_threads }
    }

    /// Reports whether a job runs or waits.
    pub fn is_busy(&self) -> bool {
        let queue = self.shared.lock();
        !queue.jobs.is_empty() || queue.threads > queue.idle
    }

    /// Runs `job` on a thread at once.
    ///
    /// # Errors
    /// No thread is available. The job, which has not begun, is given back with the reason.
    pub fn submit(&self, job: Job) -> Result<(), (Job, io::Error)> {
        let mut queue = self.shared.lock();
        let idle = queue.idle > queue.jobs.len();
        if !idle && queue.threads >= self.max_threads {
            return Err((job, io::Error::from_raw_os_error(libc::EAGAIN)));
        }
        queue.jobs.push_back(job);
        if idle {
            drop(queue);
            self.shared.filled.notify_one();
            return Ok(());
        }
        // The lock is held, so that the job is still the last in the queue if the thread cannot be made.
        let shared = self.shared.clone();
        match std::thread::Builder::new().spawn(move || shared.work()) {
            Ok(_) => {
                queue.threads += 1;
                Ok(())
            }
            Err(e) => match queue.jobs.pop_back() {
                Some(job) => Err((job, e)),
                None => Ok(()),
            },
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
                continue;
            }
            queue.idle += 1;
            let (woken, wait) = self.filled.wait_timeout(queue, KEEP_ALIVE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if wait.timed_out() && queue.jobs.is_empty() {
                queue.threads -= 1;
                break;
            }
        }
        drop(queue);
        // glibc keeps the stack of the last thread until the next one ends.
        trim::trim_stack();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_that_wait_for_each_other_all_run() {
        let workers = Workers::new(8);
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let (done, dones) = mpsc::channel();
        for round in 0..8 {
            let (barrier, done) = (barrier.clone(), done.clone());
            let job = move || {
                barrier.wait();
                done.send(round).unwrap();
            };
            workers.submit(Box::new(job)).map_err(|(_, e)| e).unwrap();
        }
        let mut rounds: Vec<_> = dones.iter().take(8).collect();
        rounds.sort_unstable();
        assert_eq!(rounds, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_job_without_a_thread_is_given_back_unbegun() {
        let workers = Workers::new(1);
        let (go, wait) = mpsc::channel::<()>();
        let (done, dones) = mpsc::channel();
        let first = done.clone();
        let job = move || {
            wait.recv().unwrap();
            first.send(1).unwrap();
        };
        workers.submit(Box::new(job)).map_err(|(_, e)| e).unwrap();
        let (job, e) = workers.submit(Box::new(move || done.send(2).unwrap())).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EAGAIN));
        job();
        assert_eq!(dones.recv().unwrap(), 2);
        go.send(()).unwrap();
        assert_eq!(dones.recv().unwrap(), 1);
    }

    #[test]
    fn an_idle_thread_takes_the_next_job() {
        let workers = Workers::new(1);
        let (done, dones) = mpsc::channel();
        for _ in 0..50 {
            let done = done.clone();
            let mut job: Job = Box::new(move || done.send(std::thread::current().id()).unwrap());
            // A thread becomes idle a moment after it has sent the answer.
            while let Err((unbegun, _)) = workers.submit(job) {
                job = unbegun;
                std::thread::yield_now();
            }
        }
        let ids: Vec<_> = dones.iter().take(50).collect();
        assert!(ids.iter().all(|id| id == ids.first().unwrap()), "one thread");
    }
}
