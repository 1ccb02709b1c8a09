//! Images with links at every place that a runtime uses: the host's files stay untouched, and a container stays inside
//! its root or does not start. CVE-2019-18837, -2019-19921, -2023-27561, -2025-54867, -2026-41579, -2026-47766,
//! -2025-31133, -2025-52565.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    attack::held_by,
    bundle::Bundle,
    console::{ConsoleSocket, report_on_terminal},
    host_files::HostFiles,
    mounts,
    runtime::Runtime,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, symlink},
};

/// The form of a link in the image to the host's files.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// An absolute path.
    Absolute,
    /// A path of many `..` and then down.
    Relative,
    /// An absolute path that also exists as a directory inside the image.
    Mirrored,
    /// A link to a link that points there.
    Twice,
    /// A link to itself.
    Loop,
    /// A link to a missing path.
    Dangling,
    /// A link through /proc/self/root.
    Magic,
}

const STYLES: [Style; 7] =
    [Style::Absolute, Style::Relative, Style::Mirrored, Style::Twice, Style::Loop, Style::Dangling, Style::Magic];

/// Puts a link to `target` on the host at `at` (relative to the root of the image).
fn planted(bundle: Bundle, at: &str, target: &str, style: Style) -> Bundle {
    let inside = target.trim_start_matches('/');
    match style {
        Style::Absolute => bundle.link(at, target),
        Style::Relative => bundle.link(at, &format!("{}{inside}", "../".repeat(20))),
        Style::Mirrored => bundle.dir(inside, 0o755).link(at, target),
        Style::Twice => bundle.link("second", target).link(at, "/second"),
        Style::Loop => bundle.link(at, &format!("/{at}")),
        Style::Dangling => bundle.link(at, &format!("{target}/not/there")),
        Style::Magic => bundle.link(at, &format!("/proc/self/root{target}")),
    }
}

/// A place in an image where a runtime makes or writes something.
struct Place {
    name: &'static str,
    /// The place of the link.
    at: &'static str,
    /// The part of the host's files that it points at.
    to: &'static str,
    set: fn(Bundle) -> Bundle,
}

const PLACES: &[Place] = &[
    Place { name: "a tmpfs on it", at: "mnt", to: "", set: |b| b.mount("/mnt", "tmpfs", "tmpfs", &[]) },
    Place { name: "a tmpfs below it", at: "mnt", to: "", set: |b| b.mount("/mnt/a/b", "tmpfs", "tmpfs", &[]) },
    Place {
        name: "a tmpfs that copies up",
        at: "mnt",
        to: "",
        set: |b| b.mount("/mnt", "tmpfs", "tmpfs", &["tmpcopyup"]),
    },
    Place {
        name: "a directory bound on it",
        at: "mnt",
        to: "",
        set: |b| b.mount("/mnt", "bind", "/etc", &["rbind", "ro"]),
    },
    Place {
        name: "a directory bound below it",
        at: "mnt",
        to: "",
        set: |b| b.mount("/mnt/new", "bind", "/etc", &["rbind", "ro"]),
    },
    Place {
        name: "a file bound on it",
        at: "etc/hosts",
        to: "/file",
        set: |b| b.mount("/etc/hosts", "bind", "/etc/hosts", &["rbind", "ro"]),
    },
    Place {
        name: "a file bound below it",
        at: "etc",
        to: "",
        set: |b| b.mount("/etc/new/hosts", "bind", "/etc/hosts", &["rbind", "ro"]),
    },
    Place { name: "/proc", at: "proc", to: "", set: |b| b },
    Place { name: "/sys", at: "sys", to: "", set: |b| b },
    Place { name: "/dev, mounted on", at: "dev", to: "", set: |b| b },
    Place { name: "/dev without a mount", at: "dev", to: "", set: |b| no_dev(b) },
    Place { name: "/dev/pts without a /dev mount", at: "dev/pts", to: "/pts", set: |b| no_dev(b) },
    Place {
        name: "/dev/shm without a /dev mount",
        at: "dev/shm",
        to: "/shm",
        set: |b| no_dev(b).mount("/dev/shm", "tmpfs", "shm", &[]),
    },
    Place { name: "/dev/null without a /dev mount", at: "dev/null", to: "/null", set: |b| no_dev(b) },
    Place { name: "/dev/ptmx without a /dev mount", at: "dev/ptmx", to: "/ptmx", set: |b| no_dev(b) },
    Place {
        name: "the parent of a device node",
        at: "dev/net",
        to: "",
        set: |b| {
            no_dev(b).set("/linux/devices", json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}]))
        },
    },
    Place { name: "the working directory", at: "w", to: "", set: |b| b.set("/process/cwd", json!("/w/new")) },
    Place { name: "a masked directory", at: "m", to: "/sub", set: |b| b.set("/linux/maskedPaths", json!(["/m"])) },
    Place { name: "a masked file", at: "m", to: "/file", set: |b| b.set("/linux/maskedPaths", json!(["/m"])) },
    Place { name: "a readonly directory", at: "m", to: "/sub", set: |b| b.set("/linux/readonlyPaths", json!(["/m"])) },
    Place { name: "/etc/passwd", at: "etc/passwd", to: "/file", set: |b| b },
    Place { name: "/sys/fs/cgroup without /sys", at: "sys", to: "", set: |b| b.unmount("/sys") },
];

