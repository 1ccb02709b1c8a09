//! Device nodes in a directory that another process changes at the same time, and nodes that exist already. Only nodes
//! that the runtime made get the mode and owner of config.json.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup,
    host_files::HostFiles,
    race::Swapper,
    runtime::{Runtime, is_runc, wait_until},
    wait::LONG,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    time::Instant,
};

/// The number of containers. A runtime that changes the mode by path fails within a few.
const ROUNDS: usize = 30;
/// The number of entries of `linux.devices` with the swapped path. Each one is a chance for the race.
const DEVICES: usize = 100;

fn null_at(path: &Path, mode: u32) {
    let mode = Mode::from_raw_mode(mode);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
}

/// Another owner of a volume, who replaces the entry `null` again and again: by a link to a file of the host, by a node
/// without its mode, by nothing.
fn swapper(volume: &Path, victim: &Path) -> Swapper {
    let (entry, link, node) = (volume.join("null"), volume.join("link"), volume.join("node"));
    null_at(&node, 0o600);
    symlink(victim, &link).unwrap();
    let exchange = move |entry: &Path| renameat_with(CWD, entry, CWD, &link, RenameFlags::EXCHANGE);
    Swapper::repeat(move |round| {
        // Each step may find the state that the runtime made.
        let _ = fs::hard_link(&node, &entry);
        let _ = exchange(&entry);
        let _ = exchange(&entry);
        let _ = fs::set_permissions(&node, fs::Permissions::from_mode(0o600));
        if entry.is_symlink() {
            let _ = exchange(&entry);
        } else if round.is_multiple_of(16) {
            let _ = fs::remove_file(&entry);
        }
    })
}

