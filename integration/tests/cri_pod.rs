//! The life of a pod through crictl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    containerd::Containerd,
    matrix,
    pod::{Pod, container_config},
    without_pause,
};

matrix!(pod_lives_from_runp_to_rmp, containers_of_a_pod_share_its_namespaces);
without_pause!(pod_lives_from_runp_to_rmp, containers_of_a_pod_share_its_namespaces);

fn pod_lives_from_runp_to_rmp(containerd: &Containerd) {
    let pod = Pod::run(containerd, "life");
    assert_eq!(pod.inspect()["status"]["state"], "SANDBOX_READY");
    let container = pod.create(&container_config("main", &["sh", "-c", "echo up; exec sleep 1000"]));
    assert_eq!(container.status()["state"], "CONTAINER_CREATED");
    container.start();
    assert_eq!(container.status()["state"], "CONTAINER_RUNNING");
    container.expect_log(" stdout F up\n");
    assert_eq!(container.exec(&["hostname"]).ok(), "life");
    container.stop(0);
    let status = container.exited();
    assert_eq!((&status["exitCode"], &status["reason"]), (&137.into(), &"Error".into()));
    container.remove();
    pod.stop();
    assert_eq!(pod.inspect()["status"]["state"], "SANDBOX_NOTREADY");
    pod.remove();
}

fn containers_of_a_pod_share_its_namespaces(containerd: &Containerd) {
    let pod = Pod::run(containerd, "shared");
    let [one, two] = ["one", "two"].map(|name| pod.start(name, &["sleep", "1000"]));
    for (kind, shared) in [("net", true), ("ipc", true), ("uts", true), ("mnt", false)] {
        let [a, b] = [&one, &two].map(|it| it.exec(&["readlink", &format!("/proc/self/ns/{kind}")]).ok());
        assert_eq!(a == b, shared, "{kind}: {a} {b}");
    }
    // A connection proves the sharing: one container listens, the other connects.
    one.exec(&["sh", "-c", "nc -l -p 7000 -e echo hello > /dev/null 2>&1 < /dev/null &"]).ok();
    let reached =
        "i=0; until nc 127.0.0.1 7000 < /dev/null; do i=$((i+1)); [ $i -lt 1000 ] || exit 1; usleep 50000; done";
    assert_eq!(two.exec(&["sh", "-c", reached]).ok(), "hello");
    pod.stop();
    pod.remove();
}
