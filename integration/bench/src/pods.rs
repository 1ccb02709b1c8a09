//! Pods as the kubelet starts them, through the CRI, until the container is Running: one at a time and ten at a time;
//! and the exec probe.
//!
//! crun does not take part: Debian 12's refuses the configuration that containerd 2.3 writes for a pod. The null shim
//! does not either: the processes of its pods have exited at once.

use super::{
    Contestant, Measure, Results,
    cpu::nanos,
    cri_api::{
        ContainerConfig, ContainerLinux, Cri, Name, NamespaceOption, PodConfig, PodLinux, PodMetadata, PodSecurity,
        RUNNING, Resources, Security, SecurityProfile,
    },
    node::{Node, SLEEP, TRUE},
    order::Order,
};
use berth_integration::{
    cri_bundle::{MASKED, READ_ONLY},
    image,
};
use std::time::Instant;
use tokio::task::JoinSet;

/// The time from RunPodSandbox to a Running container, by the number of concurrent pods.
pub const POD: Measure = Measure::time("cri.pod", "CRI: pod to Running, at a time");
/// The same on the node's network, without the CNI plugins, whose time is the same for all.
pub const POD_HOST: Measure = Measure::time("cri.pod.host", "CRI: pod on the host's network to Running, at a time");
/// The time of StopPodSandbox and RemovePodSandbox with a running container.
pub const REMOVE: Measure = Measure::time("cri.remove", "CRI: pod stopped and removed, at a time");
/// The time of ExecSync of /bin/true.
pub const PROBE: Measure = Measure::time("cri.probe", "CRI: exec probe (ExecSync of /bin/true)");

/// The numbers of concurrent pods.
const AT_ONCE: [u64; 2] = [1, 10];
/// The number of probes per pod.
const PROBES: u32 = 5;

/// Measures `contestants`.
pub async fn measure(node: &Node, contestants: &[Contestant], rounds: u32, order: &mut Order, results: &mut Results) {
    for round in 0..=rounds {
        for who in order.shuffled(contestants) {
            // A round with ten pods gives ten values, so a quarter of the rounds suffices.
            for many in AT_ONCE.into_iter().filter(|many| *many == 1 || round % 4 == 1) {
                for (host, measure) in [(false, &POD), (true, &POD_HOST)] {
                    let (took, pods) = bring_up(node, who, many, host).await;
                    let (removed, probes) = (take_down(node, &pods, many == 1).await, many == 1 && !host);
                    // The first round is a warm-up.
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

/// A running pod and its container.
struct Pod {
    id: String,
    container: String,
}

/// The time of the removal, and those of the probes.
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
    // The kubelet's defaults: a network namespace for the pod, and a pid namespace for each container.
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
