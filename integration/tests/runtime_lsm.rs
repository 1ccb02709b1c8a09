//! Labels of security modules: AppArmor profiles and SELinux contexts. A test prints why it is skipped if the kernel
//! lacks the module or the machine cannot load a policy. Each test machine has one of the two modules.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    attack::held_by,
    bundle::{Bundle, map},
    case::{Refusal, refused, skipped_on_runc},
    command, lsm, mounts,
    runtime::Runtime,
    wait::LONG,
};
use serde_json::{Value, json};
use std::{fs, process::Command, sync::OnceLock};

/// Two profiles that allow everything but reading the file `/denied-NAME`.
const PROFILES: [&str; 2] = ["berth-test-one", "berth-test-two"];

/// Returns whether AppArmor is enabled, and loads the two profiles. They stay loaded: other tests may use them, and
/// they confine no process that does not ask for them.
fn apparmor(test: &str) -> bool {
    static LOADED: OnceLock<bool> = OnceLock::new();
    if !fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.starts_with(b"Y")) {
        lsm::skip(test, "apparmor", "this kernel runs without AppArmor");
        return false;
    }
    if command::run(Command::new("sh").args(["-c", "command -v apparmor_parser"]), LONG).status.code() != Some(0) {
        lsm::skip(test, "apparmor", "there is no apparmor_parser to load a profile with");
        return false;
    }
    *LOADED.get_or_init(|| {
        let allowed = "file, capability, network, signal, ptrace, unix, mount, umount, pivot_root,";
        for name in PROFILES {
            let profile = format!(
                "profile {name} flags=(attach_disconnected) {{ {allowed} change_profile, deny /denied-{name} rwklx, }}\n"
            );
            let mut parser = Command::new("apparmor_parser");
            command::feed(parser.args(["--replace", "--skip-cache"]), profile.as_bytes(), LONG).ok();
        }
        true
    })
}

fn confined(words: &[&str], profile: &str) -> Bundle {
    let bundle = Bundle::probe(words).set("/process/apparmorProfile", json!(profile));
    PROFILES.iter().fold(bundle, |b, name| b.file(&format!("denied-{name}"), "secret", 0o644))
}

/// Returns the profiles of a process in alphabetical order, without their mode, as the host sees them.
fn profiles(pid: u32) -> Vec<String> {
    split(&fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap())
}

