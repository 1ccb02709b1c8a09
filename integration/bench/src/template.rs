//! The config.json of all contestants: the one that containerd writes for a pod's container with the kubelet's requests
//! and the default seccomp profile, without references to that pod.

use berth_integration::{
    containerd::Containerd,
    cri_bundle::{MASKED, READ_ONLY},
    pod::{Pod, container_config},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Runs such a pod, takes its container's config.json, and removes the pod.
pub fn take(containerd: &Containerd) -> Value {
    let pod = Pod::run(containerd, "template");
    let mut wanted = container_config("main", &["sleep", "100000"]);
    // The first processes of runc's execs are Go programs in the container's cgroup until they execute the payload.
    // Under a limit of 64 MiB the kernel kills them when 64 start at a time.
    wanted["linux"]["resources"] = json!({
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 1 << 30,
    });
    wanted["linux"]["security_context"] = json!({
        "namespace_options": {"pid": 1}, "no_new_privs": true, "seccomp": {"profile_type": 0},
        "masked_paths": MASKED, "readonly_paths": READ_ONLY,
    });
    let main = pod.start_config(&wanted);
    let file = containerd.dir().join("state/io.containerd.runtime.v2.task/k8s.io").join(&main.id).join("config.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    assert!(config["linux"]["seccomp"]["syscalls"].is_array(), "containerd's default profile is in {text}");
    keep_sources(&mut config, &containerd.dir().join("volumes"));
    pod.stop();
    pod.remove();
    settle(&mut config);
    config
}

/// Copies the sources of bind mounts from the pod's directories (hosts, resolv.conf, hostname, shm), and binds the
/// copies.
fn keep_sources(config: &mut Value, volumes: &Path) {
    fs::create_dir_all(volumes).expect("make the directory of the volumes");
    for mount in config["mounts"].as_array_mut().expect("mounts") {
        let source = mount["source"].as_str().unwrap_or_default().to_owned();
        let source = Path::new(&source);
        if mount["type"] != "bind" || !source.is_absolute() {
            continue;
        }
        let copy = volumes.join(source.file_name().expect("a name"));
        if source.is_dir() {
            fs::create_dir_all(&copy).expect("make a directory");
        } else {
            fs::copy(source, &copy).unwrap_or_else(|e| panic!("copy {}: {e}", source.display()));
        }
        mount["source"] = json!(copy);
    }
}

/// Makes every namespace new, and removes references to the pod.
fn settle(config: &mut Value) {
    for namespace in config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        namespace.as_object_mut().expect("an object").remove("path");
    }
    // Debian 12's crun accepts no later version.
    config["ociVersion"] = json!("1.0.2");
    config["annotations"] = json!({"io.kubernetes.cri.container-type": "container"});
}

/// Returns the template for one container with its cgroup, its args, and its pod.
pub fn container(template: &Value, cgroup: &str, pod: &str, args: &[&str]) -> Value {
    let mut config = template.clone();
    config["linux"]["cgroupsPath"] = json!(cgroup);
    config["process"]["args"] = json!(args);
    config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(pod);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_keeps_nothing_of_its_pod() {
        let mut config = json!({
            "ociVersion": "1.3.0", "process": {"args": ["sleep"]}, "annotations": {"io.kubernetes.cri.sandbox-id": "old"},
            "linux": {"cgroupsPath": "/old", "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]},
        });
        settle(&mut config);
        assert_eq!(config["linux"]["namespaces"], json!([{"type": "pid"}, {"type": "network"}]));
        let one = container(&config, "/lab/a", "pod", &["true"]);
        assert_eq!(one["linux"]["cgroupsPath"], "/lab/a");
        assert_eq!((&one["process"]["args"], &one["ociVersion"]), (&json!(["true"]), &json!("1.0.2")));
        assert_eq!(one["annotations"]["io.kubernetes.cri.sandbox-id"], "pod");
    }
}
