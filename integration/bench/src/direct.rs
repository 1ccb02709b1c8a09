//! The shims without containerd: the same calls on the shim's socket, which show the shim's own share of the time.

use super::{Contestant, Measure, Results, cpu::nanos, order::Order};
use berth_integration::{
    bundle::Bundle,
    cri_bundle,
    shim::{CALL, Kind, Shim, container::exec_request},
};
use berth_proto::{
    task::{DeleteRequest, ExecProcessRequest, StartRequest, TaskClient, WaitRequest},
    ttrpc::context,
};
use std::time::Instant;

/// The time of the program `start`, which finds or starts the server, from its spawn to its exit.
pub const LAUNCH: Measure = Measure::time("direct.launch", "shim alone: the program `start`");
/// The time of a container's life.
pub const RUN: Measure = Measure::time("direct.run", "shim alone: create + start + wait + delete");
/// The time of Create.
pub const CREATE: Measure = Measure::time("direct.run.create", "  create");
/// The time of Start.
pub const START: Measure = Measure::time("direct.run.start", "  start");
/// The time from Start's answer to Wait's.
pub const WAIT: Measure = Measure::time("direct.run.wait", "  wait (from start's answer)");
/// The time of Delete.
pub const DELETE: Measure = Measure::time("direct.run.delete", "  delete");
/// The time of Exec, Start, Wait and Delete of a process.
pub const EXEC: Measure = Measure::time("direct.exec", "shim alone: exec /bin/true");

/// The number of consecutive operations of one contestant. The first one is not counted.
const BATCH: usize = 4;

/// Returns the kind of a contestant's shim, if it has one.
fn kind(who: Contestant) -> Option<Kind> {
    match who {
        Contestant::Berth => Some(Kind::Berth),
        Contestant::Runc => Some(Kind::Runc),
        Contestant::Null => Some(Kind::Null),
        Contestant::Crun | Contestant::Bare => None,
    }
}

/// Measures each of `contestants` that is a shim. Each has one shim for the whole time.
pub fn measure(contestants: &[Contestant], rounds: u32, order: &mut Order, results: &mut Results) {
    let known: Vec<Contestant> = contestants.iter().copied().filter(|who| kind(*who).is_some()).collect();
    let mut lanes: Vec<(Contestant, Lane)> =
        known.iter().filter_map(|who| Some((*who, Lane::start(kind(*who)?)))).collect();
    for _ in 0..rounds {
        for who in order.shuffled(&known) {
            if let Some((_, lane)) = lanes.iter_mut().find(|(owner, _)| *owner == who) {
                lane.round(who, results);
            }
        }
        for who in order.shuffled(&known) {
            if let Some(kind) = kind(who) {
                let shim = Shim::start_as(kind, "launch");
                results.add(&LAUNCH, who, nanos(shim.launched));
                shim.shut_down();
            }
        }
    }
    lanes.into_iter().for_each(|(_, lane)| lane.end());
}

/// A shim with one container that stays, for execs.
struct Lane {
    shim: Shim,
    client: TaskClient,
    /// A connection for Wait alone. Two threads on one connection may send calls out of order, which the Go shim
    /// refuses (ttrpc 0.10: "StreamID cannot be re-used and must increment").
    waits: TaskClient,
    bundle: Bundle,
    exec: ExecProcessRequest,
    next: u32,
}

const HOST: &str = "host";

impl Lane {
    fn start(kind: Kind) -> Self {
        let shim = Shim::start_as(kind, "direct");
        let host = cri_bundle::pod_container(&["/bin/sleep", "100000"]);
        shim.run(HOST, &host);
        let mut process = host.config["process"].clone();
        process["args"] = serde_json::json!(["/bin/true"]);
        let exec = exec_request(HOST, "", &process, None);
        let (client, waits) = (shim.connection(), shim.connection());
        Self { shim, client, waits, bundle: cri_bundle::pod_container(&["/bin/true"]), exec, next: 0 }
    }

    fn round(&mut self, who: Contestant, results: &mut Results) {
        for n in 0..BATCH {
            let life = self.run();
            if n > 0 {
                let sum = life.iter().sum();
                for (measure, value) in [RUN, CREATE, START, WAIT, DELETE].iter().zip([sum].into_iter().chain(life)) {
                    results.add(measure, who, value);
                }
            }
        }
        for n in 0..BATCH {
            let took = self.exec();
            if n > 0 {
                results.add(&EXEC, who, took);
            }
        }
    }

    fn fresh(&mut self, word: &str) -> String {
        self.next += 1;
        format!("{word}{}", self.next)
    }

    /// Runs Create, Start, Wait (from Start's answer) and Delete. Returns the times in ns.
    fn run(&mut self) -> [u64; 4] {
        let id = self.fresh("c");
        let request = self.shim.request(&id, &self.bundle);
        let client = &self.client;
        let ctx = || context::with_duration(CALL);
        self.shim.runtime().block_on(async {
            let begin = Instant::now();
            client.create(ctx(), &request).await.expect("create");
            let created = Instant::now();
            let wait = wait_ahead(&self.waits, &id, "");
            let start = StartRequest { id: id.clone(), ..Default::default() };
            client.start(ctx(), &start).await.expect("start");
            let started = Instant::now();
            assert_eq!(wait.await.expect("wait"), 0, "the payload's status");
            let exited = Instant::now();
            let delete = DeleteRequest { id: id.clone(), ..Default::default() };
            client.delete(ctx(), &delete).await.expect("delete");
            [created - begin, started - created, exited - started, exited.elapsed()].map(nanos)
        })
    }

    /// Runs Exec, Start, Wait and Delete. Returns the time in ns.
    fn exec(&mut self) -> u64 {
        let exec = self.fresh("e");
        let request = ExecProcessRequest { exec_id: exec.clone(), ..self.exec.clone() };
        let client = &self.client;
        let ctx = || context::with_duration(CALL);
        self.shim.runtime().block_on(async {
            let begin = Instant::now();
            client.exec(ctx(), &request).await.expect("exec");
            let wait = wait_ahead(&self.waits, HOST, &exec);
            let start = StartRequest { id: HOST.into(), exec_id: exec.clone(), ..Default::default() };
            client.start(ctx(), &start).await.expect("start the exec");
            assert_eq!(wait.await.expect("wait"), 0, "the exec's status");
            let delete = DeleteRequest { id: HOST.into(), exec_id: exec.clone(), ..Default::default() };
            client.delete(ctx(), &delete).await.expect("delete the exec");
            nanos(begin.elapsed())
        })
    }

    fn end(self) {
        self.shim.end(HOST);
        self.shim.shut_down();
    }
}

/// Calls Wait before Start, as clients do. Returns the exit status.
fn wait_ahead(client: &TaskClient, id: &str, exec: &str) -> tokio::task::JoinHandle<u32> {
    let client = client.clone();
    let request = WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
    tokio::spawn(async move { client.wait(context::with_duration(CALL), &request).await.expect("wait").exit_status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_without_a_shim_are_left_out() {
        let shims: Vec<_> = Contestant::ALL.into_iter().filter(|who| kind(*who).is_some()).collect();
        assert_eq!(shims, [Contestant::Berth, Contestant::Runc, Contestant::Null]);
    }
}
