//! containerd's event service: it receives the shim's events and keeps their order.

use crate::wait::{LONG, until};
use berth_proto::{
    any, async_trait,
    events::{self, Events as Service, ForwardRequest, TaskDelete, TaskExecStarted, TaskExit, TaskOOM, TaskStart},
    ttrpc::{
        self,
        asynchronous::{Server, TtrpcContext},
    },
    wkt::{Any, Empty},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::runtime::Runtime;

/// The events published so far.
#[derive(Clone)]
pub struct Events {
    log: Arc<Mutex<Vec<(String, Any)>>>,
    _server: Arc<Mutex<Server>>,
}

struct Sink(Arc<Mutex<Vec<(String, Any)>>>);

#[async_trait]
impl Service for Sink {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut envelope = request.envelope.unwrap();
        self.0.lock().unwrap().push((envelope.topic, envelope.event.take().unwrap()));
        Ok(Empty::default())
    }
}

impl Events {
    /// Serves the event service at `address`.
    pub fn serve(runtime: &Runtime, address: &Path) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let service = events::create_events(Arc::new(Sink(log.clone())));
        let server = runtime.block_on(async {
            let mut server =
                Server::new().bind(&format!("unix://{}", address.display())).unwrap().register_service(service);
            server.start().await.unwrap();
            server
        });
        Self { log, _server: Arc::new(Mutex::new(server)) }
    }

    /// Returns each event in a few words: `create c`, `start c`, `exec-added c e`, `exec-started c e`, `exit c/e 0`,
    /// `oom c`, …
    pub fn words(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|(topic, event)| words(topic, event)).collect()
    }

    /// Returns the events so far, in the form of [`Events::words`], and forgets them.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap()).iter().map(|(topic, event)| words(topic, event)).collect()
    }

    /// Waits until `word` is among the events and returns all of them.
    #[track_caller]
    pub fn until(&self, word: &str) -> Vec<String> {
        until(&format!("{word} among {:?}", self.words()), LONG, || {
            Some(self.words()).filter(|all| all.iter().any(|w| w == word))
        })
    }

    /// Returns the number of events that begin with `start`.
    pub fn count(&self, start: &str) -> usize {
        self.words().iter().filter(|word| word.starts_with(start)).count()
    }

    /// Returns the exits of a process.
    pub fn exits(&self, id: &str) -> Vec<TaskExit> {
        let log = self.log.lock().unwrap();
        log.iter().filter_map(|(_, event)| any::unpack::<TaskExit>(event).ok()?).filter(|e| e.id == id).collect()
    }
}

fn words(topic: &str, event: &Any) -> String {
    let name = topic.trim_start_matches("/tasks/");
    if let Ok(Some(e)) = any::unpack::<TaskExit>(event) {
        return format!("exit {}/{} {}", e.container_id, e.id, e.exit_status);
    }
    if let Ok(Some(e)) = any::unpack::<TaskExecStarted>(event) {
        return format!("exec-started {} {}", e.container_id, e.exec_id);
    }
    if let Ok(Some(e)) = any::unpack::<events::TaskExecAdded>(event) {
        return format!("exec-added {} {}", e.container_id, e.exec_id);
    }
    let id = any::unpack::<TaskStart>(event).ok().flatten().map(|e| e.container_id);
    let id = id.or_else(|| any::unpack::<TaskDelete>(event).ok().flatten().map(|e| e.container_id));
    let id = id.or_else(|| any::unpack::<TaskOOM>(event).ok().flatten().map(|e| e.container_id));
    let id = id.or_else(|| any::unpack::<events::TaskCreate>(event).ok().flatten().map(|e| e.container_id));
    let id = id.or_else(|| any::unpack::<events::TaskPaused>(event).ok().flatten().map(|e| e.container_id));
    let id = id.or_else(|| any::unpack::<events::TaskResumed>(event).ok().flatten().map(|e| e.container_id));
    format!("{name} {}", id.unwrap_or_else(|| "?".into()))
}
