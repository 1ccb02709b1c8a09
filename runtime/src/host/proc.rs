//! Reads /proc/<pid>. A process can choose parts of it, such as its name, so the content is untrusted.

use std::{fs::File, io::Read, sync::OnceLock};

use crate::error::{Context, Result};

/// The state and identity of a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The first thread has exited: the file shows a zombie or a dead process.
    pub leader_ended: bool,
    /// Number of threads, including a first thread that has exited. 0 while the process is being reaped.
    pub threads: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Returns true if the process has exited. If only its first thread has exited, the file shows a zombie, but the
    /// process runs.
    pub fn ended(&self) -> bool {
        self.leader_ended && self.threads <= 1
    }
}

/// Returns state and start time of a process. `None` if it does not exist.
///
/// # Errors
/// As open(2) and read(2): for want of a descriptor or of memory, nothing is known about the process.
pub fn stat(pid: i32) -> Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    let mut stat = read_stat(&path)?;
    // Without threads the process has just been reaped, or execve(2) in another thread has just replaced the first one.
    // Another read tells which.
    for _ in 0..3 {
        if stat.is_none_or(|stat| stat.threads > 0) {
            break;
        }
        stat = read_stat(&path)?;
    }
    Ok(stat)
}

/// Returns true if `ancestor` is `pid` or one of its parents. A process that cannot be read, as one that has ended, is no
/// descendant: a caller may signal what is one.
pub fn descends(mut pid: i32, ancestor: i32) -> bool {
    while pid != ancestor {
        match parent(pid) {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    true
}

/// Returns the pids of all processes.
///
/// # Errors
/// /proc cannot be read.
pub fn all() -> std::io::Result<Vec<i32>> {
    let names = std::fs::read_dir("/proc")?.map(|entry| entry.map(|entry| entry.file_name()));
    names.filter_map(|name| name.map(|name| name.to_str()?.parse().ok()).transpose()).collect()
}

/// Returns true if a process or a thread has this number.
pub fn exists(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn parent(pid: i32) -> Option<i32> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let line = String::from_utf8_lossy(&line);
    let (_, rest) = line.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the directory of `pid` in /proc. If the first thread has exited, returns the directory of another thread: an
/// exited thread has no namespaces, root and cgroup. `None` if no thread is left.
///
/// # Errors
/// As [`stat`].
pub fn directory(pid: i32, stat: &Stat) -> Result<Option<String>> {
    let leader = format!("/proc/{pid}");
    if !stat.leader_ended {
        return Ok(Some(leader));
    }
    let path = format!("{leader}/task");
    let tasks = match std::fs::read_dir(&path) {
        Err(e) if is_gone(&e) => return Ok(None),
        other => other.with_context(|| format!("read {path}"))?,
    };
    for task in tasks.flatten() {
        let Some(task) = task.file_name().to_str().map(|name| format!("{path}/{name}")) else { continue };
        if read_stat(&format!("{task}/stat"))?.is_some_and(|stat| !stat.leader_ended) {
            return Ok(Some(task));
        }
    }
    Ok(None)
}

fn read_stat(path: &str) -> Result<Option<Stat>> {
    // One read returns the whole file: 52 numbers and a name of at most 64 bytes.
    let mut buffer = [0u8; 2048];
    match File::open(path).and_then(|mut file| file.read(&mut buffer)) {
        // The name may contain any bytes.
        Ok(len) => Ok(parse(&String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()))),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {path}")),
    }
}

/// Returns true if the error says that the process does not exist: open(2) and read(2) say so in different words.
pub fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Returns the kernel's random id of this boot, or an empty string if it cannot be read.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let mut buffer = [0u8; 64];
        let read = File::open("/proc/sys/kernel/random/boot_id").and_then(|mut file| file.read(&mut buffer));
        let id = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
        String::from_utf8_lossy(id).trim().to_owned()
    })
}

/// Returns true if `id` is that of this boot. An unknown id is taken for it.
pub fn is_this_boot(id: &str) -> bool {
    let now = boot_id();
    id.is_empty() || now.is_empty() || id == now
}

/// Writes a process's OOM score adjustment (`oom_score_adj`, proc(5)).
///
/// # Errors
/// `EACCES` without CAP_SYS_RESOURCE for a value below the process's minimum.
pub fn write_oom_score_adj(pid: i32, value: i32) -> std::io::Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string())
}

/// Parses /proc/<pid>/stat. The name is in parentheses and may contain parentheses, so fields count from the last one.
pub fn parse(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // After the name: the state is field 3 of the line. The others are fields 20 and 22.
    let threads = fields.nth(16)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat { leader_ended: matches!(state, "Z" | "X" | "x"), threads, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_with_any_process_name() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000";
        for name in ["sh", ") Z 1 1", "a b) X (", "(("] {
            let stat = parse(&format!("77 ({name}) {tail}")).unwrap();
            assert_eq!(stat, Stat { leader_ended: false, threads: 1, start_time: 4242 });
        }
        assert_eq!(parse("77 (x) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn zombie_with_other_threads_has_not_ended() {
        for (state, threads, ended) in
            [("S", 1, false), ("Z", 1, true), ("Z", 2, false), ("X", 0, true), ("x", 1, true), ("R", 9, false)]
        {
            let line = format!("77 (x) {state} 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4242 1000");
            assert_eq!(parse(&line).unwrap().ended(), ended, "{line}");
        }
    }

    #[test]
    fn stat_that_cannot_be_read_is_not_that_of_a_dead_process() {
        assert_eq!(read_stat("/proc/no-such/stat").unwrap(), None);
        // A directory opens, and its read fails with EISDIR.
        assert!(read_stat("/proc/self").unwrap_err().to_string().starts_with("read /proc/self: "));
    }

    #[test]
    fn own_process_has_not_ended() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = stat(pid).unwrap().unwrap();
        assert!(!own.ended() && own.start_time > 0);
        assert_eq!(directory(pid, &own).unwrap().unwrap(), format!("/proc/{pid}"));
    }

    #[test]
    fn boot_id_is_a_uuid() {
        assert_eq!(boot_id().len(), 36);
    }
}
