//! `berth check`, `berth install` and `berth uninstall`: the real programs, on this host and on trees of files, read by the
//! real containerd.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    case::skipped_on_runc,
    command::{Output, run},
    executable,
    runtime::Runtime,
    scratch::Scratch,
    tools,
    wait::LONG,
};
use serde_json::{Value, json};
use std::{
    fs,
    hash::{DefaultHasher, Hasher},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

/// In no passwd and no subuid: an ordinary user.
const USER: u32 = 65_533;

/// Calls berth, which finds berth-setup beside itself.
fn berth(words: &[&str]) -> Output {
    run(Command::new(tools::built("berth")).args(words), LONG)
}

/// A tree with these files, and berth's programs in usr/bin.
fn tree(name: &str, files: &[(&str, &str)]) -> Scratch {
    let tree = Scratch::new(name);
    let bin = tree.path().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(tree.path().join("var/lib")).unwrap();
    for program in ["berth", "containerd-shim-berth-v2"] {
        executable::copy(&tools::built(program), &bin.join(program));
    }
    for (path, text) in files {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    tree
}

/// `berth COMMAND` for the tree with these flags.
fn on(tree: &Scratch, command: &str, flags: &[&str]) -> Output {
    let bin: &[&str] = if command == "install" { &["--bin-dir", "/usr/bin"] } else { &[] };
    berth(&[&[command, "--destdir", tree.path().to_str().unwrap()], bin, flags].concat())
}

/// Each path below a directory with its mode and the hash of its bytes.
fn snapshot(directory: &Path) -> Vec<(PathBuf, u32, u64)> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let bytes = if data.is_file() { fs::read(&path).unwrap() } else { vec![] };
        let mut hash = DefaultHasher::new();
        hash.write(&bytes);
        found.push((path, data.mode(), hash.finish()));
    }
    found.sort_unstable();
    found
}

fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["findings"].as_array().unwrap().iter().find(|finding| finding["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// The handlers that a containerd reads from a file.
fn handlers(containerd: &str, config: &Path) -> String {
    run(Command::new(tools::tool(containerd)).arg("--config").arg(config).args(["config", "dump"]), LONG).ok()
}

#[test]
fn check_finds_what_berth_needs_on_this_host() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let output = berth(&["check", "--json"]);
    assert_eq!(output.code(), 0, "{output}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert!(finding(&report, "system calls")["found"].as_str().unwrap().contains("clone3"));
    let text = berth(&["check"]).ok();
    assert!(text.contains("berth works here: 0 missing"), "{text}");
}

#[test]
fn check_names_a_system_call_that_is_missing() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mount_setattr"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}]});
    let mut command = Command::new(tools::built("berth-without"));
    command.arg(filter.to_string()).arg(tools::built("berth")).args(["check", "--json"]);
    let output = run(&mut command, LONG);
    assert_eq!(output.code(), 1, "{output}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let missing = finding(&report, "mount_setattr");
    assert_eq!((&missing["status"], &report["ok"]), (&json!("missing"), &json!(false)));
    assert!(!missing["why"].as_str().unwrap().is_empty() && !missing["todo"].as_str().unwrap().is_empty());
}

#[test]
fn check_by_an_ordinary_user_tries_a_user_namespace() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let runtime = Runtime::of_user("check-user", USER, "65530");
    let own = runtime.work().join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, PermissionsExt::from_mode(0o755)).unwrap();
    for program in ["berth", "berth-setup"] {
        executable::copy(&tools::built(program), &own.join(program));
    }
    let words = runtime.as_user();
    let mut command = Command::new(&words[0]);
    let output = run(command.args(&words[1..]).arg(own.join("berth")).args(["check", "--json"]), LONG);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(finding(&report, "trial")["status"], "ok", "{output}");
    assert_eq!(finding(&report, "/etc/subuid")["status"], "warning");
    assert_eq!(output.code(), i32::from(report["ok"] == false));
    runtime.assert_clean("a check");
}

