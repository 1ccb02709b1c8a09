//! The operations through containerd, one after the other and with a pause before each: how long they take, and how
//! much CPU time.

use std::time::Duration;

use tokio::time::sleep;

use super::cpu::{Reading, Used, of_process};
use super::node::{Node, TRUE};
use super::order::Order;
use super::{Contestant, Measure, Results, operation};

/// Create, start, wait and delete of a container that runs /bin/true.
pub const RUN: Measure = Measure::time("containerd.run", "create + start + wait + delete");
/// The first part of it.
pub const CREATE: Measure = Measure::time("containerd.run.create", "  create");
/// The second.
pub const START: Measure = Measure::time("containerd.run.start", "  start");
/// The third.
pub const WAIT: Measure = Measure::time("containerd.run.wait", "  wait (from start's answer)");
/// The last.
pub const DELETE: Measure = Measure::time("containerd.run.delete", "  delete");
/// The same after a pause.
pub const RUN_PACED: Measure = Measure::time("containerd.run.paced", "create + … + delete after 0.3 s of quiet");
/// An exec of /bin/true.
pub const EXEC: Measure = Measure::time("containerd.exec", "exec /bin/true");
/// The same after a pause.
pub const EXEC_PACED: Measure = Measure::time("containerd.exec.paced", "exec after 0.3 s of quiet");
/// Kill's answer.
pub const KILL: Measure = Measure::time("containerd.kill", "kill: answered");
/// Kill's effect.
pub const KILLED: Measure = Measure::time("containerd.killed", "kill: exit seen");
/// Metrics.
pub const STATS: Measure = Measure::time("containerd.stats", "stats");
/// State of a quiet container.
pub const STATE: Measure = Measure::time("containerd.state", "state");
/// State of a container in which execs run.
pub const STATE_LOADED: Measure = Measure::time("containerd.state.loaded", "state while 4 execs run at a time");
/// CPU time of a run.
pub const RUN_CPU: Measure = Measure::time("cpu.run", "CPU per run: containerd, shim, runtime, payload");
/// The same by the machine's clock.
pub const RUN_CPU_MACHINE: Measure = Measure::time("cpu.run.machine", "CPU per run: machine-wide");
/// CPU time of an exec.
pub const EXEC_CPU: Measure = Measure::time("cpu.exec", "CPU per exec: containerd, shim, runtime, payload");
/// The same by the machine's clock.
pub const EXEC_CPU_MACHINE: Measure = Measure::time("cpu.exec.machine", "CPU per exec: machine-wide");
/// The shim's share of an exec.
pub const EXEC_CPU_SHIM: Measure = Measure::time("cpu.exec.shim", "CPU per exec: the shim and what it waited for");

/// Runs in a batch, back to back; the first of them is the one that comes after other contestants.
const RUNS: u64 = 4;
/// Execs in a batch.
const EXECS: u64 = 10;
/// How long the machine is watched while nothing runs, once a round.
const IDLE: Duration = Duration::from_millis(150);
/// How long a batch's tail (shims that end, containerd's own garbage) is waited for and counted.
const TAIL: Duration = Duration::from_millis(60);
/// The pause before a paced operation: longer than the kernel's grace period after which moving a process between v1
/// cgroups is slow again.
const PAUSE: Duration = Duration::from_millis(300);

/// What all measures through containerd need.
pub struct Bench<'a> {
    /// The daemon.
    pub node: &'a Node,
    /// Who takes part.
    pub contestants: &'a [Contestant],
    /// How often.
    pub rounds: u32,
    /// In which order.
    pub order: &'a mut Order,
    /// Where values go.
    pub results: &'a mut Results,
}