fn split(label: &str) -> Vec<String> {
    let names = label.trim_end().rsplit_once(" (").map_or(label.trim_end(), |(names, _)| names);
    let mut names: Vec<_> = names.split("//&").map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// Returns the label in the report, and the errno (0 for none) of reading the file that each profile denies.
fn seen(report: &Value) -> (Vec<String>, Vec<i64>) {
    let label = report["process"]["apparmor"].as_str().unwrap();
    let errno = |name: &&str| {
        let read = &report["read"][format!("/denied-{name}")];
        read["errno"].as_i64().unwrap_or(0)
    };
    (split(label), PROFILES.iter().map(errno).collect())
}

const WORDS: [&str; 4] = ["report", "process", "read=/denied-berth-test-one", "read=/denied-berth-test-two"];
const EACCES: i64 = 13;

#[test]
fn apparmor_profiles_and_stacks_are_applied() {
    if !apparmor("profiles") {
        return;
    }
    let runtime = Runtime::new("lsm-profile");
    let [one, two] = PROFILES;
    let both = format!("{two}//&{one}");
    for (profile, names, errnos) in [
        (one, vec![one], [EACCES, 0]),
        (two, vec![two], [0, EACCES]),
        (both.as_str(), vec![one, two], [EACCES, EACCES]),
    ] {
        for no_new_privs in [true, false] {
            let bundle = confined(&WORDS, profile).set("/process/noNewPrivileges", json!(no_new_privs));
            let report = runtime.run("c1", &bundle).ok().json();
            let (label, denied) = seen(&report);
            assert_eq!(
                (label, denied),
                (names.iter().map(ToString::to_string).collect(), errnos.to_vec()),
                "{profile}"
            );
        }
    }
    let report = runtime.run("c1", &confined(&WORDS, "unconfined")).ok().json();
    assert_eq!(seen(&report), (vec!["unconfined".to_owned()], vec![0, 0]));
    runtime.assert_clean("profiles");
}

/// The label applies from the payload's first instruction on. An exec has the container's label unless it asks for
/// another one.
#[test]
fn exec_has_the_apparmor_profile_of_its_container() {
    if !apparmor("exec") {
        return;
    }
    let runtime = Runtime::new("lsm-exec");
    let [one, two] = PROFILES;
    runtime.start("c1", &confined(&["sleep", "100"], one).set("/process/user", json!({"uid": 7, "gid": 7})));
    assert_eq!(profiles(runtime.pid("c1")), [one]);
    let words = [&["/probe"], &WORDS[..]].concat();
    assert_eq!(seen(&runtime.exec("c1", &words).ok().json()), (vec![one.to_owned()], vec![EACCES, 0]));
    let exec = |profile: &str| runtime.cmd(&[&["exec", "--apparmor", profile, "c1"], &words[..]].concat());
    assert_eq!(seen(&exec(two).ok().json()), (vec![two.to_owned()], vec![0, EACCES]));
    let missing = exec("berth-test-none");
    assert_ne!(missing.code, 0, "{missing:#?}");
    assert!(missing.stderr.contains("apparmor failed to apply profile"), "{missing:#?}");
    assert_eq!(runtime.state("c1")["status"], "running");
}

/// A second clone makes the payload in a joined user namespace. It has its label as well.
#[test]
fn apparmor_profile_is_applied_in_user_namespaces() {
    if !apparmor("user namespaces") {
        return;
    }
    let runtime = Runtime::new("lsm-userns");
    let [one, _] = PROFILES;
    let map = map(0, 0, 65536);
    let mapped = |b: Bundle| b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map.clone());
    runtime.start("sandbox", &mapped(confined(&["sleep", "100"], one)).namespace("user", ""));
    let pid = runtime.pid("sandbox");
    assert!(profiles(pid).contains(&one.to_owned()), "{:?}", profiles(pid));
    let joined = mapped(confined(&WORDS, one)).namespace("user", &format!("/proc/{pid}/ns/user"));
    let (label, denied) = seen(&runtime.run("c1", &joined).ok().json());
    assert!(label.contains(&one.to_owned()), "{label:?}");
    assert_eq!(denied, [EACCES, 0]);
    let words = [&["/probe"], &WORDS[..]].concat();
    assert_eq!(seen(&runtime.exec("sandbox", &words).ok().json()).1, [EACCES, 0]);
}

/// CVE-2019-16884: a volume over /proc must not receive the label instead of the container.
#[test]
fn volume_over_proc_does_not_redirect_the_apparmor_profile() {
    if !apparmor("a volume over /proc") {
        return;
    }
    held_by("lsm-proc", &[Defence::NoMountInProc, Defence::HostProc, Defence::ReadBack], |runtime| {
        let [one, _] = PROFILES;
        let out = runtime.create("c1", &under_a_volume(confined(&["sleep", "100"], one)));
        if out.code != 0 {
            return vec![];
        }
        runtime.cmd(&["start", "c1"]).ok();
        let profiles = profiles(runtime.pid("c1"));
        (profiles != [one]).then(|| format!("{profiles:?}")).into_iter().collect()
    });
}

