//! Hooks: each kind at its moment, in its namespaces, with the state on its standard input; and hooks that fail, hang
//! or are malformed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    procs,
    runtime::{Runtime, is_runc, wait_until},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Makes a directory for the notes of hooks, writable by every user. It is /log in the container.
fn notes(runtime: &Runtime) -> PathBuf {
    let dir = runtime.work().join("log");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

fn note(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default().trim_end().to_owned()
}

/// Returns a bundle with a shell, `/log` and this payload.
fn shell(log: &Path, payload: &str) -> Bundle {
    Bundle::busybox(&["/bin/sh", "-c", payload], &["sh", "cat", "readlink", "sleep", "grep", "ls", "wc", "kill"])
        .mount("/log", "bind", log.to_str().unwrap(), &["bind"])
        .set("/annotations", json!({"org.example": "a \"quoted\" value"}))
        .set("/hooks", json!({}))
}

/// Returns a hook that runs this script with the shell of its namespace.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

fn hooks(bundle: Bundle, kind: &str, list: Value) -> Bundle {
    bundle.set(&format!("/hooks/{kind}"), list)
}

fn namespaces(pid: &str) -> Vec<String> {
    let own = |ns: &&str| fs::read_link(format!("/proc/{pid}/ns/{ns}")).unwrap().to_string_lossy().into_owned();
    ["mnt", "pid", "net"].iter().map(own).collect()
}

#[test]
fn hooks_run_in_order_in_their_namespaces_with_the_state() {
    let runtime = Runtime::new("hooks");
    let log = notes(&runtime);
    let mut bundle = shell(&log, "echo payload >> /log/order; sleep 1000");
    for kind in KINDS {
        let dir = if kind == "startContainer" { "/log" } else { log.to_str().unwrap() };
        let script = format!(
            "cat > {dir}/{kind}.state; for n in mnt pid net; do readlink /proc/self/ns/$n; done > {dir}/{kind}.ns; \
             echo {kind} >> {dir}/order"
        );
        bundle = hooks(bundle, kind, json!([hook(&script)]));
    }
    let order = || note(&log, "order").lines().map(ToOwned::to_owned).collect::<Vec<_>>();
    runtime.create("c1", &bundle).ok();
    let mut wanted = vec!["prestart", "createRuntime", "createContainer"];
    // runc runs poststart before the payload, against the specification.
    wanted.extend(is_runc().then_some("poststart"));
    assert_eq!(order(), wanted);
    runtime.cmd(&["start", "c1"]).ok();
    wait_until(|| order().contains(&"payload".to_owned()), || format!("no payload: {:?}", order()));
    assert_eq!(order()[wanted.len()], "startContainer");
    assert!(order().contains(&"poststart".to_owned()), "{:?}", order());
    let pid = runtime.pid("c1");
    let (host, container) = (namespaces("self"), namespaces(&pid.to_string()));
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert_eq!(order().last().unwrap(), "poststop");
    assert_eq!(order().len(), 7, "{:?}", order());

    let mut wrong = vec![];
    for (kind, status, state_pid, own) in [
        ("prestart", "creating", pid, &host),
        ("createRuntime", "creating", pid, &host),
        ("createContainer", "creating", 1, &container),
        ("startContainer", "created", 1, &container),
        ("poststart", if is_runc() { "created" } else { "running" }, pid, &host),
        ("poststop", "stopped", 0, &host),
    ] {
        let state: Value = serde_json::from_str(&note(&log, &format!("{kind}.state"))).unwrap();
        let expected = json!({"ociVersion": if is_runc() { state["ociVersion"].clone() } else { json!("1.3.0") },
            "id": "c1", "status": status, "pid": state_pid, "bundle": bundle.path(),
            "annotations": {"org.example": "a \"quoted\" value"}});
        let mut told = state.clone();
        if kind == "poststop" && is_runc() {
            told["pid"] = json!(0);
        }
        if told != expected {
            wrong.push(format!("{kind} was told {state}, not {expected}"));
        }
        let seen: Vec<_> = note(&log, &format!("{kind}.ns")).lines().map(ToOwned::to_owned).collect();
        if seen != *own {
            wrong.push(format!("{kind} was in {seen:?}, not {own:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    runtime.assert_clean("hooks");
}

/// The NVIDIA hooks and others find the root in the bundle, with the container's mounts, and add mounts.
#[test]
fn create_container_hooks_find_the_mounted_root_in_the_bundle() {
    for (propagation, pivot) in [("", true), ("rslave", true), ("rshared", true), ("rprivate", true), ("", false)] {
        let runtime = Runtime::new("hooks-root");
        let log = notes(&runtime);
        let bundle = shell(&log, "cat /extra/file; cat /proc/self/mounts").dir("extra", 0o755);
        let (root, dir) = (bundle.rootfs(), log.display().to_string());
        let script = format!(
            "set -e; ls {0}/proc | wc -l > {dir}/procs; mount -t tmpfs none {0}/extra; echo hooked > {0}/extra/file; \
             pwd > {dir}/cwd",
            root.display()
        );
        let mut bundle = hooks(bundle, "createContainer", json!([hook(&script)]));
        if !propagation.is_empty() {
            bundle = bundle.set("/linux/rootfsPropagation", json!(propagation));
        }
        let call = runtime.on("run", "c1", &bundle);
        let out = if pivot { call } else { call.with(&["--no-pivot"]) }.wait().ok();
        let what = format!("{propagation:?} pivot {pivot}");
        assert!(out.stdout.starts_with("hooked\n"), "{what}: {out:#?}");
        assert!(out.stdout.contains(" /extra tmpfs "), "{what}: {out:#?}");
        assert!(note(&log, "procs").parse::<u32>().unwrap() > 10, "{what}: proc is not mounted in the root");
        assert_eq!(note(&log, "cwd"), root.display().to_string(), "{what}");
        assert!(!root.join("extra/file").exists(), "{what}: the hook's mount came out on the host");
        runtime.assert_clean(&what);
    }
}

#[test]
fn hooks_get_their_arguments_environment_and_directory() {
    let runtime = Runtime::new("hooks-words");
    let log = notes(&runtime);
    let dir = log.display().to_string();
    let bundle = shell(&log, "true");
    let script = bundle.path().join("say");
    berth_integration::executable::write(
        &script,
        &format!("#!/bin/sh\necho \"$0|$1|$2|$A|$B\" >> {dir}/words; pwd >> {dir}/words\n"),
        0o755,
    );
    let script = script.to_str().unwrap().to_owned();
    let list = json!([
        {"path": script},
        {"path": script, "args": []},
        {"path": script, "args": ["any", "one", "two words"], "env": ["A=a", "B=b c"]},
        {"path": "/bin/sh", "args": ["other name", "-c", format!("cat /proc/$$/cmdline >> {dir}/cmdline")], "env": ["PATH=/bin"]},
    ]);
    let bundle = hooks(bundle, "createRuntime", list);
    runtime.on("run", "c1", &bundle).env("B", "of the runtime").dir(bundle.path()).wait().ok();
    let here = bundle.path().display().to_string();
    let lines = [
        format!("{script}||||of the runtime"),
        here.clone(),
        format!("{script}||||of the runtime"),
        here.clone(),
        format!("{script}|one|two words|a|b c"),
        here,
    ];
    assert_eq!(note(&log, "words"), lines.join("\n"));
    assert!(note(&log, "cmdline").starts_with("other name\0-c\0"), "{:?}", note(&log, "cmdline"));
    runtime.assert_clean("words");
}

/// startContainer hooks have the payload's rights and, if they name no environment, the payload's environment.
#[test]
fn start_container_hooks_have_the_rights_of_the_payload() {
    for nnp in [true, false] {
        let runtime = Runtime::new("hooks-rights");
        let log = notes(&runtime);
        let facts = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/self/status; pwd; echo $X $HOME";
        let bundle = shell(&log, &format!("{{ {facts}; }} > /log/payload"))
            .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [7]}))
            .set("/process/noNewPrivileges", json!(nnp))
            .set("/process/cwd", json!("/bin"))
            .set("/process/env/-", json!("X=y"))
            .set(
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls":
                    [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}, {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}),
            );
        let bundle = hooks(bundle, "startContainer", json!([hook(&format!("{{ {facts}; }} > /log/hook"))]));
        runtime.run("c1", &bundle).ok();
        assert_eq!(note(&log, "hook"), note(&log, "payload"), "no_new_privs {nnp}");
        assert!(note(&log, "hook").contains("Uid:\t1000"), "{}", note(&log, "hook"));
        runtime.assert_clean("rights");
    }
}

/// A row: one fault of a hook.
struct Failing {
    name: &'static str,
    hook: fn() -> Value,
    says: &'static str,
}

const FAILING: &[Failing] = &[
    Failing {
        name: "a status",
        hook: || hook("echo out; echo err >&2; exit 3"),
        says: "hook #1: exit status 3, stdout: out, stderr: err",
    },
    Failing {
        name: "a missing program",
        hook: || json!({"path": "/no/such/hook"}),
        says: "hook #1: fork/exec /no/such/hook: no such file or directory",
    },
    Failing {
        name: "no program",
        hook: || json!({"path": "/etc"}),
        says: "hook #1: fork/exec /etc: permission denied",
    },
    Failing { name: "a signal", hook: || hook("kill -9 $$"), says: "hook #1: signal: killed" },
    Failing {
        name: "a timeout",
        hook: || json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}),
        says: "hook #1: hook ran past specified timeout of 1.0s",
    },
];

