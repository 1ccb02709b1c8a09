//! A pod with its own user namespace, as the kubelet asks for it (`hostUsers: false`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    containerd::{Containerd, Form, Runtime, Version},
    matrix,
    pod::{Pod, container_config, parse, pod_config},
    procs,
    wait::{LONG, until_true},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// The first host id of the pod, and the number of its ids.
const HOST: u32 = 1_000_000;
const SIZE: u32 = 65536;

/// Only containerd 2.x knows user namespaces, and it passes the needed options to a handler of runc's type, or to one
/// without a table of options.
fn run(test: fn(&Containerd)) {
    run_with_pause(test);
    if Runtime::under_test(Form::ByPath) != Runtime::Runc {
        matrix::run(Version::V2_3, Form::WithoutPause, test);
    }
}

/// With a pause container alone.
fn run_with_pause(test: fn(&Containerd)) {
    matrix::run(Version::V2_3, Form::ByPath, test);
}

fn options() -> Value {
    let ids = json!([{"host_id": HOST, "container_id": 0, "length": SIZE}]);
    json!({"mode": 0, "uids": ids, "gids": ids})
}

fn pod<'a>(containerd: &'a Containerd, name: &str) -> Pod<'a> {
    let mut config = pod_config(containerd, name);
    config["linux"]["security_context"]["namespace_options"] = json!({"pid": 1, "userns_options": options()});
    Pod::run_config(containerd, config)
}

fn container(name: &str, args: &[&str]) -> Value {
    let mut config = container_config(name, args);
    config["linux"]["security_context"]["namespace_options"] = json!({"pid": 1, "userns_options": options()});
    config
}

/// The kubelet runs such pods only if containerd lists the feature for the handler.
#[test]
fn containerd_lists_user_namespaces_as_a_feature() {
    run(|containerd| {
        let info = parse(&containerd.crictl(["info"]).ok());
        let handlers = info["runtimeHandlers"].as_array().expect("handlers");
        let ours = handlers.iter().find(|h| h["name"] == containerd.runtime.handler()).expect("our handler");
        assert_eq!(ours["features"]["user_namespaces"], true, "{ours}");
        assert_eq!(ours["features"]["recursive_read_only_mounts"], true, "{ours}");
    });
}

#[test]
fn containers_of_a_userns_pod_share_its_ids_and_a_volume() {
    run(|containerd| {
        let volume = containerd.dir().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("there"), "from the host").unwrap();
        for (path, id) in [(&volume, 1000), (&volume.join("there"), 1000)] {
            chown(path, Some(id), Some(id)).unwrap();
        }
        let pod = pod(containerd, "users");
        let [one, two] = ["one", "two"].map(|name| {
            let mut config = container(name, &["sh", "-c", "echo up; exec sleep 1000"]);
            config["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
            config["linux"]["security_context"]["run_as_group"] = json!({"value": 1000});
            let map = json!([{"host_id": HOST, "container_id": 0, "length": SIZE}]);
            config["mounts"] =
                json!([{"container_path": "/vol", "host_path": volume, "uidMappings": map, "gidMappings": map}]);
            pod.start_config(&config)
        });
        for it in [&one, &two] {
            // The payload's user owns the pipe of its output and can write to it.
            it.expect_log(" stdout F up\n");
            let map = it.exec(&["cat", "/proc/self/uid_map", "/proc/1/gid_map"]).ok();
            let words: Vec<_> = map.split_whitespace().collect();
            assert_eq!(words, ["0", "1000000", "65536", "0", "1000000", "65536"]);
            // The host sees another user. The container sees the image as root's and the volume as its owner's.
            let status = std::fs::metadata(format!("/proc/{}", it.pid())).unwrap();
            assert_eq!((status.uid(), status.gid()), (HOST + 1000, HOST + 1000));
            assert_eq!(it.exec(&["stat", "-c", "%u:%g", "/", "/bin/busybox", "/etc/hosts"]).ok(), "0:0\n0:0\n0:0");
            assert_eq!(it.exec(&["stat", "-c", "%u:%g", "/vol", "/vol/there"]).ok(), "1000:1000\n1000:1000");
            assert_eq!(it.exec(&["sh", "-c", "echo again > /dev/stdout"]).ok(), "again");
            assert_eq!(it.exec(&["sh", "-c", "echo x > /dev/null && cat /dev/null && echo fine"]).ok(), "fine");
            let mounts = it.exec(&["cat", "/proc/mounts"]).ok();
            for kind in ["proc", "sysfs", "mqueue", "devpts"] {
                assert!(mounts.lines().any(|l| l.split(' ').nth(2) == Some(kind)), "{kind}: {mounts}");
            }
        }
        one.exec(&["sh", "-c", "echo new > /vol/new"]).ok();
        assert_eq!(two.exec(&["cat", "/vol/new"]).ok(), "new");
        let new = std::fs::metadata(volume.join("new")).unwrap();
        assert_eq!((new.uid(), new.gid()), (1000, 1000));
        for kind in ["user", "net", "ipc", "uts", "mnt"] {
            let [a, b] = [&one, &two].map(|it| std::fs::read_link(format!("/proc/{}/ns/{kind}", it.pid())).unwrap());
            assert_eq!(a == b, kind != "mnt", "{kind}");
        }
        one.stop(0);
        one.remove();
        pod.stop();
        pod.remove();
    });
}

