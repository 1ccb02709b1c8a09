//! [`Marks`]: finds everything that a test left on the host, by the names that only this test uses.
//!
//! A trace is one line of text that says what it is: `process 17 sleep 100`, `cgroup /sys/fs/cgroup/pids/…`, `mount …`.

use crate::{
    cgroup,
    procs::{self, Process},
    wait::LONG,
};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The time after which a trace counts as left behind: processes end and mounts go a moment after the call that ends them.
const GRACE: Duration = Duration::from_secs(LONG.as_secs() / 2);

/// The names by which the traces of one test are found.
pub struct Marks<'a> {
    /// The name of the test's cgroup, which is at the top of each hierarchy.
    pub cgroup: &'a str,
    /// An environment variable (`NAME=value`) that every program of the test has, if there is one.
    pub variable: Option<&'a str>,
    /// The directories of the test.
    pub dirs: &'a [&'a Path],
}

impl Marks<'_> {
    /// The processes that are in the cgroup, have the variable, or have their root in one of the directories. This process
    /// is left out, and so is a zombie: its parent is either in the list itself or does not belong to the test.
    pub fn processes(&self) -> Vec<Process> {
        let me = std::process::id().cast_signed();
        procs::all().into_iter().filter(|p| p.pid != me && self.mark(p.pid) && procs::has_live_thread(p.pid)).collect()
    }

    /// All traces: processes, the cgroups below the test's own, and the mounts whose line in mountinfo names a directory.
    pub fn traces(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(|process| line_of(&process));
        let top: Vec<_> = cgroup::hierarchies().iter().map(|root| root.join(self.cgroup)).collect();
        let cgroups = cgroup::directories(self.cgroup).into_iter().filter(|dir| !top.contains(dir));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let named = |line: &&str| self.dirs.iter().any(|dir| procs::names(line, &dir.to_string_lossy()));
        let mounts: Vec<_> = mounts.lines().filter(named).map(|line| format!("mount {line}")).collect();
        processes.chain(cgroups.map(|dir| format!("cgroup {}", dir.display()))).chain(mounts).collect()
    }

    /// Kills the processes of [`Marks::processes`] and removes the test's empty cgroups: the last resort after a failure.
    pub fn clear(&self) {
        self.processes().iter().for_each(|process| procs::kill(process.pid, Signal::KILL));
        for dir in cgroup::directories(self.cgroup).iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }

    fn mark(&self, pid: i32) -> bool {
        let proc = Path::new("/proc").join(pid.to_string());
        let has = |file: &str, word: &str| {
            fs::read(proc.join(file))
                .is_ok_and(|text| String::from_utf8_lossy(&text).split(['\0', '\n', '/']).any(|part| part == word))
        };
        let inside = |root: PathBuf| self.dirs.iter().any(|dir| root.starts_with(dir));
        fs::read_link(proc.join("root")).is_ok_and(inside)
            || has("cgroup", self.cgroup)
            || self.variable.is_some_and(|variable| has("environ", variable))
    }
}

/// The trace of a process.
pub fn line_of(process: &Process) -> String {
    format!("process {} {}", process.pid, process.line)
}

/// Asks `find` for traces until there are none or [`GRACE`] has passed; returns the last answer.
pub fn wait_until_gone(find: impl Fn() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + GRACE;
    loop {
        let found = find();
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `now` gives the same traces as `before`, but for processes that have ended since; panics with the difference
/// after five minutes.
///
/// containerd tries a shim that does not answer for some seconds. A shim that containerd started and, killed before Create,
/// forgot, ends by itself after a minute.
pub fn assert_restored(before: &BTreeSet<String>, now: impl Fn() -> BTreeSet<String>) {
    let end = Instant::now() + Duration::from_secs(300);
    loop {
        let now = now();
        let more: Vec<_> = now.difference(before).collect();
        // A process of an earlier test may still have been ending when `before` was recorded.
        let less: Vec<_> = before.difference(&now).filter(|trace| !trace.starts_with("process ")).collect();
        if more.is_empty() && less.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind: {more:#?}; missing: {less:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The runtimes' state directories of containers whose bundles are below `dir`: a file in such a directory names the bundle.
pub fn states(dir: &Path) -> Vec<PathBuf> {
    let dir = format!("{}/", dir.display());
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let mentions =
        |path: &Path| path.is_file() && fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&dir));
    let roots = ["/run/containerd/berth", "/run/containerd/runc", "/run/berth", "/run/runc"].map(Path::new);
    let namespaces: Vec<_> = roots.iter().flat_map(|root| list(root)).collect();
    let containers = namespaces.iter().flat_map(|namespace| list(namespace));
    namespaces.iter().cloned().chain(containers).filter(|path| list(path).iter().any(|file| mentions(file))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn marked_process_is_found_and_killed() {
        let variable = format!("BERTH_LEAK_TEST={}", std::process::id());
        let (name, value) = variable.split_once('=').unwrap();
        let mut child = Command::new("sleep").arg("60").env(name, value).spawn().unwrap();
        let marks = Marks { cgroup: "berth-test-no-such", variable: Some(&variable), dirs: &[] };
        let pid = child.id().cast_signed();
        crate::wait::until_true("the child to be found", LONG, || marks.processes().iter().any(|p| p.pid == pid));
        assert!(marks.traces().contains(&format!("process {pid} sleep 60")), "{:?}", marks.traces());
        marks.clear();
        child.wait().unwrap();
        assert!(marks.traces().is_empty(), "{:?}", marks.traces());
    }
}
