//! Seccomp notifications: an agent receives the container process state and the listener, and answers for the kernel.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    runtime::{Runtime, is_runc, wait_until},
};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    io::{IoSliceMut, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

/// The agent's result of mkdir(2): a number that no kernel returns.
const ANSWER: i64 = 4242;

/// `struct seccomp_notif` and `struct seccomp_notif_resp`, seccomp_unotify(2).
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[allow(unsafe_code)]
fn ioctl<T>(fd: &OwnedFd, request: u64, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: both requests read or write the structure that their number names the size of.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    Errno::result(done).map(drop)
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: of a message that has just been received, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An agent at a socket. It ends when no process has the filter any more.
struct Agent {
    path: PathBuf,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Agent {
    fn new(dir: &Path) -> Self {
        let path = dir.join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let told = Arc::new(Mutex::new(vec![]));
        let all = told.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0u8; 16384];
                let mut control = nix::cmsg_space!([RawFd; 2]);
                let mut iov = [IoSliceMut::new(&mut buffer)];
                let (bytes, fds) = {
                    let got =
                        recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::empty()).unwrap();
                    let fds: Vec<_> = got
                        .cmsgs()
                        .unwrap()
                        .filter_map(|c| if let ControlMessageOwned::ScmRights(fds) = c { Some(fds) } else { None })
                        .flatten()
                        .collect();
                    (got.bytes, fds)
                };
                let mut json = buffer[..bytes].to_vec();
                stream.read_to_end(&mut json).unwrap();
                let mut state: Value = serde_json::from_slice(&json).unwrap();
                state["received"] = json!(fds.len());
                all.lock().unwrap().push(state);
                let fd = own(fds[0]);
                thread::spawn(move || answer(&fd));
            }
        });
        Self { path, told }
    }

    fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}

fn answer(fd: &OwnedFd) {
    const RECEIVE: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    loop {
        let mut asked = Notification::default();
        match ioctl(fd, RECEIVE, &mut asked) {
            Ok(()) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        let _ = ioctl(fd, SEND, &mut Answer { id: asked.id, value: ANSWER, error: 0, flags: 0 });
    }
}

fn profile(agent: &Path, flags: &[&str]) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "flags": flags,
        "listenerPath": agent, "listenerMetadata": "some words",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33}]})
}

/// mkdir(2) and rmdir(2) by the probe.
const CALLS: [&str; 4] = ["/probe", "syscall", "83:@/no,0", "84:@/no"];

fn answered(text: &str) -> bool {
    text.contains(&format!("\"83:@/no,0\":{ANSWER}")) && text.contains("\"84:@/no\":-33")
}

