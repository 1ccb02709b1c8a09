//! A kernel without one of its features: a feature with a fallback is not missed, and a feature without one is refused
//! in a sentence that names it. A seccomp filter answers as an older kernel would.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Call, Output, Runtime},
    tools,
};
use serde_json::{Value, json};

/// The missing feature: system calls and the errno that they give. If only some uses of a call are new, `when` has the
/// number of an argument and its new bits.
#[derive(Clone, Copy)]
struct Without {
    calls: &'static [&'static str],
    errno: i32,
    when: Option<(u32, u64)>,
}

const fn calls(calls: &'static [&'static str]) -> Without {
    Without { calls, errno: libc::ENOSYS, when: None }
}

/// Returns the filter as `linux.seccomp`.
fn filter(list: &[Without]) -> String {
    let rule = |without: &Without| {
        let arg = |(index, bits): (u32, u64)| json!({"index": index, "value": bits, "valueTwo": bits, "op": "SCMP_CMP_MASKED_EQ"});
        let args: Vec<_> = without.when.into_iter().map(arg).collect();
        json!({"names": without.calls, "action": "SCMP_ACT_ERRNO", "errnoRet": without.errno, "args": args})
    };
    let rules: Vec<_> = list.iter().map(rule).collect();
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}).to_string()
}

fn under(list: &[Without], call: Call<'_>) -> Output {
    let launcher = tools::built("berth-without");
    call.through(&[launcher.to_str().unwrap(), &filter(list)]).wait()
}

/// The control: a probe under the filter does not find the calls.
#[test]
fn control_filter_takes_system_calls_away() {
    let launcher = tools::built("berth-without");
    let probe = tools::built("berth-probe");
    let mut command = std::process::Command::new(launcher);
    command.arg(filter(&[calls(&["openat2", "keyctl"])])).arg(probe);
    command.arg("syscall").args([libc::SYS_openat2, libc::SYS_keyctl, libc::SYS_getppid].map(|nr| nr.to_string()));
    let said = berth_integration::command::run(&mut command, berth_integration::wait::LONG).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    let answers: Vec<i64> = said["syscall"].as_object().unwrap().values().map(|v| v.as_i64().unwrap()).collect();
    assert_eq!(answers.iter().filter(|a| **a == -i64::from(libc::ENOSYS)).count(), 2, "{said}");
}

/// A container lives through its states, and an exec runs, without each of these.
#[test]
fn containers_run_without_system_calls_that_have_a_fallback() {
    if skipped_on_runc("fallbacks", "it has others") {
        return;
    }
    let cases: [(&str, Without); 6] = [
        // The container keeps the caller's keyring.
        ("keyrings", calls(&["keyctl", "add_key", "request_key"])),
        ("memfd_create", calls(&["memfd_create"])),
        ("statx", calls(&["statx"])),
        ("faccessat2", calls(&["faccessat2"])),
        ("fchmodat2", calls(&["fchmodat2"])),
        ("copies in the kernel", calls(&["copy_file_range", "sendfile", "splice"])),
    ];
    let runtime = Runtime::new("fallbacks");
    for (name, without) in cases {
        // chown(2) clears bits of this mode, which are then restored.
        let device =
            json!({"path": "/dev/bits", "type": "c", "major": 1, "minor": 3, "fileMode": 0o4711, "uid": 7, "gid": 8});
        let bundle = Bundle::probe(&["sleep", "100"]).set("/linux/devices", json!([device]));
        for (verb, call) in [
            ("create", runtime.on("create", "c1", &bundle)),
            ("start", runtime.call(&["start", "c1"])),
            ("state", runtime.call(&["state", "c1"])),
            ("exec", runtime.call(&["exec", "c1", "/probe", "report", "ids"])),
            ("delete", runtime.call(&["delete", "--force", "c1"])),
        ] {
            let out = under(&[without], call);
            assert_eq!(out.code, 0, "{verb} without {name}: {out:#?}");
        }
        runtime.assert_clean(name);
    }
}

