//! [`Shim`]: a shim without containerd, berth's unless the benchmark asks for another one. The test starts it as
//! containerd does, calls its task service, and receives its events.
//!
//! State, sockets, bundles and cgroups are the test's own. Dropping a shim ends its containers and fails the test if
//! anything of them is still on the host.

pub mod container;
pub mod events;
pub mod stdio;
pub mod upgrade;

use crate::{
    leak::{self, Marks},
    procs,
    runtime::reset_signal_actions,
    scratch::Scratch,
    tools,
    wait::LONG,
};
use berth_proto::{
    Message, any,
    bootstrap::{BootstrapParams, BootstrapResult},
    runc,
    task::{ConnectRequest, ShutdownRequest, TaskClient},
    ttrpc::{
        self, Code,
        asynchronous::{Client, transport::Socket},
        context,
    },
    wkt::Any,
};
use events::Events;
use rustix::process::Signal;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::runtime::Runtime;

/// The bound of a call by default.
pub const CALL: Duration = LONG;

/// The error of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code, on which containerd acts.
    pub code: Code,
    /// The message.
    pub message: String,
}

impl Failure {
    /// Fails the test unless the error has this code and all of these words.
    #[track_caller]
    pub fn is(&self, code: Code, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        words.iter().for_each(|word| assert!(self.message.contains(word), "no {word:?} in {self:?}"));
    }
}

/// The program of the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// berth's shim.
    Berth,
    /// containerd's Go shim with runc.
    Runc,
    /// The null shim of the benchmark, which starts nothing.
    Null,
}

impl Kind {
    /// Returns whether the shim may end on Shutdown before it has sent the answer.
    pub fn may_leave_unanswered(self) -> bool {
        self == Self::Runc
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Berth => tools::built("containerd-shim-berth-v2"),
            Self::Runc => tools::tool("SHIM_RUNC_2").to_owned(),
            Self::Null => tools::built("berth-null-shim"),
        }
    }
}

/// A running shim.
pub struct Shim {
    /// The program of the shim.
    pub kind: Kind,
    /// The duration of the program's `start`.
    pub launched: Duration,
    /// The published events.
    pub events: Events,
    /// The id of the pod that it serves.
    pub id: String,
    /// The containerd namespace that it serves.
    pub namespace: String,
    /// The pid of the shim.
    pub pid: i32,
    runtime: Runtime,
    client: TaskClient,
    socket: PathBuf,
    work: Scratch,
    cgroup: String,
    log: Mutex<File>,
    bundles: Mutex<Vec<Arc<Scratch>>>,
    unchecked: bool,
}

impl Shim {
    /// Starts berth's shim. `name` appears in the names of its files.
    pub fn start(name: &str) -> Self {
        Self::start_as(Kind::Berth, name)
    }

    /// Starts a shim. `name` appears in the names of its files.
    pub fn start_as(kind: Kind, name: &str) -> Self {
        Self::start_under(&[], kind, name)
    }

    /// Starts a shim through another program, whose words come before `start`'s command line.
    pub fn start_under(before: &[String], kind: Kind, name: &str) -> Self {
        reset_signal_actions();
        let work = Scratch::new(name);
        let namespace = work.path().file_name().unwrap().to_str().unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let events = Events::serve(&runtime, &work.path().join("e.sock"));
        let log = make_pod(&work.path().join("pod"));
        let (socket, launched) = launch(before, kind, work.path(), &namespace, "pod");
        let client = runtime.block_on(connect(&socket));
        let mut shim = Self {
            kind,
            launched,
            events,
            id: "pod".into(),
            pid: 0,
            runtime,
            client,
            socket,
            cgroup: namespace.clone(),
            namespace,
            work,
            log: Mutex::new(log),
            bundles: Mutex::default(),
            unchecked: false,
        };
        let answer = shim.call(CALL, async |c, ctx| c.connect(ctx, &ConnectRequest::default()).await).unwrap();
        shim.pid = i32::try_from(answer.shim_pid).unwrap();
        shim
    }

    /// Starts another shim of the same program for a pod of its own, with the same namespace, directories and events.
    pub fn sibling(&self, id: &str) -> Sibling {
        let log = make_pod(&self.work.path().join(id));
        let (socket, _) = launch(&[], self.kind, self.work.path(), &self.namespace, id);
        let client = self.runtime.block_on(connect(&socket));
        let request = ConnectRequest::default();
        let answer = self.runtime.block_on(client.connect(context::with_duration(CALL), &request)).unwrap();
        Sibling { pid: i32::try_from(answer.shim_pid).unwrap(), client, _log: log }
    }

