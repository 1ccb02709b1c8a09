//! The bare floor is comparable: the container that the bare system calls make is the one that berth makes of the same
//! bundle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "the program is run as the bench runs it")]

use berth_bench::bare_process::Bare;
use berth_integration::{
    bundle::Bundle,
    cgroup, cri_bundle,
    leak::Marks,
    procs,
    runtime::{Runtime, is_runc},
    tools,
};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// Starts berth-bare and returns it with the name of its cgroup.
fn start(bundle: &Bundle, name: &str) -> (Bare, String) {
    let cgroup = format!("berth-test-{}-{name}", procs::name());
    bundle.save("/unused");
    (Bare::start(bundle.path(), &cgroup), cgroup)
}

/// Returns the init of the container that stays.
fn keeper(bare: &Bare) -> i32 {
    procs::all().into_iter().find(|process| process.parent == bare.pid()).unwrap().pid
}

fn end(bare: Bare, bundle: &Bundle, cgroup: &str) {
    assert!(bare.end().success());
    let left = Marks { cgroup, variable: None, dirs: &[bundle.path()] }.traces();
    assert!(left.is_empty(), "{left:#?}");
}

/// Returns what the kernel shows of a process and its container, without the names of the bundle and of the cgroup.
fn seen(pid: i32, bundle: &Bundle, cgroup: &str) -> BTreeMap<String, String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let same = |text: &str| text.replace(bundle.path().to_str().unwrap(), "BUNDLE").replace(cgroup, "CGROUP");
    let mut seen = BTreeMap::new();
    // Ids of mounts, peer groups and devices differ between containers.
    for line in read("mountinfo").lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let dash = fields.iter().position(|field| *field == "-").unwrap();
        let shared: Vec<_> = fields[6..dash].iter().map(|tag| tag.split(':').next().unwrap()).collect();
        let what = format!("{} {} {} {}", fields[3], fields[5], shared.join(" "), fields[dash + 1..].join(" "));
        seen.insert(format!("mount {}", fields[4]), same(&what));
    }
    let words = ["Uid", "Gid", "Groups", "Umask", "Cap", "NoNewPrivs", "Seccomp:", "Seccomp_filters", "Sig", "Shd"];
    for line in read("status").lines().filter(|line| words.iter().any(|word| line.starts_with(word))) {
        let (name, value) = line.split_once(':').unwrap();
        // The system call in which the process waits differs: the keeper waits in pause(2).
        match name {
            "SigQ" => {}
            // posix_spawn(3) and fork(2) treat the C library's own signals 32 and 33 differently.
            "SigIgn" => {
                let ignored = u64::from_str_radix(value.trim(), 16).unwrap() & !(0b11 << 31);
                seen.insert(format!("status {name}"), format!("{ignored:x}"));
            }
            _ => {
                seen.insert(format!("status {name}"), value.trim().to_owned());
            }
        }
    }
    seen.insert("cgroup".into(), same(&read("cgroup")));
    seen.insert("limits".into(), read("limits"));
    seen.insert("oom_score_adj".into(), read("oom_score_adj"));
    let dev = fs::read_dir(format!("/proc/{pid}/root/dev")).unwrap().flatten();
    for entry in dev {
        use std::os::unix::fs::MetadataExt;
        let meta = entry.path().symlink_metadata().unwrap();
        let what = format!("{:o} {}:{} {:x}", meta.mode(), meta.uid(), meta.gid(), meta.rdev());
        seen.insert(format!("dev {}", entry.file_name().display()), what);
    }
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"] {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        seen.insert(format!("namespace {kind}"), (namespace != own(kind)).to_string());
    }
    let path = read("cgroup").lines().next().unwrap().rsplit(':').next().unwrap().to_owned();
    for (v1, v2) in [
        ("memory/memory.limit_in_bytes", "memory.max"),
        ("cpu/cpu.cfs_quota_us", "cpu.max"),
        ("cpu/cpu.shares", "cpu.weight"),
        ("pids/pids.max", "pids.max"),
    ] {
        seen.insert(v1.into(), cgroup::value(&path, v1, v2));
    }
    if !cgroup::is_v2() {
        seen.insert("devices".into(), cgroup::value(&path, "devices/devices.list", ""));
        seen.insert("cpuset".into(), cgroup::value(&path, "cpuset/cpuset.cpus", ""));
    }
    seen
}

#[test]
fn bare_calls_make_the_container_that_berth_makes() {
    if is_runc() {
        eprintln!("the floor is held against berth alone");
        return;
    }
    let (ours, theirs) =
        (cri_bundle::pod_container(&["/bin/sleep", "1000"]), cri_bundle::pod_container(&["/bin/true"]));
    let runtime = Runtime::new("bare");
    runtime.start("c1", &ours);
    let (mut bare, cgroup) = start(&theirs, "same");
    bare.measure("exec");
    let berth = seen(runtime.pid("c1").cast_signed(), &ours, &runtime.cgroup("c1"));
    let floor = seen(keeper(&bare), &theirs, &format!("/{cgroup}/bare"));
    end(bare, &theirs, &cgroup);
    let names: std::collections::BTreeSet<_> = berth.keys().chain(floor.keys()).collect();
    let differ: Vec<_> = names
        .into_iter()
        .filter(|name| berth.get(*name) != floor.get(*name))
        .map(|name| format!("{name}\n  berth: {:?}\n  floor: {:?}", berth.get(name), floor.get(name)))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}

#[test]
fn bare_run_and_exec_leave_nothing_behind() {
    if is_runc() {
        return;
    }
    for word in ["run", "exec"] {
        let bundle = cri_bundle::pod_container(&["/bin/true"]);
        let (mut bare, cgroup) = start(&bundle, word);
        for _ in 0..3 {
            let (wall, cpu) = bare.measure(word);
            assert!(wall > 0 && cpu > 0, "{word}: {wall} {cpu}");
        }
        end(bare, &bundle, &cgroup);
    }
}

#[test]
fn bare_reports_a_payload_that_cannot_be_executed() {
    if is_runc() {
        return;
    }
    let bundle = cri_bundle::pod_container(&["/bin/none"]);
    bundle.save("/unused");
    let cgroup = format!("berth-test-{}-fails", procs::name());
    let mut command = Command::new(tools::built("berth-bare"));
    command.arg(bundle.path()).arg(&cgroup);
    let output = berth_integration::command::feed(&mut command, b"run\n", berth_integration::wait::LONG);
    assert!(output.stderr.contains("execve: No such file"), "{output}");
    assert_eq!(output.code(), 1);
    assert!(cgroup::hierarchies().iter().all(|root: &std::path::PathBuf| !Path::new(root).join(&cgroup).exists()));
}
