//! Bad input of checkpoint and restore: each is an error that names its reason, the old container runs on, and nothing is
//! left of a new one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    criu::{checkpoint, count, images, restore_detached, without_streams},
    executable,
    runtime::Runtime,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, path::Path};

fn counter() -> Bundle {
    Bundle::probe(&["go-on", "/dev/shm"])
}

fn run_detached(runtime: &Runtime, id: &str, bundle: &Bundle) {
    without_streams(runtime.on("run", id, bundle).with(&["-d"])).wait().ok();
    count(runtime, id, 1);
}

/// An answer of CRIU to the question for its version: 3.10.
const OLD: &str =
    "#!/bin/sh\nprintf '\\010\\012\\020\\001\\122\\004\\010\\003\\020\\012' >&3\nexec cat <&3 >/dev/null\n";

#[test]
fn checkpoint_without_a_working_criu_leaves_the_container_running() {
    if skipped_on_runc("the errors of a bad CRIU", "it looks in PATH") {
        return;
    }
    let runtime = Runtime::new("checkpoint-criu");
    run_detached(&runtime, "c1", &counter());
    let pid = runtime.pid("c1");
    let program = |name: &str, text: &str, mode| {
        let path = runtime.work().join(name);
        executable::write(&path, text, mode);
        path.to_string_lossy().into_owned()
    };
    let late = "#!/bin/sh\nhead -c 1 <&3 > /dev/null\nexit 1\n";
    let cases = [
        ("/no/such/criu".to_owned(), "no such file"),
        ("/bin/true".to_owned(), "criu has ended without an answer"),
        (program("late", late, 0o755), "criu has ended without an answer"),
        (program("hangs", "#!/bin/sh\nexec sleep 1000\n", 0o755), "criu hangs"),
        (program("old", OLD, 0o755), "CRIU version 31000 must be 31500 or higher"),
        (program("open", "#!/bin/sh\n", 0o777), "another user than root can write"),
        (program("plain", "#!/bin/sh\n", 0o644), "permission denied"),
    ];
    for (criu, says) in cases {
        let images = images(&runtime);
        let call = runtime.call(&["checkpoint", "--image-path", &images.to_string_lossy(), "c1"]);
        call.env("BERTH_CRIU", &criu).wait().fails(1, &[says]);
        assert_eq!(runtime.state("c1")["status"], "running", "{criu}");
    }
    let before = count(&runtime, "c1", 1).number;
    count(&runtime, "c1", before + 20);
    assert_eq!(runtime.pid("c1"), pid);
}

#[test]
fn container_that_is_not_running_is_not_checkpointed() {
    let runtime = Runtime::new("checkpoint-created");
    runtime.create("c1", &counter()).ok();
    checkpoint(&runtime, "c1").wait().fails(1, &["cannot be checkpointed", "created"]);
    runtime.cmd(&["start", "c1"]).ok();
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    checkpoint(&runtime, "c1").wait().fails(1, &["cannot be checkpointed", "stopped"]);
}

#[test]
fn bad_images_leave_nothing_of_a_new_container() {
    let runtime = Runtime::new("restore-images");
    let bundle = counter();
    run_detached(&runtime, "c1", &bundle);
    checkpoint(&runtime, "c1").with(&["--leave-running"]).wait().ok();
    let images = images(&runtime);
    let whole = runtime.work().join("whole");
    fs::rename(&images, &whole).unwrap();
    let descriptors = |text: &'static str| move |dir: &Path| fs::write(dir.join("descriptors.json"), text).unwrap();
    let canary = runtime.work().join("canary");
    fs::write(&canary, "of the host").unwrap();
    let link = |name: &'static str| {
        let canary = canary.clone();
        move |dir: &Path| {
            let _ = fs::remove_file(dir.join(name));
            symlink(&canary, dir.join(name)).unwrap();
        }
    };
    type Change<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Change<'_>, &str)> = vec![
        ("nothing", Box::new(|dir| fs::remove_dir_all(dir).unwrap()), "no such file"),
        (
            "half an image",
            Box::new(|dir| fs::remove_file(dir.join("pages-1.img")).unwrap()),
            "criu failed: type RESTORE",
        ),
        ("no inventory", Box::new(|dir| fs::remove_file(dir.join("inventory.img")).unwrap()), "type RESTORE"),
        ("another kind", Box::new(|dir| fs::write(dir.join("core-1.img"), "text").unwrap()), "type RESTORE"),
        ("two descriptors", Box::new(descriptors("[\"a\",\"b\"]")), "descriptors.json"),
        ("no descriptors", Box::new(|dir| fs::remove_file(dir.join("descriptors.json")).unwrap()), "descriptors.json"),
        (
            "huge descriptors",
            Box::new(|dir| fs::File::create(dir.join("descriptors.json")).unwrap().set_len(1 << 30).unwrap()),
            "larger than 4096 bytes",
        ),
        ("a link to read", Box::new(link("pages-1.img")), "pages-1.img"),
        ("a link to write", Box::new(link("restore.log")), "restore.log"),
    ];
    for (name, change, says) in cases {
        if says != "type RESTORE" && skipped_on_runc(name, "it takes it, or words it in another way") {
            continue;
        }
        let _ = fs::remove_dir_all(&images);
        fs::create_dir(&images).unwrap();
        for file in fs::read_dir(&whole).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), images.join(file.file_name())).unwrap();
        }
        change(&images);
        let out = restore_detached(&runtime, "c2", &bundle);
        out.fails(1, &[says]);
        runtime.cmd(&["state", "c2"]).fails(1, &["does not exist"]);
        assert_eq!(fs::read_to_string(&canary).unwrap(), "of the host", "{name}");
    }
    // The control: the same images without a change.
    fs::remove_dir_all(&images).unwrap();
    fs::rename(&whole, &images).unwrap();
    restore_detached(&runtime, "c2", &bundle).ok();
    restore_detached(&runtime, "c1", &bundle).fails(1, &["container with given ID already exists"]);
    assert_eq!(runtime.state("c1")["status"], "running");
}