#[test]
fn containerd_reads_the_handler_that_install_wrote() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let config = "etc/containerd/config.toml";
    for (tool, version, text) in [
        (
            "CONTAINERD_2",
            "2.3",
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true",
        ),
        ("CONTAINERD_2", "2.3", "# mine\n"),
        ("CONTAINERD_1", "1.6", "version = 2\n[plugins]\n"),
    ] {
        if tools::find(tool).is_none() {
            eprintln!("containerd {version}: skipped, it is not on this machine");
            continue;
        }
        let tree = tree("handler", &[(config, text)]);
        let path = tree.path().join(config);
        let (before, control) = (snapshot(tree.path()), handlers(tool, &path));
        assert!(!control.contains("containerd-shim-berth-v2"), "the control: {control}");
        on(&tree, "install", &["--containerd", "--containerd-version", version]).ok();
        let dumped = handlers(tool, &path);
        let table = dumped.split("runtimes.berth]").nth(1).unwrap_or_else(|| panic!("no handler: {dumped}"));
        assert!(
            table.split("runtimes.runc]").next().unwrap().contains("/usr/bin/containerd-shim-berth-v2"),
            "{dumped}"
        );
        assert!(dumped.contains("runtimes.runc]"), "the handler of runc is lost: {dumped}");
        assert_eq!(table.contains("SystemdCgroup = true"), text.contains("SystemdCgroup"), "{dumped}");
        on(&tree, "uninstall", &["--containerd"]).ok();
        assert_eq!(snapshot(tree.path()), before);
    }
}

#[test]
fn containerd_reads_the_file_that_install_put_into_an_imported_directory() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    for (version, main) in [(2, "version = 2\n"), (3, "version = 3\n")] {
        let tree = tree("imported", &[]);
        let main = format!("{main}imports = ['/etc/containerd/conf.d/*.toml']\n");
        let etc = tree.path().join("etc/containerd");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("config.toml"), &main).unwrap();
        let before = snapshot(tree.path());
        on(&tree, "install", &["--containerd", "--containerd-version", "2.3"]).ok();
        assert_eq!(fs::read_to_string(etc.join("config.toml")).unwrap(), main);
        let own = fs::read_to_string(etc.join("conf.d/berth.toml")).unwrap();
        // A file of a higher version than the one that imports it stops containerd.
        assert!(own.contains(&format!("version = {version}\n")), "{own}");
        // The test's containerd reads the pattern at the place of the tree. A test machine may have no 2.x.
        let there = tree.path().join("main.toml");
        fs::write(&there, main.replace("/etc/containerd", etc.to_str().unwrap())).unwrap();
        if tools::find("CONTAINERD_2").is_some() {
            let dumped = handlers("CONTAINERD_2", &there);
            assert!(dumped.contains("runtimes.berth]") && dumped.contains("runtimes.runc]"), "{dumped}");
        }
        fs::remove_file(there).unwrap();
        on(&tree, "uninstall", &["--all"]).ok();
        assert_eq!(snapshot(tree.path()), before);
    }
}

#[test]
fn dry_run_shows_the_change_and_makes_none() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let tree = tree("dry", &[("etc/docker/daemon.json", "{\n    \"debug\": true\n}\n")]);
    let before = snapshot(tree.path());
    let shown = on(&tree, "install", &["--docker", "--dry-run"]).ok();
    assert!(shown.contains("change /etc/docker/daemon.json") && shown.contains("+         \"berth\""), "{shown}");
    assert_eq!(snapshot(tree.path()), before);
    on(&tree, "install", &["--docker"]).ok();
    assert_ne!(snapshot(tree.path()), before, "the control: nothing was changed");
    assert_eq!(on(&tree, "install", &["--docker"]).ok(), "docker: nothing to do");
}

#[test]
fn install_refuses_programs_that_do_not_run() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let tree = tree("programs", &[("etc/docker/daemon.json", "{}\n")]);
    let shim = tree.path().join("usr/bin/containerd-shim-berth-v2");
    let whole = fs::read(&shim).unwrap();
    let mut other = whole.clone();
    other[18] = 8; // e_machine: MIPS
    let script = b"#!/bin/sh\necho berth 0.0.0\n".to_vec();
    for (bytes, word) in
        [(whole[..4096].to_vec(), "is not berth"), (other, "exec format error"), (script, "is not berth")]
    {
        executable::write(&shim, "", 0o755);
        fs::write(&shim, bytes).unwrap();
        let before = snapshot(tree.path());
        let said = on(&tree, "install", &["--docker"]).failed();
        assert!(said.to_lowercase().contains(word) && said.contains("containerd-shim-berth-v2"), "{word}: {said}");
        assert_eq!(snapshot(tree.path()), before);
    }
    fs::write(&shim, whole).unwrap();
    on(&tree, "install", &["--docker"]).ok();
}