#[test]
fn failing_hook_ends_the_container() {
    let mut failed = vec![];
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        if kind == "startContainer" && skipped_on_runc(kind, "its start has answered before the hook runs") {
            continue;
        }
        for row in FAILING {
            let runtime = Runtime::new("hooks-fail");
            let log = notes(&runtime);
            let bundle = shell(&log, "sleep 1000").dir("etc", 0o755);
            let list = json!([hook("true"), (row.hook)(), hook("echo never > /log/never")]);
            let bundle = hooks(bundle, kind, list);
            let mark = format!("echo gone >> {}/poststop", log.display());
            let bundle = hooks(bundle, "poststop", json!([hook(&mark)]));
            let late = matches!(kind, "startContainer" | "poststart") && !is_runc();
            let out = if late {
                runtime.create("c1", &bundle).ok();
                runtime.cmd(&["start", "c1"])
            } else {
                runtime.create("c1", &bundle)
            };
            let words = format!("error running {kind} {}", row.says);
            // runc keeps the newline at the end of a hook's output.
            if out.code != 1 || !out.stderr.replace("\\n", "").contains(&words) {
                failed.push(format!("{kind}, {}: no {words:?} in {out:#?}", row.name));
            }
            if !note(&log, "never").is_empty() {
                failed.push(format!("{kind}, {}: the hook after it ran", row.name));
            }
            // runc destroys a container whose create fails, and runs its poststop hooks.
            if note(&log, "poststop") != "gone" && !(is_runc() && kind == "poststart") {
                failed.push(format!("{kind}, {}: poststop {:?}", row.name, note(&log, "poststop")));
            }
            failed.extend(runtime.residue().iter().map(|r| format!("{kind}, {}: left behind {r}", row.name)));
            runtime.cmd(&["delete", "--force", "c1"]);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Engines unmount the root file system and detach its device in a poststop hook. A descriptor of the runtime would keep
/// the mount busy.
#[test]
fn poststop_hook_of_a_failed_create_unmounts_the_root_file_system() {
    let runtime = Runtime::new("hooks-unmount");
    let log = notes(&runtime);
    let bundle = hooks(shell(&log, "true"), "createRuntime", json!([hook("exit 3")]));
    let rootfs = bundle.path().join("rootfs");
    let script = format!("umount {} && echo unmounted > {}/poststop", rootfs.display(), log.display());
    let bundle = hooks(bundle, "poststop", json!([hook(&script)]));
    rustix::mount::mount_bind(&rootfs, &rootfs).unwrap();
    runtime.create("c1", &bundle).fails(1, &["createRuntime"]);
    let unmounted = note(&log, "poststop");
    if unmounted.is_empty() {
        rustix::mount::unmount(&rootfs, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    assert_eq!(unmounted, "unmounted");
    runtime.assert_clean("unmounted");
}

#[test]
fn failing_poststop_hook_is_only_a_warning() {
    if skipped_on_runc("poststop", "it gives up at the first that fails") {
        return;
    }
    for (name, verb) in [("run", "run"), ("delete", "create")] {
        let runtime = Runtime::new("hooks-poststop");
        let log = notes(&runtime);
        let list = json!([hook("echo out; exit 3"), {"path": "/no/such/hook"}, hook(&format!("echo last > {}/last", log.display()))]);
        let bundle = hooks(shell(&log, "true"), "poststop", list);
        let mut out = runtime.on(verb, "c1", &bundle).wait().ok();
        if verb == "create" {
            out = runtime.cmd(&["delete", "c1"]).ok();
        }
        for words in ["poststop hook #0: exit status 3, stdout: out", "poststop hook #1: fork/exec /no/such/hook"] {
            assert!(out.stderr.contains(words) && out.stderr.contains("level=warning"), "{name}: {out:#?}");
        }
        assert_eq!(note(&log, "last"), "last", "{name}");
        runtime.assert_clean(name);
    }
}

/// A caller that is killed during a hook takes the hook and init with it. The remaining record can be deleted.
#[test]
fn hanging_hook_ends_with_its_caller() {
    if skipped_on_runc("a hanging hook", "it stays") {
        return;
    }
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let runtime = Runtime::new("hooks-hang");
        let log = notes(&runtime);
        let dir = log.display().to_string();
        let bundle = hooks(shell(&log, "true"), kind, json!([hook(&format!("echo $$ > {dir}/up; exec sleep 1000"))]));
        let running = runtime.on("create", "c1", &bundle).spawn();
        wait_until(|| !note(&log, "up").is_empty(), || format!("{kind}: the hook never ran"));
        assert_eq!(runtime.state("c1")["status"], "creating", "{kind}");
        let pid = rustix::process::Pid::from_raw(running.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        running.wait();
        // Neither hook nor init: only the record and the cgroup are left, as after any killed create.
        let processes = || runtime.residue_now().into_iter().filter(|r| r.starts_with("process")).collect::<Vec<_>>();
        wait_until(|| processes().is_empty(), || format!("{kind}: {:?}", processes()));
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        runtime.assert_clean(kind);
    }
}

/// A process that a hook starts and leaves behind, with its streams open, blocks no call.
#[test]
fn hook_may_leave_a_background_process() {
    if skipped_on_runc("a daemon of a hook", "it waits for the streams to be closed") {
        return;
    }
    let runtime = Runtime::new("hooks-daemon");
    let log = notes(&runtime);
    let script = format!("sleep 1000 & echo $! > {}/daemon", log.display());
    let bundle = hooks(shell(&log, "true"), "createRuntime", json!([hook(&script)]));
    runtime.run("c1", &bundle).ok();
    let pid = rustix::process::Pid::from_raw(note(&log, "daemon").parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    runtime.assert_clean("a daemon");
}

#[test]
fn bad_hooks_are_refused() {
    if skipped_on_runc("bad hooks", "it finds out when it runs them") {
        return;
    }
    refused(
        "hooks-bad",
        &[
            Refusal {
                name: "a relative path",
                set: |b| b.set("/hooks", json!({"poststop": [{"path": "bin/true"}]})),
                says: &["hooks.poststop[0].path", "absolute", "bin/true"],
            },
            Refusal {
                name: "no path",
                set: |b| b.set("/hooks", json!({"prestart": [{"args": ["a"]}]})),
                says: &["hooks.prestart[0]", "path"],
            },
            Refusal {
                name: "a timeout of 0",
                set: |b| b.set("/hooks", json!({"createContainer": [{"path": "/bin/true", "timeout": 0}]})),
                says: &["hooks.createContainer[0].timeout", "greater than zero"],
            },
            Refusal {
                name: "a negative timeout",
                set: |b| b.set("/hooks", json!({"startContainer": [{"path": "/bin/true", "timeout": -5}]})),
                says: &["hooks.startContainer[0].timeout"],
            },
            Refusal {
                name: "a timeout in words",
                set: |b| b.set("/hooks", json!({"poststart": [{"path": "/bin/true", "timeout": "5s"}]})),
                says: &["hooks.poststart[0].timeout"],
            },
            Refusal {
                name: "an object for a list",
                set: |b| b.set("/hooks", json!({"createRuntime": {"path": "/bin/true"}})),
                says: &["hooks.createRuntime"],
            },
        ],
    );
}

/// The hook's processes: a child, a session of its own, and an orphan with a session of its own.
const FAMILY: &str = "sleep 1000 & setsid sleep 1000 & (setsid sleep 1000 &); ";

/// Returns whether a trace is a process of [`FAMILY`].
fn is_family(trace: &str) -> bool {
    trace.starts_with("process ") && trace.ends_with("sleep 1000")
}

#[test]
fn hook_that_outlives_its_timeout_is_ended_with_all_its_processes() {
    if skipped_on_runc("hook-tree", "it ends only the hook itself") {
        return;
    }
    let mut failed = vec![];
    for (kind, code) in [("createRuntime", 1), ("createContainer", 1), ("poststart", 1), ("poststop", 0)] {
        let runtime = Runtime::new("hook-tree");
        let mut late = hook(&format!("{FAMILY} sleep 1000"));
        late["timeout"] = json!(1);
        let bundle = shell(&notes(&runtime), "true").host_namespace("pid");
        let out = runtime.run("c1", &hooks(bundle, kind, json!([late])));
        let says = format!("error running {kind} hook #0: hook ran past specified timeout of 1.0s");
        if out.code != code || !out.stderr.contains(&says) {
            failed.push(format!("{kind}: {out:?}"));
        }
        let left = runtime.residue();
        failed.extend(left.iter().map(|line| format!("{kind} left {line}")));
        end_family(&left);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A hook may start a daemon: only a timeout ends more than the hook.
#[test]
fn hook_that_ends_in_time_leaves_its_processes_running() {
    let runtime = Runtime::new("hook-daemon");
    let mut quick = hook(&format!("exec > /dev/null 2>&1; {FAMILY} true"));
    quick["timeout"] = json!(100);
    let bundle = hooks(shell(&notes(&runtime), "true"), "createRuntime", json!([quick]));
    runtime.run("c1", &bundle).ok();
    let family = || runtime.residue_now().iter().filter(|trace| is_family(trace)).count();
    wait_until(|| family() == 3, || format!("{:?}", runtime.residue_now()));
    end_family(&runtime.residue_now());
}

fn end_family(traces: &[String]) {
    for trace in traces.iter().filter(|trace| is_family(trace)) {
        procs::kill(trace.split(' ').nth(1).unwrap().parse().unwrap(), Signal::KILL);
    }
}
