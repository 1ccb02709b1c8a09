//! A process that joins a pid namespace shows the processes there no more than a container has, and gives them no
//! further rights. A spy inside examines each new process as soon as it appears, and stops it where it may trace it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Runtime, is_runc, wait_until},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

const EXECS: usize = 300;
const CREATES: usize = 100;

/// The capabilities of `runc spec` and CAP_SYS_PTRACE, which debuggers and profilers ask for.
fn tracing(bundle: Bundle) -> Bundle {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_PTRACE"]);
    let sets = json!({"bounding": caps, "effective": caps, "permitted": caps});
    bundle.set("/process/capabilities", sets)
}

/// A filter that needs CAP_SYS_ADMIN to load, since no_new_privs is off.
fn filtered(bundle: Bundle) -> Bundle {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["mount", "bpf"], "action": "SCMP_ACT_ERRNO"},
    ]});
    bundle.set("/process/noNewPrivileges", json!(false)).set("/linux/seccomp", profile)
}

/// A container whose process is the spy.
struct Spy {
    stop: PathBuf,
    pid: u32,
    _host_mount: HostMount,
}

/// A mount of the host that no container has.
struct HostMount(PathBuf);

impl HostMount {
    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        rustix::mount::mount("berth-test", &path, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        Self(path)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

impl Spy {
    fn new(runtime: &Runtime, set: fn(Bundle) -> Bundle) -> Self {
        let mark = runtime.root().to_str().unwrap().to_owned();
        let host_file = runtime.work().join("host-file");
        fs::write(&host_file, "the host's").unwrap();
        let host_mount = HostMount::at(runtime.work().join("host-mount"));
        let namespaces = ["mnt", "net", "ipc", "uts", "pid"]
            .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned());
        let words = ["spy", "/stop", &mark, host_file.to_str().unwrap(), host_mount.0.to_str().unwrap()];
        let words: Vec<&str> = words.into_iter().chain(namespaces.iter().map(String::as_str)).collect();
        let bundle = set(Bundle::probe(&words));
        let stop = bundle.rootfs().join("stop");
        runtime.start("b", &bundle);
        Self { stop, pid: runtime.pid("b"), _host_mount: host_mount }
    }

    /// Ends the spy and returns what it found.
    fn caught(self, runtime: &Runtime) -> Value {
        fs::write(self.stop, "").unwrap();
        wait_until(|| runtime.all_stdout().contains("\"spy\""), || "the spy never ended".into());
        let text = runtime.all_stdout();
        let line = text.lines().find(|line| line.contains("\"spy\"")).unwrap();
        serde_json::from_str::<Value>(line).unwrap()["spy"].clone()
    }
}

/// Runs `rounds` execs in the spy's container, or creates in its pid namespace, and fails if the spy found anything.
#[track_caller]
fn nothing_is_caught(name: &str, set: fn(Bundle) -> Bundle, traced: bool, rounds: usize, round: fn(&Runtime, &Spy)) {
    if traced
        && skipped_on_runc(
            name,
            "its threads have all capabilities until their execve, and wait for one that is traced",
        )
    {
        return;
    }
    // runc needs ten times as long and only tests the test.
    let rounds = if is_runc() { rounds / 10 } else { rounds };
    let runtime = Runtime::new(name);
    let spy = Spy::new(&runtime, set);
    for _ in 0..rounds {
        round(&runtime, &spy);
    }
    let mut report = spy.caught(&runtime);
    if is_runc() {
        // runc's processes have all capabilities until right before execve.
        for kind in ["capabilities", "memory", "environ"] {
            report["caught"].as_object_mut().unwrap().remove(kind);
        }
    }
    assert_eq!(report["caught"], json!({}), "{name}: {report:#}");
    // A spy that saw few processes, or could stop none although it may, proves nothing.
    assert!(report["seen"].as_u64().unwrap() > 0, "{name}: {report:#}");
    assert!(!traced || report["held"].as_u64().unwrap() > 0, "{name}: {report:#}");
}

fn exec(runtime: &Runtime, _: &Spy) {
    let secret = runtime.root();
    runtime.call(&["exec", "b", "/probe"]).env("BERTH_TEST_SECRET", secret.to_str().unwrap()).wait().ok();
}

fn create(runtime: &Runtime, spy: &Spy) {
    let bundle = Bundle::probe(&[]).namespace("pid", &format!("/proc/{}/ns/pid", spy.pid));
    runtime.on("create", "a", &bundle).env("BERTH_TEST_SECRET", runtime.root().to_str().unwrap()).wait().ok();
    runtime.cmd(&["delete", "--force", "a"]).ok();
}

fn create_filtered(runtime: &Runtime, spy: &Spy) {
    let bundle = filtered(Bundle::probe(&[])).namespace("pid", &format!("/proc/{}/ns/pid", spy.pid));
    runtime.on("create", "a", &bundle).wait().ok();
    runtime.cmd(&["delete", "--force", "a"]).ok();
}

#[test]
fn exec_shows_nothing_of_the_host_to_an_ordinary_neighbour() {
    nothing_is_caught("spy", |b| b, false, EXECS, exec);
}

#[test]
fn traced_exec_has_no_more_rights_than_the_container() {
    nothing_is_caught("spy-traced", tracing, true, EXECS, exec);
}

#[test]
fn exec_in_a_user_namespace_has_no_more_rights_than_the_container() {
    nothing_is_caught("spy-mapped", |b| tracing(b.mapped()), false, CREATES, exec);
}

#[test]
fn exec_under_a_filter_has_no_more_rights_than_the_container() {
    nothing_is_caught("spy-filtered", |b| filtered(tracing(b)), true, CREATES, exec);
}

#[test]
fn create_in_a_joined_pid_namespace_has_no_more_rights_than_a_container() {
    nothing_is_caught("spy-create", tracing, true, CREATES, create);
    nothing_is_caught("spy-create-filtered", tracing, true, CREATES / 4, create_filtered);
}

/// The control: a process of the host that enters the pid namespace as it is.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test ends it with the pid namespace that it is in")]
fn control_spy_catches_a_process_that_enters_by_nsenter() {
    if skipped_on_runc("spy-control", "an exec of its waits for a thread that is traced") {
        return;
    }
    let runtime = Runtime::new("spy-control");
    let spy = Spy::new(&runtime, tracing);
    let mark = runtime.root();
    let mut careless: Child = Command::new("nsenter")
        .args([&format!("--pid=/proc/{}/ns/pid", spy.pid), "sleep", "1000"])
        .env("BERTH_TEST_SECRET", &mark)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(
        || {
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", careless.id()))
                .is_ok_and(|c| !c.trim().is_empty())
        },
        || "nothing has entered the pid namespace".into(),
    );
    // The spy has examined the next process, so it has examined this one before.
    exec(&runtime, &spy);
    let caught = spy.caught(&runtime)["caught"].clone();
    runtime.cmd(&["delete", "--force", "b"]).ok();
    careless.wait().unwrap();
    for kind in ["mountinfo", "net", "capabilities", "environ", "ns/mnt", "ns/net", "root"] {
        assert!(caught.get(kind).is_some(), "no {kind}: {caught:#}");
    }
}

/// The control: a berth whose execs enter the pid namespace before they have the container's rights.
#[test]
fn control_spy_catches_an_exec_that_enters_the_pid_namespace_first() {
    let runtime = Runtime::weakened("spy-first", &[Defence::PidNamespaceLast]);
    let spy = Spy::new(&runtime, tracing);
    for _ in 0..CREATES / 4 {
        exec(&runtime, &spy);
    }
    let report = spy.caught(&runtime);
    for kind in ["capabilities", "memory"] {
        assert!(report["caught"].get(kind).is_some(), "no {kind}: {report:#}");
    }
}

/// execve(2) and hooks come after the runtime's memory is unmapped.
#[test]
fn process_in_a_joined_pid_namespace_fails_and_runs_hooks_as_usual() {
    let runtime = Runtime::new("joiner-ends");
    let bundle = Bundle::probe(&["sleep", "100"]).file("script", "#!/no/such/interpreter\n", 0o755);
    runtime.start("b", &bundle);
    let out = runtime.exec("b", &["/script"]).fails(255, &["no such file or directory"]);
    assert!(out.stdout.is_empty(), "{out:#?}");
    let joined = |words: &[&str]| {
        Bundle::probe(words).namespace("pid", &format!("/proc/{}/ns/pid", runtime.pid("b"))).file(
            "script",
            "#!/no/such/interpreter\n",
            0o755,
        )
    };
    let hook = |status: &str| json!({"startContainer": [{"path": "/probe", "args": ["/probe", "exit", status]}]});
    let out = runtime.run("a", &joined(&["exit", "7"]).set("/hooks", hook("0")));
    assert_eq!(out.code, 7, "{out:#?}");
    let out = runtime.run("a", &joined(&["exit", "7"]).set("/hooks", hook("3")));
    assert!(matches!(out.code, 1 | 255) && out.stderr.contains("startContainer hook"), "{out:#?}");
    let out = runtime.run("a", &joined(&[]).args(&["/script"]));
    assert!(out.code != 0 && out.code != 139 && out.stderr.contains("no such file or directory"), "{out:#?}");
    assert_eq!(runtime.exec("b", &["/probe", "exit", "5"]).code, 5);
}
