//! Pods without a pause container (`sandboxer = "shim"`). With `RUNTIME=runc` the pods have one, and what a container sees
//! must be the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    containerd::{Containerd, Form, Runtime, Version},
    matrix,
    pod::{Container, Pod, container_config, parse, pod_config},
    procs,
    wait::{LONG, until_true},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

/// Runs a test under containerd 2 with pods that have no pause container.
fn run(test: fn(&Containerd)) {
    matrix::run(Version::V2_3, Form::WithoutPause, test);
}

/// The options of a pod: `network`, `pid` and `ipc` as numbers of the CRI (0 the pod's, 1 the container's, 2 the host's).
fn modes(network: u8, pid: u8, ipc: u8) -> Value {
    json!({"network": network, "pid": pid, "ipc": ipc})
}

fn with_modes(mut config: Value, modes: &Value) -> Value {
    config["linux"]["security_context"]["namespace_options"] = modes.clone();
    config
}

fn pod<'a>(containerd: &'a Containerd, name: &str, modes: &Value) -> Pod<'a> {
    let mut config = with_modes(pod_config(containerd, name), modes);
    if modes["network"] == 2 {
        config.as_object_mut().unwrap().remove("hostname");
    }
    Pod::run_config(containerd, config)
}

fn start<'a>(pod: &Pod<'a>, name: &str, modes: &Value) -> Container<'a> {
    pod.start_config(&with_modes(container_config(name, &["sleep", "1000"]), modes))
}

fn has_pause(containerd: &Containerd) -> bool {
    containerd.runtime == Runtime::Runc
}

fn processes(containerd: &Containerd) -> BTreeSet<String> {
    containerd.reservation.traces().into_iter().filter(|trace| trace.starts_with("process ")).collect()
}

#[test]
fn idle_pod_has_no_process_but_its_shim() {
    run(|containerd| {
        let before = processes(containerd);
        for (name, pid, inits) in [("own", 1, 0), ("shared", 0, 1)] {
            let pod = pod(containerd, name, &modes(0, pid, 0));
            let new: Vec<_> = processes(containerd).difference(&before).cloned().collect();
            let (shims, others): (Vec<_>, Vec<_>) =
                new.iter().partition(|process| process.contains(containerd.runtime.shim()));
            assert_eq!(shims.len(), 1, "{new:?}");
            assert_eq!(others.len(), if has_pause(containerd) { 1 } else { inits }, "{name}: {new:?}");
            pod.stop();
            pod.remove();
            until_true("the shim to end", LONG, || processes(containerd) == before);
        }
    });
}

/// Whose namespace each container has, for all modes of the network, the pids and the ipc.
#[test]
fn containers_get_the_namespaces_that_their_pod_asks_for() {
    run(|containerd| {
        let inode = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        for network in [0, 2] {
            for pid in [0, 1, 2] {
                for ipc in [0, 2] {
                    let modes = modes(network, pid, ipc);
                    let pod = pod(containerd, &format!("modes-{network}-{pid}-{ipc}"), &modes);
                    let pids = ["one", "two"].map(|name| start(&pod, name, &modes).pid().to_string());
                    let hosts = [("net", network), ("uts", network), ("ipc", ipc), ("pid", pid)];
                    for (kind, mode) in hosts {
                        let [one, two] = [&pids[0], &pids[1]].map(|pid| inode(pid, kind));
                        assert_eq!(one == inode("self", kind), mode == 2, "{modes}: {kind}: the host's");
                        assert_eq!(one == two, mode != 1, "{modes}: {kind}: shared");
                    }
                    assert_eq!(inode(&pids[0], "user"), inode("self", "user"));
                    pod.stop();
                    pod.remove();
                }
            }
        }
    });
}

#[test]
fn checkpoint_of_a_container_without_a_pause_container_is_refused() {
    run(|containerd| {
        if has_pause(containerd) {
            return;
        }
        let modes = modes(0, 1, 0);
        let pod = pod(containerd, "checkpoint", &modes);
        let one = start(&pod, "one", &modes);
        let images = containerd.dir().join("images");
        fs::create_dir(&images).unwrap();
        let words = ["tasks", "checkpoint", "--image-path", images.to_str().unwrap(), &one.id];
        let out = containerd.ctr_in("k8s.io", words);
        assert!(!out.status.success() && out.stderr.contains("has no pause container"), "{out}");
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
        one.exec(&["true"]).ok();
        pod.stop();
        pod.remove();
    });
}