    /// Returns a directory for the test's own files.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// Returns the state directory of a container.
    pub fn state_dir(&self, id: &str) -> PathBuf {
        self.work().join("state").join(&self.namespace).join(id)
    }

    /// Returns the cgroup of a container.
    pub fn cgroup(&self, id: &str) -> String {
        format!("/{}/{id}", self.cgroup)
    }

    /// Returns the options of a Create request: state in the test's own directory.
    pub fn options(&self) -> Any {
        let root = self.work().join("state").to_str().unwrap().to_owned();
        let binary_name = match self.kind {
            Kind::Runc => tools::tool("RUNC").to_str().unwrap().to_owned(),
            Kind::Berth | Kind::Null => String::new(),
        };
        any::pack(&runc::Options { root, binary_name, ..Default::default() }).unwrap()
    }

    /// Makes a call of the task service with a deadline.
    pub fn call<T>(
        &self,
        limit: Duration,
        call: impl AsyncFnOnce(&TaskClient, ttrpc::context::Context) -> ttrpc::Result<T>,
    ) -> Result<T, Failure> {
        let ctx = context::with_duration(limit);
        self.runtime.block_on(async { call(&self.client, ctx).await }).map_err(failure)
    }

    /// Returns another connection, for calls that are made beside others.
    pub fn connection(&self) -> TaskClient {
        self.runtime.block_on(connect(&self.socket))
    }

    /// Returns the path of the shim's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns a raw connection.
    pub fn stream(&self) -> std::os::unix::net::UnixStream {
        std::os::unix::net::UnixStream::connect(&self.socket).unwrap()
    }

    /// Returns the tokio runtime of the calls.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Keeps a bundle's directory until the shim is dropped.
    pub fn keep(&self, bundle: &crate::bundle::Bundle) {
        self.bundles.lock().unwrap().push(bundle.keep());
    }

    /// Returns the log lines since the last call.
    pub fn log(&self) -> String {
        let mut bytes = vec![0; 1 << 20];
        let n = self.log.lock().unwrap().read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    /// Returns the number of descriptors and of threads, and the private memory in kB.
    pub fn size(&self) -> (usize, usize, u64) {
        procs::size(self.pid)
    }

    /// Runs the program's `delete` as containerd does after the death of a shim, for a container in `bundle`.
    pub fn delete_action(&self, id: &str, bundle: &Path) -> berth_proto::task::DeleteResponse {
        self.delete_action_under(&[], id, bundle)
    }

    /// Runs `delete` through another program, whose words come before its command line.
    pub fn delete_action_under(&self, before: &[String], id: &str, bundle: &Path) -> berth_proto::task::DeleteResponse {
        let words = ["-bundle", bundle.to_str().unwrap(), "delete"];
        let mut command = command(before, self.kind, self.work(), &self.namespace, id, &words);
        let output = command.current_dir(bundle).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        berth_proto::task::DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    /// Runs `delete` and returns its output even if it fails. Returns `None` if it has not ended within `limit`.
    pub fn try_delete_action(&self, id: &str, bundle: &Path, limit: Duration) -> Option<crate::command::Output> {
        let words = ["-bundle", bundle.to_str().unwrap(), "delete"];
        let mut command = command(&[], self.kind, self.work(), &self.namespace, id, &words);
        let line = crate::command::command_line(&command);
        command.current_dir(bundle).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let status = crate::command::wait(&mut child, limit)?;
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Some(crate::command::Output { line, status, stdout: String::new(), stderr })
    }

    /// Returns what the containers left on the host, after a short wait for processes that are ending.
    pub fn residue(&self) -> Vec<String> {
        let bundles = self.bundles.lock().unwrap();
        let dirs: Vec<&Path> = bundles.iter().map(|b| b.path()).chain([self.work.path()]).collect();
        leak::wait_until_gone(|| {
            let mut found = self.marks(&dirs).traces();
            let states = fs::read_dir(self.work().join("state").join(&self.namespace));
            found.extend(states.into_iter().flatten().flatten().map(|e| format!("state {}", e.path().display())));
            found.extend(children(self.pid).into_iter().map(|line| format!("child of the shim: {line}")));
            found
        })
    }

    fn marks<'a>(&'a self, dirs: &'a [&'a Path]) -> Marks<'a> {
        Marks { cgroup: &self.cgroup, variable: None, dirs }
    }

    /// Kills the shim and removes everything that is left, without a check.
    pub fn discard(mut self) {
        self.unchecked = true;
    }

    /// Fails the test when anything is left behind.
    #[track_caller]
    pub fn assert_clean(&self) {
        let residue = self.residue();
        assert!(residue.is_empty(), "left behind: {residue:#?}\nlog: {}", self.log());
    }

    /// Calls Shutdown, as containerd does after the last container, and waits until the shim has ended.
    #[track_caller]
    pub fn shut_down(&self) {
        let answer = self.call(CALL, async |c, ctx| c.shutdown(ctx, &ShutdownRequest::default()).await);
        assert!(self.kind.may_leave_unanswered() || answer.is_ok(), "{answer:?}");
        crate::wait::until_true("the shim to end", LONG, || !procs::alive(self.pid));
        assert!(!self.socket.exists(), "the socket is left");
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let residue = if self.unchecked { vec![] } else { self.residue() };
        if procs::alive(self.pid) {
            procs::kill(self.pid, Signal::KILL);
        }
        self.marks(&[self.work.path()]).clear();
        crate::cgroup::kill_and_remove(&self.cgroup);
        procs::unmount_below(self.work.path());
        if !std::thread::panicking() {
            assert!(residue.is_empty(), "left behind: {residue:#?}\nlog: {}", self.log());
        } else {
            eprintln!("log of the shim:\n{}", self.log());
        }
    }
}