#[test]
fn read_only_configuration_is_left_as_it_was() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let tree = tree("read-only", &[("etc/docker/daemon.json", "{}\n")]);
    let before = snapshot(tree.path());
    let etc = tree.path().join("etc/docker");
    let script = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@""#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(&etc)
        .arg(tools::built("berth"));
    command.args(["install", "--docker", "--bin-dir", "/usr/bin", "--destdir"]).arg(tree.path());
    let said = run(&mut command, LONG).failed();
    assert!(said.contains("read-only file system") && said.contains("daemon.json"), "{said}");
    assert_eq!(snapshot(tree.path()), before);
}

#[test]
fn programs_name_the_version_and_the_commit() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let said = berth(&["--version"]).ok();
    let commit = said.lines().find_map(|line| line.strip_prefix("commit: ")).unwrap().to_owned();
    assert!(commit.len() >= 40 || !tools::workspace().join(".git").exists(), "{said}");
    let features: Value = serde_json::from_str(&berth(&["features"]).ok()).unwrap();
    assert_eq!(features["annotations"]["berth.commit"].as_str().unwrap_or("unknown"), commit);
    let shim = run(Command::new(tools::built("containerd-shim-berth-v2")).arg("-v"), LONG).ok();
    assert!(shim.contains(&commit), "{shim}");
}

/// The script of the DaemonSet on a node with a shell, a containerd and a systemctl that writes down its words.
#[test]
fn script_of_the_daemonset_installs_and_removes_berth_on_a_node() {
    if skipped_on_runc("setup", "runc has no such commands") {
        return;
    }
    let (node, from) = (Scratch::new("node"), Scratch::new("node-image"));
    let (root, image) = (node.path(), from.path());
    for dir in ["bin", "usr/bin", "usr/local", "etc/containerd", "dev", "proc", "sys", "var/lib"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    executable::copy(tools::tool("BUSYBOX"), &root.join("bin/sh"));
    executable::write(&root.join("usr/bin/systemctl"), "#!/bin/sh\necho \"$*\" >> /var/lib/systemctl\n", 0o755);
    executable::write(&root.join("usr/bin/containerd"), "#!/bin/sh\necho containerd x v2.3.4\n", 0o755);
    fs::write(root.join("etc/containerd/config.toml"), "version = 3\n").unwrap();
    for (dir, programs) in
        [("bin", ["berth", "containerd-shim-berth-v2"]), ("libexec/berth", ["berth-image", "berth-setup"])]
    {
        fs::create_dir_all(image.join(dir)).unwrap();
        for program in programs {
            executable::copy(&tools::built(program), &image.join(dir).join(program));
        }
    }
    let before = snapshot(root);
    let call = |word: &str| {
        let script = r#"mount --rbind /proc "$HOST/proc" && mount --rbind /sys "$HOST/sys" && mount --rbind /dev "$HOST/dev" && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(tools::workspace().join("deploy/kubernetes/node")).arg(word);
        run(command.env("HOST", root).env("FROM", image), LONG)
    };
    call("install").ok();
    let config = fs::read_to_string(root.join("etc/containerd/config.toml")).unwrap();
    assert!(config.contains("runtime_path = '/usr/local/bin/containerd-shim-berth-v2'"), "{config}");
    let asked = || fs::read_to_string(root.join("var/lib/systemctl")).unwrap();
    assert!(asked().ends_with("restart containerd\n"), "{}", asked());
    let (installed, words) = (snapshot(&root.join("etc")), asked());
    call("install").ok();
    assert_eq!((snapshot(&root.join("etc")), asked()), (installed, words), "a second run changes nothing");
    call("uninstall").ok();
    fs::remove_file(root.join("var/lib/systemctl")).unwrap();
    fs::remove_dir(root.join("usr/local/bin")).unwrap();
    assert_eq!(snapshot(root), before);
}
