//! Published faults of runtimes with ids, capabilities, groups and kernel parameters. Each attack fails, and succeeds on
//! a berth without the defence.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    attack::held_by,
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Output, Runtime},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
};

/// Returns the report of a container that has run, and `None` if it was refused.
fn report(out: &Output) -> Option<Value> {
    (out.code == 0).then(|| out.json())
}

/// Returns a line if the report has another value at the pointer.
fn other(report: &Value, pointer: &str, wanted: &Value) -> Option<String> {
    let seen = report.pointer(pointer).unwrap_or(&Value::Null);
    (seen != wanted).then(|| format!("{pointer} is {seen}, not {wanted}"))
}

/// CVE-2016-3697.
#[test]
fn name_of_digits_in_passwd_is_no_uid() {
    held_by("passwd-name", &[Defence::PasswdUid], |runtime| {
        let bundle = Bundle::probe(&["report", "ids", "env"])
            .file("etc/passwd", "1000:x:0:0::/evil:/bin/sh\n", 0o644)
            .set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let report = runtime.run("c1", &bundle).ok().json();
        let home = (report["env"]["HOME"] == "/evil").then(|| "the home of the name 1000".to_owned());
        home.into_iter().chain(other(&report, "/ids/uid", &json!([1000, 1000, 1000]))).collect()
    });
}

/// CVE-2016-8867, CVE-2022-24769, CVE-2022-29162, CVE-2022-27650, CVE-2025-27612.
#[test]
fn user_has_no_capability_that_config_json_does_not_give() {
    held_by("absent-sets", &[Defence::AbsentSets], |runtime| {
        let bundle = Bundle::probe(&["sleep", "100"]).set("/process/user", json!({"uid": 1000, "gid": 1000}));
        runtime.start("c1", &bundle);
        let by_exec = runtime.exec("c1", &["/probe", "report", "caps"]).ok().json();
        let by_run = runtime.run("c2", &bundle.args(&["/probe", "report", "caps"])).ok().json();
        let sets = ["inheritable", "ambient", "permitted", "effective"];
        let more = |report: &Value| sets.map(|set| other(report, &format!("/caps/{set}"), &json!(0)));
        [by_exec, by_run].iter().flat_map(more).flatten().collect()
    });
}

/// CVE-2023-25173: a process has no group of the caller. Groups are set, and read back.
#[test]
fn supplementary_groups_of_the_caller_are_dropped() {
    held_by("callers-groups", &[Defence::ExactGroups, Defence::ReadBack], |runtime| {
        let bundle = Bundle::probe(&["report", "ids"])
            .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [1005]}));
        let out = runtime.on("run", "c1", &bundle).through(&["setpriv", "--groups=7,8", "--"]).wait();
        report(&out).and_then(|report| other(&report, "/ids/groups", &json!([1005]))).into_iter().collect()
    });
}

/// CVE-2024-40635, CVE-2026-46680: a uid at the end of the range is exact or refused. The kernel takes 2^32 - 1 for
/// "unchanged", which is root.
#[test]
fn uid_at_the_end_of_the_range_does_not_become_root() {
    held_by("last-uid", &[Defence::NoUnchangedId, Defence::ReadBack], |runtime| {
        let attempt = |uid: u32| {
            let bundle = Bundle::probe(&["report", "ids"]).set("/process/user", json!({"uid": uid, "gid": 5}));
            let report = report(&runtime.run("c1", &bundle))?;
            other(&report, "/ids/uid", &json!([uid, uid, uid]))
        };
        [u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) - 1].into_iter().filter_map(attempt).collect()
    });
}

/// CVE-2026-47262: a passwd of any size is read up to a bound.
#[test]
fn passwd_beyond_the_bound_is_not_read() {
    if skipped_on_runc("a large passwd", "it reads the whole file") {
        return;
    }
    held_by("passwd-bound", &[Defence::PasswdBound], |runtime| {
        let bundle = Bundle::probe(&["report", "env"]).dir("etc", 0o755);
        let mut passwd = File::create(bundle.rootfs().join("etc/passwd")).unwrap();
        passwd.seek(SeekFrom::Start(4 << 20)).unwrap();
        passwd.write_all(b"\nroot:x:0:0::/beyond:/bin/sh\n").unwrap();
        let report = runtime.run("c1", &bundle).ok().json();
        other(&report, "/env/HOME", &json!("/")).into_iter().collect()
    });
}

