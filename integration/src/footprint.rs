//! [`Footprint`]: the memory and threads of a process at rest, read from smaps_rollup and status of /proc/PID (proc(5)).

use crate::procs::field;
use std::{fs, thread::sleep, time::Duration};

/// The time that a shim gets to become idle. berth's shim gives free memory back three seconds after its last work.
const IDLE: Duration = Duration::from_secs(5);

/// The memory and the threads of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Written pages that no other process shares, in bytes.
    pub private_dirty: u64,
    /// The proportional set size, in bytes: shared pages count by their share.
    pub pss: u64,
    /// The resident set size, in bytes.
    pub rss: u64,
    /// The number of threads.
    pub threads: u64,
}

impl Footprint {
    /// Reads the footprint of a running process. Panics if the process has ended.
    pub fn of(pid: i32) -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|e| panic!("{file} of {pid}: {e}"))
        };
        let rollup = read("smaps_rollup");
        let bytes = |name: &str| field(&rollup, name).unwrap_or_else(|| panic!("no {name} in {rollup}")) * 1024;
        Self {
            private_dirty: bytes("Private_Dirty"),
            pss: bytes("Pss"),
            rss: bytes("Rss"),
            threads: field(&read("status"), "Threads").expect("a number of threads"),
        }
    }
}

/// Waits until shims are idle. The wait has a fixed length, because nothing outside of a shim shows that it is idle.
pub fn settle() {
    sleep(IDLE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footprint_has_pages_and_a_thread() {
        let own = Footprint::of(std::process::id().cast_signed());
        assert!(own.rss >= own.pss && own.pss > 0 && own.threads > 0, "{own:?}");
    }
}
