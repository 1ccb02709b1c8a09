//! A container as a service of systemd: `NOTIFY_SOCKET` and `LISTEN_FDS`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    mounts::MountHolder,
    runtime::{Call, Runtime},
    wait::LONG,
};
use std::{fs::File, io::ErrorKind, os::unix::net::UnixDatagram, path::PathBuf, time::Duration};

/// The service manager's socket. Reading a message closes its descriptors, which answers a barrier.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(runtime: &Runtime) -> Self {
        let path = runtime.work().join("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { path, socket }
    }

    /// Sets NOTIFY_SOCKET of a call.
    fn tell<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.env("NOTIFY_SOCKET", self.path.to_str().unwrap())
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    /// Expects the next messages: READY=1 with the main pid `pid`.
    #[track_caller]
    fn hears_ready(&self, pid: u32) {
        let heard = [self.next(), self.next(), self.next()];
        assert_eq!(heard, ["READY=1\n", &format!("MAINPID={pid}\n"), "BARRIER=1"]);
    }

    #[track_caller]
    fn hears_nothing_more(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let heard = self.socket.recv(&mut [0; 4096]).map_err(|e| e.kind());
        assert_eq!(heard, Err(ErrorKind::WouldBlock));
        self.socket.set_nonblocking(false).unwrap();
    }
}

/// Sends an unrelated status first, and then READY=1 with a wrong pid.
const READY: [&str; 5] = ["notify", "STATUS=starting", "+", "notify", "READY=1"];

fn ready_then(more: &[&str]) -> Bundle {
    Bundle::probe(&[&READY[..], &["MAINPID=77", "+"], more].concat())
}

#[test]
fn foreground_run_forwards_ready_to_the_service_manager() {
    let runtime = Runtime::new("notify-run");
    let manager = Manager::new(&runtime);
    for (id, bundle) in [
        ("c1", ready_then(&["sleep", "0.1", "+", "exit", "7"])),
        ("c2", ready_then(&["sleep", "0.1", "+", "exit", "7"]).set("/process/user/uid", 1000.into())),
        ("c3", ready_then(&["sleep", "0.1", "+", "exit", "7"]).mapped()),
    ] {
        let running = manager.tell(runtime.on("run", id, &bundle)).spawn();
        manager.hears_ready(running.pid());
        let out = running.wait();
        assert_eq!((out.code, out.stdout.as_str()), (7, "{\"notify\":0}\n{\"notify\":0}\n"), "{out:#?}");
        manager.hears_nothing_more();
    }
    runtime.assert_clean("the foreground");
}

/// The last message before the exit is forwarded. A container that is never ready ends without a delay.
#[test]
fn run_forwards_ready_of_a_container_that_ends() {
    if skipped_on_runc("run_forwards_ready_of_a_container_that_ends", "it waits for a container that is gone") {
        return;
    }
    let runtime = Runtime::new("notify-end");
    let manager = Manager::new(&runtime);
    let running = manager.tell(runtime.on("run", "c1", &Bundle::probe(&READY))).spawn();
    manager.hears_ready(running.pid());
    running.wait().ok();
    let silent = Bundle::probe(&["notify", "STATUS=READY=1", "+", "exit", "3"]);
    assert_eq!(manager.tell(runtime.on("run", "c2", &silent)).wait().code, 3);
    manager.tell(runtime.on("run", "c3", &silent)).with(&["--detach"]).wait().ok();
    manager.hears_nothing_more();
}

#[test]
fn detached_run_and_start_forward_ready() {
    let runtime = Runtime::new("notify-detached");
    let manager = Manager::new(&runtime);
    let bundle = ready_then(&["sleep", "100"]);
    // The call waits until the manager has read the barrier.
    let running = manager.tell(runtime.on("run", "c1", &bundle)).with(&["--detach"]).spawn();
    let heard = [manager.next(), manager.next(), manager.next()];
    running.wait().ok();
    assert_eq!(heard, ["READY=1\n", &format!("MAINPID={}\n", runtime.pid("c1")), "BARRIER=1"]);

    manager.tell(runtime.on("create", "c2", &bundle)).wait().ok();
    let starting = manager.tell(runtime.call(&["start", "c2"])).spawn();
    manager.hears_ready(runtime.pid("c2"));
    starting.wait().ok();
    manager.hears_nothing_more();
    let mount = berth_integration::mounts::of_process(runtime.pid("c2"))
        .into_iter()
        .find(|m| m.point == "/run/notify")
        .unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.options.iter().any(|o| o == option), "{mount:?}");
    }
    for id in ["c1", "c2"] {
        runtime.cmd(&["delete", "--force", id]).ok();
    }
    runtime.assert_clean("the background");
}