#[test]
fn containers_share_the_files_of_their_pod() {
    run(|containerd| {
        let modes = modes(0, 1, 0);
        let mut config = with_modes(pod_config(containerd, "files"), &modes);
        config["dns_config"] =
            json!({"servers": ["10.1.2.3"], "searches": ["a.test", "b.test"], "options": ["ndots:5"]});
        let pod = Pod::run_config(containerd, config);
        let [one, two] = ["one", "two"].map(|name| start(&pod, name, &modes));
        assert_eq!(one.exec(&["cat", "/etc/hostname"]).ok(), "files");
        assert_eq!(one.exec(&["hostname"]).ok(), "files");
        let resolver = "search a.test b.test\nnameserver 10.1.2.3\noptions ndots:5";
        assert_eq!(one.exec(&["cat", "/etc/resolv.conf"]).ok(), resolver);
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        assert_eq!(one.exec(&["cat", "/etc/hosts"]).ok(), hosts.trim_end());
        one.exec(&["sh", "-c", "echo 10.9.9.9 other >> /etc/hosts; echo shared > /dev/shm/it"]).ok();
        assert!(two.exec(&["cat", "/etc/hosts"]).ok().contains("10.9.9.9 other"));
        assert_eq!(two.exec(&["cat", "/dev/shm/it"]).ok(), "shared");
        assert_eq!(two.exec(&["stat", "-c", "%u:%g %a", "/etc/hosts", "/dev/shm"]).ok(), "0:0 644\n0:0 1777");
        let shm = two.exec(&["sh", "-c", "grep ' /dev/shm ' /proc/mounts"]).ok();
        assert!(shm.contains("size=65536k"), "{shm}");
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap_or_default(), hosts, "the host's file is another one");
        // A volume of the container's own and a read-only root.
        let mut own = with_modes(container_config("own", &["sleep", "1000"]), &modes);
        own["mounts"] = json!([{"container_path": "/etc/hosts", "host_path": containerd.dir().join("config.toml")}]);
        own["linux"]["security_context"]["readonly_rootfs"] = json!(true);
        let own = pod.start_config(&own);
        assert!(own.exec(&["cat", "/etc/hosts"]).ok().contains("version = 3"));
        assert_ne!(own.exec(&["sh", "-c", "echo x >> /etc/resolv.conf"]).code(), 0);
        pod.stop();
        pod.remove();
    });
}

#[test]
fn kernel_parameters_of_a_pod_are_set_in_it_alone() {
    run(|containerd| {
        let modes = modes(0, 1, 0);
        let mut config = with_modes(pod_config(containerd, "sysctls"), &modes);
        config["linux"]["sysctls"] = json!({"net.core.somaxconn": "321", "kernel.shm_rmid_forced": "1"});
        let pod = Pod::run_config(containerd, config.clone());
        let main = start(&pod, "main", &modes);
        for (file, value) in [
            ("net/core/somaxconn", "321"),
            ("kernel/shm_rmid_forced", "1"),
            ("net/ipv4/ip_unprivileged_port_start", "0"),
            ("net/ipv4/ping_group_range", "0\t2147483647"),
        ] {
            assert_eq!(main.exec(&["cat", &format!("/proc/sys/{file}")]).ok(), value, "{file}");
            assert_ne!(fs::read_to_string(format!("/proc/sys/{file}")).unwrap().trim(), value, "{file} of the host");
        }
        pod.stop();
        pod.remove();
        config["metadata"]["name"] = json!("refused");
        config["linux"]["security_context"]["namespace_options"]["network"] = json!(2);
        config.as_object_mut().unwrap().remove("hostname");
        let file = containerd.dir().join("refused.json");
        fs::write(&file, config.to_string()).unwrap();
        let refused = containerd.crictl(["runp", "--runtime", containerd.runtime.handler(), &file.to_string_lossy()]);
        assert!(refused.stderr.contains("net.core.somaxconn"), "{}", refused.stderr);
        for left in containerd.crictl(["pods", "-q"]).ok().lines() {
            containerd.crictl(["rmp", "-f", left]).ok();
        }
    });
}