/// Containers cannot reach the runtime's program even where it cannot be mounted read-only.
#[test]
fn exec_runs_from_a_sealed_copy_without_open_tree() {
    if skipped_on_runc("sealing", "it does it in its own way") {
        return;
    }
    let runtime = Runtime::new("fallbacks-copy");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    // Before Linux 6.3 memfd_create(2) has no MFD_EXEC flag.
    let unknown = Without { calls: &["memfd_create"], errno: libc::EINVAL, when: Some((1, 0x10)) };
    for list in [&[calls(&["open_tree"])][..], &[calls(&["mount_setattr"])], &[calls(&["open_tree"]), unknown]] {
        let out = under(list, runtime.call(&["exec", "c1", "/probe", "report", "process"])).ok().json();
        assert_eq!(out["process"]["exe"], "/probe");
    }
}

/// The error names a missing call that has no fallback, with the kernel version that has it. Nothing is left behind.
#[test]
fn missing_system_call_is_named_with_its_kernel_version() {
    if skipped_on_runc("requirements", "it has others") {
        return;
    }
    let runtime = Runtime::new("fallbacks-required");
    let mut failed = Vec::new();
    for (name, since) in [
        ("clone3", "5.3"),
        ("openat2", "5.6"),
        ("close_range", "5.9"),
        ("mount_setattr", "5.12"),
        ("open_tree", "5.2"),
        ("move_mount", "5.2"),
        ("fsopen", "5.2"),
        ("fsconfig", "5.2"),
        ("fsmount", "5.2"),
    ] {
        // The list cannot be a constant, since it is not 'static.
        let calls: &'static [&'static str] = Box::leak(Box::new([name]));
        let without = Without { calls, errno: libc::ENOSYS, when: None };
        let out = under(&[without], runtime.on("run", "c1", &Bundle::probe(&["report"])));
        let says = [
            "berth needs Linux 5.14 or later".to_owned(),
            format!("lacks or forbids {name} (Linux {since})"),
            "function not implemented".to_owned(),
        ];
        failed.extend(
            says.iter().filter(|word| !out.stderr.contains(*word)).map(|w| format!("{name}: no {w:?}: {out:?}")),
        );
        failed.extend((out.code != 1).then(|| format!("{name}: exit status {}: {out:?}", out.code)));
        failed.extend(runtime.residue().iter().map(|r| format!("{name}: left behind {r}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The same for calls on a running container.
#[test]
fn missing_system_call_is_named_for_a_running_container() {
    if skipped_on_runc("requirements", "it has others") {
        return;
    }
    let runtime = Runtime::new("fallbacks-running");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let exec = ["exec", "c1", "/probe", "report"];
    for (missing, words) in [
        (calls(&["setns"]), &exec[..]),
        (calls(&["pidfd_open"]), &exec),
        (calls(&["pidfd_send_signal"]), &["kill", "c1", "USR1"]),
    ] {
        let name = missing.calls[0];
        let out = under(&[missing], runtime.call(words));
        assert_ne!(out.code, 0, "{name}: {out:#?}");
        for word in ["berth needs Linux 5.14 or later", name, "function not implemented"] {
            assert!(out.stderr.contains(word), "{name}: no {word:?} in {out:#?}");
        }
        assert_eq!(runtime.state("c1")["status"], "running", "{name}");
    }
}

/// setarch(8) makes the kernel report 2.6 as its release.
#[test]
fn kernel_older_than_5_14_is_refused() {
    if skipped_on_runc("the oldest kernel", "it has another") {
        return;
    }
    let runtime = Runtime::new("fallbacks-floor");
    let bundle = Bundle::probe(&["sleep", "100"]);
    let old = |call: Call<'_>| call.through(&["setarch", "--uname-2.6"]).wait();
    for verb in ["create", "run"] {
        old(runtime.on(verb, "c1", &bundle)).fails(1, &["berth needs Linux 5.14 or later, this is 2.6."]);
        runtime.assert_clean(verb);
    }
    // A container that exists can still be deleted.
    runtime.start("c1", &bundle);
    assert_eq!(old(runtime.call(&["exec", "c1", "/probe", "report"])).code, 1);
    old(runtime.call(&["state", "c1"])).ok();
    old(runtime.call(&["delete", "--force", "c1"])).ok();
}
