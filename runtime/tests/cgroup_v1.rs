//! Runs the cgroup module on the v1 hierarchies of the kernel. Without root or v1 hierarchies the tests print the reason and
//! pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and its children are ordinary processes"
)]

use std::{
    collections::HashSet,
    fs,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
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

/// A cgroup below a parent that only this process uses. Dropping it removes everything, also after a failed test.
struct Fixture {
    cgroup: Cgroup,
    parent: PathBuf,
}

impl Fixture {
    /// None if v1 cannot be tested; prints the reason.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        if cgroup::host().is_ok_and(cgroup::Host::unified) {
            eprintln!("skipped: this machine has no v1 hierarchies");
            return None;
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // Tests in a container may have the same pid as others on the host.
        let space = fs::metadata("/proc/self/ns/pid").unwrap().ino();
        let parent = PathBuf::from(format!("/berth-test-{}n{space}-{n}", std::process::id()));
        let cgroup = Cgroup::resolve(Some(&parent.join("pod/ctr")), "ctr", Manager::Cgroupfs, Rights::Full).unwrap();
        assert_eq!(cgroup.hierarchy(), Hierarchy::V1);
        Some(Self { cgroup, parent })
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

    fn read(&self, controller: &str, file: &str) -> String {
        let path = self.cgroup.path_in(controller).unwrap().join(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    /// The directories of the parent that exist, in all hierarchies.
    fn leftovers(&self) -> Vec<PathBuf> {
        let points = cgroup::host().unwrap().mounts().iter().map(|m| m.point.clone());
        points.map(|p| p.join(self.parent.strip_prefix("/").unwrap())).filter(|p| p.exists()).collect()
    }

    /// Starts a process that sleeps in the cgroup.
    fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        self.cgroup.add(pid(&child)).unwrap();
        child
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.cgroup.thaw();
        let _ = self.signal(libc::SIGKILL);
        let _ = self.cgroup.delete();
        for dir in self.leftovers() {
            let _ = fs::remove_dir(dir.join("pod"));
            let _ = fs::remove_dir(dir);
        }
    }
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

/// Starts a process that takes 64 MiB of memory after its standard input is closed.
fn eater() -> Child {
    let script = "read x; dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null";
    Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn v1_limits_read_back() {
    let Some(f) = Fixture::new() else { return };
    f.create(
        r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":10},
            "cpu":{"shares":512,"quota":20000,"period":50000,"burst":1000,"cpus":"0"},"pids":{"limit":20}}"#,
    );
    let rows = [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpu", "cpu.cfs_burst_us", "1000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "20"),
    ];
    for (controller, file, value) in rows {
        assert_eq!(f.read(controller, file), value, "{file}");
    }
    assert!(!f.read("cpuset", "cpuset.mems").is_empty(), "memory nodes are inherited");
    let v2 = f.cgroup.path_in("").expect("the unified hierarchy of a hybrid machine is joined, too");
    assert!(v2.is_dir());
}

#[test]
fn v1_update_raises_and_lowers_paired_limits() {
    let Some(f) = Fixture::new() else { return };
    f.create(r#"{"memory":{"limit":67108864,"swap":67108864},"cpu":{"quota":20000,"period":50000}}"#);
    let both =
        |f: &Fixture| (f.read("memory", "memory.limit_in_bytes"), f.read("memory", "memory.memsw.limit_in_bytes"));
    for (limit, swap) in [(134_217_728_u64, 134_217_728_u64), (33_554_432, 50_331_648), (50_331_648, 50_331_648)] {
        f.cgroup.update(&resources(&format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#))).unwrap();
        assert_eq!(both(&f), (limit.to_string(), swap.to_string()));
    }
    f.cgroup.update(&resources(r#"{"memory":{"limit":-1}}"#)).unwrap();
    assert_eq!(both(&f), ("9223372036854771712".into(), "9223372036854771712".into()));
    // The new period is shorter than the old quota.
    f.cgroup.update(&resources(r#"{"cpu":{"quota":2000,"period":1000,"burst":2000}}"#)).unwrap();
    assert_eq!((f.read("cpu", "cpu.cfs_quota_us"), f.read("cpu", "cpu.cfs_period_us")), ("2000".into(), "1000".into()));
    f.cgroup.update(&resources(r#"{"cpu":{"quota":-1}}"#)).unwrap();
    assert_eq!(f.read("cpu", "cpu.cfs_quota_us"), "-1");
    // An update keeps values that it does not name.
    assert_eq!(f.read("cpu", "cpu.cfs_period_us"), "1000");
    // A create may skip a default value, an update must write it.
    f.cgroup.update(&resources(r#"{"pids":{"limit":5}}"#)).unwrap();
    f.cgroup.update(&resources(r#"{"pids":{"limit":-1}}"#)).unwrap();
    assert_eq!(f.read("pids", "pids.max"), "max");
}

#[test]
fn v1_error_names_file_and_value_and_leaves_no_directory() {
    let Some(f) = Fixture::new() else { return };
    let e = f.try_create(r#"{"cpu":{"cpus":"4000"}}"#).unwrap_err().to_string();
    assert!(e.contains("write \"4000\" to ") && e.contains("cpuset.cpus"), "{e}");
    assert!(!f.cgroup.exists());
    assert!(f.leftovers().is_empty(), "the new parents are removed as well");
    // Directories that existed before stay.
    let kept = f.cgroup.path_in("pids").unwrap().parent().unwrap().to_owned();
    fs::create_dir_all(&kept).unwrap();
    f.try_create(r#"{"pids":{"limit":4},"cpu":{"quota":5}}"#).unwrap_err();
    assert_eq!(f.leftovers().len(), 1);
    assert!(kept.is_dir() && !kept.join("ctr").exists());
}

#[test]
fn v1_used_or_frozen_cgroup_is_refused_and_empty_one_taken_over() {
    let Some(f) = Fixture::new() else { return };
    f.create("{}");
    let mut child = f.sleeper();
    let e = f.try_create("{}").unwrap_err();
    assert_eq!(e.kind(), Kind::FailedPrecondition);
    assert!(e.to_string().contains("container's cgroup is not empty: 1 process(es) found"), "{e}");
    child.kill().unwrap();
    child.wait().unwrap();
    f.cgroup.freeze().unwrap();
    let e = f.try_create("{}").unwrap_err();
    assert_eq!(e.kind(), Kind::FailedPrecondition);
    assert!(e.to_string().contains("container's cgroup unexpectedly frozen"), "{e}");
    assert!(f.cgroup.exists(), "a refusal removes nothing");
    f.cgroup.thaw().unwrap();
    f.create(r#"{"pids":{"limit":3}}"#);
    assert_eq!(f.read("pids", "pids.max"), "3");
}

#[test]
#[allow(unsafe_code, reason = "std starts no child without execve")]
fn v1_child_joins_by_itself() {
    let Some(f) = Fixture::new() else { return };
    f.create("{}");
    let fds = f.cgroup.join_fds(None).unwrap();
    // SAFETY: clone_args is integers only, for all of which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap();
    if let Some(dir) = &fds.clone_into {
        args.flags = 0x2_0000_0000; // CLONE_INTO_CGROUP
        args.cgroup = u64::try_from(dir.as_raw_fd()).unwrap();
    }
    // SAFETY: clone3(2) with no shared memory is a fork; the child only makes raw system calls.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if child == 0 {
        for fd in &fds.tasks {
            // SAFETY: write(2) reads one byte of a literal.
            if unsafe { libc::write(fd.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
                // SAFETY: _exit(2) takes no memory and does not return.
                unsafe { libc::_exit(1) };
            }
        }
        loop {
            // SAFETY: pause(2) takes no arguments and touches no memory.
            unsafe { libc::pause() };
        }
    }
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    let child = i32::try_from(child).unwrap();
    let own = || fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
    let inside = |text: &str| text.lines().filter(|l| l.ends_with("/pod/ctr")).count();
    until("the child to be in every hierarchy", || {
        inside(&own()) == fds.tasks.len() + usize::from(fds.clone_into.is_some())
    });
    assert_eq!(f.cgroup.pids().unwrap(), [child]);
    f.signal(libc::SIGKILL).unwrap();
    let mut status = 0;
    // SAFETY: `status` is writable for the call, and the child is ours to reap.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WTERMSIG(status), libc::SIGKILL);
}

#[test]
fn v1_processes_of_the_subtree_are_listed_and_killed() {
    let Some(f) = Fixture::new() else { return };
    f.create("{}");
    let (mut a, mut b) = (f.sleeper(), f.sleeper());
    let below = f.cgroup.path_in("devices").unwrap().join("x/y");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("cgroup.procs"), b.id().to_string()).unwrap();
    let mut want = vec![pid(&a), pid(&b)];
    want.sort_unstable();
    assert_eq!(f.cgroup.pids().unwrap(), want);
    for m in cgroup::host().unwrap().mounts() {
        let name = m.controllers.first().map_or("", String::as_str);
        if let Some(path) = f.cgroup.path_in(name) {
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap();
            assert!(procs.lines().any(|l| l == a.id().to_string()), "{}: {procs:?}", path.display());
        }
    }
    f.signal(libc::SIGKILL).unwrap();
    for child in [&mut a, &mut b] {
        child.wait().unwrap();
    }
    f.cgroup.delete().unwrap();
    assert_eq!(f.cgroup.pids().unwrap_err().kind(), Kind::NotFound);
    assert!(!below.exists());
}

#[test]
fn v1_signal_to_all_leaves_a_frozen_cgroup_frozen_but_for_sigkill() {
    use std::os::unix::process::ExitStatusExt;
    let Some(f) = Fixture::new() else { return };
    f.create("{}");
    let mut child = f.sleeper();
    assert!(!f.cgroup.is_frozen().unwrap());
    f.cgroup.freeze().unwrap();
    assert!(f.cgroup.is_frozen().unwrap());
    f.cgroup.freeze().unwrap();
    f.signal(libc::SIGTERM).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "a frozen process does not act on a signal");
    assert!(f.cgroup.is_frozen().unwrap(), "and stays frozen");
    f.signal(libc::SIGKILL).unwrap();
    // Both signals were pending; the kernel chooses one.
    let signal = child.wait().unwrap().signal();
    assert!(matches!(signal, Some(libc::SIGKILL | libc::SIGTERM)), "{signal:?}");
    assert!(!f.cgroup.is_frozen().unwrap());
    let mut child = f.sleeper();
    f.signal(libc::SIGRTMIN() + 3).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGRTMIN() + 3));
}

#[test]
fn v1_forking_processes_are_all_killed() {
    let Some(f) = Fixture::new() else { return };
    f.create(r#"{"pids":{"limit":200}}"#);
    let script = "read x; n=0; while [ $n -lt 20 ]; do (while :; do (:); done) & n=$((n+1)); done; wait";
    let mut parent = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    f.cgroup.add(pid(&parent)).unwrap();
    drop(parent.stdin.take());
    until("all to fork", || f.cgroup.pids().unwrap().len() > 25);
    f.signal(libc::SIGKILL).unwrap();
    parent.wait().unwrap();
    until("all to be gone", || f.cgroup.pids().unwrap().is_empty());
    f.cgroup.delete().unwrap();
}

#[test]
fn v1_oom_kill_is_reported_and_counted_once() {
    let Some(f) = Fixture::new() else { return };
    f.create(r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    let mut watch = f.cgroup.oom_watch().unwrap();
    assert_eq!((watch.drain().unwrap(), f.cgroup.oom_kills().unwrap()), (0, 0));
    let mut child = eater();
    f.cgroup.add(pid(&child)).unwrap();
    drop(child.stdin.take());
    let ten = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)], Some(&ten)).unwrap();
    assert_eq!(ready, 1, "the watch becomes readable");
    child.wait().unwrap();
    let mut kills = 0;
    until("the count", || {
        kills += watch.drain().unwrap();
        kills > 0
    });
    assert_eq!(f.cgroup.oom_kills().unwrap(), kills);
    assert_eq!(watch.drain().unwrap(), 0, "each kill is reported once");
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready =
        rustix::event::poll(&mut [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)], Some(&zero)).unwrap();
    assert_eq!(ready, 0, "drained");
    let Stats::V1(stats) = f.cgroup.stats().unwrap() else { panic!("v1 expected") };
    assert_eq!(stats.memory.unwrap().oom_kill, kills);
    f.cgroup.delete().unwrap();
    assert_eq!(watch.drain().unwrap(), 0, "a removed cgroup reports none");
}

#[test]
fn v1_stats_show_usage_and_limits() {
    let Some(f) = Fixture::new() else { return };
    f.create(r#"{"memory":{"limit":67108864},"pids":{"limit":9}}"#);
    // The shell allocates after it has joined: memory that it had before is not charged to the cgroup.
    let script =
        "read x; x=$(head -c 4000000 /dev/zero | tr '\\0' a); while [ $((i += 1)) -lt 100000 ]; do :; done; read y";
    let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    f.cgroup.add(pid(&child)).unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"\n").unwrap();
    let stats = || match f.cgroup.stats().unwrap() {
        Stats::V1(stats) => stats,
        Stats::V2(_) => panic!("v1 expected"),
    };
    // The kernel updates the counters in batches.
    until("some CPU time and memory", || {
        let s = stats();
        let memory = s.memory.unwrap();
        s.cpu.total_ns > 5_000_000 && memory.usage.usage > 0 && memory.stat.get("pgfault") > 0
    });
    until("the shell to be alone", || stats().pids.unwrap().current == 1);
    let s = stats();
    let memory = s.memory.unwrap();
    assert_eq!((memory.usage.limit, memory.stat.get("hierarchical_memory_limit")), (67_108_864, 67_108_864));
    let pids = s.pids.unwrap();
    assert_eq!((pids.current, pids.limit), (1, 9));
    assert!(!s.cpu.per_cpu_ns.is_empty());
    f.signal(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    f.cgroup.delete().unwrap();
    assert_eq!(f.cgroup.stats().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn v1_devices_without_a_rule_are_denied() {
    let Some(f) = Fixture::new() else { return };
    f.create(r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#);
    let list = f.read("devices", "devices.list");
    for want in ["c 1:3 rwm", "c *:* m", "b *:* m", "c 10:229 rw", "c 136:* rwm"] {
        assert!(list.lines().any(|l| l == want), "{want} in {list}");
    }
    assert_eq!(list.lines().count(), 12);
    assert_eq!((open_in(&f, "/dev/null"), open_in(&f, "/dev/kmsg")), (true, false));
    f.create(r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#);
    assert!(open_in(&f, "/dev/kmsg"), "another container in the same cgroup has its own rules");
    let list = f.read("devices", "devices.list");
    assert!(!list.contains("10:229") && list.contains("c 1:11 r"), "{list}");
}

/// Whether a process in the cgroup can open the device of `path` for reading. Makes a node for it, since the host may not
/// have the file.
fn open_in(f: &Fixture, path: &str) -> bool {
    let minor = if path == "/dev/kmsg" { "11" } else { "3" };
    let node = std::env::temp_dir().join(format!("berth-test-{}-{minor}", std::process::id()));
    let made = Command::new("mknod").arg(&node).args(["c", "1", minor]).status().unwrap();
    assert!(made.success());
    let script = format!("read x; exec 3< {}", node.display());
    let mut child =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    f.cgroup.add(pid(&child)).unwrap();
    drop(child.stdin.take());
    let opened = child.wait().unwrap().success();
    fs::remove_file(&node).unwrap();
    opened
}

#[test]
fn v1_delete_removes_all_hierarchies_and_can_be_repeated() {
    let Some(f) = Fixture::new() else { return };
    f.create("{}");
    for controller in ["memory", "pids", "", "cpuset"] {
        fs::create_dir_all(f.cgroup.path_in(controller).unwrap().join("a/b/c")).unwrap();
    }
    f.cgroup.delete().unwrap();
    f.cgroup.delete().unwrap();
    let places: Vec<&Path> =
        ["cpu", "memory", "devices", "name=systemd", ""].iter().filter_map(|c| f.cgroup.path_in(c)).collect();
    assert_eq!(places.len(), 5);
    assert!(places.iter().all(|p| !p.exists()));
    f.create("{}");
    let mut child = f.sleeper();
    let e = f.cgroup.delete().unwrap_err().to_string();
    assert!(e.contains("device or resource busy") && e.contains("ctr"), "{e}");
    child.kill().unwrap();
    child.wait().unwrap();
    f.cgroup.delete().unwrap();
}

#[test]
fn v1_relative_path_lies_below_the_callers_cgroup() {
    let Some(f) = Fixture::new() else { return };
    let name = f.parent.strip_prefix("/").unwrap();
    for (given, tail) in [(Some(name), name), (None, Path::new("berth-test-id"))] {
        let cgroup = Cgroup::resolve(given, "berth-test-id", Manager::Cgroupfs, Rights::Full).unwrap();
        for m in cgroup::host().unwrap().mounts().iter().filter(|m| m.controllers == ["memory"]) {
            assert_eq!(cgroup.path_in("memory").unwrap(), m.own_dir().join(tail));
        }
    }
}