#[test]
fn start_with_a_notify_socket_that_create_lacked_is_refused() {
    let runtime = Runtime::new("notify-half");
    let manager = Manager::new(&runtime);
    let bundle = Bundle::probe(&["notify", "READY=1", "+", "sleep", "100"]);
    manager.tell(runtime.on("create", "c1", &bundle)).wait().ok();
    runtime.cmd(&["start", "c1"]).ok();
    let said = format!("{{\"notify\":{}}}\n", libc::ENOENT);
    berth_integration::wait::until_true("the payload", LONG, || runtime.all_stdout() == said);

    runtime.create("c2", &bundle).ok();
    manager.tell(runtime.call(&["start", "c2"])).wait().fails(1, &["notify.sock", "no such file or directory"]);
    assert_eq!(runtime.state("c2")["status"], "created");
    manager.hears_nothing_more();
}

#[test]
fn bad_notify_sockets_are_refused() {
    if skipped_on_runc("bad_notify_sockets_are_refused", "it goes on without") {
        return;
    }
    let runtime = Runtime::new("notify-bad");
    for bad in ["relative", "vsock:2:1234", &"@".repeat(200)] {
        let call = runtime.on("run", "c1", &Bundle::probe(&["exit", "0"])).env("NOTIFY_SOCKET", bad);
        call.wait().fails(1, &["NOTIFY_SOCKET"]);
        runtime.assert_clean(bad);
    }
    // If no process listens, the container runs, and a warning is logged.
    let out = runtime
        .on("run", "c1", &Bundle::probe(&["notify", "READY=1", "+", "exit", "5"]))
        .env("NOTIFY_SOCKET", "/nonexistent/socket")
        .wait();
    assert!(out.code == 5 && out.stderr.contains("NOTIFY_SOCKET"), "{out:#?}");
}

/// The container's socket is in the joined mounts, whether it asks for mounts of its own or not.
#[test]
fn notify_socket_works_in_a_joined_mount_namespace() {
    let runtime = Runtime::new("notify-joined");
    let manager = Manager::new(&runtime);
    for (id, mounts) in [("c1", true), ("c2", false)] {
        if !mounts && skipped_on_runc("mounts of others without any of its own", "it needs a /proc") {
            continue;
        }
        let theirs = MountHolder::unshare();
        let bundle = ready_then(&["exit", "7"]).unset("/linux/maskedPaths").unset("/linux/readonlyPaths");
        let bundle = bundle.set("/root/readonly", false.into()).namespace("mount", &theirs.namespace());
        let bundle = if mounts { bundle } else { bundle.set("/mounts", serde_json::json!([])) };
        let running = manager.tell(runtime.on("run", id, &bundle)).spawn();
        manager.hears_ready(running.pid());
        let out = running.wait();
        assert_eq!(out.code, 7, "{out:#?}");
        manager.hears_nothing_more();
        // The socket's directory stays. runc has made the container's root the namespace's root by then.
        assert!(theirs.table().contains("/run/notify "), "{}", theirs.table());
    }
    runtime.assert_clean("mounts of others");
}

/// Descriptors of socket activation come first, then the preserved ones. LISTEN_PID is 1, the container's process.
#[test]
fn listen_fds_are_passed_to_the_payload() {
    let runtime = Runtime::new("listen-fds");
    let null = || File::open("/dev/null").unwrap();
    let run = |id: &str, who: &str, preserve: &[&str]| {
        let call = runtime.on("run", id, &Bundle::probe(&["report", "env", "fds"])).with(preserve);
        let call = call.leak(3, null()).leak(4, null()).leak(5, null()).leak(6, null());
        let out = call.through(&["/bin/sh", "-c", &format!("LISTEN_PID={who} LISTEN_FDS=2 exec \"$0\" \"$@\"")]).wait();
        let report = out.ok().json();
        let fds: Vec<_> = report["fds"].as_object().unwrap().keys().map(|fd| fd.parse::<u32>().unwrap()).collect();
        (fds, report["env"]["LISTEN_FDS"].clone(), report["env"]["LISTEN_PID"].clone())
    };
    assert_eq!(run("c1", "$$", &[]), (vec![0, 1, 2, 3, 4], "2".into(), "1".into()));
    assert_eq!(run("c2", "$$", &["--preserve-fds", "1"]), (vec![0, 1, 2, 3, 4, 5], "2".into(), "1".into()));
    // LISTEN_PID names another process.
    let none = serde_json::Value::Null;
    assert_eq!(run("c3", "1", &[]), (vec![0, 1, 2], none.clone(), none));
    let exec = runtime.on("create", "c4", &Bundle::probe(&["sleep", "100"]));
    exec.wait().ok();
    runtime.cmd(&["start", "c4"]).ok();
    let sh = ["/bin/sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\""];
    let call = runtime.call(&["exec", "c4", "/probe", "report", "env", "fds"]).leak(3, null()).leak(4, null());
    let report = call.through(&sh).limit(Duration::from_secs(90)).wait().ok().json();
    assert_eq!((report["fds"].as_object().unwrap().len(), &report["env"]["LISTEN_FDS"]), (3, &serde_json::Value::Null));
}