#[test]
fn seccomp_agent_answers_for_init_and_exec() {
    for (name, nnp, flags) in [
        ("plain", true, &[][..]),
        ("late", false, &[]),
        ("killable", true, &["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]),
    ] {
        if !flags.is_empty() && skipped_on_runc(name, "it needs libseccomp 2.6, which Debian 12 has not") {
            continue;
        }
        let runtime = Runtime::new("notify");
        let agent = Agent::new(runtime.work());
        let bundle = |words: &[&str]| {
            Bundle::probe(&[])
                .args(words)
                .set("/process/noNewPrivileges", json!(nnp))
                .set("/linux/seccomp", profile(&agent.path, flags))
                .set("/annotations", json!({"a": "b"}))
        };
        let out = runtime.run("c1", &bundle(&CALLS)).ok();
        assert!(answered(&out.stdout), "{name}: {out:#?}");
        let held = bundle(&["/probe", "sleep", "100"]);
        runtime.start("c2", &held);
        let out = runtime.exec("c2", &CALLS).ok();
        assert!(answered(&out.stdout), "{name}, exec: {out:#?}");
        let told = agent.told();
        assert_eq!(told.len(), 3, "{name}: {told:?}");
        let (init, exec) = (&told[1], &told[2]);
        let pid = runtime.pid("c2");
        for state in [init, exec] {
            assert_eq!(state["fds"], json!(["seccompFd"]), "{name}: {state}");
            assert_eq!(state["received"], 1, "{name}: {state}");
            assert_eq!(state["metadata"], "some words", "{name}: {state}");
            assert_eq!(state["state"]["id"], "c2", "{name}: {state}");
            assert_eq!(state["state"]["pid"], pid, "{name}: {state}");
            assert_eq!(state["state"]["bundle"], held.path().to_str().unwrap(), "{name}: {state}");
            assert_eq!(state["state"]["annotations"]["a"], "b", "{name}: {state}");
        }
        assert_eq!(init["pid"], pid, "{name}");
        assert_eq!(init["state"]["status"], "creating", "{name}");
        assert_ne!(exec["pid"], pid, "{name}");
        runtime.cmd(&["delete", "--force", "c2"]).ok();
        runtime.assert_clean(name);
    }
}

/// The user may not open /proc of a process that is not dumpable, and still receives the listener. Afterwards the
/// process is not dumpable again: its files in /proc belong to root (proc(5)).
#[test]
fn rootless_container_has_a_seccomp_agent() {
    const USER: u32 = 65_533;
    let runtime = Runtime::of_user("notify-user", USER, "65530");
    let agent = Agent::new(runtime.work());
    fs::set_permissions(&agent.path, Permissions::from_mode(0o777)).unwrap();
    for nnp in [true, false] {
        let bundle = |words: &[&str]| {
            Bundle::probe(&[])
                .args(words)
                .rootless(USER)
                .set("/process/noNewPrivileges", json!(nnp))
                .set("/linux/seccomp", profile(&agent.path, &[]))
        };
        let out = runtime.run("c1", &bundle(&CALLS)).ok();
        assert!(answered(&out.stdout), "{out:#?}");
        runtime.create("c2", &bundle(&["/probe", "say", "up", "+", "sleep", "100"])).ok();
        let files = format!("/proc/{}/ns", runtime.pid("c2"));
        assert!(is_runc() || fs::metadata(&files).unwrap().uid() == 0);
        runtime.cmd(&["start", "c2"]).ok();
        wait_until(|| runtime.all_stdout().contains("up"), || "not up".to_owned());
        if !is_runc() {
            let out = runtime.exec("c2", &CALLS).ok();
            assert!(answered(&out.stdout), "exec: {out:#?}");
        }
        runtime.cmd(&["delete", "--force", "c2"]).ok();
        runtime.assert_clean("a user's container with an agent");
    }
    assert_eq!(agent.told().len(), if is_runc() { 4 } else { 6 });
}

/// If init could not wait for its start under the filter, it loads the filter after the start.
#[test]
fn filter_that_forbids_waiting_is_loaded_at_start() {
    if skipped_on_runc("a filter against waiting", "its own init waits by other calls") {
        return;
    }
    let runtime = Runtime::new("notify-strict");
    let agent = Agent::new(runtime.work());
    let mut strict = profile(&agent.path, &[]);
    let rules = strict["syscalls"].as_array_mut().unwrap();
    rules.push(json!({"names": ["accept4", "poll", "ppoll", "recvfrom"], "action": "SCMP_ACT_ERRNO"}));
    let bundle = Bundle::probe(&[]).args(&CALLS).set("/linux/seccomp", strict);
    runtime.create("c1", &bundle).ok();
    assert_eq!(agent.told().len(), 0);
    runtime.cmd(&["start", "c1"]).ok();
    runtime.until("c1", "stopped");
    assert!(answered(&runtime.all_stdout()), "{}", runtime.all_stdout());
    assert_eq!(agent.told()[0]["state"]["status"], "created");
}

/// startContainer hooks run under the same filter, and the same agent answers.
#[test]
fn seccomp_agent_answers_start_container_hooks() {
    let runtime = Runtime::new("notify-hooks");
    let agent = Agent::new(runtime.work());
    let log = runtime.work().join("log");
    std::fs::create_dir(&log).unwrap();
    let script = format!("/probe {} > /log/hook", CALLS[1..].iter().map(|w| format!("'{w}' ")).collect::<String>());
    let bundle = Bundle::busybox(&CALLS, &["sh"])
        .mount("/log", "bind", log.to_str().unwrap(), &["bind"])
        .set("/linux/seccomp", profile(&agent.path, &[]))
        .set("/hooks", json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}));
    let out = runtime.run("c1", &bundle).ok();
    assert!(answered(&out.stdout), "{out:#?}");
    let hook = std::fs::read_to_string(log.join("hook")).unwrap();
    assert!(answered(&hook), "{hook}");
    assert_eq!(agent.told().len(), 1);
    runtime.assert_clean("hooks");
}

#[test]
fn impossible_seccomp_agents_are_refused() {
    fn with(bundle: Bundle, change: impl FnOnce(&mut Value)) -> Bundle {
        let mut profile = profile(Path::new("/no/such/agent.sock"), &[]);
        change(&mut profile);
        bundle.set("/linux/seccomp", profile)
    }
    refused(
        "notify-bad",
        &[
            Refusal {
                name: "an agent that is not there",
                set: |b| with(b, |_| {}),
                says: &["/no/such/agent.sock", "no such file or directory"],
            },
            Refusal {
                name: "no path to one",
                set: |b| with(b, |p| drop(p.as_object_mut().unwrap().remove("listenerPath"))),
                says: &["seccomp listenerPath is not set"],
            },
            Refusal {
                name: "write",
                set: |b| with(b, |p| p["syscalls"][0]["names"] = json!(["mkdir", "write"])),
                says: &["SCMP_ACT_NOTIFY cannot be used for the write syscall"],
            },
            Refusal {
                name: "everything",
                set: |b| with(b, |p| p["defaultAction"] = json!("SCMP_ACT_NOTIFY")),
                says: &["SCMP_ACT_NOTIFY cannot be used as default action"],
            },
        ],
    );
}
