//! The null shim: a containerd shim that answers the protocol and starts nothing. An operation under it takes the time
//! that is left if shim and runtime take none.
//!
//! It has one thread and the crates of berth's shim, without log, mounts and events. Each container has a process of
//! its own, as containerd starts it. Every process of a container has the pid of the shim, is running after Start, and
//! has exited with 0 for Wait.
#![allow(clippy::disallowed_methods, reason = "a program of the bench: it runs itself as containerd would")]

use berth_proto::{
    Message, any, async_trait,
    bootstrap::BootstrapParams,
    failure, metrics,
    task::{
        ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
        ExecProcessRequest, KillRequest, PidsRequest, PidsResponse, ProcessInfo, ShutdownRequest, StartRequest,
        StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status, Task, WaitRequest,
        WaitResponse,
    },
    task_services,
    ttrpc::{
        self, Code,
        asynchronous::{Server, TtrpcContext, transport::Listener},
    },
    wkt::{Empty, Timestamp},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    error::Error,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixListener, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// The directory of sockets, unless containerd names another one.
const SOCKETS: &str = "/run/containerd/s";
/// The time in which the answer of Shutdown is written before the exit.
const GRACE: Duration = Duration::from_millis(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let outcome = Args::parse(std::env::args().skip(1)).and_then(|args| match args.action.as_str() {
        "start" => start(&args),
        "delete" => delete(),
        "" => serve(),
        other => Err(format!("no action {other:?}").into()),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("berth-null-shim: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The arguments of containerd that the shim uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Args {
    namespace: String,
    id: String,
    address: String,
    action: String,
}

impl Args {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut args = Self::default();
        let mut words = words;
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix('-') else {
                args.action = word;
                continue;
            };
            let mut value = || words.next().ok_or_else(|| format!("{word}: no value"));
            match name {
                "namespace" => args.namespace = value()?,
                "id" => args.id = value()?,
                "address" => args.address = value()?,
                "bundle" | "publish-binary" => drop(value()?),
                "debug" => {}
                _ => return Err(format!("no flag {word}").into()),
            }
        }
        Ok(args)
    }

    /// Returns the socket's path by the rule of all shims: a digest of its address, namespace and id.
    fn socket(&self, directory: &Path) -> PathBuf {
        let digest = Sha256::digest(format!("{}/{}/{}", self.address, self.namespace, self.id));
        directory.join(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

/// Binds the socket, starts the server on it, and prints its address. The bare address means version 2 of the task API.
fn start(args: &Args) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let params = BootstrapParams::parse_from_bytes(&input).ok().filter(|p| p.instance_id == args.id);
    let directory = params.and_then(|p| p.socket_dir).filter(|dir| !dir.is_empty());
    let directory = PathBuf::from(directory.unwrap_or_else(|| SOCKETS.into()));
    std::fs::create_dir_all(&directory)?;
    let path = args.socket(&directory);
    let listener = UnixListener::bind(&path).map_err(|e| format!("listen on {}: {e}", path.display()))?;
    // The listener is the server's standard input, so it is passed without unsafe code.
    Command::new(std::env::current_exe()?)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "unix://{}", path.display())?;
    Ok(stdout.flush()?)
}

/// Nothing was started, so there is nothing to clean up.
fn delete() -> Result<()> {
    let answer = DeleteResponse { exited_at: Some(now()).into(), ..Default::default() };
    Ok(std::io::stdout().write_all(&answer.write_to_bytes()?)?)
}

fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
        listener.set_nonblocking(true)?;
        let shutdown = Arc::new(Notify::new());
        let service = Arc::new(Null { pid: std::process::id(), shutdown: shutdown.clone(), execs: Mutex::default() });
        let listener = Listener::from(tokio::net::UnixListener::from_std(listener)?);
        let mut server = Server::new().add_listener(listener).register_service(task_services(service));
        server.start().await.map_err(|e| e.to_string())?;
        shutdown.notified().await;
        if let Some(path) = path {
            std::fs::remove_file(path)?;
        }
        tokio::time::sleep(GRACE).await;
        Ok(())
    })
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let nanos = i32::try_from(since.subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: since.as_secs().cast_signed(), nanos, ..Default::default() }
}

/// The service. Its only state is the set of execs.
struct Null {
    pid: u32,
    shutdown: Arc<Notify>,
    execs: Mutex<BTreeSet<String>>,
}

impl Null {
    fn execs(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Task for Null {
    async fn create(&self, _: &TtrpcContext, _: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        Ok(CreateTaskResponse { pid: self.pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, _: StartRequest) -> ttrpc::Result<StartResponse> {
        Ok(StartResponse { pid: self.pid, ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        if self.execs().insert(request.exec_id) {
            Ok(Empty::default())
        } else {
            Err(failure(Code::ALREADY_EXISTS, "the exec exists"))
        }
    }

    async fn wait(&self, _: &TtrpcContext, _: WaitRequest) -> ttrpc::Result<WaitResponse> {
        Ok(WaitResponse { exited_at: Some(now()).into(), ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        if !request.exec_id.is_empty() {
            self.execs().remove(&request.exec_id);
        }
        Ok(DeleteResponse { pid: self.pid, exited_at: Some(now()).into(), ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let status = Status::RUNNING.into();
        Ok(StateResponse { id: request.id, exec_id: request.exec_id, pid: self.pid, status, ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, _: KillRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, _: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let processes = vec![ProcessInfo { pid: self.pid, ..Default::default() }];
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, _: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = any::pack(&metrics::v1::Metrics::default())
            .map_err(|e| failure(Code::INTERNAL, format!("pack metrics: {e}")))?;
        Ok(StatsResponse { stats: Some(stats).into(), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse { shim_pid: self.pid, task_pid: self.pid, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.shutdown.notify_one();
        Ok(Empty::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_shim_parses_the_command_line_of_containerd() {
        let line = "-namespace n -address /a -publish-binary /bin/false -id c -bundle /b -debug start";
        let args = Args::parse(line.split(' ').map(str::to_owned)).unwrap();
        let text = |s: &str| s.to_owned();
        let wanted = Args { namespace: text("n"), id: text("c"), address: text("/a"), action: text("start") };
        assert_eq!(args, wanted);
        assert_eq!(args.socket(Path::new("/s")).as_os_str().len(), 3 + 64);
    }

    #[test]
    fn null_shim_refuses_unknown_flags() {
        for line in ["-id", "-what", "-id c -what"] {
            Args::parse(line.split(' ').map(str::to_owned)).unwrap_err();
        }
    }
}
