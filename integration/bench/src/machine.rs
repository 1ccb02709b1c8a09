//! The machine of the run: processor, memory, kernel, and the versions of all programs.

use berth_integration::{
    command::run,
    tools::{find, workspace},
    wait::LONG,
};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

/// Returns the description for the results.
pub fn describe() -> Value {
    let first = |text: String, key: &str| -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(key))?.split_once(':')?.1.trim().to_owned();
        Some(line)
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    json!({
        "processor": first(read("/proc/cpuinfo"), "model name"),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": first(read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cgroups": if berth_integration::cgroup::is_v2() { "v2" } else { "v1" },
        "system": read("/etc/os-release").lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"').to_owned()),
        "berth": revision(),
        "containerd": find("CONTAINERD_2").and_then(|path| said(path, 2)),
        "runc": find("RUNC").and_then(|path| said(path, 2)),
        "crun": find("CRUN").and_then(|path| said(path, 2)),
    })
}

/// Formats the description as a line.
pub fn line(machine: &Value) -> String {
    let word = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    format!(
        "{}, {} CPUs, {}, Linux {}, cgroup {}; containerd {}, runc {}, crun {}; berth {}",
        word("processor"),
        machine["processors"],
        word("system"),
        word("kernel"),
        word("cgroups"),
        word("containerd"),
        word("runc"),
        word("crun"),
        word("berth"),
    )
}

/// Returns the word at `index` of a program's `--version`.
fn said(program: &Path, index: usize) -> Option<String> {
    let output = run(Command::new(program).arg("--version"), LONG);
    output.stdout.lines().next()?.split_whitespace().nth(index).map(str::to_owned)
}

/// Returns the commit of the checkout, if git and a checkout exist.
fn revision() -> Option<String> {
    let output = Command::new("git").arg("-C").arg(workspace()).args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
