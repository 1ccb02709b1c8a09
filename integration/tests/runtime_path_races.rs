//! Races on the paths of a container: another owner of a volume, or of the root filesystem, replaces an entry by a link
//! to files of the host while containers that use the entry are made. The host's files are neither opened nor changed,
//! and no container sees them. Each kind of path has a control: a program that acts by name is led to the host's files.
//! The faults of this kind: CVE-2018-15664, -2019-18837, -2019-19921, -2021-30465, -2023-27561, -2024-45310,
//! -2025-31133, -2025-52565, -2025-52881, -2026-41579, -2026-47766, GHSA-3q8j-pf29-vwv8.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    console::report_on_terminal,
    mounts,
    race::{Entry, Ground, Row, Swap, is_caught, mounts_stay_inside, naive, outcomes, rounds},
    runtime::{Runtime, until_executed},
    scratch::Scratch,
    wait::LONG,
};
use serde_json::{Value, json};
use std::time::Instant;

/// The number of uses of the entry in one container.
const USES: usize = 20;

fn no_fault(_: &Value) -> Option<String> {
    None
}

fn repeated(bundle: Bundle, add: impl Fn(Bundle, usize) -> Bundle) -> Bundle {
    (0..USES).fold(bundle, add)
}

fn no_dev(bundle: Bundle) -> Bundle {
    ["/dev/mqueue", "/dev/shm", "/dev/pts", "/dev"].iter().fold(bundle, |b, at| b.unmount(at))
}

fn list(pointer: &'static str, path: &'static str) -> impl Fn(Bundle) -> Bundle {
    move |bundle| bundle.set(pointer, json!(vec![path; USES]))
}

