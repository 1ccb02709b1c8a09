//! Helpers: a bundle, the binary run in it, and a client of the server.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use berth_proto::{
    Message, MessageField,
    bootstrap::{BootstrapParams, BootstrapResult, Extension},
    task,
    ttrpc::{
        r#async::{Client, transport::Socket},
        proto::{Code, Request},
    },
    wkt::Any,
};

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-berth-v2");
/// Longer than any step takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(180);

/// A directory of bundles with one namespace, one socket directory and the servers started from it.
pub struct World {
    pub dir: PathBuf,
    pub namespace: String,
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("berth-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&namespace);
        std::fs::create_dir(&dir).unwrap();
        Self { dir, namespace }
    }

    /// Makes a bundle as containerd does: config.json, the fifo `log` held open at both ends, and a rootfs.
    pub fn bundle(&self, id: &str, config: &str) -> Bundle<'_> {
        let dir = self.dir.join(id);
        std::fs::create_dir_all(dir.join("rootfs")).unwrap();
        std::fs::write(dir.join("config.json"), config).unwrap();
        let path = dir.join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let log = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        Bundle { world: self, dir, id: id.to_owned(), log }
    }

    pub fn sockets(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The pids of the running servers of this directory, found by their command lines.
    pub fn servers(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            if words.contains(&self.namespace.as_bytes()) && words[0].ends_with(b"/containerd-shim-berth-v2") {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in self.servers() {
            kill(pid, libc::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Bundle<'a> {
    pub world: &'a World,
    pub dir: PathBuf,
    pub id: String,
    pub log: File,
}

impl Bundle<'_> {
    /// The binary in this bundle, with containerd's flags before `words`.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command.args(["-namespace", &self.world.namespace, "-address", "/run/none.sock", "-publish-binary", "/bin/c"]);
        command.args(["-id", &self.id]).args(words).current_dir(&self.dir).env_remove("TTRPC_ADDRESS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The standard input that containerd 2.3 writes.
    pub fn params(&self) -> BootstrapParams {
        BootstrapParams {
            instance_id: self.id.clone(),
            namespace: self.world.namespace.clone(),
            socket_dir: Some(self.world.sockets().to_str().unwrap().to_owned()),
            ..BootstrapParams::default()
        }
    }

    pub fn params_with(&self, options: Any) -> Vec<u8> {
        let mut params = self.params();
        params.extensions = vec![Extension { value: MessageField::some(options), ..Extension::default() }];
        params.write_to_bytes().unwrap()
    }

    /// Starts a server as containerd 2.3 does; returns the path of its socket.
    pub fn start(&self) -> PathBuf {
        started(run(self.command(&["start"]), &self.params().write_to_bytes().unwrap()))
    }

    /// The content of the log now.
    pub fn log(&self) -> String {
        let mut bytes = vec![0; 1 << 20];
        let read = (&self.log).read(&mut bytes).unwrap_or(0);
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    /// Waits for a word in the log.
    pub fn await_log(&self, word: &str) -> String {
        let mut text = String::new();
        eventually(word, || {
            text += &self.log();
            text.contains(word)
        });
        text
    }
}

/// Runs a command to its end.
pub fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    // The write fails if the command exits without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The standard output of a command that succeeded without an error message.
pub fn succeeded(output: Output) -> Vec<u8> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert_eq!(stderr, "", "containerd reads the reply from both streams");
    output.stdout
}

/// The socket in the answer of `start`, once its server answers. Before that the server may be in execve(2), where its
/// command line in /proc is empty.
pub fn started(output: Output) -> PathBuf {
    let result = BootstrapResult::parse_from_bytes(&succeeded(output)).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (2, "ttrpc"));
    let socket = PathBuf::from(result.address.strip_prefix("unix://").unwrap());
    server_pid(&socket);
    socket
}

/// The standard error of a command that failed without output.
pub fn failed(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "not within the time limit: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn kill(pid: i32, signal: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::try_from(signal).unwrap())
        .unwrap();
}

pub fn is_alive(pid: i32) -> bool {
    // The command line of a zombie is empty.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

pub fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Makes one call with an empty request, under any service name.
pub fn call(socket: &Path, service: &str, method: &str) -> Result<Vec<u8>, (Code, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let client = Client::new(Socket::from(stream));
        let mut request = Request::new();
        (request.service, request.method) = (service.to_owned(), method.to_owned());
        request.timeout_nano = i64::try_from(LONG.as_nanos()).unwrap();
        match client.request(request).await {
            Ok(response) => Ok(response.payload),
            Err(berth_proto::ttrpc::Error::RpcStatus(status)) => Err((status.code(), status.message)),
            Err(e) => panic!("{service}/{method}: {e}"),
        }
    })
}

/// The server's pid, by the call with which containerd checks that a shim is alive.
pub fn server_pid(socket: &Path) -> i32 {
    let payload = call(socket, berth_proto::TASK_V3, "Connect").unwrap();
    i32::try_from(task::ConnectResponse::parse_from_bytes(&payload).unwrap().shim_pid).unwrap()
}

/// Sends raw bytes and reads until the server closes the connection or `patience` has passed.
pub fn raw(socket: &Path, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}