fn no_dev(bundle: Bundle) -> Bundle {
    bundle
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue")
        .set("/root/readonly", json!(false))
}

/// Runs each place in every form. Returns a line for each run that changed the host's files.
fn touched<'p>(runtime: &Runtime, places: impl IntoIterator<Item = &'p Place>) -> Vec<String> {
    let mut found = vec![];
    for place in places {
        for style in STYLES {
            let decoy_dir = berth_integration::scratch::Scratch::new("links");
            let host_files = HostFiles::new(decoy_dir.path());
            let before = host_files.fingerprint();
            let target = format!("{}{}", host_files.path().display(), place.to);
            let bundle = planted((place.set)(Bundle::probe(&["exit", "0"])), place.at, &target, style);
            let out = runtime.run("c1", &bundle);
            let mounted = mounts::of_process(std::process::id())
                .iter()
                .any(|m| m.point.starts_with(&*host_files.path().to_string_lossy()));
            if mounted || host_files.fingerprint() != before {
                found.push(format!(
                    "{}, {style:?} (exit status {}): {}\n{}",
                    place.name,
                    out.code,
                    out.stderr,
                    host_files.listing()
                ));
            }
            if out.code == 0 && !out.stderr.is_empty() && !out.stderr.contains("level=warning") {
                found.push(format!("{}, {style:?}: success with words: {}", place.name, out.stderr));
            }
            for left in runtime.residue() {
                found.push(format!("{}, {style:?}: left behind {left}", place.name));
            }
        }
    }
    found
}

#[test]
fn links_in_an_image_never_touch_host_files() {
    let found = touched(&Runtime::new("links"), PLACES);
    assert!(found.is_empty(), "{}:\n{}", found.len(), found.join("\n"));
}

/// The control: the same table must find faults of a runtime with published ones.
#[test]
fn control_table_of_links_finds_published_faults() {
    let runtime = Runtime::faulty("links-control");
    let found = touched(&runtime, PLACES);
    // CVE-2026-41579: `/dev` is a link, and the runtime makes links on the host before it pivots.
    let dev = found.iter().filter(|f| f.starts_with("/dev without a mount")).count();
    let names: Vec<&str> = found.iter().filter_map(|f| f.lines().next()).collect();
    assert!(dev > 0, "the control found only {names:#?}");
}

/// The control: berth without `RESOLVE_IN_ROOT` follows the links at these places.
#[test]
fn control_table_of_links_finds_a_berth_that_leaves_the_root() {
    let runtime = Runtime::weakened("links-weak", &[Defence::InRoot]);
    for name in ["a directory bound below it", "the parent of a device node", "the working directory"] {
        let found = touched(&runtime, PLACES.iter().filter(|place| place.name == name));
        assert!(found.len() >= 3, "{name}: {found:#?}");
    }
}

/// CVE-2019-19921 and the like: /proc or /sys behind a link would move masks and labels to another place.
#[test]
fn proc_and_sys_are_never_mounted_through_a_link() {
    held_by("proc-link", &[Defence::PlainTarget], |runtime| {
        let mut got = vec![];
        for (at, fs) in [("proc", "proc"), ("sys", "sysfs")] {
            let bundle = Bundle::probe(&["report", "mountinfo"]).dir("elsewhere", 0o755).link(at, "/elsewhere");
            let out = runtime.run("c1", &bundle);
            if out.code == 0 {
                let table = mounts::reported(&out.json());
                let mounted = mounts::at(&table, &format!("/{at}")).is_some_and(|mount| mount.fs == fs);
                got.extend((!mounted).then(|| format!("no {fs} on /{at}: {table:#?}")));
            } else {
                assert!(out.stderr.contains(at), "{out:#?}");
            }
            runtime.assert_clean(at);
        }
        got
    });
}

