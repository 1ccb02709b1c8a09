//! The time of operations against the number of pods on the node, containers in a pod, mounts on the host, and earlier
//! execs.
//!
//! The pods, containers and execs belong to the measured contestant. The machine's speed drifts meanwhile, so each
//! measure takes its smallest size twice, before and after the others.

use super::{
    Contestant, Measure, Results,
    node::{Node, SLEEP, TRUE},
    operation,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio::task::JoinSet;

/// The time of a container's life by the number of pods on the node.
pub const CREATE_PODS: Measure = Measure::time("growth.pods.run", "create + … + delete, by pods on the node");
/// The time of an exec by the number of pods on the node.
pub const EXEC_PODS: Measure = Measure::time("growth.pods.exec", "exec, by pods on the node");
/// The time of a container's life in a pod by the number of containers there.
pub const CREATE_CONTAINERS: Measure =
    Measure::time("growth.containers.run", "create + … + delete in a pod, by containers in it");
/// The time of an exec in a pod by the number of containers there.
pub const EXEC_CONTAINERS: Measure = Measure::time("growth.containers.exec", "exec in a pod, by containers in it");
/// The time of a container's life by the number of mounts on the host.
pub const CREATE_MOUNTS: Measure = Measure::time("growth.mounts.run", "create + … + delete, by mounts on the host");
/// The time of an exec by the number of mounts on the host.
pub const EXEC_MOUNTS: Measure = Measure::time("growth.mounts.exec", "exec, by mounts on the host");
/// The time of an exec by the number of earlier execs.
pub const EXEC_EXECS: Measure = Measure::time("growth.execs.exec", "exec, by execs so far in the container");

/// The sizes for berth, and the largest ones for the others.
const PODS: [u64; 4] = [1, 20, 200, 500];
const PODS_OF_OTHERS: u64 = 200;
const CONTAINERS: [u64; 2] = [1, 64];
const MOUNTS: [u64; 2] = [100, 10_000];
const EXECS: [u64; 3] = [100, 500, 2000];
const EXECS_OF_OTHERS: u64 = 500;
/// The number of concurrent starts.
const AT_ONCE: usize = 8;

/// The node, the contestants, and the number of samples per size.
pub struct Growth<'a> {
    /// The node.
    pub node: &'a Node,
    /// The contestants.
    pub contestants: &'a [Contestant],
    /// The number of samples per size.
    pub samples: u32,
    /// The results.
    pub results: &'a mut Results,
}

