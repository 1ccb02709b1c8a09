//! Runs the cgroup module on the unified hierarchy of the kernel. The only test that is not ignored makes a mount namespace
//! in which `/sys/fs/cgroup` is cgroup v2, and runs the ignored tests there, so that they work on a hybrid host as well.
//! Without root it prints the reason and passes. A test of a controller that v1 uses is skipped by name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test stops at the first thing that is not as it must be, and its children are ordinary processes"
)]

use std::{
    collections::HashSet,
    fs,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use berth_runtime::{
    Kind,
    cgroup::{self, Cgroup, Hierarchy, Limits, Manager, Rights, Setup, Stats},
};
use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec};

const TOP: &str = "/sys/fs/cgroup";

#[test]
fn all_v2_tests_pass_in_a_mount_namespace_with_cgroup2() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    if !fs::read_to_string("/proc/filesystems").unwrap().contains("\tcgroup2\n") {
        eprintln!("skipped: this kernel has no cgroup2");
        return;
    }
    // On a unified host the kernel refuses a second mount on the same path (EBUSY).
    let mount = if cgroup::host().is_ok_and(cgroup::Host::unified) {
        String::new()
    } else {
        format!("mount --make-rprivate / && mount -t cgroup2 none {TOP} && ")
    };
    let script = format!("{mount}exec \"$0\" --ignored --nocapture");
    let me = std::env::current_exe().unwrap();
    let control = enabled();
    let mut inside = Command::new("unshare").args(["-m", "sh", "-c", &script]).arg(me).spawn().unwrap();
    let status = inside.wait().unwrap();
    // The hierarchy is that of the host: the controllers that the tests have enabled are disabled again.
    if let (Some((path, before)), Some((_, after))) = (control, enabled()) {
        for name in after.split_whitespace().filter(|n| !before.split_whitespace().any(|b| b == *n)) {
            let _ = fs::write(&path, format!("-{name}"));
        }
    }
    assert!(status.success(), "the tests inside: {status}");
}

/// The file with the controllers that the root enables for its children, and its content.
fn enabled() -> Option<(PathBuf, String)> {
    let point = cgroup::host().ok()?.mounts().iter().find(|m| m.is_v2())?.point.clone();
    let path = point.join("cgroup.subtree_control");
    let text = fs::read_to_string(&path).ok()?;
    Some((path, text))
}

/// Numbers the files and cgroups of concurrent tests.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup below a parent that only this process uses. Dropping it removes everything, also after a failed test.
struct Fixture {
    cgroup: Cgroup,
    dir: PathBuf,
    parent: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        assert!(cgroup::host().unwrap().unified(), "only in the namespace that the first test makes");
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = PathBuf::from(format!("/berth-test-{}-{n}", std::process::id()));
        let cgroup = Cgroup::resolve(Some(&parent.join("pod/ctr")), "ctr", Manager::Cgroupfs, Rights::Full).unwrap();
        assert_eq!(cgroup.hierarchy(), Hierarchy::V2);
        let parent = Path::new(TOP).join(parent.strip_prefix("/").unwrap());
        Self { cgroup, dir: parent.join("pod/ctr"), parent }
    }

    fn signal(&self, signal: i32) -> berth_runtime::Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        self.cgroup.signal_all(signal, until, &mut HashSet::new()).map(drop)
    }

    fn create(&self, json: &str) {
        self.try_create(json).unwrap();
    }

    fn try_create(&self, json: &str) -> berth_runtime::Result<()> {
        let limits = Limits::new(self.cgroup.hierarchy(), &resources(json))?;
        Setup::begin(&self.cgroup, limits, "ctr", None).map(Setup::keep)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).trim().to_owned()
    }

    fn has(&self, controller: &str) -> bool {
        let has = available(controller);
        if !has {
            eprintln!("skipped: {controller} is not in the unified hierarchy here");
        }
        has
    }

    fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        self.cgroup.add(pid(&child)).unwrap();
        child
    }

    /// Starts a shell that runs `script` after it was moved into the cgroup.
    fn shell(&self, script: &str) -> Child {
        let script = format!("read x; {script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        self.cgroup.add(pid(&child)).unwrap();
        drop(child.stdin.take());
        child
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.signal(libc::SIGKILL);
        let _ = self.cgroup.delete();
        let _ = fs::remove_dir(self.parent.join("pod"));
        let _ = fs::remove_dir(&self.parent);
    }
}

