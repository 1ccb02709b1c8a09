//! The operations on a container that is there already, and is kept from one order to the next.

use super::{
    super::{
        Action, Class, Order, judge,
        matrix::{Cell, Scene},
    },
    ID, Stage, cell, restricted, seen,
};
use crate::{
    bundle::Bundle,
    cgroup,
    comparison::{self, Seen},
    leak,
    runtime::Output,
};
use serde_json::json;

/// The operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `exec` of the probe, which reports.
    Exec,
    /// `update` of three limits.
    Update,
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `kill --all ID KILL`.
    KillAll,
    /// `kill ID KILL`.
    Kill,
    /// `delete` of a stopped container.
    Delete,
    /// `delete --force` of a running one.
    ForceDelete,
    /// `state`.
    State,
    /// `ps`.
    Ps,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Exec,
        Self::Update,
        Self::Pause,
        Self::Resume,
        Self::KillAll,
        Self::Kill,
        Self::Delete,
        Self::ForceDelete,
        Self::State,
        Self::Ps,
    ];

    fn words(self) -> Vec<&'static str> {
        match self {
            Self::Exec => [vec!["exec", ID], comparison::report_words()].concat(),
            Self::Update => vec!["update", "--memory", "50331648", "--pids-limit", "40", "--cpu-share", "1024", ID],
            Self::Pause => vec!["pause", ID],
            Self::Resume => vec!["resume", ID],
            Self::KillAll => vec!["kill", "--all", ID, "KILL"],
            Self::Kill => vec!["kill", ID, "KILL"],
            Self::Delete => vec!["delete", ID],
            Self::ForceDelete => vec!["delete", "--force", ID],
            Self::State => vec!["state", ID],
            Self::Ps => vec!["ps", ID],
        }
    }

    /// Returns whether the container is as before after the operation, or after the operation that undoes it.
    fn keeps(self) -> bool {
        matches!(self, Self::Exec | Self::Update | Self::Pause | Self::Resume | Self::State | Self::Ps)
    }
}

/// The operation that undoes [`Kind::Update`].
const UPDATE_BACK: [&str; 8] = ["update", "--memory", "67108864", "--pids-limit", "50", "--cpu-share", "512", ID];

/// A container and an operation on it.
pub struct Kept {
    stage: Stage,
    kind: Kind,
    bundle: Bundle,
    /// The container from outside, before and after the operation.
    before: Seen,
    after: Seen,
    /// The standard output of the operation, and for an exec its report.
    said: Output,
    there: bool,
}

impl Kept {
    /// Makes the container and carries out the operation once without a fault.
    pub fn new(name: &str, kind: Kind, set: fn(Bundle) -> Bundle) -> Self {
        let stage = Stage::new(name);
        let bundle = set(restricted()).edit(|config| config["process"]["args"] = json!(["/probe", "sleep", "1000"]));
        bundle.save(&stage.runtime.cgroup(ID));
        let said =
            Output { words: String::new(), code: 0, dumped: false, stdout: String::new(), stderr: String::new() };
        let (before, after) = (Seen::new(), Seen::new());
        let mut scene = Self { stage, kind, bundle, before, after, said, there: false };
        scene.set_up();
        scene.before = scene.outside();
        let (out, _) = scene.stage.drive(Order { action: Action::Count, class: Class::Child, at: 0 }, &kind.words());
        scene.said = out.ok();
        scene.after = scene.outside();
        scene.put_back();
        scene
    }

    /// Makes the container if it is not there.
    fn set_up(&mut self) {
        let runtime = &self.stage.runtime;
        if !self.there {
            let path = self.bundle.path().to_str().unwrap();
            runtime.cmd(&["create", "--bundle", path, ID]).ok();
            runtime.cmd(&["start", ID]).ok();
            crate::runtime::until_executed(runtime, ID);
        }
        self.there = true;
        match self.kind {
            Kind::Resume => drop(runtime.cmd(&["pause", ID]).ok()),
            Kind::Delete => {
                runtime.cmd(&["kill", ID, "KILL"]).ok();
                runtime.until(ID, "stopped");
            }
            _ => {}
        }
    }

    /// Brings the container back to the state before the operation, or removes it. Returns what does not work.
    fn put_back(&mut self) -> Vec<String> {
        let runtime = &self.stage.runtime;
        let undone = match self.kind {
            Kind::Pause | Kind::Resume if runtime.frozen(ID) => runtime.cmd(&["resume", ID]),
            Kind::Update => runtime.cmd(&UPDATE_BACK),
            _ => Output { words: String::new(), code: 0, dumped: false, stdout: String::new(), stderr: String::new() },
        };
        let mut findings = vec![];
        if undone.code != 0 {
            findings.push(format!("{}: {}", undone.words, undone.stderr));
        }
        if !self.kind.keeps() || undone.code != 0 {
            self.there = false;
            findings.extend(self.stage.clear());
        }
        findings
    }

