//! /proc/<pid>. Everything in it that a process can choose, its name first of all, is hostile.

use std::{fs::File, io::Read, sync::OnceLock};

/// The state and identity of a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The first thread has ended: a zombie, or dead.
    pub leader_ended: bool,
    /// The threads that are there, a leader that has ended included; 0 for a process that is just being reaped.
    threads: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// The process has ended. One whose first thread alone has ended shows as a zombie and runs on: the state in the file
    /// is that thread's.
    pub fn ended(&self) -> bool {
        self.leader_ended && self.threads <= 1
    }
}

/// The state and start time of a process; `None` when it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    let mut stat = read_stat(&format!("/proc/{pid}/stat"))?;
    // A leader without any thread has just been reaped, or another thread has just taken its place (execve(2)). The next
    // look tells which.
    for _ in 0..3 {
        if stat.threads > 0 {
            break;
        }
        stat = read_stat(&format!("/proc/{pid}/stat"))?;
    }
    Some(stat)
}

/// The directory of `pid` in /proc, or of another of its threads where the first one has ended: namespaces, root and
/// cgroup of a thread that has ended are not to be had. `None` when no thread is left.
pub fn directory(pid: i32, stat: &Stat) -> Option<String> {
    let leader = format!("/proc/{pid}");
    if !stat.leader_ended {
        return Some(leader);
    }
    let lives = |task: &String| read_stat(&format!("{task}/stat")).is_some_and(|stat| !stat.leader_ended);
    let tasks = std::fs::read_dir(format!("{leader}/task")).ok()?.flatten();
    tasks.filter_map(|task| Some(format!("{leader}/task/{}", task.file_name().to_str()?))).find(lives)
}

fn read_stat(path: &str) -> Option<Stat> {
    // One read: the file is shown whole to a buffer that holds it, 52 numbers and a name of 64 bytes at most.
    let mut buffer = [0u8; 2048];
    let len = File::open(path).and_then(|mut file| file.read(&mut buffer)).ok()?;
    // A name need not be UTF-8.
    parse(&String::from_utf8_lossy(buffer.get(..len)?))
}

/// The kernel's id of this boot; empty where it cannot be read.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let mut buffer = [0u8; 64];
        let read = File::open("/proc/sys/kernel/random/boot_id").and_then(|mut file| file.read(&mut buffer));
        let id = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
        String::from_utf8_lossy(id).trim().to_owned()
    })
}

/// Writes a process' OOM score adjustment.
///
/// # Errors
/// `EACCES` for one that is lower than the process' least, without CAP_SYS_RESOURCE.
pub fn write_oom_score_adj(pid: i32, value: i32) -> std::io::Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string())
}

/// The name stands in parentheses and may hold any of them: fields count from the last one.
fn parse(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Fields 20 and 22 of the line; the state is field 3.
    let threads = fields.nth(16)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat { leader_ended: matches!(state, "Z" | "X" | "x"), threads, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_confuse() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000";
        for name in ["sh", ") Z 1 1", "a b) X (", "(("] {
            let stat = parse(&format!("77 ({name}) {tail}")).unwrap();
            assert_eq!(stat, Stat { leader_ended: false, threads: 1, start_time: 4242 });
        }
        assert_eq!(parse("77 (x) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_zombie_has_ended_unless_it_has_other_threads() {
        for (state, threads, ended) in
            [("S", 1, false), ("Z", 1, true), ("Z", 2, false), ("X", 0, true), ("x", 1, true), ("R", 9, false)]
        {
            let line = format!("77 (x) {state} 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4242 1000");
            assert_eq!(parse(&line).unwrap().ended(), ended, "{line}");
        }
    }

    #[test]
    fn own_process_is_alive() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = stat(pid).unwrap();
        assert!(!own.ended() && own.start_time > 0);
        assert_eq!(directory(pid, &own).unwrap(), format!("/proc/{pid}"));
    }

    #[test]
    fn a_boot_has_an_id() {
        assert_eq!(boot_id().len(), 36);
    }
}