fn available(controller: &str) -> bool {
    let text = fs::read_to_string(Path::new(TOP).join("cgroup.controllers")).unwrap();
    text.split_whitespace().any(|c| c == controller)
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(180);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within three minutes");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_limits_read_back() {
    let rows = [
        ("hugetlb", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#, "hugetlb.2MB.max=4194304"),
        ("pids", r#"{"pids":{"limit":20}}"#, "pids.max=20"),
        (
            "memory",
            r#"{"memory":{"limit":67108864,"reservation":33554432}}"#,
            "memory.max=67108864,memory.low=33554432",
        ),
        (
            "cpu",
            r#"{"cpu":{"shares":512,"quota":20000,"period":50000,"burst":1000}}"#,
            "cpu.weight=59,cpu.max=20000 50000,cpu.max.burst=1000",
        ),
        ("cpuset", r#"{"cpu":{"cpus":"0"}}"#, "cpuset.cpus=0"),
    ];
    for (controller, json, want) in rows {
        let f = Fixture::new();
        if !f.has(controller) {
            continue;
        }
        f.create(json);
        for (file, value) in want.split(',').map(|w| w.split_once('=').unwrap()) {
            assert_eq!(f.read(file), value, "{file}");
        }
        let all = fs::read_to_string(Path::new(TOP).join("cgroup.controllers")).unwrap();
        assert_eq!(f.read("cgroup.controllers"), all.trim(), "every controller is enabled down to the cgroup");
    }
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_update_keeps_limits_that_it_does_not_name() {
    let f = Fixture::new();
    if f.has("cpu") {
        f.create(r#"{"cpu":{"quota":20000,"period":50000}}"#);
        let rows = [
            (r#"{"quota":30000}"#, "30000 50000"),
            (r#"{"period":60000}"#, "30000 60000"),
            (r#"{"quota":1000,"period":1000,"burst":1000}"#, "1000 1000"),
            (r#"{"quota":-1}"#, "max 1000"),
            (r#"{"shares":2048}"#, "max 1000"),
        ];
        for (json, want) in rows {
            f.cgroup.update(&resources(&format!(r#"{{"cpu":{json}}}"#))).unwrap();
            assert_eq!(f.read("cpu.max"), want, "{json}");
        }
        assert_eq!(f.read("cpu.weight"), "174");
        f.cgroup.update(&resources(r#"{"cpu":{"idle":1}}"#)).unwrap();
        assert_eq!(f.read("cpu.idle"), "1");
    }
    let f = Fixture::new();
    if f.has("memory") {
        f.create(r#"{"memory":{"limit":67108864,"swap":134217728}}"#);
        let rows = [
            (r#"{"limit":100663296}"#, "100663296", "33554432"),
            (r#"{"swap":100663296}"#, "100663296", "0"),
            (r#"{"limit":33554432,"swap":-1}"#, "33554432", "max"),
            (r#"{"limit":-1}"#, "max", "max"),
        ];
        for (json, max, swap) in rows {
            f.cgroup.update(&resources(&format!(r#"{{"memory":{json}}}"#))).unwrap();
            assert_eq!((f.read("memory.max").as_str(), f.read("memory.swap.max").as_str()), (max, swap), "{json}");
        }
        let mut child = f.shell("sleep 1000; :");
        until("memory to be charged", || f.read("memory.current") != "0");
        let Stats::V2(stats) = f.cgroup.stats().unwrap() else { panic!("v2 expected") };
        assert_eq!(stats.memory.usage_limit, u64::MAX);
        assert!(stats.memory_events.is_some() && stats.memory.stat.iter().count() > 20);
        let e = f.cgroup.update(&resources(r#"{"memory":{"limit":1,"checkBeforeUpdate":true}}"#)).unwrap_err();
        assert!(e.to_string().contains("rejecting memory limit 1 <= usage "), "{e}");
        assert!(child.try_wait().unwrap().is_none(), "nothing was killed");
        f.signal(libc::SIGKILL).unwrap();
        child.wait().unwrap();
    }
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_error_names_the_limit_and_leaves_no_directory() {
    let f = Fixture::new();
    let e = f.try_create(r#"{"unified":{"nosuch.max":"7"}}"#).unwrap_err().to_string();
    let why = "controller \"nosuch\" not available: this host has no controller \"nosuch\" on cgroup v2";
    assert_eq!(e, format!("unified resource \"nosuch.max\" can't be set: {why}"));
    let e = f.try_create(r#"{"unified":{"cgroup.max.depth":"many"}}"#).unwrap_err().to_string();
    assert!(e.starts_with("unable to set unified resource \"cgroup.max.depth\": write \"many\" to "), "{e}");
    if !available("memory") {
        let e = f.try_create(r#"{"memory":{"limit":4194304}}"#).unwrap_err().to_string();
        let why = "no such file or directory: this host has no controller \"memory\" on cgroup v2";
        assert_eq!(e, format!("write \"4194304\" to {}/memory.max: {why}", f.dir.display()));
    }
    assert!(!f.parent.exists());
    f.create(r#"{"unified":{"cgroup.max.depth":"5"}}"#);
    assert_eq!(f.read("cgroup.max.depth"), "5");
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_used_or_frozen_cgroup_is_refused_and_empty_one_taken_over() {
    let f = Fixture::new();
    f.create("{}");
    let mut child = f.sleeper();
    let e = f.try_create("{}").unwrap_err();
    assert_eq!(e.kind(), Kind::FailedPrecondition);
    assert!(e.to_string().contains("container's cgroup is not empty: 1 process(es) found"), "{e}");
    child.kill().unwrap();
    child.wait().unwrap();
    f.cgroup.freeze().unwrap();
    let e = f.try_create("{}").unwrap_err();
    assert!(e.to_string().contains("container's cgroup unexpectedly frozen"), "{e}");
    f.cgroup.thaw().unwrap();
    f.create("{}");
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_sigkill_reaches_the_subtree_and_frozen_processes() {
    let f = Fixture::new();
    f.create("{}");
    // The shell has a handler: on v2 a signal whose default is to kill also kills a frozen process.
    let (mut a, mut b) = (f.shell("trap 'exit 9' TERM; while :; do :; done"), f.sleeper());
    let used = || {
        fs::read_to_string(f.dir.join("cpu.stat"))
            .unwrap()
            .lines()
            .any(|l| l.starts_with("usage_usec ") && l.len() > 15)
    };
    until("it to have its handler", used);
    let below = f.dir.join("x/y");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("cgroup.procs"), b.id().to_string()).unwrap();
    let mut want = vec![pid(&a), pid(&b)];
    want.sort_unstable();
    assert_eq!(f.cgroup.pids().unwrap(), want);
    f.cgroup.freeze().unwrap();
    assert!(f.cgroup.is_frozen().unwrap());
    f.signal(libc::SIGTERM).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(a.try_wait().unwrap().is_none(), "a frozen process does not act on a signal");
    assert!(f.cgroup.is_frozen().unwrap(), "and stays frozen");
    f.signal(libc::SIGKILL).unwrap();
    assert_eq!(a.wait().unwrap().signal(), Some(libc::SIGKILL));
    b.wait().unwrap();
    f.cgroup.delete().unwrap();
    f.cgroup.delete().unwrap();
    assert!(!f.dir.exists());
    for gone in [f.cgroup.pids().map(drop), f.signal(libc::SIGKILL), f.cgroup.stats().map(drop)] {
        assert_eq!(gone.unwrap_err().kind(), Kind::NotFound);
    }
    assert!(!f.cgroup.is_frozen().unwrap());
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_frozen_process_uses_no_cpu_time() {
    let f = Fixture::new();
    f.create("{}");
    let mut child = f.shell("while :; do :; done");
    let used = || match f.cgroup.stats().unwrap() {
        Stats::V2(stats) => stats.cpu.stat.get("usage_usec"),
        Stats::V1(_) => panic!("v2 expected"),
    };
    until("it to run", || used() > 20_000);
    f.cgroup.freeze().unwrap();
    let frozen = used();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(used(), frozen);
    f.cgroup.thaw().unwrap();
    assert!(!f.cgroup.is_frozen().unwrap());
    until("it to run on", || used() > frozen);
    f.signal(libc::SIGUSR1).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR1));
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
#[allow(unsafe_code, reason = "std starts no child without execve")]
fn v2_child_is_cloned_into_the_cgroup() {
    let f = Fixture::new();
    f.create("{}");
    let fds = f.cgroup.join_fds(None).unwrap();
    assert!(fds.tasks.is_empty());
    let dir = fds.clone_into.expect("v2 has one");
    // SAFETY: clone_args is integers only, for all of which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = 0x2_0000_0000; // CLONE_INTO_CGROUP
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap();
    args.cgroup = u64::try_from(dir.as_raw_fd()).unwrap();
    // SAFETY: clone3(2) with no shared memory is a fork; the child only waits for its death, by raw system calls.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if child == 0 {
        loop {
            // SAFETY: pause(2) takes nothing and touches no memory.
            unsafe { libc::pause() };
        }
    }
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    let child = i32::try_from(child).unwrap();
    assert_eq!(f.cgroup.pids().unwrap(), [child]);
    let own = fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
    assert!(own.lines().any(|l| l.starts_with("0::/berth-test-") && l.ends_with("/pod/ctr")), "{own}");
    f.signal(libc::SIGKILL).unwrap();
    let mut status = 0;
    // SAFETY: `status` is writable for the call, and the child is ours to reap.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WTERMSIG(status), libc::SIGKILL);
}

/// A device node in a temporary directory, so that the test does not depend on /dev of the host.
struct Node(PathBuf);

impl Node {
    fn new(major: u32, minor: u32) -> Self {
        // Concurrent tests have nodes with the same device number.
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("berth-node-{}-{n}", std::process::id()));
        let _ = fs::remove_file(&path);
        let (major, minor) = (major.to_string(), minor.to_string());
        assert!(Command::new("mknod").arg(&path).args(["c", &major, &minor]).status().unwrap().success());
        Self(path)
    }

    fn opens(&self, f: &Fixture, how: &str) -> bool {
        f.shell(&format!("exec 3{how} {}", self.0.display())).wait().unwrap().success()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_devices_without_a_rule_are_denied() {
    let f = Fixture::new();
    f.create(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    let (null, kmsg) = (Node::new(1, 3), Node::new(1, 11));
    assert!(null.opens(&f, "<>") && null.opens(&f, "<"), "a default device");
    assert!(!kmsg.opens(&f, "<"), "another one");
    let allow = |access: &str| {
        let rules = format!(r#"{{"devices":[{{"allow":true,"type":"c","major":1,"minor":11,"access":"{access}"}}]}}"#);
        f.create(&rules);
    };
    allow("r");
    assert!(kmsg.opens(&f, "<") && !kmsg.opens(&f, "<>") && !kmsg.opens(&f, ">"), "read only");
    allow("rw");
    assert!(kmsg.opens(&f, "<>"));
    // Allow everything, and back: the program is detached and attached.
    f.create(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
    assert!(kmsg.opens(&f, "<>"));
    f.create(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    assert!(!kmsg.opens(&f, "<"));
    // An update of limits keeps the device rules.
    let limits = r#"{"unified":{"cgroup.max.depth":"7"},"devices":[{"allow":true,"access":"rwm"}]}"#;
    f.cgroup.update(&resources(limits)).unwrap();
    assert!(!kmsg.opens(&f, "<") && null.opens(&f, "<>"));
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_program_with_5000_rules_loads() {
    let f = Fixture::new();
    let rule = |n| format!(r#"{{"allow":true,"type":"b","major":259,"minor":{n},"access":"rw"}}"#);
    let all: Vec<String> = (0..5000).map(rule).collect();
    f.create(&format!(r#"{{"devices":[{}]}}"#, all.join(",")));
    assert!(!Node::new(1, 11).opens(&f, "<"));
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_oom_kill_is_reported_and_counted() {
    let f = Fixture::new();
    if !f.has("memory") {
        f.create("{}");
        assert_eq!(f.cgroup.oom_watch().unwrap_err().kind(), Kind::Unsupported);
        return;
    }
    f.create(r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    let mut watch = f.cgroup.oom_watch().unwrap();
    let mut child = f.shell("dd if=/dev/zero of=/dev/null bs=64M count=1");
    let ten = Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut kills = 0;
    while kills == 0 {
        let ready =
            rustix::event::poll(&mut [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)], Some(&ten)).unwrap();
        assert_eq!(ready, 1, "the watch becomes readable");
        kills += watch.drain().unwrap();
    }
    child.wait().unwrap();
    assert_eq!(f.cgroup.oom_kills().unwrap(), kills);
}

#[test]
#[ignore = "run by all_v2_tests_pass_in_a_mount_namespace_with_cgroup2"]
fn v2_delete_removes_deeply_nested_cgroups() {
    let f = Fixture::new();
    f.create("{}");
    let mut deep = f.dir.clone();
    for _ in 0..40 {
        deep.push("n".repeat(60));
        fs::create_dir(&deep).unwrap();
        fs::create_dir(deep.join("side")).unwrap();
    }
    let mut child = f.sleeper();
    let e = f.cgroup.delete().unwrap_err().to_string();
    assert!(e.contains("device or resource busy"), "{e}");
    f.signal(libc::SIGKILL).unwrap();
    // The child is not reaped yet: the kernel removes its cgroup nevertheless, a little later.
    f.cgroup.delete().unwrap();
    assert!(!f.dir.exists());
    child.wait().unwrap();
}
