//! Sixty-four concurrent containers and execs in one pod, beside the same work spread over as many pods.

use super::{
    Contestant, Measure, Results,
    cpu::nanos,
    node::{Node, TRUE},
    operation,
    order::Order,
};
use std::time::Instant;
use tokio::task::JoinSet;

/// The time of containers in one pod.
pub const CONTAINERS_ONE: Measure = Measure::time("density.containers.one", "64 containers at a time in one pod");
/// The time of containers in one pod each.
pub const CONTAINERS_SPREAD: Measure =
    Measure::time("density.containers.spread", "64 containers at a time in 64 pods that run");
/// The time of execs in one pod.
pub const EXECS_ONE: Measure = Measure::time("density.execs.one", "64 execs at a time in one pod");
/// The time of execs in one pod each.
pub const EXECS_SPREAD: Measure = Measure::time("density.execs.spread", "64 execs at a time in 64 pods");

const MANY: usize = 64;

/// Measures `contestants`, each with 64 running pods.
pub async fn measure(node: &Node, contestants: &[Contestant], rounds: u32, order: &mut Order, results: &mut Results) {
    let mut pods = Vec::new();
    for who in contestants {
        let mut of_one = Vec::new();
        for _ in 0..MANY {
            of_one.push(node.launch(*who, None).await);
        }
        pods.push((*who, of_one));
    }
    for round in 0..=rounds {
        for who in order.shuffled(contestants) {
            let all = &pods.iter().find(|(one, _)| *one == who).expect("it has pods").1;
            let one = vec![all[0].clone(); MANY];
            let took = [
                (&CONTAINERS_ONE, containers(node, who, &one).await),
                (&CONTAINERS_SPREAD, containers(node, who, all).await),
                (&EXECS_ONE, execs(node, &one).await),
                (&EXECS_SPREAD, execs(node, all).await),
            ];
            // The first round is a warm-up.
            if round > 0 {
                took.into_iter().for_each(|(measure, took)| results.add(measure, who, took));
            }
        }
    }
    for id in pods.into_iter().flat_map(|(_, of_one)| of_one) {
        node.end(&id).await;
    }
}

/// Runs one container in each of `pods` concurrently, and returns the time.
async fn containers(node: &Node, who: Contestant, pods: &[String]) -> u64 {
    let mut prepared = Vec::new();
    for pod in pods {
        prepared.push(node.prepare(who, Some(pod), &TRUE).await);
    }
    let mut lives = JoinSet::new();
    let begin = Instant::now();
    for one in prepared.clone() {
        let tasks = node.tasks.clone();
        lives.spawn(async move { operation::run(&tasks, &one).await });
    }
    lives.join_all().await;
    let took = nanos(begin.elapsed());
    for one in prepared {
        node.discard(&one.id).await;
    }
    took
}

/// Runs one exec in each of `pods` concurrently, and returns the time.
async fn execs(node: &Node, pods: &[String]) -> u64 {
    let process = node.process(&TRUE);
    let mut execs = JoinSet::new();
    let begin = Instant::now();
    for pod in pods {
        let (tasks, pod, name, process) = (node.tasks.clone(), pod.clone(), node.fresh("exec"), process.clone());
        execs.spawn(async move { operation::exec(&tasks, &pod, &name, &process).await });
    }
    execs.join_all().await;
    nanos(begin.elapsed())
}