/// containerd leaves the image as it is on disk and asks the shim to idmap it: the lower layers belong to the host's
/// root, and the mount options have the pod's mappings.
#[test]
fn image_of_a_userns_pod_is_idmapped_and_not_copied() {
    run_with_pause(|containerd| {
        let pod = pod(containerd, "mapped");
        let main = pod.start_config(&container("main", &["sleep", "1000"]));
        for id in [&pod.id, &main.id] {
            let mount = containerd.ctr_in("k8s.io", ["snapshots", "mounts", "/nowhere", id]).ok();
            let options = mount.split(" -o ").nth(1).expect("options").trim();
            let option = |name: &str| {
                let found = options.split(',').find_map(|option| option.strip_prefix(name));
                found.unwrap_or_else(|| panic!("no {name} in {mount}")).to_owned()
            };
            assert_eq!([option("uidmap="), option("gidmap=")], ["0:1000000:65536"; 2]);
            for layer in option("lowerdir=").split(':') {
                let file = ["bin/busybox", "pause", "."].map(|name| Path::new(layer).join(name));
                let file = std::fs::metadata(file.iter().find(|file| file.exists()).unwrap()).unwrap();
                assert_eq!((file.uid(), file.gid()), (0, 0), "{layer}");
            }
            assert_eq!(std::fs::metadata(option("upperdir=")).unwrap().uid(), HOST);
        }
        // The host sees the root filesystem as that of the pod's root.
        let root = PathBuf::from(format!("/proc/{}/root", main.pid()));
        for name in ["", "bin", "bin/busybox"] {
            let there = std::fs::metadata(root.join(name)).unwrap();
            assert_eq!((there.uid(), there.gid()), (HOST, HOST), "{name}");
        }
        assert_eq!(main.exec(&["stat", "-c", "%u:%g", "/", "/bin", "/bin/busybox"]).ok(), "0:0\n0:0\n0:0");
        // A changed file is a copy that belongs to the pod's root as well.
        main.exec(&["chown", "5:6", "/bin/busybox"]).ok();
        assert_eq!(main.exec(&["stat", "-c", "%u:%g", "/bin/busybox"]).ok(), "5:6");
        let there = std::fs::metadata(root.join("bin/busybox")).unwrap();
        assert_eq!((there.uid(), there.gid()), (HOST + 5, HOST + 6));
        pod.stop();
        pod.remove();
    });
}

