//! `/dev/stdout` and the like can be opened by the payload's user, in a user namespace as well (runc#4475,
//! podman#16027).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::{Bundle, MAPPED},
    case::skipped_on_runc,
    runtime::{Runtime, wait_until},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt};

const OPEN: [&str; 5] = ["/probe", "open", "w", "/dev/stdout", "/dev/stderr"];

/// Returns 0 for each stream that could be opened.
fn opened(said: &str) -> Value {
    serde_json::from_str::<Value>(said.lines().next().unwrap()).unwrap()["open"].clone()
}

#[test]
fn payload_can_reopen_its_streams() {
    let runtime = Runtime::new("stream-owners");
    let both = json!({"/dev/stdout": 0, "/dev/stderr": 0});
    for users in [false, true] {
        for uid in [0, 7] {
            let bundle = Bundle::probe(&[]).args(&OPEN).set("/process/user", json!({"uid": uid, "gid": uid}));
            let bundle = if users { bundle.mapped() } else { bundle };
            let what = format!("users {users}, uid {uid}");
            // In the foreground the streams are the runtime's own pipes.
            let out = runtime.run("c1", &bundle).ok();
            assert_eq!(opened(&out.stdout), both, "run, {what}");
            let sleeping = Bundle::probe(&["sleep", "100"]);
            runtime.start("c2", &if users { sleeping.mapped() } else { sleeping });
            let user = format!("{uid}:{uid}");
            let exec = runtime.cmd(&[&["exec", "--user", &user, "c2"], &OPEN[..]].concat()).ok();
            assert_eq!(opened(&exec.stdout), both, "exec, {what}");
            runtime.cmd(&["delete", "--force", "c2"]).ok();
        }
    }
    runtime.assert_clean("streams");
}

/// A shim or conmon has made these pipes as the host's root.
#[test]
fn pipes_of_the_caller_are_chowned_to_the_payload() {
    if skipped_on_runc("pipes of the caller", "in a user namespace they stay the caller's") {
        return;
    }
    let runtime = Runtime::new("caller-pipes");
    for uid in [0, 7] {
        let bundle = Bundle::probe(&[]).args(&OPEN).set("/process/user", json!({"uid": uid, "gid": 0})).mapped();
        let through = ["sh", "-c", "{ \"$0\" \"$@\"; } 2>&1 | cat"];
        let call = runtime.on("create", "c1", &bundle).through(&through).spawn();
        let number = call.number;
        // cat ends with the container, so waiting for the call comes later.
        let status = |out: &str| serde_json::from_str::<Value>(out).is_ok_and(|state| state["status"] == "created");
        let created = || status(&runtime.cmd(&["state", "c1"]).stdout);
        wait_until(created, || format!("c1 never created: {}", runtime.stdout_of(number)));
        for stream in [1, 2] {
            let seen = fs::metadata(format!("/proc/{}/fd/{stream}", runtime.pid("c1"))).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (MAPPED + uid, MAPPED), "uid {uid}: {stream}");
        }
        runtime.cmd(&["start", "c1"]).ok();
        call.wait().ok();
        assert_eq!(opened(&runtime.stdout_of(number)), json!({"/dev/stdout": 0, "/dev/stderr": 0}), "uid {uid}");
        // The process closes its streams before it has exited.
        runtime.until("c1", "stopped");
        runtime.cmd(&["delete", "c1"]).ok();
    }
    runtime.assert_clean("pipes of the caller");
}

/// A file that the caller opened for reading does not become writable for the container. The host's null device keeps
/// its owner.
#[test]
fn files_and_devices_of_the_caller_keep_their_owner() {
    let runtime = Runtime::new("caller-files");
    let file = runtime.work().join("input");
    fs::write(&file, "input").unwrap();
    let before = fs::metadata("/dev/null").unwrap();
    let bundle = Bundle::probe(&["open", "rw", "/dev/stdin"]).mapped();
    let call = runtime.on("create", "c1", &bundle).stdin(fs::File::open(&file).unwrap()).spawn();
    let number = call.number;
    call.wait().ok();
    runtime.cmd(&["start", "c1"]).ok();
    wait_until(|| runtime.stdout_of(number).contains('\n'), || runtime.stdout_of(number));
    let said: Value = serde_json::from_str(runtime.stdout_of(number).trim()).unwrap();
    assert_eq!(said["open"]["/dev/stdin"], libc::EACCES);
    assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
    let after = fs::metadata("/dev/null").unwrap();
    assert_eq!((before.uid(), before.gid(), before.mode()), (after.uid(), after.gid(), after.mode()));
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    runtime.assert_clean("files of the caller");
}
