//! The system calls and page faults of operations. These counts do not depend on the machine's speed. They are taken in
//! separate passes without timing, since counting slows down the operations.

use super::{
    Contestant, Measure, Results,
    node::{Node, TRUE},
    operation,
};
use berth_integration::{cgroup, strace::Joined};

/// The system calls of a container's life, by the shim and all its children.
pub const RUN_CALLS: Measure =
    Measure::count("calls.run", "system calls per container in a running pod: shim, runtime, payload");
/// The system calls of an exec, by the shim and all its children.
pub const EXEC_CALLS: Measure = Measure::count("calls.exec", "system calls per exec: shim, runtime, payload");
/// The page faults of a container's life.
pub const RUN_FAULTS: Measure = Measure::count("faults.run", "page faults per run: containerd, shim, runtime, payload");
/// The page faults of an exec.
pub const EXEC_FAULTS: Measure =
    Measure::count("faults.exec", "page faults per exec: containerd, shim, runtime, payload");

/// The options of strace: a summary table of the calls of a process and its children.
const COUNTED: [&str; 3] = ["-f", "-c", "-qq"];

/// The number of operations in a pass.
const MANY: u64 = 20;

/// Counts for `contestants`.
pub async fn measure(node: &Node, contestants: &[Contestant], results: &mut Results) {
    for who in contestants {
        let pod = node.launch(*who, None).await;
        // Each operation runs once before, so that one-time costs are not counted.
        live(node, *who, Some(&pod), 1).await;
        exec(node, &pod, 1).await;
        let before = faults(node);
        live(node, *who, None, MANY).await;
        let between = faults(node);
        exec(node, &pod, MANY).await;
        results.add(&RUN_FAULTS, *who, (between - before) / MANY);
        results.add(&EXEC_FAULTS, *who, (faults(node) - between) / MANY);
        // The null shim has no children, so strace would show nothing further.
        if *who != Contestant::Null {
            let shim = node.shim(&pod);
            let trace = Joined::to(shim, &COUNTED);
            live(node, *who, Some(&pod), MANY).await;
            results.add(&RUN_CALLS, *who, calls(trace) / MANY);
            let trace = Joined::to(shim, &COUNTED);
            exec(node, &pod, MANY).await;
            results.add(&EXEC_CALLS, *who, calls(trace) / MANY);
        }
        node.end(&pod).await;
    }
}

async fn live(node: &Node, who: Contestant, pod: Option<&str>, many: u64) {
    for _ in 0..many {
        let prepared = node.prepare(who, pod, &TRUE).await;
        operation::run(&node.tasks, &prepared).await;
        node.discard(&prepared.id).await;
    }
}

async fn exec(node: &Node, id: &str, many: u64) {
    let process = node.process(&TRUE);
    for _ in 0..many {
        operation::exec(&node.tasks, id, &node.fresh("exec"), &process).await;
    }
}

/// Returns the page faults of all processes in the node's cgroup so far. The parent cgroup keeps the counts of removed
/// ones.
fn faults(node: &Node) -> u64 {
    let text = cgroup::value(&node.cgroup(), "memory/memory.stat", "memory.stat");
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    field("total_pgfault").or_else(|| field("pgfault")).expect("page faults in memory.stat")
}

/// Returns the number of calls that strace counted.
fn calls(trace: Joined) -> u64 {
    let table = trace.leave();
    total(&table).unwrap_or_else(|| panic!("no total in {table}"))
}

/// Reads the calls from the last line of strace's table: share, seconds, µs a call, calls, errors if any, "total".
fn total(table: &str) -> Option<u64> {
    let line = table.lines().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strace_summary_gives_its_total() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000001           0         9         2 read\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000001           0       123         2 total\n";
        assert_eq!(total(table), Some(123));
        assert_eq!(total("nothing"), None);
    }
}