/// Root of a container with CAP_SYS_PTRACE and all pids of the pod finds nothing in `/proc/1` that is not its own. Its own
/// entry is the control.
#[test]
fn init_of_a_pod_reaps_orphans_and_shows_nothing() {
    run(|containerd| {
        let pod = pod(containerd, "init", &modes(0, 0, 0));
        let mut config = with_modes(container_config("main", &["sleep", "1000"]), &modes(0, 0, 0));
        config["linux"]["security_context"]["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE"]});
        let main = pod.start_config(&config);
        let pid = |name: &str| main.exec(&["sh", "-c", &format!("pidof {name}")]).ok();
        assert_eq!(pid("pause"), "1");
        let own = pid("sleep");
        // The orphan's parent is the init, which must reap it.
        main.exec(&["sh", "-c", "(sleep 0.1 &) ; exit 0"]).ok();
        let zombies =
            "for s in /proc/[0-9]*/stat; do read -r _ _ state _ < $s && [ $state = Z ] && echo $s; done; true";
        until_true("the orphan to be reaped", LONG, || {
            pid("sleep") == own && main.exec(&["sh", "-c", zombies]).ok().is_empty()
        });
        if has_pause(containerd) {
            pod.stop();
            pod.remove();
            return;
        }
        let list = |what: &str| main.exec(&["sh", "-c", what]).ok();
        assert!(list(&format!("ls /proc/{own}/root/etc")).contains("passwd"), "the control");
        assert_eq!(list("ls /proc/1/root/ 2>/dev/null"), "dev\npause");
        assert_eq!(list("ls /proc/1/root/dev /proc/1/fd"), "/proc/1/fd:\n\n/proc/1/root/dev:");
        assert_eq!(list("tr '\\0' '\\n' < /proc/1/environ"), "HOME=/");
        assert_ne!(main.exec(&["sh", "-c", "echo x > /proc/1/root/x"]).code(), 0);
        assert_ne!(main.exec(&["sh", "-c", "echo x > /proc/1/exe"]).code(), 0);
        let status = list("cat /proc/1/status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!([field("NoNewPrivs:"), field("Seccomp:"), field("Uid:")], ["1", "2", "65535\t65535\t65535\t65535"]);
        // Containers cannot end it.
        main.exec(&["sh", "-c", "kill -KILL 1; true"]).ok();
        assert_eq!(pod.inspect()["status"]["state"], "SANDBOX_READY");
        pod.stop();
        pod.remove();
    });
}

/// The init belongs to the pod's user namespace, and its memory to that of the host.
#[test]
fn init_of_a_userns_pod_is_closed_to_its_root() {
    run(|containerd| {
        if has_pause(containerd) {
            eprintln!("skipped: a pause container is open to root of its user namespace");
            return;
        }
        let ids = json!([{"host_id": 1_000_000, "container_id": 0, "length": 65536}]);
        let mut modes = modes(0, 0, 0);
        modes["userns_options"] = json!({"mode": 0, "uids": ids, "gids": ids});
        let pod = pod(containerd, "closed", &modes);
        let mut config = with_modes(container_config("main", &["sleep", "1000"]), &modes);
        config["linux"]["security_context"]["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE"]});
        let main = pod.start_config(&config);
        let status = main.exec(&["cat", "/proc/1/status"]).ok();
        assert!(status.contains("Name:\tpause\n") && status.contains("Uid:\t65535\t65535"), "{status}");
        let own = main.exec(&["pidof", "sleep"]).ok();
        for (file, command) in [("root", "ls"), ("environ", "cat"), ("fd", "ls"), ("maps", "cat")] {
            let read = |pid: &str| {
                main.exec(&["sh", "-c", &format!("{command} /proc/{pid}/{file}/ || {command} /proc/{pid}/{file}")])
            };
            assert_eq!(read(&own).code(), 0, "{file}: the control");
            assert_ne!(read("1").code(), 0, "{file}");
        }
        for kind in ["ipc", "uts", "net", "user"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let init = pod.inspect()["info"]["pid"].as_i64().unwrap();
            let [init, main] = [init.to_string(), main.pid().to_string()]
                .map(|pid| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap());
            assert!(init == main && main != ours, "{kind}: {init:?} {main:?} {ours:?}");
        }
        pod.stop();
        pod.remove();
    });
}

