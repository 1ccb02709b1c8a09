//! The command lines beside each other and beside the bare system calls: `run` and `exec` of /bin/true.

use super::{
    Contestant, Measure, Results,
    bare_process::Bare,
    cpu::nanos,
    node::{Node, SLEEP, TRUE, root_filesystem},
    order::Order,
};
use berth_integration::tools::{built, tool};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

/// The time of `run` of a bundle.
pub const RUN: Measure = Measure::time("cli.run", "command line: run");
/// The CPU time of `run`.
pub const RUN_CPU: Measure = Measure::time("cli.run.cpu", "command line: CPU of run");
/// The CPU time of `run` without a seccomp profile.
pub const RUN_CPU_OPEN: Measure = Measure::time("cli.run.cpu.open", "command line: CPU of run without seccomp");
/// The time of `exec` in a running container.
pub const EXEC: Measure = Measure::time("cli.exec", "command line: exec");
/// The CPU time of `exec`.
pub const EXEC_CPU: Measure = Measure::time("cli.exec.cpu", "command line: CPU of exec");

/// Measures each of `contestants` that has a command line, and the bare calls if they are among them.
pub fn measure(node: &Node, contestants: &[Contestant], rounds: u32, order: &mut Order, results: &mut Results) {
    let mut bare = contestants.contains(&Contestant::Bare).then(|| {
        let bundle = Line::new(node, Contestant::Bare).bundle(&TRUE, true);
        // One process makes containers, the other one execs.
        ["run", "exec"]
            .map(|word| (word, Bare::start(&bundle, &format!("{}/bare-{word}", node.containerd.reservation.tag()))))
    });
    let lines: Vec<Line> = contestants.iter().filter(|who| has_line(**who)).map(|who| Line::new(node, *who)).collect();
    lines.iter().for_each(Line::start);
    // Each contestant runs once without being measured.
    for (word, bare) in bare.iter_mut().flatten() {
        bare.measure(word);
    }
    for line in &lines {
        line.run(true);
        line.exec();
    }
    for _ in 0..rounds {
        for who in order.shuffled(contestants) {
            if let (Contestant::Bare, Some(bare)) = (who, &mut bare) {
                for ((word, bare), (time, cpu)) in bare.iter_mut().zip([(&RUN, &RUN_CPU), (&EXEC, &EXEC_CPU)]) {
                    let took = bare.measure(word);
                    results.add(time, who, took.0);
                    results.add(cpu, who, took.1);
                }
            }
            let Some(line) = lines.iter().find(|line| line.who == who) else { continue };
            let (run, open, exec) = (line.run(true), line.run(false), line.exec());
            results.add(&RUN, who, run.0);
            results.add(&RUN_CPU, who, run.1);
            results.add(&RUN_CPU_OPEN, who, open.1);
            results.add(&EXEC, who, exec.0);
            results.add(&EXEC_CPU, who, exec.1);
        }
    }
    lines.iter().for_each(Line::end);
}

fn has_line(who: Contestant) -> bool {
    matches!(who, Contestant::Berth | Contestant::Runc | Contestant::Crun)
}

/// The command line of one runtime, with bundles and state of its own.
struct Line<'a> {
    node: &'a Node,
    who: Contestant,
    dir: PathBuf,
}

impl<'a> Line<'a> {
    fn new(node: &'a Node, who: Contestant) -> Self {
        let dir = node.dir().join("cli").join(who.name());
        fs::create_dir_all(dir.join("state")).expect("make a directory");
        Self { node, who, dir }
    }

    fn program(&self) -> PathBuf {
        match self.who {
            Contestant::Runc => tool("RUNC").into(),
            Contestant::Crun => tool("CRUN").into(),
            _ => built("berth"),
        }
    }

    /// Returns the directory of a bundle for `args`, with or without the seccomp profile.
    fn bundle(&self, args: &[&str], filtered: bool) -> PathBuf {
        let name = format!("{}-{filtered}", args[0].replace('/', "-"));
        let dir = self.dir.join(&name);
        if !dir.exists() {
            root_filesystem(&dir.join("rootfs"));
            let mut config = self.node.config(&format!("cli-{}{name}", self.who.name()), "none", args);
            if !filtered {
                config["linux"].as_object_mut().expect("an object").remove("seccomp");
            }
            fs::write(dir.join("config.json"), text(&config)).expect("write config.json");
        }
        dir
    }

    fn call(&self, words: &[&str]) -> (u64, u64) {
        let mut command = Command::new(self.program());
        command.arg("--root").arg(self.dir.join("state")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let (cpu, begin) = (children(), Instant::now());
        let status = command.status().unwrap_or_else(|e| panic!("start {}: {e}", self.program().display()));
        let took = nanos(begin.elapsed());
        assert!(status.success(), "{} {}: {status}", self.who.name(), words.join(" "));
        (took, children() - cpu)
    }

    fn run(&self, filtered: bool) -> (u64, u64) {
        let bundle = self.bundle(&TRUE, filtered);
        self.call(&["run", "--bundle", &bundle.to_string_lossy(), &self.id("run")])
    }

    fn start(&self) {
        let bundle = self.bundle(&SLEEP, true);
        self.call(&["create", "--bundle", &bundle.to_string_lossy(), &self.id("sleep")]);
        self.call(&["start", &self.id("sleep")]);
    }

    fn exec(&self) -> (u64, u64) {
        self.call(&["exec", &self.id("sleep"), TRUE[0]])
    }

    fn end(&self) {
        self.call(&["delete", "--force", &self.id("sleep")]);
    }

    fn id(&self, word: &str) -> String {
        format!("{}-cli-{}-{word}", self.node.containerd.reservation.tag(), self.who.name())
    }
}

/// Returns the CPU time of all children that were waited for, and of their children (ns).
fn children() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    u64::try_from((micros(usage.user_time()) + micros(usage.system_time())) * 1000).expect("time goes on")
}

fn text(config: &Value) -> Vec<u8> {
    serde_json::to_vec(config).expect("JSON")
}