#[test]
fn images_with_more_rights_than_config_json_are_refused() {
    if skipped_on_runc("comparing restored processes with config.json", "it does not") {
        return;
    }
    let runtime = Runtime::new("restore-rights");
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]});
    // The value of the first container, the value in the bundle of the restore, and the words of the refusal.
    let cases: [(&str, Value, Value, &str); 4] = [
        ("/process/noNewPrivileges", json!(false), json!(true), "no_new_privs is not set"),
        ("/linux/seccomp", Value::Null, seccomp, "no seccomp filter is loaded"),
        (
            "/process/capabilities",
            json!({"bounding": ["CAP_KILL", "CAP_SYS_ADMIN"]}),
            json!({"bounding": ["CAP_KILL"]}),
            "CapBnd has CAP_SYS_ADMIN",
        ),
        ("/process/user", json!({"uid": 0, "gid": 0}), json!({"uid": 1000, "gid": 0}), "its user is 0"),
    ];
    for (field, has, asks, says) in cases {
        let bundle = counter();
        let bundle = if has.is_null() { bundle } else { bundle.set(field, has) };
        let bundle = bundle.set("/process/capabilities/permitted", json!([]));
        run_detached(&runtime, "c1", &bundle);
        checkpoint(&runtime, "c1").wait().ok();
        let stricter = bundle.clone().set(field, asks);
        restore_detached(&runtime, "c1", &stricter).fails(1, &["more rights than config.json", says]);
        runtime.assert_clean(field);
        // The control: the rights that it had.
        restore_detached(&runtime, "c1", &bundle).ok();
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        fs::remove_dir_all(images(&runtime)).unwrap();
    }
}

#[test]
fn restore_without_a_mount_source_or_a_namespace_names_it() {
    let runtime = Runtime::new("restore-sources");
    let outside = runtime.work().join("outside");
    fs::create_dir(&outside).unwrap();
    let bundle = counter().dir("data", 0o755).mount("/data", "bind", &outside.to_string_lossy(), &["bind"]);
    run_detached(&runtime, "c1", &bundle);
    checkpoint(&runtime, "c1").wait().ok();
    fs::remove_dir(&outside).unwrap();
    restore_detached(&runtime, "c1", &bundle).fails(1, &["outside"]);
    runtime.assert_clean("a restore without its source");
    fs::create_dir(&outside).unwrap();
    let joined = bundle.clone().namespace("network", "/run/no/such/namespace");
    restore_detached(&runtime, "c1", &joined).fails(1, &["/run/no/such/namespace"]);
    runtime.assert_clean("a restore without its namespace");
    restore_detached(&runtime, "c1", &bundle).ok();
}

#[test]
fn configuration_of_criu_must_be_roots() {
    if skipped_on_runc("a check of CRIU's configuration", "it takes any file") {
        return;
    }
    let runtime = Runtime::new("checkpoint-config");
    let config = runtime.work().join("criu.conf");
    let mode = |mode| executable::write(&config, "log-file own.log\n", mode);
    let annotations = json!({"org.criu.config": config});
    run_detached(&runtime, "c1", &counter().set("/annotations", annotations));
    mode(0o666);
    let says = ["annotations.org.criu.config", "another user than root can write"];
    checkpoint(&runtime, "c1").with(&["--leave-running"]).wait().fails(1, &says);
    assert_eq!(runtime.state("c1")["status"], "running");
    // The control: the file is read, and its options go before those of the request.
    fs::remove_file(&config).unwrap();
    mode(0o644);
    checkpoint(&runtime, "c1").with(&["--leave-running"]).wait().ok();
    assert!(images(&runtime).join("own.log").exists());
}