/// Returns what shows instead of a masked file, if the image has a link at /dev/null.
fn unmasked(runtime: &Runtime) -> Vec<String> {
    let mut found = vec![];
    for target in ["/proc/sys/kernel/domainname", "/planted", "/missing"] {
        let bundle = no_dev(Bundle::probe(&["report", "read=/proc/keys", "stat=/proc/keys"]))
            .file("planted", "planted", 0o666)
            .link("dev/null", target)
            .set("/linux/maskedPaths", json!(["/proc/keys"]));
        let out = runtime.run("c1", &bundle);
        if out.code == 0 {
            let Ok(report) = serde_json::from_str::<Value>(&out.stdout) else {
                found.push(format!("{target}: says nothing: {out:?}"));
                continue;
            };
            let masked = report["read"]["/proc/keys"] == "" && report["stat"]["/proc/keys"]["rdev"] == json!([1, 3]);
            found.extend((!masked).then(|| format!("{target}: {report}")));
        }
        found.extend(runtime.residue());
    }
    found
}

/// CVE-2025-31133: the real null device masks files, whatever the image has at /dev/null.
#[test]
fn masked_file_is_the_hosts_null_device() {
    let found = unmasked(&Runtime::new("null-link"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// runc 1.1.5 takes the image's /dev/null for the real one.
#[test]
fn control_masks_find_the_null_device_fault_of_runc_1_1_5() {
    let runtime = Runtime::faulty("null-control");
    assert!(!unmasked(&runtime).is_empty(), "the control found nothing");
}

/// CVE-2025-52565: the console is a terminal of the container's own devpts, whatever the image has in its place.
#[test]
fn console_is_a_terminal_of_the_containers_own_devpts() {
    let runtime = Runtime::new("console-link");
    let host_files = HostFiles::new(runtime.work());
    let before = host_files.fingerprint();
    let target = host_files.path().join("file");
    for at in ["dev/console", "dev/pts/0", "dev/pts"] {
        let bundle = no_dev(Bundle::probe(&["report", "stat=/dev/console", "tty"]))
            .link(at, target.to_str().unwrap())
            .set("/process/terminal", json!(true));
        let bundle = if at == "dev/pts" {
            bundle
        } else {
            bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"])
        };
        if let Ok(report) = report_on_terminal(&runtime, &bundle) {
            assert_eq!(report["stat"]["/dev/console"]["rdev"][0], 136, "{at}: {report:#}");
        }
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        assert_eq!(host_files.fingerprint(), before, "{at}: {}", host_files.listing());
        runtime.assert_clean(at);
    }
}

/// Returns the console of a container, if it is no terminal. A volume at /dev/pts has a `ptmx`, beside it the devpts that
/// the kernel takes for that `ptmx`, and a link in place of the terminal.
fn console_of_a_volume(runtime: &Runtime) -> Vec<String> {
    let volume = runtime.work().join("volume");
    fs::create_dir_all(volume.join("pts")).unwrap();
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, volume.join("ptmx"), FileType::CharacterDevice, mode, makedev(5, 2)).unwrap();
    symlink("/planted", volume.join("0")).unwrap();
    let bundle = Bundle::probe(&["sleep", "100"])
        .file("planted", "a file that should be masked", 0o666)
        .unmount("/dev/pts")
        .mount("/dev/pts", "bind", volume.to_str().unwrap(), &["rbind"])
        .mount("/dev/pts/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"])
        .set("/process/terminal", json!(true));
    let console = ConsoleSocket::new(runtime.work());
    let out = runtime.on("create", "c1", &bundle).with(&["--console-socket", console.path()]).wait();
    let seen = (out.code == 0).then(|| fs::metadata(format!("/proc/{}/root/dev/console", runtime.pid("c1"))).unwrap());
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    seen.filter(|seen| !seen.file_type().is_char_device()).map(|seen| format!("{seen:?}")).into_iter().collect()
}

/// CVE-2025-52565: another owner of a volume put a link in place of the terminal.
#[test]
fn console_of_a_hostile_volume_is_a_terminal_or_refused() {
    held_by("console-volume", &[Defence::OwnDevpts, Defence::ConsoleByFd], console_of_a_volume);
}
