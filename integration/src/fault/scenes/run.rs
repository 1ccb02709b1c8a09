//! `run` in the foreground.

use super::{
    super::{
        Action, Class, Log, Order, judge,
        matrix::{Cell, Scene},
    },
    ID, MARKS, Stage, cell, restricted, seen, with_hooks,
};
use crate::{bundle::Bundle, comparison::Seen};
use std::fs;

/// `run` in the foreground.
pub struct Run {
    stage: Stage,
    bundle: Bundle,
    clean: Seen,
    hooks: bool,
}

impl Run {
    /// Makes the scene and runs the container once without a fault.
    pub fn new(name: &str, hooks: bool, set: fn(Bundle) -> Bundle) -> Self {
        let stage = Stage::new(name);
        let mut bundle = set(restricted());
        if hooks {
            bundle = with_hooks(bundle, stage.runtime.work());
        }
        let out = stage.runtime.run(ID, &bundle).ok();
        let mut scene = Self { clean: seen(&out.stdout).expect("a report"), stage, bundle, hooks };
        assert_eq!(scene.marks(), if hooks { MARKS.len() } else { 0 });
        let order = Order { action: Action::Count, class: Class::Child, at: 0 };
        let cell = scene.cell(order);
        assert!(cell.findings.is_empty(), "{cell:#?}");
        scene
    }

    /// Returns the calls of a run without a fault.
    pub fn calls(&mut self) -> Log {
        self.cell(Order { action: Action::Count, class: Class::Child, at: 0 }).log
    }

    /// Counts the files of the hooks and removes them.
    fn marks(&self) -> usize {
        MARKS.iter().filter(|mark| fs::remove_file(self.stage.runtime.work().join(mark)).is_ok()).count()
    }
}

impl Scene for Run {
    fn cell(&mut self, order: Order) -> Cell {
        let path = self.bundle.path().to_str().unwrap().to_owned();
        let (out, log) = self.stage.drive(order, &["run", "--bundle", &path, ID]);
        let seen = seen(&out.stdout);
        let mut findings = vec![];
        let left = self.stage.runtime.residue_now();
        let began = seen.is_some();
        let wanted = matches!(order.action, Action::Fail(_) | Action::Count);
        // The fault that loses a part of the output is the only one.
        if let Some(seen) = seen.filter(|_| !judge::lost_output(&out.stderr)) {
            findings.extend(judge::weaker(&seen, &self.clean));
        }
        if let Some(hang) = &log.hang {
            findings.push(format!("hangs: {hang}"));
        } else if wanted && !judge::is_out_of_memory(&out.stderr) {
            findings.extend(judge::words(&out));
            if out.code == 0 && !began && !judge::lost_output(&out.stderr) {
                findings.push(format!("succeeds without a report: {}", out.stderr));
            }
            // The rest of a deletion that failed is named, and the next deletion removes it.
            if !left.is_empty() && (!began || out.stderr.trim().is_empty()) {
                let left = self.stage.runtime.residue();
                if !left.is_empty() {
                    findings.push(format!("leaves {left:?}: {}", out.stderr));
                }
            }
        }
        findings.extend(self.stage.clear());
        let hooks = self.marks();
        if out.code == 0 && self.hooks && hooks != MARKS.len() && out.stderr.trim().is_empty() {
            findings.push(format!("{hooks} of {} hooks ran", MARKS.len()));
        }
        cell(order, out, log, findings)
    }
}
