//! No operation costs more than `budget.toml` allows, in counts that do not depend on the speed of the machine.
//!
//! `make budget` writes that file from the measurements of this test (`BERTH_BUDGET=write`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "programs are run under strace")]

use berth_integration::{
    budget::{
        Lines, layout,
        trace::{self, Calls},
    },
    bundle::Bundle,
    command, cri_bundle,
    footprint::{self, Footprint},
    runtime::{Runtime, is_runc},
    scratch::Scratch,
    shim::{Kind, Shim, container::exec_request},
    strace::Joined,
    tools,
    wait::{LONG, until_true},
};
use serde_json::json;
use std::process::{Command, Stdio};

/// The number of runs of which the least counts.
const RUNS: usize = 5;
/// The number of execs between the two measurements of the shim's memory.
const EXECS: usize = 200;

#[test]
fn no_operation_costs_more_than_its_budget() {
    if is_runc() {
        eprintln!("the budget is berth's");
        return;
    }
    as_services_are();
    let mut seen = measure();
    let file = tools::workspace().join("integration/budget.toml");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let layout = layout();
    if std::env::var("BERTH_BUDGET").is_ok_and(|word| word == "write") {
        std::fs::write(&file, seen.rewrite(&text, &layout).unwrap()).unwrap();
        eprintln!("written: {} for the layout {layout}", file.display());
        return;
    }
    let Some(budget) = Lines::of_layout(&text, &layout).unwrap_or_else(|e| panic!("{}: {e}", file.display())) else {
        eprintln!("no budget for the cgroup layout {layout}: make budget writes one");
        return;
    };
    // A real cost occurs in every run. The timing of one run may add calls.
    for _ in 0..2 {
        let over = budget.judge(&seen).over;
        if over.is_empty() {
            break;
        }
        eprintln!("measured again for:\n{}", over.join("\n"));
        seen = seen.least(&measure());
    }
    let verdict = budget.judge(&seen);
    if !verdict.under.is_empty() {
        eprintln!("well below the budget, which `make budget` would tighten:\n{}", verdict.under.join("\n"));
    }
    assert!(verdict.over.is_empty(), "costs more than its budget:\n{}", verdict.over.join("\n"));
}

/// Sets a soft limit of open files below the hard one, as service managers do: restoring it is a part of the cost.
fn as_services_are() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum.expect("a limit");
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard / 2), maximum: Some(hard) }).unwrap();
}

fn measure() -> Lines {
    let mut seen = Lines::default();
    command_line(&mut seen);
    shim(&mut seen);
    for program in ["berth", "containerd-shim-berth-v2", "berth-image", "berth-setup"] {
        let bytes = std::fs::metadata(tools::built(program)).unwrap().len();
        seen.put(program, "size of the program", bytes >> 10, "KiB");
    }
    seen
}

/// Returns the least of [`RUNS`] measurements of an operation, after one run that is not counted.
fn least(operation: &str, mut measure: impl FnMut(&str) -> Lines) -> Lines {
    measure(operation);
    let least = (0..RUNS).map(|_| measure(operation)).reduce(|least, next| least.least(&next));
    least.unwrap().with_sum(operation)
}

/// Returns the calls of a program that ran under strace.
fn calls(operation: &str, file: &std::path::Path) -> Lines {
    let mut lines = Lines::default();
    Calls::read(file).put(operation, &mut lines);
    lines
}