/// Returns a volume with a running swapper, and the files that its link leads to.
fn swapped(dir: &Path) -> (PathBuf, HostFiles, Swapper) {
    let volume = dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    let host_files = HostFiles::new(dir);
    fs::set_permissions(host_files.path().join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let swapper = swapper(&volume, &host_files.path().join("file"));
    (volume, host_files, swapper)
}

/// A fault like CVE-2026-47766.
#[test]
fn device_behind_a_racing_link_does_not_change_a_host_file() {
    let runtime = Runtime::new("device-race");
    let (volume, host_files, swapper) = swapped(runtime.work());
    let before = host_files.fingerprint();
    let device =
        json!({"path": "/dev/shared/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 7, "gid": 8});
    let (mut made, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let bundle = Bundle::probe(&["exit", "0"])
            .mount("/dev/shared", "bind", volume.to_str().unwrap(), &["bind"])
            .set("/linux/devices", json!(vec![&device; DEVICES]));
        let out = runtime.run("c1", &bundle);
        assert_eq!(host_files.fingerprint(), before, "{out:#?}: {}", host_files.listing());
        *if out.code == 0 { &mut made } else { &mut refused } += 1;
    }
    eprintln!("{made} made, {refused} refused, {} swaps", swapper.swaps());
    // The runtime found the link.
    assert!(is_runc() || refused > 0, "in {ROUNDS} rounds of {DEVICES} devices nobody met the link");
    drop(swapper);
    runtime.assert_clean("the races");
}

/// The control: the same swapper catches a program that checks a path and then changes the mode by that path.
#[test]
fn control_swapper_catches_a_chmod_by_name() {
    let runtime = Runtime::new("device-race-control");
    let (volume, host_files, _swapper) = swapped(runtime.work());
    let (before, entry, end) = (host_files.fingerprint(), volume.join("null"), Instant::now() + LONG);
    while host_files.fingerprint() == before {
        assert!(Instant::now() < end, "never");
        for _ in 0..DEVICES {
            if fs::symlink_metadata(&entry).is_ok_and(|seen| seen.file_type().is_char_device()) {
                let _ = fs::set_permissions(&entry, fs::Permissions::from_mode(0o666));
            }
        }
    }
}

/// The node may be the host's own, or belong to another owner of the volume.
#[test]
fn existing_device_keeps_its_mode_and_owner() {
    let runtime = Runtime::new("device-there");
    let volume = runtime.work().join("volume");
    fs::create_dir(&volume).unwrap();
    let (null, pipe, other) = (volume.join("null"), volume.join("pipe"), volume.join("other"));
    null_at(&null, 0o600);
    null_at(&other, 0o600);
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    [&null, &pipe].iter().for_each(|path| chown(path, Some(7), Some(8)).unwrap());
    let bundle = |minor: u32| {
        Bundle::probe(&["report", "stat=/dev/mine"])
            .mount("/dev/shared", "bind", volume.to_str().unwrap(), &["bind"])
            .mount("/dev/mine", "bind", other.to_str().unwrap(), &["bind"])
            .set(
                "/linux/devices",
                json!([
                    {"path": "/dev/shared/null", "type": "c", "major": 1, "minor": minor, "fileMode": 0o666},
                    {"path": "/dev/shared/pipe", "type": "p", "fileMode": 0o666, "uid": 0, "gid": 0},
                    {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o444, "uid": 9, "gid": 9}
                ]),
            )
    };
    let report = runtime.run("c1", &bundle(3)).ok().json();
    assert_eq!(report["stat"]["/dev/mine"]["rdev"], json!([1, 3]));
    for (path, owner) in [(&null, (7, 8)), (&pipe, (7, 8)), (&other, (0, 0))] {
        let seen = fs::metadata(path).unwrap();
        assert_eq!((seen.mode() & 0o7777, (seen.uid(), seen.gid())), (0o600, owner), "{}", path.display());
    }
    if !skipped_on_runc("another device in its place", "it takes whatever is there for the device") {
        runtime.run("c1", &bundle(5)).fails(1, &["/dev/shared/null", "file exists"]);
    }
    runtime.assert_clean("devices that are there");
}

/// Creates and starts `c1` with this umask of the runtime's caller, and returns its report.
fn started_with_umask(runtime: &Runtime, bundle: &Bundle, umask: &str) -> Value {
    let through = ["sh", "-c", &format!("umask {umask}; exec \"$0\" \"$@\"")].map(str::to_owned);
    let call = runtime.on("create", "c1", bundle).through(&through.each_ref().map(String::as_str)).spawn();
    let number = call.number;
    call.wait().ok();
    runtime.cmd(&["start", "c1"]).ok();
    let output = || runtime.stdout_of(number);
    wait_until(|| output().contains('\n'), || format!("says nothing: {:?}", output()));
    serde_json::from_str(output().lines().next().unwrap()).unwrap()
}

/// Fails unless the nodes, their directories and the cgroups of `c1` have their modes and owners.
fn check_modes(runtime: &Runtime, report: &Value, umask: &str, what: &str) {
    let seen = |path: &str| {
        let seen = &report["stat"][path];
        ["mode", "uid", "gid"].map(|key| seen[key].as_u64().unwrap_or_else(|| panic!("{path}: {seen}")))
    };
    for (path, wanted) in [
        ("/dev/null", [0o666, 0, 0]),
        ("/dev/net/deep/tun", [0o666, 7, 8]),
        ("/dev/pipe", [0o622, 0, 0]),
        ("/dev/net", [0o755, 0, 0]),
        ("/dev/net/deep", [0o755, 0, 0]),
        ("/srv/made", [0o755, 0, 0]),
        ("/mnt/a", [0o755, 0, 0]),
        ("/mnt/a/b", [0o755, 0, 0]),
    ] {
        // runc's directories have the caller's umask.
        let directory = wanted[0] == 0o755 && umask != "000";
        assert!(seen(path) == wanted || is_runc() && directory, "{what}: {path}: {:?}", seen(path));
    }
    if !skipped_on_runc("directories of cgroups", "they have the caller's umask") {
        for directory in cgroup::directories(&runtime.cgroup("c1")) {
            let mode = fs::metadata(&directory).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o755, "{what}: {}", directory.display());
        }
    }
}

/// The umask is the caller's, and the modes are config.json's. In a user namespace its root owns the nodes.
#[test]
fn umask_of_the_caller_does_not_change_modes_of_nodes() {
    let runtime = Runtime::new("device-umask");
    let devices = json!([
        {"path": "/dev/net/deep/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
        {"path": "/srv/made/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o660},
    ]);
    let paths =
        ["/dev/null", "/dev/net/deep/tun", "/dev/pipe", "/dev/net", "/dev/net/deep", "/srv/made", "/mnt/a", "/mnt/a/b"];
    let stats: Vec<_> = paths.iter().map(|path| format!("stat={path}")).collect();
    let words =
        [&["report"], &stats.iter().map(String::as_str).collect::<Vec<_>>()[..], &["+", "sleep", "100"]].concat();
    for (users, umask) in [(false, "077"), (false, "000"), (true, "077"), (true, "000")] {
        if users && skipped_on_runc("devices in a user namespace", "it binds the host's, which has no such") {
            continue;
        }
        let bundle = Bundle::probe(&words).dir("srv", 0o755).dir("mnt", 0o755);
        let bundle = bundle.mount("/mnt/a/b/c", "tmpfs", "tmpfs", &[]).set("/root/readonly", json!(false));
        let bundle = if users {
            // The owner of the last node would have to be the host's.
            bundle.set("/linux/devices", json!([devices[0], devices[1]])).dir("srv/made", 0o755).mapped()
        } else {
            bundle.set("/linux/devices", devices.clone())
        };
        let report = started_with_umask(&runtime, &bundle, umask);
        check_modes(&runtime, &report, umask, &format!("umask {umask}, users {users}"));
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    runtime.assert_clean("umask");
}

/// chown(2) clears these bits of everything but directories.
#[test]
fn chowned_device_keeps_its_special_mode_bits() {
    if skipped_on_runc("set-user-ID on a device", "it sets the mode before the owner") {
        return;
    }
    let runtime = Runtime::new("device-bits");
    let device =
        |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o6711, "uid": 7, "gid": 8});
    let bundle = Bundle::probe(&["report", "stat=/dev/bits", "stat=/srv/bits"])
        .dir("srv", 0o2755)
        .set("/root/readonly", json!(false))
        .set("/linux/devices", json!([device("/dev/bits"), device("/srv/bits")]));
    let report = runtime.run("c1", &bundle).ok().json();
    for path in ["/dev/bits", "/srv/bits"] {
        let seen = &report["stat"][path];
        assert_eq!((&seen["mode"], &seen["uid"], &seen["gid"]), (&json!(0o6711), &json!(7), &json!(8)), "{path}");
    }
}
