//! Standard streams and inherited descriptors.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    runtime::{Runtime, is_runc, wait_until},
};
use serde_json::{Value, json};
use std::{fs::File, os::fd::OwnedFd};

const MANY: usize = 5_000_000;

#[test]
fn all_output_reaches_the_caller() {
    let runtime = Runtime::new("output");
    let out = runtime.run("c1", &Bundle::probe(&["spew", &MANY.to_string()])).ok();
    // Bytes above 127 are not UTF-8 and become three bytes each in a String, so the size of the file counts.
    assert_eq!(std::fs::metadata(runtime.work().join("out-0")).unwrap().len(), MANY as u64, "{}", out.words);
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]));
    let exec = runtime.call(&["exec", "c2", "/probe", "spew", &MANY.to_string()]).spawn();
    let file = runtime.work().join(format!("out-{}", exec.number));
    exec.wait().ok();
    assert_eq!(std::fs::metadata(file).unwrap().len(), MANY as u64);
}

#[test]
fn all_input_reaches_the_payload() {
    let runtime = Runtime::new("input");
    let path = runtime.work().join("input");
    std::fs::write(&path, vec![3u8; MANY]).unwrap();
    let expected = json!({"count": {"bytes": MANY, "sum": 3 * MANY}});
    let out = runtime.on("run", "c1", &Bundle::probe(&["count"])).stdin(File::open(&path).unwrap()).wait().ok();
    assert_eq!(out.json(), expected);
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]));
    let out = runtime.call(&["exec", "c2", "/probe", "count"]).stdin(File::open(&path).unwrap()).wait().ok();
    assert_eq!(out.json(), expected);
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let runtime = Runtime::new("apart");
    let out = runtime.run("c1", &Bundle::probe(&["say", "one", "+", "complain", "two"])).ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("one\n", "two\n"));
}

/// SIGPIPE is not ignored, so a process that writes to a closed stream dies of it.
#[test]
fn payload_does_not_ignore_sigpipe() {
    let runtime = Runtime::new("sigpipe");
    let report = runtime.run("c1", &Bundle::probe(&["report", "signals"])).ok().json();
    assert_eq!(report["signals"]["ignored"], json!([]), "{report}");
}

/// Returns whether an open file is on a procfs other than the one that this test sees.
fn own_procfs(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let procfs = rustix::fs::statfs(path).is_ok_and(|s| s.f_type == rustix::fs::PROC_SUPER_MAGIC);
    procfs && std::fs::metadata(path).unwrap().dev() != std::fs::metadata("/proc/self/fd").unwrap().dev()
}

fn host_dir() -> OwnedFd {
    File::open("/etc").unwrap().into()
}

/// A fault like CVE-2024-21626: whatever the caller has open, a container sees its three streams.
#[test]
fn no_descriptor_leaks_into_the_container() {
    let runtime = Runtime::new("leak");
    let leaky = |mut call: berth_integration::runtime::Call<'_>| {
        for fd in (3..40).chain([100, 1000, 4000]) {
            call = call.leak(fd, host_dir());
        }
        call.wait()
    };
    let streams = |report: &Value| report["fds"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let run = leaky(runtime.on("run", "c1", &Bundle::probe(&["report", "fds"]))).ok();
    assert_eq!(streams(&run.json()), ["0", "1", "2"], "run: {run:#?}");
    let before = runtime.calls();
    leaky(runtime.on("create", "c2", &Bundle::probe(&["report", "fds", "+", "sleep", "100"]))).ok();
    let created = runtime.pid("c2");
    let exe = std::fs::read_link(format!("/proc/{created}/exe")).unwrap();
    for entry in std::fs::read_dir(format!("/proc/{created}/fd")).unwrap().flatten() {
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        let text = target.to_string_lossy();
        let harmless = ["pipe:", "socket:", "anon_inode:", "/memfd:", "/dev/null"].iter().any(|p| text.starts_with(p));
        // A descriptor of the container's own procfs is not a leak.
        let own_proc = own_procfs(&entry.path());
        // runc keeps a file of the container's cgroup open.
        let cgroup = is_runc() && text.starts_with(&runtime.cgroup("c2"));
        let expected = number < 3 || harmless || own_proc || cgroup || text.ends_with("/exec.fifo") || target == exe;
        assert!(expected, "created: {number} is {text}");
    }
    leaky(runtime.call(&["start", "c2"])).ok();
    let exec = leaky(runtime.call(&["exec", "c2", "/probe", "report", "fds"])).ok();
    assert_eq!(streams(&exec.json()), ["0", "1", "2"], "exec: {exec:#?}");
    wait_until(|| runtime.stdout_of(before).contains('\n'), || "no report of c2".into());
    let init: Value = serde_json::from_str(&runtime.stdout_of(before)).unwrap();
    assert_eq!(streams(&init), ["0", "1", "2"], "start: {init:#}");
}

#[test]
fn preserve_fds_passes_the_named_descriptors() {
    let runtime = Runtime::new("preserve");
    let file = |name: &str| -> OwnedFd {
        let path = runtime.work().join(name);
        std::fs::write(&path, name).unwrap();
        File::open(path).unwrap().into()
    };
    let call = runtime.on("run", "c1", &Bundle::probe(&["report", "fds"])).with(&["--preserve-fds", "2"]);
    let out = call.leak(3, file("three")).leak(4, file("four")).leak(5, file("five")).wait().ok();
    let fds = out.json()["fds"].clone();
    assert_eq!(fds.as_object().unwrap().len(), 5, "{fds:#}");
    assert!(
        fds["3"]["target"].as_str().unwrap().ends_with("/three")
            && fds["4"]["target"].as_str().unwrap().ends_with("/four"),
        "{fds:#}"
    );
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]));
    let call = runtime.call(&["exec", "--preserve-fds", "1", "c2", "/probe", "report", "fds"]);
    let out = call.leak(3, file("three")).leak(4, file("four")).wait().ok();
    let fds = out.json()["fds"].clone();
    assert_eq!(fds.as_object().unwrap().len(), 4, "{fds:#}");
    let out = runtime
        .on("run", "c3", &Bundle::probe(&["report"]))
        .with(&["--preserve-fds", "9"])
        .leak(3, file("three"))
        .wait();
    assert_ne!(out.code, 0, "nine are asked for, one is there: {out:#?}");
}

/// The runtime's own environment does not reach the container.
#[test]
fn environment_of_the_runtime_stays_outside() {
    let runtime = Runtime::new("env");
    let out = runtime
        .on("run", "c1", &Bundle::probe(&["report", "env"]))
        .env("SECRET", "x")
        .env("LD_PRELOAD", "/no.so")
        .wait()
        .ok();
    let env = out.json()["env"].clone();
    assert_eq!(env.as_object().unwrap().len(), 3, "PATH, TERM and HOME: {env:#}");
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]));
    let out = runtime.call(&["exec", "c2", "/probe", "report", "env"]).env("SECRET", "x").wait().ok();
    assert!(!out.stdout.contains("SECRET") && !out.stdout.contains("BERTH_TEST_MARK"), "{out:#?}");
}
