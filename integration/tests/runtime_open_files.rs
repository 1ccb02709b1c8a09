//! Many mounts under a low limit of open files: the runtime raises its own limit, and payloads and hooks have the
//! caller's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Call, Runtime, is_runc, wait_until},
    shim::{Kind, Shim, container::exec_request, stdio::Stdio},
};
use serde_json::json;
use std::{fs, path::Path};

/// The caller's soft limit, and a larger number of mounts.
const SOFT: usize = 600;
const MOUNTS: usize = 700;
/// Prints the limits of the process and the number of its mounts.
const SAYS: &str = "echo $(ulimit -Sn) $(ulimit -Hn) $(grep -c ' /m/' /proc/self/mountinfo)";

/// Returns the words that run a program with a soft limit, and a hard one of twice that.
fn limited() -> Vec<String> {
    let script = format!("ulimit -n {} && ulimit -Sn {SOFT} && exec \"$0\" \"$@\"", 2 * SOFT);
    ["/bin/sh", "-c", &script].map(ToOwned::to_owned).to_vec()
}

/// Returns a container with many mounts, without rlimits, and with `work` at /work.
fn bundle(script: &str, work: &Path) -> Bundle {
    let mut bundle = Bundle::busybox(&["/bin/sh", "-c", script], &["sh", "grep", "sleep"])
        .unset("/process/rlimits")
        .mount("/work", "bind", work.to_str().unwrap(), &["bind"])
        .mount("/m", "tmpfs", "tmpfs", &[]);
    for n in 0..MOUNTS {
        bundle = bundle.mount(&format!("/m/{n}"), "bind", "/etc", &["bind", "ro"]);
    }
    bundle
}

fn with_hooks(bundle: Bundle, work: &Path) -> Bundle {
    let hook = |kind: &str, dir: &str| {
        let text = format!("echo $(ulimit -Sn) $(ulimit -Hn) > {dir}/{kind}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", text]}])
    };
    let outside = work.to_str().unwrap();
    let mut hooks = json!({"startContainer": hook("startContainer", "/work")});
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        hooks[kind] = hook(kind, outside);
    }
    bundle.set("/hooks", hooks)
}

/// Returns the output of a hook and removes it.
fn said_by(work: &Path, kind: &str) -> String {
    let said = fs::read_to_string(work.join(kind)).unwrap_or_default();
    let _ = fs::remove_file(work.join(kind));
    said.trim().to_owned()
}

#[test]
fn payload_and_hooks_have_the_nofile_limit_of_the_caller() {
    let runtime = Runtime::new("open-files");
    let words = limited();
    let before: Vec<&str> = words.iter().map(String::as_str).collect();
    let limited = |call: Call<'_>| call.through(&before).wait().ok();
    let work = runtime.work();
    fs::set_permissions(work, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let here = format!("{SOFT} {}", 2 * SOFT);
    let plain = bundle(&format!("{SAYS}; exec sleep 1000"), work);
    let own = bundle(&format!("{SAYS}; exec sleep 1000"), work)
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 1001}]));
    for (what, bundle, payload) in [
        ("no limits", plain, here.clone()),
        ("limits", own, "99 1001".to_owned()),
        ("a user namespace", bundle(&format!("{SAYS}; exec sleep 1000"), work).mapped(), here.clone()),
    ] {
        let bundle = with_hooks(bundle, work);
        limited(runtime.on("create", "c1", &bundle));
        limited(runtime.call(&["start", "c1"]));
        let exec = limited(runtime.call(&["exec", "c1", "/bin/sh", "-c", SAYS]));
        assert_eq!(exec.stdout.trim(), format!("{payload} {MOUNTS}"), "{what}: exec");
        let word = format!("{payload} {MOUNTS}");
        wait_until(
            || runtime.all_stdout().lines().any(|line| line == word),
            || format!("{what}: init said {}, not {word}", runtime.all_stdout()),
        );
        limited(runtime.call(&["delete", "--force", "c1"]));
        for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
            assert_eq!(said_by(work, kind), here, "{what}: {kind}");
        }
        // runc sets the payload's limits before it runs the hooks.
        let create_container = said_by(work, "createContainer");
        assert!(create_container == here || is_runc() && create_container == payload, "{what}: {create_container}");
        assert_eq!(said_by(work, "startContainer"), payload, "{what}: startContainer");
        runtime.assert_clean(what);
    }
}

#[test]
fn too_low_hard_nofile_limit_names_the_mount() {
    if skipped_on_runc("too_low_hard_nofile_limit_names_the_mount", "it holds no mount open") {
        return;
    }
    let runtime = Runtime::new("open-files-hard");
    let bundle = bundle("true", runtime.work());
    let call = runtime.on("run", "c1", &bundle).through(&["/bin/sh", "-c", "ulimit -n 500; exec \"$0\" \"$@\""]);
    call.wait().fails(1, &["mounts[4", "RLIMIT_NOFILE", "/m/4", "too many open files"]);
    runtime.assert_clean("too many mounts");
}

#[test]
fn shim_restores_the_nofile_limit_for_payload_and_hooks() {
    let shim = Shim::start_under(&limited(), if is_runc() { Kind::Runc } else { Kind::Berth }, "open-files");
    let work = shim.work();
    let bundle = with_hooks(bundle(SAYS, work), work);
    let here = format!("{SOFT} {}", 2 * SOFT);
    let mut out = Stdio::outputs(work, "c1");
    shim.run_with("c1", &bundle, &out);
    assert_eq!(shim.status("c1", ""), 0);
    shim.delete("c1", "").unwrap();
    assert_eq!(out.out.end().trim(), format!("{here} {MOUNTS}"));
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        assert_eq!(said_by(work, kind), here, "{kind}");
    }
    let stays = Bundle::busybox(&["/bin/sleep", "1000"], &["sh", "grep", "sleep"]).unset("/process/rlimits");
    shim.run("c2", &stays);
    let mut out = Stdio::outputs(work, "e1");
    let mut process = stays.config["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", SAYS]);
    shim.exec_as(exec_request("c2", "e1", &process, Some(&out))).unwrap();
    shim.start_process("c2", "e1").unwrap();
    assert_eq!(shim.status("c2", "e1"), 0);
    shim.delete("c2", "e1").unwrap();
    assert_eq!(out.out.end().trim(), format!("{here} 0"));
    shim.end("c2");
    shim.assert_clean();
}