#[test]
fn pod_ends_when_its_init_is_killed() {
    run(|containerd| {
        if has_pause(containerd) {
            eprintln!("skipped: containerd's own shim waits for a pause container that was killed beside it");
            return;
        }
        let modes = modes(0, 0, 0);
        let pod = pod(containerd, "killed", &modes);
        let main = start(&pod, "main", &modes);
        let pid = pod.inspect()["info"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
        assert!(procs::alive(pid) && pid != main.pid());
        procs::kill(pid, Signal::KILL);
        until_true("the pod to be down", LONG, || pod.inspect()["status"]["state"] == "SANDBOX_NOTREADY");
        assert_eq!(main.exited()["exitCode"], 137);
        pod.clear();
    });
}

/// The namespaces stay the same ones, and containers and their exits are known to the new containerd.
#[test]
fn pod_survives_a_killed_containerd_between_all_steps() {
    run(|containerd| {
        let restart = || {
            containerd.kill();
            containerd.launch();
        };
        for pid in [0, 1] {
            let modes = modes(0, pid, 0);
            let pod = pod(containerd, &format!("restart-{pid}"), &modes);
            restart();
            assert_eq!(pod.inspect()["status"]["state"], "SANDBOX_READY");
            let one = pod.create(&with_modes(container_config("one", &["sh", "-c", "echo up; sleep 1000"]), &modes));
            restart();
            one.start();
            restart();
            one.expect_log("up");
            let two = start(&pod, "two", &modes);
            for kind in ["net", "ipc", "uts"] {
                let [a, b] = [&one, &two].map(|it| it.exec(&["readlink", &format!("/proc/self/ns/{kind}")]).ok());
                assert_eq!(a, b, "{kind}");
            }
            restart();
            one.stop(0);
            assert_eq!(one.exited()["exitCode"], 137);
            restart();
            one.remove();
            restart();
            pod.stop();
            restart();
            assert_eq!(pod.inspect()["status"]["state"], "SANDBOX_NOTREADY");
            pod.remove();
        }
        containerd.excuse_runc("network namespaces of a killed containerd");
    });
}

#[test]
fn killed_shim_of_an_empty_pod_leaves_nothing() {
    run(|containerd| {
        for pid in [0, 1] {
            let pod = pod(containerd, &format!("empty-{pid}"), &modes(0, pid, 0));
            let shim = containerd.shims().first().expect("a shim").pid;
            procs::kill(shim, Signal::KILL);
            // Until containerd has noticed the death of the shim, its question for the status fails.
            until_true("the pod to be down", LONG, || {
                let out = containerd.crictl(["inspectp", &pod.id]);
                out.status.success() && parse(&out.stdout)["status"]["state"] == "SANDBOX_NOTREADY"
            });
            pod.clear();
        }
        containerd.excuse_runc("its socket outlives a killed shim");
    });
}

/// `crictl inspectp`, `stats` and `statsp` show the pod.
#[test]
fn pod_is_described_to_its_clients() {
    run(|containerd| {
        let modes = modes(0, 1, 0);
        let pod = pod(containerd, "told", &modes);
        let main = start(&pod, "main", &modes);
        let told = pod.inspect();
        assert!(told["status"]["network"]["ip"].as_str().is_some_and(|ip| ip.starts_with("10.")), "{told}");
        assert_eq!(told["info"]["processStatus"], "running");
        let spec = &told["info"]["runtimeSpec"];
        assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-id"], pod.id, "{told}");
        if !has_pause(containerd) {
            assert_eq!(told["info"]["pid"], main.pid());
            // The paths in the specification are those of the namespaces in which the container is.
            let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
            assert_eq!(namespaces.len(), 3, "{spec}");
            for namespace in namespaces {
                let name = namespace["type"].as_str().unwrap().replace("network", "net");
                let path = namespace["path"].as_str().unwrap();
                let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
                let own = main.exec(&["readlink", &format!("/proc/self/ns/{name}")]).ok();
                assert_eq!(own, format!("{name}:[{inode}]"), "{path}");
            }
        }
        until_true("the stats of the container", LONG, || {
            containerd.crictl(["stats", "--output", "json", &main.id]).stdout.contains("usageCoreNanoSeconds")
        });
        until_true("the stats of the pod", LONG, || {
            containerd.crictl(["statsp", "--output", "json", &pod.id]).stdout.contains("usageCoreNanoSeconds")
        });
        pod.stop();
        pod.remove();
    });
}