/// Runs the rows, and fails with all faults.
#[track_caller]
fn all_hold(test: &str, rows: &[Row]) {
    if skipped_on_runc(test, "a lost race must fail this runtime's tests alone") {
        return;
    }
    let mut faults = vec![];
    for row in rows {
        let outcomes = outcomes(&Runtime::new(test), row);
        eprintln!("{}: {} made, {} refused, {} swaps", row.name, outcomes.made, outcomes.refused, outcomes.swaps);
        faults.extend(outcomes.faults);
        assert!(outcomes.made + outcomes.refused >= rounds(), "{}: too few", row.name);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// CVE-2021-30465, CVE-2024-45310.
const TARGETS: &[Row] = &[
    Row {
        name: "a tmpfs on the entry",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["list=/v/entry"],
        set: |b| repeated(b, |b, _| b.mount("/v/entry", "tmpfs", "tmpfs", &[])),
        fault: no_fault,
        naive: naive::mounts,
    },
    Row {
        name: "a tmpfs below the entry",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["list=/v/entry"],
        set: |b| repeated(b, |b, n| b.mount(&format!("/v/entry/made{n}/below"), "tmpfs", "tmpfs", &[])),
        fault: no_fault,
        naive: naive::makes_directory,
    },
    Row {
        name: "a directory bound below the entry",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["list=/v/entry"],
        set: |b| repeated(b, |b, n| b.mount(&format!("/v/entry/made{n}"), "bind", "/etc", &["rbind", "ro"])),
        fault: no_fault,
        naive: naive::makes_directory,
    },
    Row {
        name: "a file bound on the entry",
        entry: Entry::VolumeFile,
        to: "file",
        report: &[],
        set: |b| repeated(b, |b, _| b.mount("/v/entry", "bind", "/etc/hosts", &["bind", "ro"])),
        fault: no_fault,
        naive: naive::mounts,
    },
    Row {
        name: "a file bound below the entry",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["list=/v/entry"],
        set: |b| repeated(b, |b, n| b.mount(&format!("/v/entry/made{n}"), "bind", "/etc/hosts", &["bind", "ro"])),
        fault: no_fault,
        naive: naive::makes_directory,
    },
];

#[test]
fn swapped_mount_targets_stay_inside_the_root() {
    all_hold("swap-targets", TARGETS);
}

#[test]
fn control_mounts_by_name_follow_swapped_targets() {
    for swap in Swap::LINKS {
        TARGETS.iter().for_each(|row| is_caught(row, swap));
    }
}

/// runc 1.1.5 makes the directories of a mount target by name (CVE-2024-45310).
#[test]
fn control_swapped_mount_targets_find_the_fault_of_runc_1_1_5() {
    let (runtime, end) = (Runtime::faulty("swap-targets-faulty"), Instant::now() + LONG);
    let scratch = Scratch::new("swap-targets-decoy");
    let ground = Ground::new(&scratch.path().join("ground"));
    let bundle = Bundle::probe(&["exit", "0"]).mount("/v", "bind", ground.volume.to_str().unwrap(), &["bind"]);
    let bundle = (TARGETS[1].set)(bundle);
    let entry = ground.volume.join("entry");
    std::fs::create_dir(&entry).unwrap();
    let _swapper = ground.swap(Swap::Exchange, false, &entry, "");
    while ground.touched().is_empty() {
        assert!(Instant::now() < end, "the control found nothing");
        runtime.run("c1", &bundle);
    }
}

/// Returns a mount of this type at another place than `name`. The swapper moves the directory with the mount on it.
fn elsewhere(report: &Value, fs: &str, name: &str) -> Option<String> {
    // Without /proc at this moment there is no report.
    let lines = report["mountinfo"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let table = lines.flat_map(mounts::parse).filter(|mount| mount.fs == fs && mount.root == "/");
    let strange = table.map(|mount| mount.point).find(|at| ![name, &format!(".beside-{name}")].contains(&&at[1..]));
    strange.map(|at| format!("{fs} at {at}"))
}

/// A file of /proc that could be read at this moment and has not this text.
fn differs(report: &Value, path: &str, text: &str) -> Option<String> {
    let read = report["read"][path].as_str()?;
    (read != text).then(|| format!("{path} is {read:?}"))
}

/// Returns a path in the entry that is not covered. The kernel lists a mount at the place of the moment. The swapper may
/// have removed the directory, and the kernel the mount with it.
fn bare(report: &Value, fs: &str, name: &str, cover: &str) -> Option<String> {
    let table = report["mountinfo"].is_array().then(|| mounts::reported(report))?;
    table.iter().find(|mount| mount.fs == fs && mount.root == "/")?;
    let at = |name: &str| mounts::at(&table, &format!("/{name}/{cover}")).is_some_and(|mount| mount.has("ro"));
    let covered = at(name) || at(&format!(".beside-{name}"));
    (!covered).then(|| format!("{cover} is not covered"))
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-52881: what the runtime writes to procfs, and what it covers there.
const PROC_AND_SYS: &[Row] = &[
    Row {
        name: "/proc",
        entry: Entry::RootDirectory("proc"),
        to: "",
        report: &["read=/proc/sys/net/ipv4/ip_forward", "read=/proc/keys"],
        set: |b| b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})),
        fault: |report| {
            elsewhere(report, "proc", "proc")
                .or_else(|| differs(report, "/proc/sys/net/ipv4/ip_forward", "1"))
                .or_else(|| differs(report, "/proc/keys", ""))
                .or_else(|| ["keys", "sys", "irq"].iter().find_map(|cover| bare(report, "proc", "proc", cover)))
        },
        naive: naive::mounts,
    },
    Row {
        name: "/sys",
        entry: Entry::RootDirectory("sys"),
        to: "sys",
        report: &[],
        set: |b| {
            b.unmount("/sys").mount("/sys", "sysfs", "sysfs", &[]).mount("/sys", "", "", &["remount", "bind", "ro"])
        },
        fault: |report| {
            let writable = |mount: &mounts::Mount| mount.fs == "sysfs" && !mount.has("ro");
            let table = report["mountinfo"].is_array().then(|| mounts::reported(report));
            let writable = table.iter().flatten().find(|mount| writable(mount)).map(|mount| format!("{mount:?}"));
            writable.or_else(|| elsewhere(report, "sysfs", "sys")).or_else(|| bare(report, "sysfs", "sys", "firmware"))
        },
        naive: naive::mounts,
    },
];

#[test]
fn swapped_proc_and_sys_are_mounted_in_their_place_or_refused() {
    all_hold("swap-proc", PROC_AND_SYS);
}

#[test]
fn control_mounts_by_name_follow_swapped_proc_and_sys() {
    PROC_AND_SYS.iter().for_each(|row| is_caught(row, Swap::Exchange));
}

/// CVE-2026-41579, CVE-2026-47766, CVE-2025-31133: the nodes and links of /dev, and the device that masks files.
const DEVICES: &[Row] = &[
    Row {
        name: "/dev without a mount",
        entry: Entry::RootDirectory("dev"),
        to: "",
        report: &[],
        set: |b| no_dev(b).set("/root/readonly", json!(false)),
        fault: no_fault,
        naive: naive::makes_directory,
    },
    Row {
        name: "the parent of devices",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &[],
        set: |b| {
            let node = |n| json!({"path": format!("/v/entry/made{n}"), "type": "c", "major": 1, "minor": 3, "fileMode": 0o666});
            b.set("/linux/devices", (0..USES).map(node).collect())
        },
        fault: no_fault,
        naive: naive::makes_directory,
    },
    Row {
        name: "the place of a device",
        entry: Entry::VolumeFile,
        to: "file",
        report: &[],
        set: |b| {
            let node = json!({"path": "/v/entry", "type": "p", "fileMode": 0o666, "uid": 7, "gid": 8});
            b.set("/linux/devices", json!(vec![node; USES]))
        },
        fault: no_fault,
        naive: naive::sets_mode,
    },
    Row {
        name: "/dev/null without a /dev mount",
        entry: Entry::RootFile("dev/null"),
        to: "null",
        report: &["read=/proc/keys", "stat=/proc/keys"],
        set: |b| no_dev(b).set("/linux/maskedPaths", json!(["/proc/keys"])).set("/root/readonly", json!(false)),
        fault: |report| {
            let masked = report["read"]["/proc/keys"] == "" && report["stat"]["/proc/keys"]["rdev"] == json!([1, 3]);
            (!masked).then(|| report.to_string())
        },
        naive: naive::writes,
    },
];

#[test]
fn swapped_device_paths_stay_inside_the_root() {
    all_hold("swap-devices", DEVICES);
}

#[test]
fn control_calls_by_name_follow_swapped_device_paths() {
    DEVICES.iter().for_each(|row| is_caught(row, Swap::Exchange));
}

/// GHSA-3q8j-pf29-vwv8: a path is covered where it was checked.
const COVERS: &[Row] = &[
    Row {
        name: "a masked directory",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["list=/v/entry"],
        set: |b| list("/linux/maskedPaths", "/v/entry")(b),
        fault: no_fault,
        naive: naive::mounts,
    },
    Row {
        name: "a masked file",
        entry: Entry::VolumeFile,
        to: "file",
        report: &["read=/v/entry"],
        set: |b| list("/linux/maskedPaths", "/v/entry")(b),
        fault: no_fault,
        naive: naive::mounts,
    },
    Row {
        name: "a read-only directory",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["list=/v/entry"],
        set: |b| list("/linux/readonlyPaths", "/v/entry")(b),
        fault: no_fault,
        naive: naive::mounts,
    },
    Row {
        name: "a read-only file",
        entry: Entry::VolumeFile,
        to: "file",
        report: &["read=/v/entry"],
        set: |b| list("/linux/readonlyPaths", "/v/entry")(b),
        fault: no_fault,
        naive: naive::mounts,
    },
];

#[test]
fn swapped_masked_and_readonly_paths_stay_inside_the_root() {
    all_hold("swap-covers", COVERS);
}

#[test]
fn control_covers_by_name_follow_swapped_paths() {
    COVERS.iter().for_each(|row| is_caught(row, Swap::Exchange));
}

/// CVE-2018-15664: files that the runtime reads or runs for the container.
const SOURCES: &[Row] = &[
    Row {
        name: "a directory that a tmpfs copies",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["read=/v/entry/sub/file", "read=/v/entry/pts/file"],
        set: |b| b.mount("/v/entry/sub", "tmpfs", "tmpfs", &["tmpcopyup"]),
        fault: no_fault,
        naive: naive::reads,
    },
    Row {
        name: "a directory inside of one that a tmpfs copies",
        entry: Entry::RootDirectory("srv/entry"),
        to: "",
        report: &["read=/srv/entry/sub/file", "read=/srv/entry/file"],
        set: |b| b.mount("/srv", "tmpfs", "tmpfs", &["tmpcopyup"]),
        fault: no_fault,
        naive: naive::reads,
    },
    Row {
        name: "/etc/passwd",
        entry: Entry::RootFile("etc/passwd"),
        to: "file",
        report: &["env"],
        set: |b| b,
        fault: no_fault,
        naive: naive::reads,
    },
    Row {
        name: "the program of a startContainer hook",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &[],
        set: |b| {
            let hook = json!({"path": "/v/entry/program", "args": ["program", "exit", "0"]});
            b.set("/hooks", json!({"startContainer": vec![hook; USES]}))
        },
        fault: no_fault,
        naive: naive::runs,
    },
    Row {
        name: "the working directory",
        entry: Entry::VolumeDirectory,
        to: "",
        report: &["cwd", "list=."],
        set: |b| b.set("/process/cwd", json!("/v/entry/new")),
        fault: |report| {
            // The kernel says "(unreachable)" for a directory outside of the root (getcwd(2)). It may be removed by now.
            let cwd = report["cwd"].as_str().unwrap_or("/");
            (!cwd.starts_with('/')).then(|| cwd.to_owned())
        },
        naive: naive::makes_directory,
    },
];

#[test]
fn swapped_sources_give_a_container_nothing_of_the_host() {
    all_hold("swap-sources", SOURCES);
}

#[test]
fn control_reads_by_name_follow_swapped_sources() {
    SOURCES.iter().for_each(|row| is_caught(row, Swap::Exchange));
}

/// A source below an earlier mount, which only the container's own tree has.
const BOUND_FROM_A_MOUNT: Row = Row {
    name: "a source below an earlier mount",
    entry: Entry::VolumeDirectory,
    to: "",
    report: &["read=/bound/sub/file"],
    set: |b| {
        let source = b.rootfs().join("v/entry").display().to_string();
        b.mount("/bound", "bind", &source, &["bind"])
    },
    fault: no_fault,
    naive: naive::reads,
};

#[test]
fn swapped_bind_source_below_a_mount_shows_nothing_of_the_host() {
    all_hold("swap-inside", &[BOUND_FROM_A_MOUNT]);
}

/// CVE-2025-52565: the terminal is one of the container's devpts, whatever /dev/pts and /dev/console are at the moment.
#[test]
fn swapped_console_paths_do_not_lead_to_files_of_the_host() {
    let runtime = Runtime::new("swap-console");
    for (at, to) in [("dev/console", "file"), ("dev/pts", "pts"), ("dev", "")] {
        for swap in Swap::LINKS {
            let ground = Ground::new(&runtime.work().join(format!("{}-{swap:?}", at.replace('/', "-"))));
            let bundle = Bundle::probe(&["report", "tty", "mountinfo"]).set("/process/terminal", json!(true));
            let bundle = no_dev(bundle).set("/root/readonly", json!(false)).mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["newinstance", "ptmxmode=0666"],
            );
            let bundle = if at == "dev/console" { bundle.file(at, "", 0o666) } else { bundle.dir(at, 0o755) };
            let _swapper = ground.swap(swap, false, &bundle.rootfs().join(at), to);
            for _ in 0..rounds() {
                let seen = report_on_terminal(&runtime, &bundle);
                if let Ok(report) = &seen {
                    assert_eq!(mounts_stay_inside(&mounts::reported(report)), None, "{at}, {swap:?}");
                }
                runtime.cmd(&["delete", "--force", "c1"]).ok();
                assert_eq!(ground.touched(), [""; 0], "{at}, {swap:?}: {seen:#?}");
            }
        }
    }
    runtime.assert_clean("consoles");
}

