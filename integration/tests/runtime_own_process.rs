//! The protection of the runtime's own process: no core dump, no new executable memory, no trust in another /proc. The
//! container has none of these restrictions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]
#![allow(clippy::disallowed_methods, reason = "the control of a crash is an ordinary process")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    command::{self, DUMPING},
    procs,
    runtime::{Output, Runtime, is_runc, wait_until},
    tools,
    wait::LONG,
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

/// Returns whether an ordinary program that crashes in this directory leaves a core dump: the control.
fn ordinary_crash_dumps(dir: &Path) -> bool {
    let mut crashing = Command::new(DUMPING[0]);
    crashing.args(&DUMPING[1..]).arg(tools::built("berth-probe")).args(["say", "up", "+", "sleep", "1000"]);
    let mut child = crashing.current_dir(dir).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 2]).unwrap();
    procs::kill(child.id().cast_signed(), Signal::ABORT);
    command::wait(&mut child, LONG).unwrap().core_dumped()
}

#[test]
fn crash_of_the_runtime_leaves_no_core_dump() {
    if skipped_on_runc("core", "Go handles the signal and exits") {
        return;
    }
    let runtime = Runtime::new("core");
    let dir = runtime.work().join("cores");
    fs::create_dir(&dir).unwrap();
    assert!(ordinary_crash_dumps(&dir), "this machine dumps no core");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let events = runtime.call(&["events", "--interval", "10ms", "c1"]).through(&DUMPING).dir(&dir).spawn();
    wait_until(|| !runtime.stdout_of(events.number).is_empty(), || "no events".into());
    procs::kill(events.pid().cast_signed(), Signal::ABORT);
    let out = events.wait();
    assert_eq!((out.code, out.dumped), (128 + libc::SIGABRT, false), "{out:?}");
}

/// Returns the results of `probe syscall`, in the order of the calls' texts.
fn results(out: &Output) -> Vec<i64> {
    out.json()["syscall"].as_object().unwrap().values().map(|value| value.as_i64().unwrap()).collect()
}

/// `PR_SET_MDWE` of the runtime must not reach a payload: just-in-time compilers need such memory.
#[test]
fn payload_may_make_memory_executable_and_the_runtime_may_not() {
    /// The answer of a kernel without the call (`PR_GET_MDWE`: Linux 6.3).
    const REFUSED: i64 = -(libc::EINVAL as i64);
    let [get, set] = ["66,0,0,0,0", "65,3,0,0,0"].map(|call| format!("{}:{call}", libc::SYS_prctl));
    let runtime = Runtime::new("mdwe");
    let trace = runtime.work().join("calls");
    let strace = ["strace", "-f", "-e", "trace=prctl", "-o", trace.to_str().unwrap()];
    runtime.start("c0", &Bundle::probe(&["sleep", "100"]));
    // A payload that protects itself reads 3: the control.
    let control = results(&runtime.exec("c0", &["/probe", "syscall", &set, &get]).ok());
    let supported = control == [0, 3];
    assert!(supported || control.first() == Some(&REFUSED), "{control:?}");
    for (name, call) in [
        ("run", runtime.on("run", "c1", &Bundle::probe(&["syscall", &get]))),
        ("exec", runtime.call(&["exec", "c0", "/probe", "syscall", &get])),
    ] {
        let out = call.through(&strace).wait().ok();
        assert!(matches!(results(&out).as_slice(), [0 | REFUSED]), "{name}: {out:?}");
        let calls = fs::read_to_string(&trace).unwrap();
        let own = |line: &&str| line.contains("prctl(0x41") || line.contains("prctl(PR_SET_MDWE");
        let done = calls.lines().filter(own).any(|line| line.ends_with("= 0"));
        assert_eq!(done, supported && !is_runc(), "{name}: {calls}");
    }
}

/// Makes another file system at /proc, which leads to the real one but for kernel parameters. `$1` is a directory.
const DECOY: &str = "set -e; mkdir $1/proc $1/decoy; mount -t proc proc $1/proc; mount -t tmpfs decoy $1/decoy; \
    for name in $(ls $1/proc); do [ $name = sys ] || ln -s $1/proc/$name $1/decoy/$name; done; \
    for name in self thread-self; do ln -sfn $1/proc/$name $1/decoy/$name; done; \
    mkdir -p $1/decoy/sys/kernel $1/decoy/sys/net/ipv4; echo 0 > $1/decoy/sys/net/ipv4/ip_forward; \
    mount --bind $1/decoy /proc; shift; exec \"$@\"";
/// Covers the kernel parameters of the network alone. `$1` is a directory.
const COVER: &str = "set -e; mkdir -p $1/net/ipv4; echo 0 > $1/net/ipv4/ip_forward; mount --bind $1/net /proc/sys/net; \
    shift; exec \"$@\"";

/// A mount over /proc must not swallow the write of a kernel parameter (CVE-2019-16884 is the same with a label).
#[test]
fn runtime_trusts_no_other_file_system_at_proc() {
    let mut failed = vec![];
    for (name, script, says) in [("all", DECOY, "/proc is no proc file system"), ("net", COVER, "is covered")] {
        let runtime = Runtime::new("decoy-proc");
        let dir = runtime.work().join("decoy-of-proc");
        fs::create_dir(&dir).unwrap();
        let through = ["unshare", "-m", "sh", "-c", script, "sh", dir.to_str().unwrap()];
        let bundle = Bundle::probe(&["report", "read=/proc/sys/net/ipv4/ip_forward"])
            .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        let set = |out: &Output| out.json()["read"]["/proc/sys/net/ipv4/ip_forward"] == "1";
        let out = runtime.on("run", "c1", &bundle).through(&through).wait();
        // runc makes a proc file system of its own where it can, and sets the parameter.
        let safe = if is_runc() { out.code == 1 || set(&out) } else { out.code == 1 && out.stderr.contains(says) };
        if !safe {
            failed.push(format!("{name}: {out:?}"));
        }
        // The control: the same container without the decoy.
        let out = runtime.run("c2", &bundle).ok();
        assert!(set(&out), "{out:?}");
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
