//! /proc/<pid>. Everything in it that a process can choose, its name first of all, is hostile.

use std::{fs::File, io::Read};

/// What proc_pid_stat(5) says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Zombie or dead.
    pub dead: bool,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// The state and start time of a process; `None` when it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    // One read: the file is shown whole to a buffer that holds it, 52 numbers and a name of 64 bytes at most.
    let mut buffer = [0u8; 2048];
    let len = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut buffer)).ok()?;
    // A name need not be UTF-8.
    parse(&String::from_utf8_lossy(buffer.get(..len)?))
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
    // Field 22 of the line; the state is field 3.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { dead: matches!(state, "Z" | "X" | "x"), start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_confuse() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000";
        for name in ["sh", ") Z 1 1", "a b) X (", "(("] {
            let stat = parse(&format!("77 ({name}) {tail}")).unwrap();
            assert_eq!(stat, Stat { dead: false, start_time: 4242 });
        }
        assert!(parse(&format!("77 (x) {}", tail.replacen('S', "Z", 1))).unwrap().dead);
        assert_eq!(parse("77 (x) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn own_process_is_alive() {
        let own = stat(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(!own.dead && own.start_time > 0);
    }
}
