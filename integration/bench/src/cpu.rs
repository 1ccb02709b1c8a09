//! The CPU time of operations, by the whole machine and by the benchmark's own cgroup.
//!
//! The machine's time is that of `/proc/stat` less the use of the idle machine in the same time. It includes kernel
//! threads, interrupts and unrelated processes. The own time is what the kernel accounts to the cgroup of containerd,
//! its shims and all containers. It is exact to the nanosecond, and excludes kernel threads that work for them.

use berth_integration::cgroup;
use std::{
    fs,
    time::{Duration, Instant},
};

/// One reading of the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    at: Instant,
    machine: u64,
    own: u64,
}

/// The time between two readings (ns).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// The wall time.
    pub wall: u64,
    /// The CPU time of the machine, in the steps of /proc/stat (10 ms).
    pub machine: u64,
    /// The CPU time of the cgroup.
    pub own: u64,
}

impl Used {
    /// Adds `other` to it.
    pub fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.machine += other.machine;
        self.own += other.own;
    }

    /// Returns the machine's CPU time above that of an idle machine, whose use `idle` has.
    pub fn above(&self, idle: &Self) -> u64 {
        let anyway = u128::from(idle.machine) * u128::from(self.wall) / u128::from(idle.wall.max(1));
        self.machine.saturating_sub(u64::try_from(anyway).unwrap_or(u64::MAX))
    }
}

impl Reading {
    /// Reads the machine's clocks, and those of `cgroup` (a path in the hierarchies) with its children.
    pub fn take(cgroup: &str) -> Self {
        Self { at: Instant::now(), machine: machine(), own: of_cgroup(cgroup) }
    }

    /// Returns the time since this reading.
    pub fn used(&self, cgroup: &str) -> Used {
        let now = Self::take(cgroup);
        Used { wall: nanos(now.at - self.at), machine: now.machine - self.machine, own: now.own - self.own }
    }
}

/// Converts a duration into nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than 584 years")
}

/// Returns the CPU time of a process and of the children that it waited for (proc_pid_stat(5), in steps of 10 ms).
pub fn of_process(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // Fields 14 to 17 are utime, stime, cutime and cstime. The state is field 3.
    after_name.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * tick()
}

/// Returns the time of all CPUs without idle, I/O wait and steal time (proc_stat(5)).
fn machine() -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("read /proc/stat");
    busy(&stat) * tick()
}

fn busy(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq
    [0, 1, 2, 5, 6].into_iter().filter_map(|index| fields.get(index)).sum()
}

fn of_cgroup(path: &str) -> u64 {
    let text = cgroup::value(path, "cpuacct/cpuacct.usage", "cpu.stat");
    match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
        Some(micros) => micros.parse::<u64>().expect("a number") * 1000,
        None => text.parse().expect("a number"),
    }
}

/// Returns the length of a clock tick (ns).
fn tick() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second()
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_counted() {
        assert_eq!(busy("cpu  1 20 300 9999 8888 4000 50000 7777 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"), 54_321);
    }

    #[test]
    fn idle_use_of_the_machine_is_subtracted() {
        let idle = Used { wall: 1000, machine: 100, own: 0 };
        assert_eq!(Used { wall: 5000, machine: 700, own: 0 }.above(&idle), 200);
        assert_eq!(Used { wall: 5000, machine: 300, own: 0 }.above(&idle), 0);
        assert_eq!(Used { wall: 5000, machine: 300, own: 0 }.above(&Used::default()), 300);
    }

    #[test]
    fn cpu_time_of_a_busy_process_grows() {
        let me = std::process::id().cast_signed();
        let before = of_process(me);
        // The loop uses CPU time and not wall time, since other processes may have the CPU.
        let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let end = used() + Duration::from_millis(60);
        while used() < end {}
        assert!(of_process(me) > before);
    }
}