impl Growth<'_> {
    /// Measures against the number of pods on the node.
    pub async fn pods(&mut self) {
        for who in self.contestants.iter().copied() {
            let probed = self.node.launch(who, None).await;
            let mut others = Vec::new();
            for many in PODS.into_iter().filter(|many| who == Contestant::Berth || *many <= PODS_OF_OTHERS) {
                self.launch_until(who, None, &mut others, many - 1).await;
                self.sample(who, None, &probed, many, [&CREATE_PODS, &EXEC_PODS]).await;
            }
            self.end(others).await;
            self.sample(who, None, &probed, PODS[0], [&CREATE_PODS, &EXEC_PODS]).await;
            self.node.end(&probed).await;
        }
    }

    /// Measures against the number of containers in one pod.
    pub async fn containers(&mut self) {
        for who in self.contestants.iter().copied() {
            let pod = self.node.launch(who, None).await;
            let mut others = Vec::new();
            for many in CONTAINERS {
                self.launch_until(who, Some(&pod), &mut others, many - 1).await;
                self.sample(who, Some(&pod), &pod, many, [&CREATE_CONTAINERS, &EXEC_CONTAINERS]).await;
            }
            self.end(others).await;
            self.sample(who, Some(&pod), &pod, CONTAINERS[0], [&CREATE_CONTAINERS, &EXEC_CONTAINERS]).await;
            self.node.end(&pod).await;
        }
    }

    /// Measures against the number of mounts in the namespace of containerd and the shims. Contestants take turns at
    /// each number.
    pub async fn mounts(&mut self) {
        let mut probed = Vec::new();
        for who in self.contestants.iter().copied() {
            probed.push((who, self.node.launch(who, None).await));
        }
        for many in [MOUNTS[0], MOUNTS[1], MOUNTS[0]] {
            let mounts = Mounts::make(&self.node.dir().join("mounts"), many);
            for (who, id) in &probed {
                self.sample(*who, None, id, many, [&CREATE_MOUNTS, &EXEC_MOUNTS]).await;
            }
            drop(mounts);
        }
        for (_, id) in probed {
            self.node.end(&id).await;
        }
    }

    /// Measures against the number of execs in one container.
    pub async fn execs(&mut self) {
        let process = self.node.process(&TRUE);
        for who in self.contestants.iter().copied() {
            let id = self.node.launch(who, None).await;
            let last = if who == Contestant::Berth { EXECS[2] } else { EXECS_OF_OTHERS };
            for so_far in 1..=last {
                let took = operation::exec(&self.node.tasks, &id, &self.node.fresh("exec"), &process).await;
                // The samples are the last hundred of each size.
                let size = EXECS.into_iter().find(|size| (size - 100..*size).contains(&(so_far - 1)));
                if let Some(size) = size {
                    self.results.add_at(&EXEC_EXECS, who, size, took);
                }
            }
            self.node.end(&id).await;
        }
    }

    /// Takes samples of a container's life (in `pod`, or in one of its own) and of an exec in `probed`.
    async fn sample(&mut self, who: Contestant, pod: Option<&str>, probed: &str, at: u64, measures: [&Measure; 2]) {
        let process = self.node.process(&TRUE);
        for _ in 0..self.samples {
            let prepared = self.node.prepare(who, pod, &TRUE).await;
            let life = operation::run(&self.node.tasks, &prepared).await;
            self.node.discard(&prepared.id).await;
            let exec = operation::exec(&self.node.tasks, probed, &self.node.fresh("exec"), &process).await;
            self.results.add_at(measures[0], who, at, life.sum);
            self.results.add_at(measures[1], who, at, exec);
        }
    }

    /// Starts containers until there are `many`, in `pod` or each in one of its own.
    async fn launch_until(&self, who: Contestant, pod: Option<&str>, ids: &mut Vec<String>, many: u64) {
        let mut starting = JoinSet::new();
        while (ids.len() as u64) < many {
            let prepared = self.node.prepare(who, pod, &SLEEP).await;
            ids.push(prepared.id.clone());
            let tasks = self.node.tasks.clone();
            if starting.len() >= AT_ONCE {
                starting.join_next().await.expect("there are some").expect("a start that does not panic");
            }
            starting.spawn(async move { operation::launch(&tasks, &prepared).await });
        }
        starting.join_all().await;
    }

    async fn end(&self, ids: Vec<String>) {
        let mut ending = JoinSet::new();
        for id in &ids {
            let (tasks, id) = (self.node.tasks.clone(), id.clone());
            if ending.len() >= AT_ONCE {
                ending.join_next().await.expect("there are some").expect("a kill that does not panic");
            }
            ending.spawn(async move { operation::kill(&tasks, &id).await });
        }
        ending.join_all().await;
        for id in ids {
            self.node.discard(&id).await;
        }
    }
}

/// Unused mounts below one directory. Dropping it unmounts them.
struct Mounts(PathBuf);

impl Mounts {
    fn make(dir: &Path, many: u64) -> Self {
        fs::create_dir_all(dir).expect("make a directory");
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).expect("mount a tmpfs");
        let this = Self(dir.to_owned());
        let source = dir.join("source");
        fs::create_dir(&source).expect("make a directory");
        for number in 1..many {
            let target = dir.join(number.to_string());
            fs::create_dir(&target).expect("make a directory");
            mount_bind(&source, &target).unwrap_or_else(|e| panic!("bind mount {number} of {many}: {e}"));
        }
        this
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).expect("unmount them all");
    }
}
