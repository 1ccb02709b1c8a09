//! The restrictions that the kubelet asks for, as the container's process sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    cgroup,
    containerd::{Containerd, Form, Version},
    lsm, matrix,
    pod::{Container, Pod, container_config, pod_config},
    procs,
    wait::{LONG, until_true},
};
use rustix::process::Signal;
use serde_json::json;

matrix!(
    kubelet_security_context_restricts_init_and_exec,
    privileged_container_has_all_capabilities,
    pid_namespace_modes_of_the_cri_are_obeyed,
    read_only_root_refuses_writes,
    host_namespaces_are_shared_when_asked,
    mounts_and_sysctls_of_a_pod_are_applied
);

fn kubelet_security_context_restricts_init_and_exec(containerd: &Containerd) {
    let pod = Pod::run(containerd, "kubelet");
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["security_context"] = json!({
        "namespace_options": {"pid": 1},
        "run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}, "supplemental_groups": [2000],
        "no_new_privs": true, "seccomp": {"profile_type": 0},
        "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]},
        "masked_paths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        "readonly_paths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    let main = pod.start_config(&config);
    // The first process and an exec have the same restrictions.
    for file in ["/proc/1/status", "/proc/self/status"] {
        let status = main.exec(&["cat", file]).ok();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
            line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Uid"), "1000 1000 1000 1000", "{file}");
        assert_eq!(field("Gid"), "1000 1000 1000 1000", "{file}");
        assert!(field("Groups").split(' ').any(|group| group == "2000"), "{file}: {}", field("Groups"));
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()), "{file}");
        // CAP_NET_BIND_SERVICE is number 10. A user other than root has it in the bounding set alone, and in the
        // ambient set if the runtime grants ambient capabilities.
        assert_eq!(u64::from_str_radix(&field("CapBnd"), 16).unwrap(), 1 << 10, "{file}");
        assert_eq!(u64::from_str_radix(&field("CapEff"), 16).unwrap() & !(1 << 10), 0, "{file}");
    }
    assert_eq!(main.exec(&["id", "-u"]).ok(), "1000");
    // A masked directory is empty, and a masked file is /dev/null.
    assert_eq!(main.exec(&["sh", "-c", "cat /proc/keys /proc/timer_list 2> /dev/null | wc -c"]).ok(), "0");
    for path in ["/proc/sys/kernel/hostname", "/sys/kernel/uevent_seqnum"] {
        let script = format!("( : > {path} ) 2>&1; true");
        let said = main.exec(&["sh", "-c", &script]).ok();
        assert!(said.contains("Read-only") || said.contains("denied"), "{path}: {said}");
    }
    // containerd's seccomp profile denies a new user namespace.
    let out = main.exec(&["unshare", "-U", "true"]);
    assert!(!out.status.success(), "{out}");
    pod.stop();
    pod.remove();
}

fn privileged_container_has_all_capabilities(containerd: &Containerd) {
    let mut config = pod_config(containerd, "privileged");
    config["linux"]["security_context"]["privileged"] = json!(true);
    let pod = Pod::run_config(containerd, config);
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["security_context"] = json!({"privileged": true, "namespace_options": {"pid": 1}});
    let main = pod.start_config(&config);
    let status = main.exec(&["cat", "/proc/1/status"]).ok();
    assert!(status.contains("Seccomp:\t0") && status.contains("NoNewPrivs:\t0"), "{status}");
    // A privileged container has as many capabilities as the test itself.
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = |text: &str| text.lines().find(|line| line.starts_with("CapBnd:")).unwrap().to_owned();
    assert_eq!(bounding(&status), bounding(&mine));
    assert_eq!(main.exec(&["test", "-c", "/dev/kmsg"]).code(), i32::from(!std::path::Path::new("/dev/kmsg").exists()));
    assert_eq!(main.exec(&["sh", "-c", "mkdir /tmp/m && mount -t tmpfs none /tmp/m && umount /tmp/m"]).code(), 0);
    pod.stop();
    pod.remove();
}

fn pid_namespace_modes_of_the_cri_are_obeyed(containerd: &Containerd) {
    let pod = Pod::run(containerd, "pids");
    // 0 is POD, 1 is CONTAINER.
    let [shared, own] = [0, 1].map(|kind| {
        let mut config = container_config(&format!("kind-{kind}"), &["sleep", "1000"]);
        config["linux"]["security_context"]["namespace_options"] = json!({"pid": kind});
        pod.start_config(&config)
    });
    assert_eq!(own.exec(&["cat", "/proc/1/comm"]).ok(), "sleep");
    assert_eq!(shared.exec(&["cat", "/proc/1/comm"]).ok(), "pause");
    ends_with_its_first_process(&shared);
    pod.stop();
    pod.remove();
    // 2 is NODE, for the whole pod.
    let mut config = pod_config(containerd, "host-pid");
    config["linux"]["security_context"]["namespace_options"] = json!({"pid": 2});
    let pod = Pod::run_config(containerd, config);
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["security_context"]["namespace_options"] = json!({"pid": 2});
    let main = pod.start_config(&config);
    let host = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(main.exec(&["readlink", "/proc/self/ns/pid"]).ok(), host.to_string_lossy());
    ends_with_its_first_process(&main);
    pod.stop();
    pod.remove();
}

