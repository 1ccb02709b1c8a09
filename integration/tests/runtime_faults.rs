//! Every system call fails once, and every system call is the last one. What is left is an error that names what failed, or
//! the container of a run without the fault, and nothing else.
//!
//! `make test` tries a part. `make faults` and `make kills` try all and write the figures into docs/security/matrices.md.
//! `SCENES='run,create start'` picks operations; `ORDERS=EIO,child` picks errors and classes, and then no figures are written.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup, command,
    fault::{
        Class, Log, judge,
        matrix::{self, Make, Range},
        page::{self, Part},
        scenes::{self, held::Held, run::Run},
    },
    runtime::{Runtime, is_runc},
    scratch::Scratch,
    tools,
    wait::LONG,
};
use serde_json::json;
use std::{collections::BTreeMap, fs, process::Command};

/// The number of orders that are tried at a time.
const WORKERS: usize = 2;

fn run() -> Make<'static> {
    &|| Box::new(Run::new("faults", false, |bundle| bundle))
}

/// Tries a sample and fails with its findings.
fn sample(range: &Range, make: Make<'_>) {
    if skipped_on_runc("fault matrix", "runc has no driver that knows its threads") {
        return;
    }
    let table = matrix::try_all(range, WORKERS, make);
    eprintln!("{} orders", table.tried());
    assert!(table.findings.is_empty(), "{} findings:\n{}", table.findings.len(), table.report());
}

#[test]
fn failing_calls_of_init_make_no_weaker_container() {
    sample(&Range::of_faults(&[Class::Child]).every(30), run());
}

#[test]
fn failing_calls_of_the_runtime_make_no_weaker_container() {
    sample(&Range::of_faults(&[Class::Parent]).every(60), run());
}

#[test]
fn runtime_that_is_killed_at_any_call_leaves_a_container_that_can_be_deleted() {
    sample(&Range::of_kills(&Class::ALL).every(15), run());
}

#[test]
fn container_whose_init_stands_still_can_be_deleted() {
    sample(&Range::of_holds().every(50), &|| Box::new(Held::run("faults-held", |bundle| bundle)));
}

/// The control of the driver: the answer to the named call is the named error, and other calls are made.
#[test]
fn control_driver_answers_the_named_call() {
    let work = Scratch::new("faults");
    let (driver, probe) = (tools::built("berth-fault"), tools::built("berth-probe"));
    let go = |order: &str| {
        let log = work.path().join(order);
        let mut command = Command::new(&driver);
        command.arg(&log).arg(order).arg(&probe).args(["open", "r", "/etc/hostname"]);
        (command::run(&mut command, LONG).ok(), Log::read(&log))
    };
    let (said, log) = go("count:parent:0");
    assert_eq!(said, r#"{"open":{"/etc/hostname":0}}"#);
    let at =
        log.calls.iter().position(|(_, call)| call == "open /etc/hostname" || call == "openat /etc/hostname").unwrap()
            + 1;
    let (said, log) = go(&format!("EMFILE:parent:{at}"));
    assert_eq!(said, format!(r#"{{"open":{{"/etc/hostname":{}}}}}"#, libc::EMFILE));
    assert!(log.hit.is_some_and(|call| call.ends_with("/etc/hostname")));
}

/// The control of the comparison: a container that lacks one restriction is another one.
#[test]
fn control_container_without_one_restriction_is_told_apart() {
    if is_runc() {
        return;
    }
    let runtime = Runtime::new("faults-control");
    let seen = |bundle: Bundle| {
        let said = runtime.run("c1", &bundle).ok().stdout;
        scenes::seen(&said.replace(&bundle.path().display().to_string(), "BUNDLE")).unwrap()
    };
    let clean = seen(scenes::restricted());
    assert_eq!(judge::weaker(&seen(scenes::restricted()), &clean), None);
    let more =
        scenes::restricted().set("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER"]));
    assert!(judge::weaker(&seen(more), &clean).is_some(), "a capability");
    for lost in ["/linux/seccomp", "/linux/sysctl", "/linux/maskedPaths", "/hostname"] {
        assert!(judge::weaker(&seen(scenes::restricted().unset(lost)), &clean).is_some(), "{lost}");
    }
}

/// The control of the leak check: it sees a cgroup that no process is in.
#[test]
fn control_leak_check_sees_an_empty_cgroup() {
    let runtime = Runtime::new("faults-leak");
    assert!(runtime.residue_now().is_empty());
    let left = cgroup::OtherCgroup::new(&runtime.cgroup("c1"));
    assert!(runtime.residue_now().iter().any(|line| line.starts_with("cgroup ")));
    drop(left);
    fs::create_dir(runtime.root().join("c1")).unwrap();
    assert_eq!(runtime.residue_now(), ["state c1"]);
    fs::remove_dir(runtime.root().join("c1")).unwrap();
}

/// The name of an operation in `SCENES`.
fn without_commas(name: &str) -> String {
    name.replace(',', "")
}

/// Tries `range` with the operations that `SCENES` names, or all, and writes the page.
fn full(part: Part, range: &Range, all: &[scenes::Named]) {
    let list = |name: &str| -> Vec<String> {
        let text = std::env::var(name).unwrap_or_default();
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (wanted, orders) = (list("SCENES"), list("ORDERS"));
    let unknown =
        |word: &&String| !scenes::ALL.iter().chain(scenes::HELD).any(|(name, _)| without_commas(name) == **word);
    assert_eq!(wanted.iter().find(unknown), None, "SCENES names no such operation");
    let range = &range.only(&orders);
    let mut tables = BTreeMap::new();
    let mut findings = String::new();
    for (name, make) in all {
        if !wanted.is_empty() && !wanted.contains(&without_commas(name)) {
            continue;
        }
        let begin = std::time::Instant::now();
        let table = matrix::try_all(range, WORKERS, make);
        eprintln!("{name}: {} orders in {:?}", table.tried(), begin.elapsed());
        table.said.iter().for_each(|(text, at)| eprintln!("    {at}: {text}"));
        findings.extend(table.findings.iter().map(|line| format!("{name}: {line}\n")));
        tables.insert((*name).to_owned(), table);
    }
    if orders.is_empty() {
        page::write(&tools::workspace().join("docs/security/matrices.md"), part, &tables);
    }
    assert!(findings.is_empty(), "{} findings:\n{findings}", findings.lines().count());
}

#[test]
#[ignore = "takes an hour: make faults"]
fn full_matrix_of_failing_calls_has_no_finding() {
    full(Part::Faults, &Range::of_faults(&Class::ALL), scenes::ALL);
}

#[test]
#[ignore = "takes half an hour: make kills"]
fn full_matrix_of_kills_has_no_finding() {
    full(Part::Kills, &Range::of_kills(&Class::ALL), scenes::ALL);
}

#[test]
#[ignore = "takes minutes: make kills"]
fn full_matrix_of_stopped_children_has_no_finding() {
    full(Part::Kills, &Range::of_holds(), scenes::HELD);
}