/// Converts an error of ttrpc.
pub fn failure(error: ttrpc::Error) -> Failure {
    match error {
        ttrpc::Error::RpcStatus(status) => Failure { code: status.code(), message: status.message },
        other => Failure { code: Code::UNAVAILABLE, message: other.to_string() },
    }
}

/// A shim beside another one. Its maker ends its pod, and the leak check of the other shim covers it.
pub struct Sibling {
    /// The pid of the shim.
    pub pid: i32,
    /// A client of its task service.
    pub client: TaskClient,
    _log: File,
}

/// Makes the bundle of a pod, in which a shim is started. Returns the reader's end of its log.
fn make_pod(bundle: &Path) -> File {
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::write(bundle.join("config.json"), "{}").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bundle.join("log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join("log")).unwrap()
}

/// Runs `start` as containerd 2.3 does. Returns the socket and the duration.
fn launch(before: &[String], kind: Kind, work: &Path, namespace: &str, id: &str) -> (PathBuf, Duration) {
    let params = BootstrapParams {
        instance_id: id.to_owned(),
        namespace: namespace.to_owned(),
        socket_dir: Some(work.join("s").to_str().unwrap().to_owned()),
        ..Default::default()
    };
    let params = params.write_to_bytes().unwrap();
    let mut command = command(before, kind, work, namespace, id, &["start"]);
    command.current_dir(work.join(id)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begin = std::time::Instant::now();
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&params).unwrap();
    let output = child.wait_with_output().unwrap();
    let took = begin.elapsed();
    assert!(output.status.success(), "{output:?}");
    (address(&output.stdout).into(), took)
}

/// Returns the socket in an answer of `start`, which is a message or the address alone.
fn address(answer: &[u8]) -> String {
    let message = || BootstrapResult::parse_from_bytes(answer).map(|result| result.address);
    let text = match std::str::from_utf8(answer) {
        Ok(text) if text.starts_with("unix://") => text.to_owned(),
        _ => message().unwrap(),
    };
    text.trim_start_matches("unix://").to_owned()
}

fn command(before: &[String], kind: Kind, work: &Path, namespace: &str, id: &str, words: &[&str]) -> Command {
    let mut command = match before.split_first() {
        None => Command::new(kind.program()),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(kind.program());
            command
        }
    };
    command.args(["-namespace", namespace, "-publish-binary", "/bin/false", "-id", id]);
    command.arg("-address").arg(work.join("c.sock")).args(words);
    command.env("TTRPC_ADDRESS", work.join("e.sock"));
    command
}

async fn connect(socket: &Path) -> TaskClient {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    TaskClient::new(Client::new(Socket::from(stream)))
}

/// Returns every child of `pid`, with zombies.
fn children(pid: i32) -> Vec<String> {
    let all = procs::all().into_iter().filter(|p| p.parent == pid);
    all.map(|p| format!("{} {}", p.pid, if p.line.is_empty() { "(zombie)" } else { &p.line })).collect()
}