/// Mounts that come and go over the target of a mount, in the host's namespace, leave nothing of a container behind.
#[test]
fn swapped_mounts_over_a_target_leave_nothing_on_the_host() {
    let runtime = Runtime::new("swap-mounts");
    let ground = Ground::new(&runtime.work().join("ground"));
    let (entry, cover) = (ground.volume.join("entry"), runtime.work().join("cover"));
    [&entry, &cover].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let bundle = Bundle::probe(&["sleep", "1000"]).mount("/v", "bind", ground.volume.to_str().unwrap(), &["rbind"]);
    let bundle = repeated(bundle, |b, n| b.mount(&format!("/v/entry/made{n}"), "tmpfs", "tmpfs", &[]));
    let swapper = berth_integration::race::Swapper::start(Swap::Cover, &entry, &cover);
    for _ in 0..rounds() {
        let out = runtime.create("c1", &bundle);
        if out.code == 0 && runtime.cmd(&["start", "c1"]).code == 0 {
            until_executed(&runtime, "c1");
        }
        assert!(out.code == 0 || !out.stderr.is_empty(), "{out:#?}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    drop(swapper);
    let made = |dir: &std::path::Path| dir.join("made0").exists();
    assert!(made(&entry) || made(&cover), "no target was made");
    assert_eq!(ground.touched(), [""; 0]);
    drop(ground);
    runtime.assert_clean("covered targets");
}
