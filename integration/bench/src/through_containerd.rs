//! The time and CPU time of operations through containerd, back to back and with a pause before each.

use super::{
    Contestant, Measure, Results,
    cpu::{Reading, Used, of_process},
    node::{Node, TRUE},
    operation,
    order::Order,
};
use std::time::Duration;
use tokio::time::sleep;

/// The time of Create, Start, Wait and Delete of a container.
pub const RUN: Measure = Measure::time("containerd.run", "create + start + wait + delete");
/// The time of Create.
pub const CREATE: Measure = Measure::time("containerd.run.create", "  create");
/// The time of Start.
pub const START: Measure = Measure::time("containerd.run.start", "  start");
/// The time of Wait.
pub const WAIT: Measure = Measure::time("containerd.run.wait", "  wait (from start's answer)");
/// The time of Delete.
pub const DELETE: Measure = Measure::time("containerd.run.delete", "  delete");
/// The time of a container's life after a pause.
pub const RUN_PACED: Measure = Measure::time("containerd.run.paced", "create + … + delete after 0.3 s of quiet");
/// The time of an exec of /bin/true.
pub const EXEC: Measure = Measure::time("containerd.exec", "exec /bin/true");
/// The time of an exec after a pause.
pub const EXEC_PACED: Measure = Measure::time("containerd.exec.paced", "exec after 0.3 s of quiet");
/// The time until Kill answers.
pub const KILL: Measure = Measure::time("containerd.kill", "kill: answered");
/// The time until Wait answers after Kill.
pub const KILLED: Measure = Measure::time("containerd.killed", "kill: exit seen");
/// The time of Metrics.
pub const STATS: Measure = Measure::time("containerd.stats", "stats");
/// The time of State of an idle container.
pub const STATE: Measure = Measure::time("containerd.state", "state");
/// The time of State of a container in which execs run.
pub const STATE_LOADED: Measure = Measure::time("containerd.state.loaded", "state while 4 execs run at a time");
/// The CPU time of a run.
pub const RUN_CPU: Measure = Measure::time("cpu.run", "CPU per run: containerd, shim, runtime, payload");
/// The CPU time of a run by the machine's clock.
pub const RUN_CPU_MACHINE: Measure = Measure::time("cpu.run.machine", "CPU per run: machine-wide");
/// The CPU time of an exec.
pub const EXEC_CPU: Measure = Measure::time("cpu.exec", "CPU per exec: containerd, shim, runtime, payload");
/// The CPU time of an exec by the machine's clock.
pub const EXEC_CPU_MACHINE: Measure = Measure::time("cpu.exec.machine", "CPU per exec: machine-wide");
/// The CPU time of the shim in an exec.
pub const EXEC_CPU_SHIM: Measure = Measure::time("cpu.exec.shim", "CPU per exec: the shim and what it waited for");

/// The number of consecutive runs in a batch. The first one follows other contestants.
const RUNS: u64 = 4;
/// The number of execs in a batch.
const EXECS: u64 = 10;
/// The time per round in which the idle machine is observed.
const IDLE: Duration = Duration::from_millis(150);
/// The time after a batch that counts as a part of it: shims end, and containerd collects garbage.
const TAIL: Duration = Duration::from_millis(60);
/// The pause before a paced operation. It is longer than the kernel's grace period, after which moving a process
/// between v1 cgroups is slow again.
const PAUSE: Duration = Duration::from_millis(300);

/// The parameters of all measures through containerd.
pub struct Bench<'a> {
    /// The node.
    pub node: &'a Node,
    /// The contestants.
    pub contestants: &'a [Contestant],
    /// The number of rounds.
    pub rounds: u32,
    /// The order of contestants.
    pub order: &'a mut Order,
    /// The results.
    pub results: &'a mut Results,
}

impl Bench<'_> {
    /// Runs one container from its record to its removal. Returns the times of its parts.
    async fn life(&self, who: Contestant) -> operation::Life {
        let prepared = self.node.prepare(who, None, &TRUE).await;
        let life = operation::run(&self.node.tasks, &prepared).await;
        self.node.discard(&prepared.id).await;
        life
    }

    /// Measures runs of all contestants, in batches.
    pub async fn runs(&mut self) {
        for who in self.contestants {
            self.life(*who).await;
        }
        let cgroup = self.node.cgroup();
        let mut account = Account::default();
        for _ in 0..self.rounds {
            account.watch_idle(&cgroup).await;
            for who in self.order.shuffled(self.contestants) {
                // The preparation is not a part of the run's time and CPU time.
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

    /// Measures execs of all contestants in one running container each, in batches, and then state and statistics.
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
                // The null shim has no statistics.
                if who != Contestant::Null {
                    self.results.add(&STATS, who, operation::stats(&self.node.tasks, id).await);
                }
                self.state_under_load(who, id).await;
            }
        }
        running.end(self.node).await;
    }

    /// Measures operations after a pause.
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

    /// Measures kills.
    pub async fn kills(&mut self) {
        for _ in 0..self.rounds {
            for who in self.order.shuffled(self.contestants) {
                // The processes of the null shim have exited before a kill.
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

/// One running container per contestant.
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

/// The machine's clock over all rounds, since its steps are too coarse for one batch.
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

    /// Adds one value per contestant, and the use of the idle machine, which bounds the precision of that value.
    fn report(&self, results: &mut Results, measure: &Measure) {
        for (who, used, operations) in &self.of {
            results.add(measure, *who, used.above(&self.idle) / operations);
        }
        results.neighbours = results.neighbours.max(Some(self.idle.machine * 1000 / self.idle.wall.max(1)));
    }
}
