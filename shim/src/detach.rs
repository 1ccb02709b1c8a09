//! Work that outlives the call that asked for it. ttrpc drops a handler's future when the client disconnects or its
//! deadline passes. A change of state must still run to its end, and a repeated call must find it done.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
};

use berth_proto::{failure, ttrpc};
use tokio::task::JoinHandle;

/// Runs `work` as a task of its own and returns its result. The work goes on when this future is dropped.
///
/// # Errors
/// The work's own; UNAVAILABLE if the shim is shutting down.
pub async fn run<T, F>(work: F) -> ttrpc::Result<T>
where
    F: Future<Output = ttrpc::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let counted = Counted::new();
    joined(tokio::spawn(async move {
        let _counted = counted;
        work.await
    }))
    .await
}

/// The number of works that have not ended.
pub fn in_flight() -> usize {
    IN_FLIGHT.load(Ordering::Relaxed)
}

static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Counted {
    fn new() -> Self {
        IN_FLIGHT.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn joined<T>(task: JoinHandle<ttrpc::Result<T>>) -> ttrpc::Result<T> {
    task.await.unwrap_or_else(|e| Err(failure(ttrpc::Code::UNAVAILABLE, format!("the shim is going away: {e}"))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test]
    async fn detached_work_goes_on_when_its_caller_is_dropped() {
        let ((go, gone_on), (done, finished)) = (oneshot::channel(), oneshot::channel());
        let call = run(async move {
            let () = gone_on.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        });
        assert!(timeout(Duration::from_millis(1), call).await.is_err(), "the caller gave up");
        go.send(()).unwrap();
        timeout(Duration::from_secs(60), finished).await.expect("in time").expect("the work ended");
    }

    #[tokio::test]
    async fn detached_work_returns_its_result() {
        assert_eq!(run(async { Ok(1) }).await.unwrap(), 1);
        let e = run::<(), _>(async { Err(failure(ttrpc::Code::NOT_FOUND, "c1")) }).await.unwrap_err();
        assert!(matches!(e, ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND));
    }
}
