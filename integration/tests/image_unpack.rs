//! `unpack`: a saved image becomes a bundle, which the runtime runs, as root and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{command::run, executable, image, runtime::Runtime, tools, wait::LONG};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

/// In no passwd and no subuid: an ordinary user.
const USER: u32 = 65_533;

/// `berth unpack` through the words before it.
fn unpack(before: &[String], berth: &Path, words: &[&str]) -> Command {
    let all: Vec<_> = before.iter().map(String::as_str).chain([berth.to_str().unwrap(), "unpack"]).collect();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).args(words);
    command
}

/// Runs the bundle to its end, in a cgroup that the test removes.
fn output(runtime: &Runtime, bundle: &Path) -> String {
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["linux"]["cgroupsPath"] = json!(runtime.cgroup("c1"));
    fs::write(&file, config.to_string()).unwrap();
    runtime.cmd(&["run", "--bundle", bundle.to_str().unwrap(), "c1"]).ok().stdout
}

#[test]
fn saved_image_runs_after_unpack() {
    let runtime = Runtime::new("unpack");
    let (file, bundle) = (runtime.work().join("busybox.tar"), runtime.work().join("box"));
    fs::write(&file, image::busybox()).unwrap();
    let (image, target) = (file.to_str().unwrap(), bundle.to_str().unwrap());
    let script = "id; cat /etc/passwd | wc -l; echo $A $HOME; pwd";
    let words = [image, target, "--env", "A=1", "--user", "user", "--cwd", "/var", "--", "sh", "-c", script];
    run(&mut unpack(&[], &tools::built("berth"), &words), LONG).ok();
    assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(bundle.join("rootfs/tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    let said = output(&runtime, &bundle);
    assert_eq!(said, "uid=1000(user) gid=1000(user) groups=50(staff)\n3\n1 /home/user\n/var\n");
    runtime.assert_clean("a container of an unpacked image");
}

#[test]
fn ordinary_user_unpacks_and_runs_an_image() {
    let runtime = Runtime::of_user("unpack-user", USER, "65530");
    let work = runtime.work();
    let own = work.join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(USER), Some(USER)).unwrap();
    for program in ["berth", "berth-image"] {
        executable::copy(&tools::built(program), &own.join(program));
    }
    fs::write(work.join("busybox.tar"), image::busybox()).unwrap();
    let (image, bundle) = (work.join("busybox.tar"), own.join("box"));
    let words = [image.to_str().unwrap(), bundle.to_str().unwrap(), "--", "id", "-u"];
    run(&mut unpack(runtime.as_user(), &own.join("berth"), &words), LONG).ok();
    assert_eq!(fs::metadata(bundle.join("rootfs/etc/passwd")).unwrap().uid(), USER);
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": USER, "size": 1}]));
    let said = runtime.cmd(&["run", "--bundle", bundle.to_str().unwrap(), "c1"]).ok().stdout;
    assert_eq!(said, "0\n");
    runtime.assert_clean("a user's container of an unpacked image");
}

#[test]
fn damaged_image_leaves_no_bundle() {
    let runtime = Runtime::new("unpack-damaged");
    let (file, bundle) = (runtime.work().join("busybox.tar"), runtime.work().join("box"));
    let mut bytes = image::busybox().to_vec();
    let at = bytes.windows(16).position(|part| part == b"root:x:0:0:root:").unwrap();
    bytes[at] = b'R';
    fs::write(&file, bytes).unwrap();
    let words = [file.to_str().unwrap(), bundle.to_str().unwrap()];
    let said = run(&mut unpack(&[], &tools::built("berth"), &words), LONG).failed();
    assert!(said.contains("digest mismatch"), "{said}");
    assert!(!bundle.exists());
}