impl Bench<'_> {
    /// One container's life, from the record to its removal, and how long its timed parts took.
    async fn life(&self, who: Contestant) -> operation::Life {
        let prepared = self.node.prepare(who, None, &TRUE).await;
        let life = operation::run(&self.node.tasks, &prepared).await;
        self.node.discard(&prepared.id).await;
        life
    }

    /// Runs of all contestants, in batches.
    pub async fn runs(&mut self) {
        for who in self.contestants {
            self.life(*who).await;
        }
        let cgroup = self.node.cgroup();
        let mut account = Account::default();
        for _ in 0..self.rounds {
            account.watch_idle(&cgroup).await;
            for who in self.order.shuffled(self.contestants) {
                // What is not part of a run stays out of its time and its CPU time.
                let mut prepared = Vec::new();
                for _ in 0..RUNS {
                    prepared.push(self.node.prepare(who, None, &TRUE).await);
                }
                let begin = Reading::take(&cgroup);
                for one in &prepared {
                    let life = operation::run(&self.node.tasks, one).await;
                    self.results.add(&RUN, who, life.sum);
                    let parts = [life.create, life.start, life.wait, life.delete];
                    for (measure, part) in [&CREATE, &START, &WAIT, &DELETE].into_iter().zip(parts) {
                        self.results.add(measure, who, part);
                    }
                }
                sleep(TAIL).await;
                let used = begin.used(&cgroup);
                self.results.add(&RUN_CPU, who, used.own / RUNS);
                account.add(who, used, RUNS);
                for one in &prepared {
                    self.node.discard(&one.id).await;
                }
            }
        }
        account.report(self.results, &RUN_CPU_MACHINE);
    }

    /// Execs of all contestants in one running container each, in batches; and the questions that are asked of it.
    pub async fn execs(&mut self) {
        let process = self.node.process(&TRUE);
        let cgroup = self.node.cgroup();
        let mut account = Account::default();
        let running = Running::start(self.node, self.contestants).await;
        for (who, id) in &running.0 {
            operation::exec(&self.node.tasks, id, &self.node.fresh(who.name()), &process).await;
        }
        for _ in 0..self.rounds {
            account.watch_idle(&cgroup).await;
            for who in self.order.shuffled(self.contestants) {
                let id = running.of(who);
                let shim = (who != Contestant::Null).then(|| self.node.shim(id));
                let shim_before = shim.map(of_process);
                let begin = Reading::take(&cgroup);
                for _ in 0..EXECS {
                    let took = operation::exec(&self.node.tasks, id, &self.node.fresh("exec"), &process).await;
                    self.results.add(&EXEC, who, took);
                }
                sleep(TAIL).await;
                let used = begin.used(&cgroup);
                self.results.add(&EXEC_CPU, who, used.own / EXECS);
                account.add(who, used, EXECS);
                if let (Some(before), Some(shim)) = (shim_before, shim) {
                    self.results.add(&EXEC_CPU_SHIM, who, (of_process(shim) - before) / EXECS);
                }
            }
        }
        account.report(self.results, &EXEC_CPU_MACHINE);
        for _ in 0..self.rounds {
            for who in self.order.shuffled(self.contestants) {
                let id = running.of(who);
                self.results.add(&STATE, who, operation::state(&self.node.tasks, id).await);
                // The null shim has no numbers to give.
                if who != Contestant::Null {
                    self.results.add(&STATS, who, operation::stats(&self.node.tasks, id).await);
                }
                self.state_under_load(who, id).await;
            }
        }
        running.end(self.node).await;
    }

    /// Operations after a pause.
    pub async fn paced(&mut self) {
        let process = self.node.process(&TRUE);
        let running = Running::start(self.node, self.contestants).await;
        for _ in 0..self.rounds {
            for who in self.order.shuffled(self.contestants) {
                let prepared = self.node.prepare(who, None, &TRUE).await;
                sleep(PAUSE).await;
                let life = operation::run(&self.node.tasks, &prepared).await;
                self.results.add(&RUN_PACED, who, life.sum);
                self.node.discard(&prepared.id).await;
                sleep(PAUSE).await;
                let took = operation::exec(&self.node.tasks, running.of(who), &self.node.fresh("exec"), &process).await;
                self.results.add(&EXEC_PACED, who, took);
            }
        }
        running.end(self.node).await;
    }

    /// Kills.
    pub async fn kills(&mut self) {
        for _ in 0..self.rounds {
            for who in self.order.shuffled(self.contestants) {
                // The null shim's processes have ended before they could be killed.
                if who == Contestant::Null {
                    continue;
                }
                let id = self.node.launch(who, None).await;
                let (answered, exited) = self.node.end(&id).await;
                self.results.add(&KILL, who, answered);
                self.results.add(&KILLED, who, exited);
            }
        }
    }

    async fn state_under_load(&mut self, who: Contestant, id: &str) {
        let mut load = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (tasks, id, name) = (self.node.tasks.clone(), id.to_owned(), self.node.fresh("exec"));
            let process = self.node.process(&TRUE);
            load.spawn(async move { operation::exec(&tasks, &id, &name, &process).await });
        }
        while load.try_join_next().is_some() || !load.is_empty() {
            self.results.add(&STATE_LOADED, who, operation::state(&self.node.tasks, id).await);
        }
    }
}

/// One running container a contestant.
struct Running(Vec<(Contestant, String)>);

impl Running {
    async fn start(node: &Node, contestants: &[Contestant]) -> Self {
        let mut all = Vec::new();
        for who in contestants {
            all.push((*who, node.launch(*who, None).await));
        }
        Self(all)
    }

    fn of(&self, who: Contestant) -> &str {
        &self.0.iter().find(|(one, _)| *one == who).expect("it runs").1
    }

    async fn end(self, node: &Node) {
        for (_, id) in self.0 {
            node.end(&id).await;
        }
    }
}

/// The machine's clock over all rounds: its steps are too coarse for one batch.
#[derive(Default)]
struct Account {
    idle: Used,
    of: Vec<(Contestant, Used, u64)>,
}

impl Account {
    async fn watch_idle(&mut self, cgroup: &str) {
        let begin = Reading::take(cgroup);
        sleep(IDLE).await;
        self.idle.add(begin.used(cgroup));
    }

    fn add(&mut self, who: Contestant, used: Used, operations: u64) {
        match self.of.iter_mut().find(|(one, ..)| *one == who) {
            Some((_, sum, many)) => {
                sum.add(used);
                *many += operations;
            }
            None => self.of.push((who, used, operations)),
        }
    }

    /// One value a contestant; and how busy the machine was otherwise, which says what that value is worth.
    fn report(&self, results: &mut Results, measure: &Measure) {
        for (who, used, operations) in &self.of {
            results.add(measure, *who, used.above(&self.idle) / operations);
        }
        results.neighbours = results.neighbours.max(Some(self.idle.machine * 1000 / self.idle.wall.max(1)));
    }
}
