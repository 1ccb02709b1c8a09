//! The memory and threads of idle shims: with a growing number of pods on the node, and after many execs.
//!
//! A pod here is one shim with one container. smaps_rollup and status of /proc/PID (proc(5)) have the numbers.

use super::{Contestant, Measure, Results};
use berth_integration::{
    bundle::Bundle,
    cri_bundle,
    footprint::{Footprint, settle},
    procs,
    shim::{CALL, Kind, Shim, Sibling, container::exec_request},
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{DeleteRequest, ExecProcessRequest, KillRequest, ShutdownRequest, StartRequest, TaskClient, WaitRequest},
    ttrpc::context,
};

/// The private dirty memory.
pub const PRIVATE_DIRTY: Measure = Measure::bytes("memory.private_dirty", "private dirty memory per shim");
/// The proportional set size.
pub const PSS: Measure = Measure::bytes("memory.pss", "PSS per shim");
/// The resident set size.
pub const RSS: Measure = Measure::bytes("memory.rss", "RSS per shim");
/// The number of threads.
pub const THREADS: Measure = Measure::count("threads", "threads per shim");
/// The private dirty memory after execs.
pub const AFTER_EXECS: Measure = Measure::bytes("memory.private_dirty.execs", "private dirty memory after execs");
/// The proportional set size after execs.
pub const PSS_AFTER_EXECS: Measure = Measure::bytes("memory.pss.execs", "PSS after execs");
/// The number of threads after execs.
pub const THREADS_AFTER_EXECS: Measure = Measure::count("threads.execs", "threads after execs");

/// The numbers of pods at which shims are measured.
pub const PODS: [usize; 4] = [1, 20, 200, 500];
/// The largest number of pods for a shim with several threads: a small machine has no pids and memory for more.
const MANY_THREADS: usize = 200;

/// Returns those of the contestants that have shims, with their kind.
fn kinds(contestants: &[Contestant]) -> Vec<(Contestant, Kind)> {
    let all = [(Contestant::Berth, Kind::Berth), (Contestant::Runc, Kind::Runc), (Contestant::Null, Kind::Null)];
    all.into_iter().filter(|(who, _)| contestants.contains(who)).collect()
}

/// Starts pods up to `most`, one contestant after the other, and measures the shims at each number of [`PODS`]. Returns
/// a line for each number that was skipped, with the reason.
pub fn measure(contestants: &[Contestant], most: usize, results: &mut Results) -> Vec<String> {
    let mut spared = Vec::new();
    for (who, kind) in kinds(contestants) {
        let mut node = Node::start(kind);
        for number in PODS.into_iter().filter(|number| *number <= most) {
            let threads = Footprint::of(node.first.pid).threads;
            if number > MANY_THREADS && threads > 1 {
                spared.push(format!("{}: not with {number} pods of {threads} threads each", who.name()));
                continue;
            }
            node.grow(number);
            settle();
            for pid in node.pids() {
                let kept = at_rest(kind, pid);
                let at = number as u64;
                results.add_at(&PRIVATE_DIRTY, who, at, kept.private_dirty);
                results.add_at(&PSS, who, at, kept.pss);
                results.add_at(&RSS, who, at, kept.rss);
                results.add_at(&THREADS, who, at, kept.threads);
            }
        }
        node.end();
    }
    spared
}

/// Runs `execs` execs in one pod of each contestant and measures its shim before and after. The first hundred come
/// before the first measurement, since an unused heap would show growth in any case.
pub fn measure_execs(contestants: &[Contestant], execs: usize, results: &mut Results) {
    for (who, kind) in kinds(contestants) {
        let node = Node::start(kind);
        let mut done = 0;
        for until in [100, execs] {
            node.exec(done..until);
            done = until;
            settle();
            let kept = at_rest(kind, node.first.pid);
            let at = until as u64;
            results.add_at(&AFTER_EXECS, who, at, kept.private_dirty);
            results.add_at(&PSS_AFTER_EXECS, who, at, kept.pss);
            results.add_at(&THREADS_AFTER_EXECS, who, at, kept.threads);
        }
        node.end();
    }
}

