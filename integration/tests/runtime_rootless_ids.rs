//! More ids than the caller's own for an unprivileged user, by newuidmap(1) and newgidmap(1).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    procs::{ids, words_of},
    runtime::{Runtime, is_runc, until_executed},
};
use serde_json::{Value, json};
use std::fs;

/// The uid of the caller, with an entry only in the test's own passwd.
const USER: u32 = 65_528;
/// A supplementary group of the caller.
const GROUP: u32 = 65_530;

fn runtime(name: &str) -> Runtime {
    Runtime::of_user(name, USER, &GROUP.to_string())
}

fn probe(words: &[&str]) -> Bundle {
    Bundle::probe(words).rootless(USER)
}

/// The first of a thousand subordinate ids of the user.
const FIRST: u32 = 300_000;

/// Mounts a passwd, subuid and subgid in a new mount namespace, so that newuidmap(1) knows the user.
fn with_ranges(runtime: &Runtime) -> String {
    let file = |name: &str, text: &str| {
        let path = runtime.work().join(name);
        fs::write(&path, text).unwrap();
        format!("mount --bind {} /etc/{name}", path.display())
    };
    let script = [
        file("passwd", &format!("root:x:0:0::/:/bin/sh\nberth-user:x:{USER}:{USER}::/:/bin/sh\n")),
        file("subuid", &format!("berth-user:{FIRST}:1000\n")),
        file("subgid", &format!("berth-user:{FIRST}:1000\n")),
        "exec \"$@\"".to_owned(),
    ];
    script.join("\n")
}

/// Maps root to the user's own id, and further ids to the subordinate ones.
fn own_and_more() -> Value {
    json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": 1000}])
}

/// runc refuses additional groups to every unprivileged user.
#[test]
fn rootless_groups_are_set_after_newgidmap_mapped_them() {
    if skipped_on_runc("groups of an ordinary user", "cannot set any additional groups in a rootless container") {
        return;
    }
    let runtime = runtime("newgidmap");
    let script = with_ranges(&runtime);
    let words = ["unshare", "-m", "sh", "-ec", &script, "sh"];
    let bundle = |groups: Value| {
        probe(&["signal"])
            .set("/linux/uidMappings", own_and_more())
            .set("/linux/gidMappings", own_and_more())
            .set("/process/user", json!({"uid": 5, "gid": 6, "additionalGids": groups}))
    };
    let groups = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        line.split_whitespace().map(|gid| gid.parse().unwrap()).collect::<Vec<u32>>()
    };
    runtime.on("create", "c1", &bundle(json!([7, 3, 0]))).as_root_through(&words).wait().ok();
    assert_eq!(groups(runtime.pid("c1")), [USER, FIRST + 2, FIRST + 6]);
    runtime.cmd(&["start", "c1"]).ok();
    until_executed(&runtime, "c1");
    let exec = |flags: &[&str]| {
        let words = [&["exec"], flags, &["c1", "/probe", "report", "ids"]].concat();
        runtime.cmd(&words)
    };
    assert_eq!(exec(&["--additional-gids", "9"]).ok().json()["ids"]["groups"], json!([0, 3, 7, 9]));
    // The kernel refuses a group that is not mapped.
    assert_ne!(exec(&["--additional-gids", "5000"]).code, 0);
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    // Without additional groups the caller's groups stay.
    runtime.on("create", "c2", &bundle(json!([]))).as_root_through(&words).wait().ok();
    assert_eq!(groups(runtime.pid("c2")), [GROUP]);
    let out = runtime.on("create", "c3", &bundle(json!([5000]))).as_root_through(&words).wait();
    out.fails(1, &["process.user.additionalGids", "5000"]);
}

#[test]
fn rootless_maps_more_ids_by_newuidmap() {
    let runtime = runtime("newuidmap");
    let script = with_ranges(&runtime);
    let words = ["unshare", "-m", "sh", "-ec", &script, "sh"];

    let bundle = probe(&["signal"])
        .set("/linux/uidMappings", own_and_more())
        .set("/linux/gidMappings", own_and_more())
        .set("/process/user", json!({"uid": 5, "gid": 6}));
    runtime.on("create", "c1", &bundle).as_root_through(&words).wait().ok();
    runtime.cmd(&["start", "c1"]).ok();
    until_executed(&runtime, "c1");
    let pid = runtime.pid("c1");
    assert_eq!(ids(pid), [vec![FIRST + 4; 3], vec![FIRST + 5; 3]]);
    assert_eq!(words_of(pid, "uid_map"), format!("0 {USER} 1 1 {FIRST} 1000"));
    assert_eq!(words_of(pid, "setgroups"), "allow");
    let exec = runtime.cmd(&["exec", "--user", "9:10", "c1", "/probe", "report", "ids"]).ok().json();
    assert_eq!((&exec["ids"]["uid"], &exec["ids"]["gid"]), (&json!([9, 9, 9]), &json!([10, 10, 10])));
    runtime.cmd(&["delete", "--force", "c1"]).ok();

    // The user has no right to these ids.
    let others = json!([{"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": FIRST + 1000, "size": 10}]);
    let bundle = probe(&["exit", "0"]).set("/linux/uidMappings", others.clone()).set("/linux/gidMappings", others);
    let says = if is_runc() { "failed to use newuid map" } else { "not allowed" };
    runtime.on("create", "c2", &bundle).as_root_through(&words).wait().fails(1, &[says]);
    runtime.assert_clean("a refused mapping");
}
