//! Pods as the kubelet brings them up, through the CRI: until the container is Running, one and ten at a time; and the
//! exec probe.
//!
//! crun is not there: Debian 12's refuses the configuration that containerd 2.3 writes for a pod. Nor is the null shim:
//! a pod whose processes end at once is none.

use std::time::Instant;

use tokio::task::JoinSet;

use super::cpu::nanos;
use super::cri_api::{
    ContainerConfig, ContainerLinux, Cri, Name, NamespaceOption, PodConfig, PodLinux, PodMetadata, PodSecurity,
    RUNNING, Resources, Security, SecurityProfile,
};
use super::node::{Node, SLEEP, TRUE};
use super::order::Order;
use super::{Contestant, Measure, Results};
use berth_integration::cri_bundle::{MASKED, READ_ONLY};
use berth_integration::image;

/// From RunPodSandbox to a container that is Running, by how many are begun at a time.
pub const POD: Measure = Measure::time("cri.pod", "CRI: pod to Running, at a time");
/// The same with the node's network: without the CNI plugins, which cost all the same.
pub const POD_HOST: Measure = Measure::time("cri.pod.host", "CRI: pod on the host's network to Running, at a time");
/// StopPodSandbox and RemovePodSandbox, with a container that runs.
pub const REMOVE: Measure = Measure::time("cri.remove", "CRI: pod stopped and removed, at a time");
/// ExecSync of /bin/true.
pub const PROBE: Measure = Measure::time("cri.probe", "CRI: exec probe (ExecSync of /bin/true)");

/// How many pods are begun at a time.
const AT_ONCE: [u64; 2] = [1, 10];
/// Probes a pod.
const PROBES: u32 = 5;

/// Measures `contestants`.
pub async fn measure(node: &Node, contestants: &[Contestant], rounds: u32, order: &mut Order, results: &mut Results) {
    for round in 0..=rounds {
        for who in order.shuffled(contestants) {
            // Ten at a time are ten: a quarter of the rounds has enough of them.
            for many in AT_ONCE.into_iter().filter(|many| *many == 1 || round % 4 == 1) {
                for (host, measure) in [(false, &POD), (true, &POD_HOST)] {
                    let (took, pods) = bring_up(node, who, many, host).await;
                    let (removed, probes) = (take_down(node, &pods, many == 1).await, many == 1 && !host);
                    // The first round warms up.
                    if round > 0 {
                        results.add_at(measure, who, many, took);
                        results.add_at(&REMOVE, who, many, removed.took);
                        removed.probes.into_iter().filter(|_| probes).for_each(|took| results.add(&PROBE, who, took));
                    }
                }
            }
        }
    }
}

/// A pod that runs, and its container.
struct Pod {
    id: String,
    container: String,
}

/// How long it took.
struct Removed {
    took: u64,
    probes: Vec<u64>,
}

async fn bring_up(node: &Node, who: Contestant, many: u64, host: bool) -> (u64, Vec<Pod>) {
    let configs: Vec<PodConfig> = (0..many).map(|_| pod_config(node, host)).collect();
    let mut starting = JoinSet::new();
    let begin = Instant::now();
    for config in configs {
        starting.spawn(bring_one_up(node.cri.clone(), who.name(), config));
    }
    let pods = starting.join_all().await;
    let took = nanos(begin.elapsed());
    pods.iter().for_each(|pod| node.containerd.reservation.expect_shim("k8s.io", &pod.id));
    (took, pods)
}

async fn bring_one_up(cri: Cri, handler: &str, config: PodConfig) -> Pod {
    let id = cri.run_pod(&config, handler).await.unwrap_or_else(|e| panic!("run a pod: {e}"));
    let container = cri.create(&id, &container_config(), &config).await;
    let container = container.unwrap_or_else(|e| panic!("create in pod {id}: {e}"));
    cri.start(&container).await.unwrap_or_else(|e| panic!("start {container} in pod {id}: {e}"));
    let state = cri.state(&container).await.unwrap_or_else(|e| panic!("state of {container}: {e}"));
    assert_eq!(state, RUNNING, "the state of {container}");
    Pod { id, container }
}

async fn take_down(node: &Node, pods: &[Pod], probe: bool) -> Removed {
    let mut probes = Vec::new();
    if probe {
        for pod in pods {
            for _ in 0..PROBES {
                let begin = Instant::now();
                let code = node.cri.exec(&pod.container, &TRUE).await.unwrap_or_else(|e| panic!("probe: {e}"));
                assert_eq!(code, 0, "the probe's exit code");
                probes.push(nanos(begin.elapsed()));
            }
        }
    }
    let mut ending = JoinSet::new();
    let begin = Instant::now();
    for pod in pods {
        let (cri, id) = (node.cri.clone(), pod.id.clone());
        ending.spawn(async move { cri.remove_pod(&id).await.unwrap_or_else(|e| panic!("remove {id}: {e}")) });
    }
    ending.join_all().await;
    Removed { took: nanos(begin.elapsed()), probes }
}

fn pod_config(node: &Node, host: bool) -> PodConfig {
    let name = node.fresh("pod");
    // The kubelet's defaults: a network of the pod's own, and a pid namespace for each container.
    let namespaces = NamespaceOption { network: if host { 2 } else { 0 }, pid: 1 };
    let security = PodSecurity { namespaces: Some(namespaces), seccomp: Some(SecurityProfile {}) };
    PodConfig {
        metadata: Some(PodMetadata { name: name.clone(), uid: name.clone(), namespace: "default".into() }),
        log_directory: node.dir().join("logs").join(&name).display().to_string(),
        hostname: if host { String::new() } else { name },
        labels: Default::default(),
        linux: Some(PodLinux { cgroup_parent: node.cgroup(), security: Some(security) }),
    }
}

fn container_config() -> ContainerConfig {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ContainerConfig {
        metadata: Some(Name { name: "main".into() }),
        image: Some(Name { name: image::BUSYBOX.into() }),
        command: words(&SLEEP),
        labels: Default::default(),
        log_path: "main.log".into(),
        linux: Some(ContainerLinux {
            resources: Some(Resources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 512,
                memory_limit: 64 << 20,
            }),
            security: Some(Security {
                namespaces: Some(NamespaceOption { network: 0, pid: 1 }),
                no_new_privs: true,
                masked_paths: words(&MASKED),
                readonly_paths: words(&READ_ONLY),
                seccomp: Some(SecurityProfile {}),
            }),
        }),
    }
}
