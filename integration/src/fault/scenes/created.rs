//! `create` and `start`, with the container seen from the host as well.

use super::{
    super::{
        Action, Class, Order, judge,
        matrix::{Cell, Scene},
    },
    ID, Stage, cell, restricted, seen,
};
use crate::{
    bundle::Bundle,
    comparison::{self, Seen},
    console::ConsoleSocket,
    wait::{LONG, until},
};
use serde_json::json;

/// `create` and `start` of a container that stays.
pub struct Created {
    stage: Stage,
    bundle: Bundle,
    clean: Seen,
    console: Option<ConsoleSocket>,
}

impl Created {
    /// Makes the scene and the container once without a fault. With `terminal` the container has one.
    pub fn new(name: &str, terminal: bool, set: fn(Bundle) -> Bundle) -> Self {
        let stage = Stage::new(name);
        let bundle = set(restricted())
            .edit(|config| {
                config["process"]["args"].as_array_mut().unwrap().extend(["+", "sleep", "1000"].map(|w| json!(w)))
            })
            .set("/process/terminal", json!(terminal));
        bundle.save(&stage.runtime.cgroup(ID));
        let console = terminal.then(|| ConsoleSocket::new(stage.runtime.work()));
        let mut scene = Self { stage, bundle, clean: Seen::new(), console };
        scene.clean = scene.go(Order { action: Action::Count, class: Class::Child, at: 0 }).2.expect("a container");
        assert_eq!(scene.stage.clear(), Vec::<String>::new());
        scene
    }

    /// Makes the container under an order. Returns it as both sides see it, if both calls succeeded.
    fn go(&mut self, order: Order) -> (crate::runtime::Output, super::super::Log, Option<Seen>) {
        let number = self.stage.runtime.calls();
        let (path, root) = (self.bundle.path().to_str().unwrap().to_owned(), self.stage.runtime.root());
        let program = self.stage.runtime.program().to_str().unwrap().to_owned();
        let mut words = vec!["create", "--bundle", &path];
        let console = self.console.as_ref().map(|console| console.path().to_owned());
        words.extend(console.iter().flat_map(|path| ["--console-socket", path]));
        words.extend([ID, "--then", &program, "--root", root.to_str().unwrap(), "start", ID]);
        let (out, log) = self.stage.drive(order, &words);
        let made = (out.code == 0).then(|| {
            let said = match &self.console {
                None => until("a report", LONG, || {
                    let said = self.stage.runtime.stdout_of(number);
                    (said.lines().count() > 1).then_some(said)
                }),
                Some(console) => console.receive().read_until("\"open\""),
            };
            let mut seen = seen(&said).expect("a report");
            comparison::outside(&self.stage.runtime, &mut seen);
            seen
        });
        (out, log, made)
    }
}

impl Scene for Created {
    fn cell(&mut self, order: Order) -> Cell {
        let (out, log, made) = self.go(order);
        let mut findings = vec![];
        findings.extend(made.and_then(|seen| judge::weaker(&seen, &self.clean)));
        if let Some(hang) = &log.hang {
            findings.push(format!("hangs: {hang}"));
        } else if matches!(order.action, Action::Fail(_) | Action::Count) && !judge::is_out_of_memory(&out.stderr) {
            findings.extend(judge::words(&out));
            // A container that was created stays when its start fails.
            if log.ended == 1 && !self.stage.runtime.residue_now().is_empty() {
                let left = self.stage.runtime.residue();
                if !left.is_empty() {
                    findings.push(format!("leaves {left:?}: {}", out.stderr));
                }
            }
        }
        findings.extend(self.stage.clear());
        if let Some(console) = &self.console {
            // A terminal that came before the failure is no longer wanted.
            console.drain();
        }
        cell(order, out, log, findings)
    }
}