/// A process that outlives init in a container without its own pid namespace is ended with it.
fn ends_with_its_first_process(container: &Container) {
    let pid = container.pid();
    container.exec(&["sh", "-c", "sleep 1003 > /dev/null 2>&1 &"]).ok();
    let left = || cgroup::processes(&container.cgroup());
    assert_eq!(left().len(), 2);
    procs::kill(pid, Signal::KILL);
    assert_eq!(container.exited()["exitCode"], 137);
    until_true("the rest to go", LONG, || left().is_empty());
}

fn read_only_root_refuses_writes(containerd: &Containerd) {
    let pod = Pod::run(containerd, "readonly");
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["security_context"]["readonly_rootfs"] = json!(true);
    let main = pod.start_config(&config);
    let said = main.exec(&["sh", "-c", "( : > /file ) 2>&1; true"]).ok();
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(main.exec(&["sh", "-c", ": > /dev/shm/file"]).code(), 0);
    pod.stop();
    pod.remove();
}

fn host_namespaces_are_shared_when_asked(containerd: &Containerd) {
    let mut config = pod_config(containerd, "host");
    config["linux"]["security_context"]["namespace_options"] = json!({"network": 2, "ipc": 2});
    config.as_object_mut().unwrap().remove("hostname");
    let pod = Pod::run_config(containerd, config);
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["security_context"]["namespace_options"] = json!({"network": 2, "ipc": 2, "pid": 1});
    let main = pod.start_config(&config);
    for kind in ["net", "ipc"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(main.exec(&["readlink", &format!("/proc/self/ns/{kind}")]).ok(), host.to_string_lossy());
    }
    pod.stop();
    pod.remove();
}

fn mounts_and_sysctls_of_a_pod_are_applied(containerd: &Containerd) {
    let mut config = pod_config(containerd, "mounts");
    config["linux"]["sysctls"] = json!({"net.ipv4.ip_unprivileged_port_start": "1000", "kernel.shm_rmid_forced": "1"});
    let pod = Pod::run_config(containerd, config);
    let [writable, readonly] = ["writable", "readonly"].map(|name| {
        let dir = containerd.dir().join("volumes").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), name).unwrap();
        dir
    });
    let mut config = container_config("main", &["sleep", "1000"]);
    config["mounts"] = json!([
        {"container_path": "/data/w", "host_path": writable},
        {"container_path": "/data/r", "host_path": readonly, "readonly": true},
        {"container_path": "/etc/one-file", "host_path": readonly.join("file"), "readonly": true},
    ]);
    let main = pod.start_config(&config);
    assert_eq!(main.exec(&["cat", "/data/w/file", "/data/r/file", "/etc/one-file"]).ok(), "writablereadonlyreadonly");
    main.exec(&["sh", "-c", "echo new > /data/w/new"]).ok();
    assert_eq!(std::fs::read_to_string(writable.join("new")).unwrap(), "new\n");
    let said = main.exec(&["sh", "-c", "( : > /data/r/new ) 2>&1; true"]).ok();
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(main.exec(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).ok(), "1000");
    assert_eq!(main.exec(&["cat", "/proc/sys/kernel/shm_rmid_forced"]).ok(), "1");
    pod.stop();
    pod.remove();
}

#[test]
fn selinux_labels_are_applied_under_containerd_2() {
    labels(Version::V2_3);
}

#[test]
fn selinux_labels_are_applied_under_containerd_1() {
    labels(Version::V1_6);
}

/// Containers have the SELinux label that they or their pod ask for. Their root filesystem and `/dev` have the matching
/// file label.
fn labels(version: Version) {
    let label = |level: &str| lsm::selinux("labels of pods", &format!("system_u:system_r:container_t:{level}"));
    let options = |level: &str| json!({"user": "system_u", "role": "system_r", "type": "container_t", "level": level});
    let [of_pod, own] = ["s0:c11,c12", "s0:c13,c14"];
    let (Some(pods), Some(owns)) = (label(of_pod), label(own)) else { return };
    let containerd = Containerd::start_under_selinux(version, Form::ByPath);
    containerd.remember();
    let mut config = pod_config(&containerd, "labels");
    config["linux"]["security_context"]["selinux_options"] = options(of_pod);
    let pod = Pod::run_config(&containerd, config);
    let inherits = pod.start("inherits", &["sleep", "1000"]);
    let mut config = container_config("own", &["sleep", "1000"]);
    config["linux"]["security_context"]["selinux_options"] = options(own);
    let has_own = pod.start_config(&config);
    for (container, wanted, level) in [(&inherits, pods, of_pod), (&has_own, owns, own)] {
        assert_eq!(lsm::context_of(u32::try_from(container.pid()).unwrap()), wanted);
        assert_eq!(lsm::plain(&container.exec(&["cat", "/proc/self/attr/current"]).ok()), wanted);
        for point in ["/", "/dev"] {
            let mounts = container.exec(&["cat", "/proc/self/mounts"]).ok();
            let mount = mounts.lines().find(|line| line.split(' ').nth(1) == Some(point)).unwrap();
            assert!(mount.contains("context=") && mount.contains(&format!(":{level}")), "{mount}");
        }
    }
    pod.stop();
    pod.remove();
    containerd.assert_clean();
}