/// Returns the footprint of an idle shim. berth's worker threads have ended by then.
fn at_rest(kind: Kind, pid: i32) -> Footprint {
    if kind == Kind::Berth {
        until_true("the shim to come to rest", LONG, || Footprint::of(pid).threads == 1);
    }
    Footprint::of(pid)
}

/// The pods of one contestant: the first shim, and those beside it.
struct Node {
    first: Shim,
    others: Vec<Sibling>,
    bundle: Bundle,
}

impl Node {
    fn start(kind: Kind) -> Self {
        let bundle = cri_bundle::pod_container(&["/bin/sleep", "100000"]);
        let first = Shim::start_as(kind, "pods");
        first.run(&container(0), &bundle);
        Self { first, others: Vec::new(), bundle }
    }

    fn grow(&mut self, number: usize) {
        for n in self.others.len() + 1..number {
            let sibling = self.first.sibling(&format!("pod{n}"));
            let create = self.first.request(&container(n), &self.bundle);
            let start = StartRequest { id: container(n), ..Default::default() };
            self.first.runtime().block_on(async {
                sibling.client.create(context::with_duration(CALL), &create).await.expect("create");
                sibling.client.start(context::with_duration(CALL), &start).await.expect("start");
            });
            self.others.push(sibling);
        }
    }

    fn pids(&self) -> Vec<i32> {
        std::iter::once(self.first.pid).chain(self.others.iter().map(|pod| pod.pid)).collect()
    }

    fn exec(&self, numbers: std::ops::Range<usize>) {
        let mut process = self.bundle.config["process"].clone();
        process["args"] = serde_json::json!(["/bin/true"]);
        let exec = exec_request(&container(0), "", &process, None);
        let client = self.first.connection();
        self.first.runtime().block_on(async {
            for number in numbers {
                one_exec(&client, &exec, format!("e{number}")).await;
            }
        });
    }

    fn end(self) {
        for (n, pod) in self.others.iter().enumerate() {
            let id = container(n + 1);
            self.first.runtime().block_on(async {
                let ctx = || context::with_duration(CALL);
                let kill = KillRequest { id: id.clone(), signal: 9, ..Default::default() };
                pod.client.kill(ctx(), &kill).await.expect("kill");
                let wait = WaitRequest { id: id.clone(), ..Default::default() };
                pod.client.wait(ctx(), &wait).await.expect("wait");
                let delete = DeleteRequest { id, ..Default::default() };
                pod.client.delete(ctx(), &delete).await.expect("delete");
                let answer = pod.client.shutdown(ctx(), &ShutdownRequest::default()).await;
                assert!(self.first.kind.may_leave_unanswered() || answer.is_ok(), "{answer:?}");
            });
        }
        for pod in &self.others {
            until_true("a shim to end", LONG, || !procs::alive(pod.pid));
        }
        self.first.end(&container(0));
        self.first.shut_down();
    }
}

/// Returns the id of the container of the `n`th pod.
fn container(n: usize) -> String {
    format!("c{n}")
}

async fn one_exec(client: &TaskClient, exec: &ExecProcessRequest, exec_id: String) {
    let ctx = || context::with_duration(CALL);
    let id = exec.id.clone();
    let request = ExecProcessRequest { exec_id: exec_id.clone(), ..exec.clone() };
    client.exec(ctx(), &request).await.expect("exec");
    let start = StartRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
    client.start(ctx(), &start).await.expect("start the exec");
    let wait = WaitRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
    assert_eq!(client.wait(ctx(), &wait).await.expect("wait").exit_status, 0, "the exec's status");
    let delete = DeleteRequest { id, exec_id, ..Default::default() };
    client.delete(ctx(), &delete).await.expect("delete the exec");
}
