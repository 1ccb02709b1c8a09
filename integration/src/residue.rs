//! What a test left behind on the host: mounts, cgroups, processes and state, looked for by names that only this test uses.

use std::{fs, path::Path};

/// All that still carries the marks of one test, one line each; empty when it cleaned up.
///
/// `cgroup` is the name of the test's own cgroup directory in every hierarchy, `mark` an environment variable
/// (`NAME=value`) that every program started by the test has, `dirs` the test's directories.
pub fn find(cgroup: &str, mark: &str, dirs: &[&Path]) -> Vec<String> {
    let mut found: Vec<_> = processes(cgroup, mark, dirs).into_iter().map(|(_, line)| line).collect();
    for hierarchy in hierarchies() {
        found.extend(below(&hierarchy.join(cgroup)).into_iter().map(|d| format!("cgroup {d}")));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |line: &&str| dirs.iter().any(|d| line.contains(&*d.to_string_lossy()));
    found.extend(mounts.lines().filter(ours).map(|l| format!("mount {l}")));
    found
}

/// Kills the processes that [`find`] would name: the last resort after a failed test.
pub fn kill(cgroup: &str, mark: &str, dirs: &[&Path]) {
    for (pid, _) in processes(cgroup, mark, dirs) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Removes the test's own (empty) cgroup directory from every hierarchy.
pub fn remove_cgroup(cgroup: &str) {
    for hierarchy in hierarchies() {
        for dir in below(&hierarchy.join(cgroup)) {
            let _ = fs::remove_dir(dir);
        }
        let _ = fs::remove_dir(hierarchy.join(cgroup));
    }
}

/// The directories under which a cgroup of one name can be: each v1 hierarchy, the v2 one.
pub fn hierarchies() -> Vec<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = |m: &crate::mounts::Mount| m.fs == "cgroup" || m.fs == "cgroup2";
    crate::mounts::parse(&mounts).into_iter().filter(cgroup).map(|m| m.point.into()).collect()
}

/// Every directory below one, deepest first.
fn below(dir: &Path) -> Vec<String> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            all.extend(below(&entry.path()));
            all.push(entry.path().to_string_lossy().into_owned());
        }
    }
    all
}

fn processes(cgroup: &str, mark: &str, dirs: &[&Path]) -> Vec<(u32, String)> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let proc = entry.path();
        if pid == std::process::id() {
            continue;
        }
        let has = |file: &str, what: &str| {
            fs::read(proc.join(file))
                .is_ok_and(|text| String::from_utf8_lossy(&text).split(['\0', '\n', '/']).any(|w| w == what))
        };
        let rooted = fs::read_link(proc.join("root")).is_ok_and(|root| dirs.iter().any(|d| root.starts_with(d)));
        if rooted || has("cgroup", cgroup) || has("environ", mark) {
            let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            let state = fields.first().and_then(|s| s.chars().next()).unwrap_or('X');
            // A zombie waits for its parent, which is either named here itself or none of ours; unless other threads of it
            // run (field 20, proc_pid_stat(5)).
            let threads = fields.get(17).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
            if matches!(state, 'Z' | 'X') && threads <= 1 {
                continue;
            }
            let command = fs::read(proc.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push((pid, format!("process {pid} ({state}) {command}")));
        }
    }
    found
}