/// Puts a volume in place of /proc that has the files which take labels.
fn under_a_volume(bundle: Bundle) -> Bundle {
    let host_files = bundle.path().join("host_files");
    fs::create_dir_all(host_files.join("self/attr/apparmor")).unwrap();
    for file in ["self/attr/exec", "self/attr/apparmor/exec"] {
        fs::write(host_files.join(file), "").unwrap();
    }
    std::os::unix::fs::symlink("self", host_files.join("thread-self")).unwrap();
    let bundle = bundle.unmount("/proc").mount("/proc", "bind", host_files.to_str().unwrap(), &["bind"]);
    bundle.unset("/linux/maskedPaths").unset("/linux/readonlyPaths")
}

#[test]
fn unloaded_apparmor_profile_is_refused() {
    if !apparmor("missing profiles") {
        return;
    }
    refused("lsm-missing", MISSING);
    if !skipped_on_runc("names of profiles", "it does not say which profile it was") {
        refused("lsm-named", NAMED);
    }
}

const MISSING: &[Refusal] = &[
    Refusal {
        name: "a profile",
        set: |b| b.set("/process/apparmorProfile", json!("berth-test-none")),
        says: &[
            "unable to apply apparmor profile: apparmor failed to apply profile",
            "attr/apparmor/exec",
            "no such file",
        ],
    },
    Refusal {
        name: "half of a stack",
        set: |b| b.set("/process/apparmorProfile", json!("berth-test-one//&berth-test-none")),
        says: &["unable to apply apparmor profile: apparmor failed to apply profile"],
    },
];

const NAMED: &[Refusal] = &[Refusal {
    name: "a profile",
    set: |b| b.set("/process/apparmorProfile", json!("berth-test-none")),
    says: &["process.apparmorProfile", "berth-test-none"],
}];

const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const OTHER: &str = "system_u:system_r:container_t:s0:c3,c4";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";

/// Makes the probe report its own context and that of its session keyring, beside other keys.
const CONTEXTS: [&str; 4] = ["report", "read=/proc/self/attr/current", "keyring", "mountinfo"];

/// Returns both contexts.
fn contexts(report: &Value) -> [String; 2] {
    let own = lsm::plain(report["read"]["/proc/self/attr/current"].as_str().unwrap());
    [own.to_owned(), report["keyring"]["label"].as_str().unwrap().to_owned()]
}

#[test]
fn processes_and_mounts_have_selinux_contexts() {
    let (Some(process), Some(files)) = (lsm::selinux("contexts", PROCESS), lsm::selinux("contexts", FILES)) else {
        return;
    };
    let runtime = Runtime::new("lsm-selinux");
    let bundle = Bundle::probe(&["sleep", "100"]).set("/process/selinuxLabel", json!(PROCESS));
    runtime.start("c1", &bundle.set("/linux/mountLabel", json!(FILES)));
    let pid = runtime.pid("c1");
    assert_eq!(lsm::context_of(pid), process);
    let report = runtime.exec("c1", &[&["/probe"], &CONTEXTS[..]].concat()).ok().json();
    for mount in mounts::reported(&report) {
        // The context has commas, at which mountinfo is split.
        let labelled = files.split(',').all(|part| mount.superblock.iter().any(|option| option.contains(part)));
        let wanted = ["/dev", "/dev/pts", "/dev/shm"].contains(&mount.point.as_str());
        let never = ["/proc", "/sys"].contains(&mount.point.as_str());
        assert!(labelled || !wanted, "{mount:?}");
        assert!(!labelled || !never, "{mount:?}");
    }
    // mqueue takes no context option: the root of the mount has it as an extended attribute.
    let mut context = [0; 256];
    let queues = format!("/proc/{pid}/root/dev/mqueue");
    let len = rustix::fs::getxattr(&queues, "security.selinux", &mut context).unwrap();
    assert_eq!(lsm::plain(std::str::from_utf8(&context[..len]).unwrap()), files);
}