    /// The container as the host sees it. Empty when it is gone.
    fn outside(&self) -> Seen {
        let mut seen = Seen::new();
        if self.kind.keeps() {
            comparison::outside(&self.stage.runtime, &mut seen);
            seen.insert("frozen".into(), self.stage.runtime.frozen(ID).to_string());
        }
        seen
    }

    /// Returns what is wrong with the container after the operation.
    fn effect(&self, order: Order, out: &Output) -> Vec<String> {
        let mut findings = vec![];
        let runtime = &self.stage.runtime;
        let killed = order.action == Action::Kill;
        if self.kind.keeps() {
            let others = leak::wait_until_gone(|| self.strangers());
            if !others.is_empty() {
                findings.push(format!("leaves {others:?}"));
            }
            let status = runtime.state(ID)["status"].clone();
            if status != "running" && status != "paused" {
                findings.push(format!("leaves the container {status}"));
            }
        }
        match self.kind {
            Kind::Exec => {
                let (seen, clean) = (seen(&out.stdout), seen(&self.said.stdout).expect("a report"));
                if out.code == 0 && seen.is_none() && !judge::lost_output(&out.stderr) {
                    findings.push(format!("succeeds without a report: {}", out.stderr));
                }
                findings.extend(seen.and_then(|seen| judge::weaker(&seen, &clean)));
            }
            Kind::State | Kind::Ps if out.code == 0 && out.stdout != self.said.stdout && !self.varies(out) => {
                findings.push(format!("says {:?} instead of {:?}", out.stdout, self.said.stdout));
            }
            Kind::Update | Kind::Pause | Kind::Resume if !killed => {
                let wanted = if out.code == 0 { &self.after } else { &self.before };
                findings
                    .extend(judge::weaker(&self.outside(), wanted).map(|text| format!("exit {}: {text}", out.code)));
            }
            Kind::Kill | Kind::KillAll if out.code == 0 => {
                let running = || cgroup::processes(&runtime.cgroup(ID)).iter().map(|pid| format!("{pid}")).collect();
                let left: Vec<String> = leak::wait_until_gone(running);
                if !left.is_empty() {
                    findings.push(format!("leaves {left:?} alive"));
                }
            }
            Kind::Delete | Kind::ForceDelete if out.code == 0 && !killed => {
                let left = runtime.residue();
                if !left.is_empty() {
                    findings.push(format!("leaves {left:?}"));
                }
            }
            _ => {}
        }
        findings
    }

    /// The pids and times of another container differ.
    fn varies(&self, out: &Output) -> bool {
        let digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        digits(&out.stdout) == digits(&self.said.stdout)
    }

    /// Returns the processes of the runtime beside the container's own.
    fn strangers(&self) -> Vec<String> {
        let own = self.stage.runtime.pid(ID);
        let all = self.stage.runtime.residue_now().into_iter().filter(|line| line.starts_with("process "));
        all.filter(|line| line.split(' ').nth(1) != Some(&own.to_string())).collect()
    }
}

impl Scene for Kept {
    fn cell(&mut self, order: Order) -> Cell {
        self.set_up();
        let (out, log) = self.stage.drive(order, &self.kind.words());
        let mut findings = vec![];
        if let Some(hang) = &log.hang {
            findings.push(format!("hangs: {hang}"));
        } else if matches!(order.action, Action::Fail(_) | Action::Count) && !judge::is_out_of_memory(&out.stderr) {
            findings.extend(judge::words(&out));
        }
        if log.hang.is_none() && !judge::is_out_of_memory(&out.stderr) {
            findings.extend(self.effect(order, &out));
        }
        if order.action == Action::Kill && self.kind.keeps() {
            findings.extend(self.again());
        }
        if self.there {
            findings.extend(self.put_back());
        }
        if !findings.is_empty() {
            findings.extend(self.stage.clear().into_iter().map(|text| format!("after a finding: {text}")));
            self.there = false;
        }
        cell(order, out, log, findings)
    }
}

impl Kept {
    /// After the death of the runtime the operation works, and `delete --force` leaves nothing.
    fn again(&mut self) -> Vec<String> {
        let runtime = &self.stage.runtime;
        let mut findings = vec![];
        match self.kind {
            Kind::Pause if runtime.frozen(ID) => {}
            Kind::Resume if !runtime.frozen(ID) => {}
            kind => {
                let out = runtime.cmd(&kind.words());
                if out.code != 0 {
                    findings.push(format!("then {}: {}", out.words, out.stderr));
                }
            }
        }
        findings.extend(self.stage.clear());
        self.there = false;
        findings
    }
}
