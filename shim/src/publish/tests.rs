//! The publisher against an events service that dies and comes back.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use berth_proto::{
    async_trait,
    events::{Envelope, Events, TaskExit, TaskOOM, TaskStart, create_events},
    failure,
    ttrpc::asynchronous::{Server, TtrpcContext},
    wkt::Empty,
};

use super::*;
use crate::testing::Scratch;

type Log = Arc<Mutex<Vec<Envelope>>>;

/// Records the events and answers with the error that the container id names.
struct Containerd(Log);

#[async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        let text = String::from_utf8_lossy(&envelope.event.value).into_owned();
        let seen = {
            let mut log = self.0.lock().unwrap();
            log.push(envelope);
            log.len()
        };
        if text.contains("hang") {
            std::future::pending::<()>().await;
        }
        if text.contains("malformed") {
            return Err(failure(Code::INVALID_ARGUMENT, "no such thing"));
        }
        if text.contains("busy") && seen < 3 {
            return Err(failure(Code::UNKNOWN, "not now"));
        }
        Ok(Empty::default())
    }
}

async fn serve(path: &Path, log: &Log) -> Server {
    let _ = std::fs::remove_file(path);
    let mut server = Server::new()
        .bind(&format!("unix://{}", path.display()))
        .unwrap()
        .register_service(create_events(Arc::new(Containerd(log.clone()))));
    server.start().await.unwrap();
    server
}

fn exit(id: impl Into<String>) -> TaskExit {
    TaskExit { container_id: id.into(), ..TaskExit::default() }
}

fn address(scratch: &Scratch) -> PathBuf {
    scratch.path().join("containerd.ttrpc")
}

fn ids(log: &Log) -> Vec<String> {
    let log = log.lock().unwrap();
    log.iter().map(|e| any_exit(e).container_id).collect()
}

fn any_exit(envelope: &Envelope) -> TaskExit {
    berth_proto::any::unpack(&envelope.event).unwrap().unwrap()
}

#[tokio::test]
async fn events_arrive_in_order_and_complete() {
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    let _server = serve(&path, &log).await;
    let publisher = Publisher::new(&format!("unix://{}", path.display()), "k8s.io");
    publisher.send(TaskStart { container_id: "c".into(), pid: 7, ..TaskStart::default() });
    for n in 0..100 {
        publisher.send(exit(format!("c{n}")));
    }
    assert!(publisher.flush(Duration::from_secs(60)).await);
    let log = log.lock().unwrap();
    let first = &log[0];
    assert_eq!((first.topic.as_str(), first.namespace.as_str()), ("/tasks/start", "k8s.io"));
    assert_eq!(first.event.type_url, "containerd.events.TaskStart");
    assert!(first.timestamp.seconds > 1_700_000_000);
    let order: Vec<_> = log[1..].iter().map(|e| any_exit(e).container_id).collect();
    assert_eq!(order, (0..100).map(|n| format!("c{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_outage_of_containerd_loses_and_reorders_no_event() {
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    // The service is not there at first.
    let publisher = Publisher::new(path.to_str().unwrap(), "ns");
    for n in 0..10 {
        publisher.send(exit(format!("{n}")));
    }
    assert!(!publisher.flush(Duration::from_millis(80)).await);
    let mut server = serve(&path, &log).await;
    assert!(publisher.flush(Duration::from_secs(60)).await);
    // The service goes away and comes back.
    server.shutdown().await.unwrap();
    drop(server);
    let _ = std::fs::remove_file(&path);
    for n in 10..20 {
        publisher.send(exit(format!("{n}")));
    }
    assert!(!publisher.flush(Duration::from_millis(80)).await);
    assert_eq!(publisher.pending(), 10);
    let _server = serve(&path, &log).await;
    assert!(publisher.flush(Duration::from_secs(60)).await);
    assert_eq!(ids(&log), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// More events than the queue keeps, and each container may add more.
#[tokio::test]
async fn a_storm_of_oom_kills_during_an_outage_pushes_out_no_exit() {
    const EXITS: usize = 600;
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    let publisher = Publisher::new(path.to_str().unwrap(), "ns");
    for n in 0..EXITS * 20 {
        publisher.send(TaskOOM { container_id: format!("c{}", n % EXITS), ..TaskOOM::default() });
        if n % 20 == 0 {
            publisher.send(exit(format!("{}", n / 20)));
        }
    }
    assert_eq!(publisher.pending(), CAPACITY, "the queue is full");
    let _server = serve(&path, &log).await;
    assert!(publisher.flush(Duration::from_secs(60)).await);
    let log = log.lock().unwrap();
    assert_eq!(log.len(), CAPACITY);
    let exits = log.iter().filter(|envelope| envelope.topic == "/tasks/exit");
    let exits: Vec<_> = exits.map(|envelope| any_exit(envelope).container_id).collect();
    assert_eq!(exits, (0..EXITS).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unacknowledged_event_is_sent_again() {
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    let mut server = serve(&path, &log).await;
    let publisher = Publisher::new(path.to_str().unwrap(), "ns");
    publisher.send(exit("hang"));
    publisher.send(exit("after"));
    let end = Instant::now() + Duration::from_secs(60);
    while ids(&log).is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // containerd dies before it acknowledges the event. The next one must get that event first.
    server.shutdown().await.unwrap();
    drop(server);
    let second = Log::default();
    let _server = serve(&path, &second).await;
    while ids(&second).is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((ids(&log), ids(&second)), (vec!["hang".to_owned()], vec!["hang".to_owned()]));
    assert_eq!(publisher.pending(), 2, "and nothing overtakes it");
}

#[tokio::test]
async fn a_rejected_event_does_not_delay_the_next() {
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    let _server = serve(&path, &log).await;
    let publisher = Publisher::new(path.to_str().unwrap(), "ns");
    publisher.send(exit("malformed"));
    publisher.send(exit("next"));
    assert!(publisher.flush(Duration::from_secs(60)).await);
    assert_eq!(ids(&log), ["malformed", "next"]);
}

#[tokio::test]
async fn an_event_is_sent_again_after_a_passing_error() {
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    let _server = serve(&path, &log).await;
    let publisher = Publisher::new(path.to_str().unwrap(), "ns");
    publisher.send(exit("busy"));
    publisher.send(exit("next"));
    assert!(publisher.flush(Duration::from_secs(60)).await);
    assert_eq!(ids(&log), ["busy", "busy", "busy", "next"]);
}

#[tokio::test]
async fn a_publisher_without_an_address_keeps_nothing() {
    let publisher = Publisher::new("", "ns");
    publisher.send(exit("c"));
    assert_eq!(publisher.pending(), 0);
    assert!(publisher.flush(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn events_can_be_sent_from_any_thread() {
    let (scratch, log) = (Scratch::new(), Log::default());
    let path = address(&scratch);
    let _server = serve(&path, &log).await;
    let publisher = Publisher::new(path.to_str().unwrap(), "ns");
    let sender = publisher.clone();
    tokio::task::spawn_blocking(move || sender.send(exit("c"))).await.unwrap();
    assert!(publisher.flush(Duration::from_secs(60)).await);
    assert_eq!(ids(&log), ["c"]);
}