fn command_line(seen: &mut Lines) {
    let runtime = Runtime::new("budget");
    let root = runtime.root();
    let traced = |operation: &str, words: &[&str]| {
        let work = Scratch::new("calls");
        let file = work.path().join("calls");
        let before = trace::words(&file, true);
        let mut command = Command::new(&before[0]);
        command.args(&before[1..]).arg(runtime.program()).arg("--root").arg(&root).args(words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        assert!(command::wait(&mut child, LONG).expect("an end").success(), "{words:?}");
        calls(operation, &file)
    };
    let bundle = cri_bundle::pod_container(&["/bin/true"]);
    bundle.save(&runtime.cgroup("run"));
    let path = bundle.path().to_str().unwrap();
    seen.extend(least("berth run", |operation| traced(operation, &["run", "--bundle", path, "c1"])));
    runtime.start("host", &cri_bundle::pod_container(&["/bin/sleep", "100000"]));
    seen.extend(least("berth exec", |operation| traced(operation, &["exec", "host", "/bin/true"])));
    runtime.cmd(&["delete", "--force", "host"]).ok();
}

/// A shim with a container that stays.
struct Host {
    shim: Shim,
    bundle: Bundle,
    process: serde_json::Value,
    next: usize,
}

impl Host {
    fn fresh(&mut self, word: &str) -> String {
        self.next += 1;
        format!("{word}{}", self.next)
    }

    fn run(&mut self) {
        let id = self.fresh("c");
        self.shim.run(&id, &self.bundle);
        assert_eq!(self.shim.status(&id, ""), 0);
        self.shim.delete(&id, "").unwrap();
        self.shim.events.until(&format!("delete {id}"));
        self.rest();
    }

    fn exec(&mut self) {
        let exec = self.fresh("e");
        self.shim.exec_as(exec_request("host", &exec, &self.process, None)).unwrap();
        self.shim.start_process("host", &exec).unwrap();
        assert_eq!(self.shim.status("host", &exec), 0);
        self.shim.delete("host", &exec).unwrap();
        self.shim.events.until(&format!("exit host/{exec} 0"));
    }

    /// Waits until the threads of the operation have ended.
    fn rest(&self) {
        until_true("the shim to come to rest", LONG, || self.shim.size().1 == 1);
    }

    /// Returns the calls of an operation and the number of pages that the shim touched for it.
    fn cost(&mut self, operation: &str, act: fn(&mut Self)) -> Lines {
        let mut lines = Lines::default();
        let joined = Joined::to(self.shim.pid, &trace::OPTIONS);
        act(self);
        self.rest();
        Calls::parse(&joined.leave()).put(operation, &mut lines);
        let before = faults(self.shim.pid);
        act(self);
        self.rest();
        lines.put(operation, "page faults", faults(self.shim.pid) - before, "faults of the shim");
        lines
    }
}

fn shim(seen: &mut Lines) {
    let work = Scratch::new("calls");
    let under = |name: &str| {
        let file = work.path().join(name);
        (trace::words(&file, false), file)
    };
    let (before, file) = under("start");
    let shim = Shim::start_under(&before, Kind::Berth, "budget");
    seen.extend(calls("shim start", &file).with_sum("shim start"));
    let stays = cri_bundle::pod_container(&["/bin/sleep", "100000"]);
    shim.run("host", &stays);
    let mut process = stays.config["process"].clone();
    process["args"] = json!(["/bin/true"]);
    let mut host = Host { shim, bundle: cri_bundle::pod_container(&["/bin/true"]), process, next: 0 };

    footprint::settle();
    host.rest();
    let first = Footprint::of(host.shim.pid);
    seen.put("shim at rest", "private dirty memory", first.private_dirty / 1024, "kB");
    seen.put("shim at rest", "threads", first.threads, "threads");
    seen.put("shim at rest", "descriptors", host.shim.size().0 as u64, "descriptors");
    seen.extend(least("shim run", |operation| host.cost(operation, Host::run)));
    seen.extend(least("shim exec", |operation| host.cost(operation, Host::exec)));
    (0..EXECS).for_each(|_| host.exec());
    footprint::settle();
    host.rest();
    let last = Footprint::of(host.shim.pid);
    let operation = format!("shim at rest after {EXECS} execs");
    seen.put(&operation, "private dirty memory", last.private_dirty / 1024, "kB");
    seen.put(&operation, "threads", last.threads, "threads");
    seen.put(&operation, "descriptors", host.shim.size().0 as u64, "descriptors");

    host.shim.end("host");
    host.shim.assert_clean();
    let (before, file) = under("delete");
    host.shim.delete_action_under(&before, "host", stays.path());
    seen.extend(calls("shim delete", &file).with_sum("shim delete"));
    host.shim.shut_down();
}

/// Returns the minor faults of a process and its threads so far (proc_pid_stat(5), field 10).
fn faults(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(7).unwrap().parse().unwrap()
}