/// CVE-2022-0811: a kernel parameter of the whole machine is refused. The attack writes the value that it has.
#[test]
fn kernel_parameter_of_the_machine_is_refused() {
    held_by("host-sysctl", &[Defence::SysctlNames], |runtime| {
        let value = fs::read_to_string("/proc/sys/kernel/printk_ratelimit_burst").unwrap();
        let key = "kernel.printk_ratelimit_burst";
        let bundle = Bundle::probe(&["exit", "0"]).set("/linux/sysctl", json!({key: value.trim()}));
        let out = runtime.run("c1", &bundle);
        (out.code == 0).then(|| format!("{key} was written")).into_iter().collect()
    });
}

/// CVE-2024-21626: a descriptor that the caller leaked is closed first, a path through it is not resolved, and a working
/// directory outside of the root is refused.
#[test]
fn leaked_descriptor_of_the_host_is_no_way_out() {
    held_by("leaked-fd", &[Defence::ClosedFds, Defence::CwdInside, Defence::InRoot], |runtime| {
        let bundle = Bundle::probe(&["report", "list=."]).set("/process/cwd", json!(LEAKED));
        let out = runtime.on("run", "c1", &bundle).leak(17, host_directory(runtime)).wait();
        report(&out).map(|report| format!("lists {report}")).into_iter().collect()
    });
}

/// As above for an exec, which cannot see itself in the /proc of the container before it enters the pid namespace.
#[test]
fn leaked_descriptor_of_the_host_is_no_way_out_for_an_exec() {
    held_by("leaked-fd-exec", &[Defence::ClosedFds, Defence::CwdInside, Defence::PidNamespaceLast], |runtime| {
        runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
        let words = ["exec", "--cwd", LEAKED, "c1", "/probe", "report", "list=."];
        let out = runtime.call(&words).leak(17, host_directory(runtime)).wait();
        report(&out).map(|report| format!("lists {report}")).into_iter().collect()
    });
}

const LEAKED: &str = "/proc/self/fd/17";

fn host_directory(runtime: &Runtime) -> File {
    let host = runtime.work().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("secret"), "").unwrap();
    File::open(&host).unwrap()
}

/// CVE-2025-47291: a process is in the cgroup of its container, also in a user namespace.
#[test]
fn process_of_a_user_namespace_is_in_its_cgroup() {
    held_by("own-cgroup", &[Defence::OwnCgroup], |runtime| {
        let mut got = vec![];
        for (id, bundle) in
            [("c1", Bundle::probe(&["sleep", "100"])), ("c2", Bundle::probe(&["sleep", "100"]).mapped())]
        {
            runtime.start(id, &bundle.host_namespace("cgroup"));
            let text = fs::read_to_string(format!("/proc/{}/cgroup", runtime.pid(id))).unwrap();
            let limited = text.lines().find(|line| line.contains(":pids:") || line.starts_with("0::/")).unwrap();
            got.extend((!limited.ends_with(&runtime.cgroup(id))).then(|| format!("{id} is in {limited}")));
        }
        got
    });
}

/// CVE-2021-41103, CVE-2024-25621: whatever the umask of the caller is, other users cannot enter the directories of a
/// container.
#[test]
fn state_directory_is_private_whatever_the_umask_is() {
    if skipped_on_runc("state directories", "its own may be entered by anyone who knows a name (0711)") {
        return;
    }
    held_by("private-state", &[Defence::PrivateState], |runtime| {
        let call = runtime.on("create", "c1", &Bundle::probe(&["sleep", "100"]));
        call.through(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""]).wait().ok();
        open_to_others(runtime)
    });
}

fn open_to_others(runtime: &Runtime) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mode = fs::metadata(runtime.root().join("c1")).unwrap().mode() & 0o7777;
    (mode & 0o077 != 0).then(|| format!("{mode:o}")).into_iter().collect()
}
