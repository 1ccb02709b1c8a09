//! A child that is stopped at a call, while `delete --force` runs beside.

use super::{
    super::{
        Log, Order,
        matrix::{Cell, Scene},
    },
    ID, Stage, cell, restricted,
};
use crate::{
    bundle::Bundle,
    comparison,
    wait::{LONG, until},
};
use serde_json::json;
use std::time::{Duration, Instant};

/// The bound of the runtime after its container was deleted.
const BOUND: Duration = Duration::from_secs(30);

/// `run`, or `exec` in a container that runs.
pub struct Held {
    stage: Stage,
    bundle: Bundle,
    exec: bool,
}

impl Held {
    /// `run` whose init is stopped.
    pub fn run(name: &str, set: fn(Bundle) -> Bundle) -> Self {
        Self::new(name, false, set(restricted()))
    }

    /// `exec` whose process is stopped.
    pub fn exec(name: &str, set: fn(Bundle) -> Bundle) -> Self {
        let bundle = set(restricted()).edit(|config| config["process"]["args"] = json!(["/probe", "sleep", "1000"]));
        Self::new(name, true, bundle)
    }

    fn new(name: &str, exec: bool, bundle: Bundle) -> Self {
        let stage = Stage::new(name);
        bundle.save(&stage.runtime.cgroup(ID));
        Self { stage, bundle, exec }
    }
}

impl Scene for Held {
    fn cell(&mut self, order: Order) -> Cell {
        let path = self.bundle.path().to_str().unwrap().to_owned();
        let mut words = vec!["run", "--bundle", &path, ID];
        if self.exec {
            self.stage.runtime.cmd(&["run", "--detach", "--bundle", &path, ID]).ok();
            words = [vec!["exec", ID], comparison::report_words()].concat();
        }
        let (call, file) = self.stage.begin(order, &words);
        let pid = call.pid().cast_signed();
        until("a stopped child, or the end", LONG, || {
            (Log::read(&file).hit.is_some() || !crate::procs::alive(pid)).then_some(())
        });
        let mut findings = vec![];
        let held = Log::read(&file).hit.is_some();
        if held {
            let out = self.stage.runtime.cmd(&["delete", "--force", ID]);
            if out.code != 0 {
                findings.push(format!("delete --force beside: {}", out.stderr));
            }
        }
        let begin = Instant::now();
        let out = call.wait();
        if held && begin.elapsed() > BOUND {
            findings.push(format!("ends {:?} after the deletion", begin.elapsed()));
        }
        let log = self.stage.end(&file);
        findings.extend(log.hang.as_ref().map(|hang| format!("hangs: {hang}")));
        findings.extend(log.left.as_ref().map(|left| format!("leaves the stopped process {left}")));
        if held && out.code == 0 {
            findings.push("succeeds".to_owned());
        }
        let left = self.stage.runtime.residue();
        if held && !left.is_empty() {
            findings.push(format!("leaves {left:?}: {}", out.stderr));
        }
        findings.extend(self.stage.clear());
        cell(order, out, log, findings)
    }
}
