//! The service `berth.admin.v1.Admin`, on the shim's own socket. The listener admits only the shim's own user; an upgrade
//! needs root.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use berth_proto::{
    admin::{
        AdminMessage, DrainRequest, DrainResponse, SERVICE, StatusRequest, StatusResponse, UpgradeRequest,
        UpgradeResponse,
    },
    async_trait, failure,
    ttrpc::{
        self, Code, Request, Response,
        asynchronous::{MethodHandler, Service as Methods, TtrpcContext},
        get_status,
    },
};
use berth_version::VERSION;

use super::{Outcome, Upgrader};
use crate::{carry, error::status};

/// A method of the service.
#[derive(Clone, Copy, Debug)]
enum Method {
    Status,
    Drain,
    Upgrade,
}

struct Handler {
    method: Method,
    upgrader: Upgrader,
}

/// The service.
pub fn service(upgrader: &Upgrader) -> HashMap<String, Methods> {
    let handler = |(name, method): (&str, Method)| {
        let handler = Handler { method, upgrader: upgrader.clone() };
        (name.to_owned(), Box::new(handler) as Box<dyn MethodHandler + Send + Sync>)
    };
    let methods = [("Status", Method::Status), ("Drain", Method::Drain), ("Upgrade", Method::Upgrade)];
    let methods = methods.into_iter().map(handler).collect();
    HashMap::from([(SERVICE.to_owned(), Methods { methods, streams: HashMap::new() })])
}

#[async_trait]
impl MethodHandler for Handler {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let upgrader = self.upgrader.clone();
        let answer = match self.method {
            Method::Status => decode(&request).and_then(|StatusRequest {}| encode(&upgrader.status())),
            Method::Drain => match decode(&request) {
                Ok(DrainRequest {}) => spawn(async move { encode(&upgrader.drained().await?) }).await,
                Err(e) => Err(e),
            },
            Method::Upgrade => match decode(&request) {
                Ok(request) => spawn(async move { encode(&upgrader.upgraded(request).await?) }).await,
                Err(e) => Err(e),
            },
        };
        let mut response = Response::new();
        match answer {
            Ok(payload) => {
                response.set_status(get_status(Code::OK, ""));
                response.payload = payload;
            }
            Err(ttrpc::Error::RpcStatus(status)) => response.set_status(status),
            Err(e) => response.set_status(get_status(Code::UNKNOWN, e)),
        }
        Ok(response)
    }
}

/// Runs the work to its end, also when the client goes away.
async fn spawn(work: impl Future<Output = ttrpc::Result<Vec<u8>>> + Send + 'static) -> ttrpc::Result<Vec<u8>> {
    tokio::spawn(work).await.unwrap_or_else(|e| Err(failure(Code::UNAVAILABLE, e.to_string())))
}

fn decode<M: AdminMessage>(request: &Request) -> ttrpc::Result<M> {
    M::decode(&request.payload).map_err(|e| failure(Code::INVALID_ARGUMENT, e.to_string()))
}

fn encode(message: &impl AdminMessage) -> ttrpc::Result<Vec<u8>> {
    message.encode().map_err(|e| failure(Code::INTERNAL, e.to_string()))
}

impl Upgrader {
    fn status(&self) -> StatusResponse {
        let context = self.0.service.context();
        StatusResponse {
            version: VERSION.into(),
            pid: std::process::id(),
            id: context.id.clone(),
            namespace: context.namespace.clone(),
            containers: u32::try_from(self.0.service.containers()).unwrap_or(u32::MAX),
            memory: memory().unwrap_or_default(),
            format: carry::FORMAT,
            oldest_format: carry::OLDEST,
            program: self.0.program.to_string_lossy().into_owned(),
        }
    }

    async fn drained(&self) -> ttrpc::Result<DrainResponse> {
        let begin = tokio::time::Instant::now();
        self.drain().await.map_err(status)?;
        Ok(DrainResponse { waited: micros(begin.elapsed()) })
    }

    async fn upgraded(&self, request: UpgradeRequest) -> ttrpc::Result<UpgradeResponse> {
        if !rustix::process::geteuid().is_root() {
            return Err(failure(Code::PERMISSION_DENIED, "only a shim of root takes a new program"));
        }
        let UpgradeRequest { path, check } = request;
        let outcome = self.upgrade(&PathBuf::from(path), check).await.map_err(status)?;
        let (to, unchanged) = match outcome {
            Outcome::Unchanged => (VERSION.to_owned(), true),
            Outcome::Possible(version) => (version, false),
        };
        Ok(UpgradeResponse { from: VERSION.into(), to, pause: 0, unchanged })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The proportional share of this process's memory, in bytes.
fn memory() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
