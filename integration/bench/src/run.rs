//! One run of the benchmark: the groups of measures one after the other, and the report.

use super::{
    Contestant, Measure, Results, cli, counts, density, direct, footprint,
    growth::{self, Growth},
    machine,
    node::{Node, present},
    order::Order,
    plot, pods, seccomp, size, table, targets, through_containerd as timed,
    through_containerd::Bench,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use std::{
    fs,
    os::unix::process::parent_id,
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// The groups of measures, in the order of a run.
pub const GROUPS: [&str; 17] = [
    "run",
    "exec",
    "paced",
    "kill",
    "cri",
    "cli",
    "seccomp",
    "size",
    "counts",
    "direct",
    "memory",
    "memory-execs",
    "density",
    "containers",
    "mounts",
    "execs",
    "pods",
];

/// The mount point of v2 on a machine that has both cgroup versions.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// The groups that call the shims themselves.
const WITHOUT_CONTAINERD: [&str; 3] = ["direct", "memory", "memory-execs"];
/// The largest number of pods whose shims are measured.
const PODS: usize = 500;
/// The number of execs before the second measurement of a shim. It is smaller for contestants whose execs take ten
/// times as long.
const EXECS: usize = 10_000;
const EXECS_OF_OTHERS: usize = 1000;

/// The contestants that are measured against growing sizes. The others share the Go shim.
const GROWING: [Contestant; 2] = [Contestant::Berth, Contestant::Runc];

/// The parameters of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The chosen groups of [`GROUPS`].
    pub groups: Vec<&'static str>,
    /// The number of turns of each contestant.
    pub rounds: u32,
    /// The directory of the results.
    pub out: PathBuf,
}

/// Measures, prints the table, and writes the results.
pub fn run(plan: &Plan) {
    let covered = crun_needs_v1_alone();
    if covered {
        leave_v1_alone();
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let mut results = Results::default();
    let mut order = Order::new(seed);
    if plan.groups.iter().any(|group| !WITHOUT_CONTAINERD.contains(group)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(measure(plan, &mut order, &mut results, covered));
    }
    without_containerd(plan, &mut order, &mut results);
    let machine = machine::describe();
    let all = json!({
        "machine": machine, "rounds": plan.rounds, "seed": seed, "groups": plan.groups,
        "neighbours_thousandths_of_a_cpu": results.neighbours, "measures": results.to_json(),
    });
    fs::create_dir_all(&plan.out).expect("make the directory of the results");
    let file = plan.out.join("results.json");
    fs::write(&file, serde_json::to_string_pretty(&all).expect("JSON")).expect("write the results");
    let judged = targets::table(&targets::judge(&results));
    let one = machine::line(&machine);
    let busy = results.neighbours.map_or("was not watched".into(), |busy| format!("used {} % of one CPU", busy / 10));
    let note = format!("{} rounds; what ran beside the benchmark {busy}", plan.rounds);
    let report = format!("{one}\n{note}\n\n{}\n{judged}", table::table(&results));
    println!("{report}");
    println!("written: {}", file.display());
    for (name, text) in plots(&results).into_iter().chain([("table.md", report)]) {
        let file = plan.out.join(name);
        fs::write(&file, text).unwrap_or_else(|e| panic!("write {}: {e}", file.display()));
        println!("written: {}", file.display());
    }
}

/// Returns the plots with the names of their files. A measure without values has no plot.
fn plots(results: &Results) -> Vec<(&'static str, String)> {
    let has = |measure: &Measure| !results.sizes(measure).is_empty();
    let bars = |title: &str, all: &[&'static Measure]| {
        let all: Vec<&Measure> = all.iter().copied().filter(|measure| has(measure)).collect();
        (!all.is_empty()).then(|| plot::bars(title, &all, results))
    };
    let lines = |title: &str, across: &str, measure: &Measure| {
        has(measure).then(|| plot::lines(title, across, measure, results))
    };
    let latency = [&timed::RUN, &timed::EXEC, &timed::KILLED, &timed::STATS, &pods::PROBE, &cli::RUN, &cli::EXEC];
    let cpu = [&timed::RUN_CPU, &timed::EXEC_CPU, &cli::RUN_CPU, &cli::EXEC_CPU];
    let all = [
        ("latency.svg", bars("Time per operation, medians", &latency)),
        ("cpu.svg", bars("CPU time per operation, medians", &cpu)),
        ("pods.svg", lines("Exec with pods on the node", "pods on the node", &growth::EXEC_PODS)),
        ("pods-run.svg", lines("create + … + delete with pods on the node", "pods on the node", &growth::CREATE_PODS)),
        ("memory.svg", lines("Private dirty memory per shim", "pods on the node", &footprint::PRIVATE_DIRTY)),
        ("pss.svg", lines("PSS per shim", "pods on the node", &footprint::PSS)),
        (
            "mounts.svg",
            lines("create + … + delete with mounts on the host", "mounts on the host", &growth::CREATE_MOUNTS),
        ),
    ];
    all.into_iter().filter_map(|(name, picture)| Some((name, picture?))).collect()
}

async fn measure(plan: &Plan, order: &mut Order, results: &mut Results, covered: bool) {
    let contestants = present();
    say("starting containerd");
    let node = Node::start().await;
    node.containerd.remember();
    let shims: Vec<Contestant> = contestants.iter().copied().filter(|who| *who != Contestant::Bare).collect();
    for group in plan.groups.iter().filter(|group| !WITHOUT_CONTAINERD.contains(group)) {
        let begin = Instant::now();
        operations(group, &node, &shims, plan.rounds, order, results).await;
        growing(group, &node, plan.rounds.div_ceil(2), results).await;
        match *group {
            "cli" => cli::measure(&node, &contestants, plan.rounds, order, results),
            "cri" => pods::measure(&node, &GROWING, plan.rounds, order, results).await,
            "counts" => counts::measure(&node, &shims, results).await,
            "size" => size::measure(&contestants, results),
            "seccomp" => seccomp::measure(&node, plan.rounds, results),
            // A round has 256 operations per contestant, and a sample of growth has two.
            "density" => density::measure(&node, &GROWING, plan.rounds.div_ceil(4), order, results).await,
            _ => {}
        }
        say(&format!("{group}: {:.1?}", begin.elapsed()));
    }
    if covered {
        unmount(HYBRID, UnmountFlags::DETACH).unwrap_or_else(|e| panic!("unmount {HYBRID}: {e}"));
    }
    node.containerd.assert_clean();
}

fn without_containerd(plan: &Plan, order: &mut Order, results: &mut Results) {
    for group in plan.groups.iter().filter(|group| WITHOUT_CONTAINERD.contains(group)) {
        let begin = Instant::now();
        let contestants = present();
        match *group {
            "direct" => direct::measure(&contestants, plan.rounds, order, results),
            "memory" => footprint::measure(&contestants, PODS, results).iter().for_each(|spared| say(spared)),
            _ => {
                footprint::measure_execs(&[Contestant::Berth], EXECS, results);
                footprint::measure_execs(&[Contestant::Runc], EXECS_OF_OTHERS, results);
            }
        }
        say(&format!("{group}: {:.1?}", begin.elapsed()));
    }
}

async fn operations(
    group: &str,
    node: &Node,
    contestants: &[Contestant],
    rounds: u32,
    order: &mut Order,
    results: &mut Results,
) {
    let mut bench = Bench { node, contestants, rounds, order, results };
    match group {
        "run" => bench.runs().await,
        "exec" => bench.execs().await,
        "paced" => bench.paced().await,
        "kill" => bench.kills().await,
        _ => {}
    }
}

async fn growing(group: &str, node: &Node, samples: u32, results: &mut Results) {
    let mut growth = Growth { node, contestants: &GROWING, samples, results };
    match group {
        "containers" => growth.containers().await,
        "mounts" => growth.mounts().await,
        "execs" => growth.execs().await,
        "pods" => growth.pods().await,
        _ => {}
    }
}

/// Returns whether crun takes part and would refuse the machine: it refuses v1 hierarchies beside a v2 one with
/// controllers.
fn crun_needs_v1_alone() -> bool {
    let controllers = fs::read_to_string(HYBRID.to_owned() + "/cgroup.controllers");
    present().contains(&Contestant::Crun) && controllers.is_ok_and(|names| !names.trim().is_empty())
}

/// Unmounts the v2 hierarchy in the mount namespace of this run. The host's mounts stay. crun makes directories at the
/// mount point and leaves them, so an empty tmpfs is mounted there.
fn leave_v1_alone() {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace");
    assert_ne!(namespace(std::process::id()), namespace(parent_id()), "the benchmark has a mount namespace of its own");
    unmount(HYBRID, UnmountFlags::DETACH).unwrap_or_else(|e| panic!("unmount {HYBRID}: {e}"));
    mount("tmpfs", HYBRID, "tmpfs", MountFlags::empty(), None)
        .unwrap_or_else(|e| panic!("mount a tmpfs at {HYBRID}: {e}"));
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}