/// An exec has the container's context unless it asks for another one. A session keyring gets the context of its
/// process; without a label of its own it would have the runtime's. An exec joins the keyring of its container by the
/// container's name, so no other test may use these names.
#[test]
fn execs_and_session_keyrings_have_selinux_contexts() {
    let (Some(process), Some(other)) = (lsm::selinux("keyrings", PROCESS), lsm::selinux("keyrings", OTHER)) else {
        return;
    };
    let runtime = Runtime::new("lsm-keyring");
    for (id, no_new_privs) in [("lsm-keyring-1", true), ("lsm-keyring-2", false)] {
        let bundle = Bundle::probe(&CONTEXTS).set("/process/noNewPrivileges", json!(no_new_privs));
        let report = runtime.run(id, &bundle.set("/process/selinuxLabel", json!(PROCESS))).ok().json();
        assert_eq!(contexts(&report), [process.as_str(); 2], "no new privileges: {no_new_privs}");
    }
    // A container without a label gets none.
    let own = lsm::context_of(std::process::id());
    assert_ne!(own, process);
    assert_eq!(contexts(&runtime.run("lsm-keyring-3", &Bundle::probe(&CONTEXTS)).ok().json())[1], own);

    let id = "lsm-keyring-4";
    let bundle = Bundle::probe(&["sleep", "100"]).set("/process/selinuxLabel", json!(PROCESS));
    runtime.start(id, &bundle.set("/process/user", json!({"uid": 7, "gid": 7})));
    let words = [&["/probe"], &CONTEXTS[..]].concat();
    let exec = |label: &[&str]| runtime.cmd(&[&["exec"], label, &[id], &words[..]].concat());
    assert_eq!(contexts(&exec(&[]).ok().json()), [process.as_str(); 2]);
    assert_eq!(contexts(&exec(&["--process-label", OTHER]).ok().json()), [other.as_str(), process.as_str()]);
    assert_eq!(lsm::context_of(runtime.pid(id)), process);
    let missing = exec(&["--process-label", "system_u:system_r:berth_none_t:s0"]);
    assert_ne!(missing.code, 0, "{missing:#?}");
    assert!(missing.stderr.to_lowercase().contains("invalid argument"), "{missing:#?}");
    assert_eq!(runtime.state(id)["status"], "running");
}

/// A second clone makes the payload in a joined user namespace. It has its contexts as well.
#[test]
fn selinux_context_is_applied_in_user_namespaces() {
    let Some(process) = lsm::selinux("contexts in user namespaces", PROCESS) else { return };
    let runtime = Runtime::new("lsm-selinux-userns");
    let map = map(0, 0, 65536);
    let bundle = |words: &[&str], path: &str| {
        let bundle = Bundle::probe(words).set("/process/selinuxLabel", json!(PROCESS)).namespace("user", path);
        bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map.clone())
    };
    runtime.start("lsm-keyring-5", &bundle(&["sleep", "100"], ""));
    let pid = runtime.pid("lsm-keyring-5");
    assert_eq!(lsm::context_of(pid), process);
    let joined = runtime.run("lsm-keyring-6", &bundle(&CONTEXTS, &format!("/proc/{pid}/ns/user"))).ok().json();
    assert_eq!(contexts(&joined), [process.as_str(); 2]);
    let exec = runtime.exec("lsm-keyring-5", &[&["/probe"], &CONTEXTS[..]].concat()).ok().json();
    assert_eq!(contexts(&exec), [process.as_str(); 2]);
}

#[test]
fn invalid_selinux_context_is_refused() {
    if lsm::selinux("invalid contexts", PROCESS).is_some() {
        refused("lsm-invalid", INVALID);
    }
}

const INVALID: &[Refusal] = &[
    Refusal {
        name: "of the process",
        set: |b| b.set("/process/selinuxLabel", json!("system_u:system_r:berth_none_t:s0")),
        says: &["invalid argument"],
    },
    Refusal {
        name: "of the mounts",
        set: |b| b.set("/linux/mountLabel", json!("system_u:object_r:berth_none_t:s0")),
        says: &["invalid argument"],
    },
];