/// The process's user owns the streams, inside and outside, and can reopen them.
#[test]
fn streams_of_a_userns_pod_belong_to_its_user() {
    run(|containerd| {
        let pod = pod(containerd, "streams");
        for (name, tty) in [("pipes", false), ("terminal", true)] {
            let mut config = container(name, &["sleep", "1000"]);
            config["tty"] = json!(tty);
            config["stdin"] = json!(tty);
            config["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
            let it = pod.start_config(&config);
            for fd in [0, 1, 2] {
                let there = std::fs::metadata(format!("/proc/{}/fd/{fd}", it.pid())).unwrap();
                // /dev/null keeps its owner.
                if there.rdev() != rustix::fs::makedev(1, 3) {
                    assert_eq!(there.uid(), HOST + 1000, "{name}: {fd}");
                }
            }
            it.exec(&["sh", "-c", "echo anew > /proc/1/fd/1"]).ok();
            it.expect_log("anew");
            if tty {
                assert_eq!(it.exec(&["stat", "-c", "%u", "/dev/console"]).ok(), "1000");
            }
        }
        pod.stop();
        pod.remove();
    });
}

/// Root of the pod with a terminal, and an access that it must not have.
#[test]
fn root_of_a_userns_pod_has_no_rights_on_the_host() {
    run_with_pause(|containerd| {
        let secret = containerd.dir().join("secret");
        std::fs::write(&secret, "of the host").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let pod = pod(containerd, "root");
        let mut config = container("main", &["sh", "-c", "test -t 0 && echo terminal; exec sleep 1000"]);
        config["tty"] = json!(true);
        config["stdin"] = json!(true);
        // A mount without mappings keeps the host's ids.
        config["mounts"] = json!([{"container_path": "/secret", "host_path": secret}]);
        let main = pod.start_config(&config);
        main.expect_log("terminal");
        assert_eq!(main.exec(&["id", "-u"]).ok(), "0");
        assert_ne!(main.exec(&["cat", "/secret"]).code(), 0);
        assert_eq!(main.exec(&["stat", "-c", "%u", "/secret"]).ok(), "65534");
        assert_eq!(main.exec(&["sh", "-c", "touch /made && stat -c %u:%g /made"]).ok(), "0:0");
        pod.stop();
        pod.remove();
    });
}

/// With the host's network the network namespace is the host's, and /sys is bound.
#[test]
fn userns_pod_runs_in_the_network_of_the_host() {
    run(|containerd| {
        let mut config = pod_config(containerd, "hostnet");
        config.as_object_mut().unwrap().remove("hostname");
        config["linux"]["security_context"]["namespace_options"] =
            json!({"network": 2, "pid": 1, "userns_options": options()});
        let pod = Pod::run_config(containerd, config);
        let mut config = container("main", &["sleep", "1000"]);
        config["linux"]["security_context"]["namespace_options"] =
            json!({"network": 2, "pid": 1, "userns_options": options()});
        let main = pod.start_config(&config);
        let [ours, theirs] = ["self".to_owned(), main.pid().to_string()]
            .map(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap());
        assert_eq!(ours, theirs);
        assert_eq!(main.exec(&["test", "-d", "/sys/class/net/lo"]).code(), 0);
        assert_ne!(main.exec(&["sh", "-c", "mkdir /sys/fs/cgroup/x"]).code(), 0);
        pod.stop();
        pod.remove();
    });
}

/// Neither the mounts of the layers nor other traces outlive a killed shim.
#[test]
fn killed_shim_of_a_userns_pod_leaves_no_mount() {
    run(|containerd| {
        let pod = pod(containerd, "killed");
        pod.start_config(&container("main", &["sleep", "1000"]));
        let shim = containerd.shims().first().expect("a shim").pid;
        procs::kill(shim, Signal::KILL);
        until_true("the shim to be gone", LONG, || !procs::alive(shim));
        pod.clear();
        containerd.excuse_runc("the cgroups of a pod's containers outlive a killed shim");
    });
}
