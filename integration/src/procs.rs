//! Processes and mounts as the kernel shows them: the processes that name a directory, and the mounts below it.

use crate::wait::{LONG, until};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A process of the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The process id in the pid namespace of the tests.
    pub pid: i32,
    /// The parent's process id.
    pub parent: i32,
    /// The command line, its words separated by blanks. It is empty for a zombie.
    pub line: String,
}

/// Returns a name for this process that is unique on the machine: its pid, and its pid namespace unless that is the
/// initial one (tests in a container).
pub fn name() -> String {
    name_of(std::process::id().cast_signed())
}

/// Returns such a name for another process.
pub fn name_of(pid: i32) -> String {
    /// The inode of the initial pid namespace (linux/proc_ns.h, PROC_PID_INIT_INO).
    const FIRST: u64 = 0xEFFF_FFFC;
    let space = fs::metadata("/proc/self/ns/pid").expect("look at the pid namespace").ino();
    if space == FIRST { pid.to_string() } else { format!("{pid}n{space}") }
}

/// Returns every process that /proc shows.
pub fn all() -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("read /proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(one).collect()
}

/// Returns the process `pid`, or `None` if it has ended.
pub fn one(pid: i32) -> Option<Process> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
    Some(Process { pid, parent: stat(pid)?.1, line })
}

/// Returns whether the first thread of `pid` runs: the process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// Returns whether a thread of `pid` runs. If the first thread has ended before others, the process is a zombie with
/// more than one thread (proc_pid_stat(5), field 20).
pub fn has_live_thread(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let threads = fields.get(17).and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    !matches!(fields.first(), Some(&("Z" | "X")) | None) || threads > 1
}

/// Returns the processes whose command line names `dir`: containerd, its shims, its clients.
pub fn mentioning(dir: &Path) -> Vec<Process> {
    let dir = dir.to_string_lossy();
    all().into_iter().filter(|process| names(&process.line, &dir)).collect()
}

/// Returns whether `text` names the directory `dir`. A longer name that goes on with a digit does not count.
pub fn names(text: &str, dir: &str) -> bool {
    text.match_indices(dir).any(|(at, _)| !text[at + dir.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Kills the processes of [`mentioning`] and waits until they have ended. It does not reap children of this process.
pub fn kill_mentioning(dir: &Path) {
    let me = std::process::id().cast_signed();
    until("killed processes to go", LONG, || {
        let left: Vec<_> = mentioning(dir).into_iter().filter(|p| p.pid != me && alive(p.pid)).collect();
        left.iter().for_each(|process| kill(process.pid, Signal::KILL));
        left.is_empty().then_some(())
    });
}

/// Sends a signal. A process that has already ended is not an error.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => panic!("kill {pid}: {e}", pid = pid.as_raw_nonzero()),
        }
    }
}

/// Returns the number in a line `Name:  123` or `Name:  123 kB` of a file in /proc/PID (status, smaps_rollup).
pub fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the numbers that must not grow in a process: open descriptors, threads, and private memory in kB.
pub fn size(pid: i32) -> (usize, usize, u64) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("a process").count();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read smaps_rollup");
    (count("fd"), count("task"), field(&rollup, "Private_Dirty").expect("private dirty memory"))
}

/// Returns the mount points at `dir` and below it, in the order of mounting.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " "));
    points.map(PathBuf::from).filter(|point| point.starts_with(dir)).collect()
}

/// Unmounts everything at `dir` and below it.
pub fn unmount_below(dir: &Path) {
    for point in mounts_below(dir).into_iter().rev() {
        if let Err(e) = unmount(&point, UnmountFlags::DETACH) {
            assert!(!mounts_below(&point).contains(&point), "unmount {}: {e}", point.display());
        }
    }
}

/// Returns the state letter and the parent from /proc/PID/stat (proc_pid_stat(5)). The name in brackets may hold any
/// character.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(") ")?.1.split(' ');
    Some((after_name.next()?.chars().next()?, after_name.next()?.parse().ok()?))
}

/// Returns the real, effective and saved uids and gids of a process, as host ids.
pub fn ids(pid: u32) -> [Vec<u32>; 2] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["Uid:", "Gid:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().take(3).map(|id| id.parse().unwrap()).collect()
    })
}

/// Returns the words of a file of /proc/PID, separated by single spaces.
pub fn words_of(pid: u32, file: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn process_sees_itself_in_proc() {
        let me = one(std::process::id().cast_signed()).unwrap();
        assert!(alive(me.pid) && me.parent > 0 && !me.line.is_empty(), "{me:?}");
    }

    #[test]
    fn rollup_field_is_found_by_its_whole_name() {
        let rollup = "Rss:  1844 kB\nPss:   512 kB\nPss_Dirty:  99 kB\nPrivate_Dirty:   88 kB\n";
        assert_eq!((field(rollup, "Pss"), field(rollup, "Private_Dirty")), (Some(512), Some(88)));
        assert_eq!(field(rollup, "Swap"), None);
    }

    #[test]
    fn longer_directory_name_is_another_directory() {
        let name = "/tmp/berth-none-12/x";
        let mut child = std::process::Command::new("sleep").arg0(name).arg("60").spawn().unwrap();
        // spawn returns after execve(2) has closed the child's files. The kernel shows the new command line a moment
        // later.
        let pid = child.id().cast_signed();
        until("the child to be named", LONG, || one(pid)?.line.starts_with(name).then_some(()));
        let found = |dir: &str| mentioning(Path::new(dir)).iter().any(|process| process.pid == pid);
        let (twelve, one) = (found("/tmp/berth-none-12"), found("/tmp/berth-none-1"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((twelve, one), (true, false));
    }
}
