//! Mounts: every type and option that containerd's CRI plugin, ctr and `runc spec` write, as the kernel then shows
//! them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{bundle::Bundle, cgroup, mounts, runtime::Runtime};
use serde_json::json;

/// One mount in a container of its own, and its line in the mount table inside.
struct Row {
    name: &'static str,
    set: fn(Bundle) -> Bundle,
    /// The mount point, the type, options that it must have and must not have, and the propagation.
    at: &'static str,
    fs: &'static str,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
    propagation: &'static str,
}

const PLAIN: Row = Row { name: "", set: |b| b, at: "/mnt", fs: "tmpfs", has: &[], lacks: &[], propagation: "private" };

fn tmpfs(bundle: Bundle, options: &[&str]) -> Bundle {
    bundle.mount("/mnt", "tmpfs", "tmpfs", options)
}

/// Adds a bind mount of a directory of the bundle that has a file in it.
fn bind(bundle: Bundle, options: &[&str]) -> Bundle {
    let source = bundle.path().join("volume");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    bundle.mount("/mnt", "bind", source.to_str().unwrap(), options)
}

#[test]
fn mounts_have_their_configured_options() {
    let runtime = Runtime::new("mounts");
    let mut failed = vec![];
    // If the host's mounts are shared, as with systemd, a bind mount from the host is a slave.
    let host = mounts::of_process(std::process::id());
    let shared = mounts::at(&host, "/").is_some_and(|root| root.propagation().contains("shared"));
    for row in ROWS {
        let out = runtime.run("c1", &(row.set)(Bundle::probe(&["report", "mountinfo"])));
        if out.code != 0 {
            failed.push(format!("{}: {}", row.name, out.stderr));
            continue;
        }
        let table = mounts::reported(&out.json());
        let Some(mount) = mounts::at(&table, row.at) else {
            failed.push(format!("{}: nothing at {}", row.name, row.at));
            continue;
        };
        let all = |option: &&&str| mount.has(option) || mount.fs_has(option);
        let missing: Vec<_> = row.has.iter().filter(|o| !all(o)).collect();
        let extra: Vec<_> = row.lacks.iter().filter(all).collect();
        let fs = row.fs.is_empty() || mount.fs == row.fs;
        let propagation = match (shared, mount.propagation().as_str(), mount.fs.as_str()) {
            (_, slave, "tmpfs" | "proc") => slave.to_owned(),
            (true, "slave", _) => "private".to_owned(),
            (true, slave, _) => slave.trim_start_matches("slave ").to_owned(),
            (false, own, _) => own.to_owned(),
        };
        if !fs || !missing.is_empty() || !extra.is_empty() || propagation != row.propagation {
            failed.push(format!("{}: missing {missing:?}, extra {extra:?} in {mount:?}", row.name));
        }
        failed.extend(runtime.residue().iter().map(|r| format!("{}: left behind {r}", row.name)));
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), ROWS.len(), failed.join("\n"));
}

const ROWS: &[Row] = &[
    Row { name: "proc", at: "/proc", fs: "proc", has: &["rw"], lacks: &["ro", "nosuid"], ..PLAIN },
    Row {
        name: "proc as the CRI plugin has it",
        set: |b| b.unmount("/proc").mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        at: "/proc",
        fs: "proc",
        has: &["nosuid", "noexec", "nodev", "rw", "relatime"],
        ..PLAIN
    },
    Row {
        name: "/dev",
        at: "/dev",
        has: &["nosuid", "mode=755", "size=65536k", "rw"],
        lacks: &["nodev", "noexec", "noatime", "relatime"],
        ..PLAIN
    },
    Row {
        name: "/dev/pts",
        at: "/dev/pts",
        fs: "devpts",
        has: &["nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"],
        lacks: &["nodev"],
        ..PLAIN
    },
    Row { name: "/dev/shm", at: "/dev/shm", has: &["nosuid", "noexec", "nodev", "size=65536k"], ..PLAIN },
    Row { name: "/dev/mqueue", at: "/dev/mqueue", fs: "mqueue", has: &["nosuid", "noexec", "nodev"], ..PLAIN },
    Row { name: "/sys", at: "/sys", fs: "sysfs", has: &["ro", "nosuid", "noexec", "nodev"], ..PLAIN },
    Row {
        name: "/sys rw",
        set: |b| b.unmount("/sys").mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "rw"]),
        at: "/sys",
        fs: "sysfs",
        has: &["rw", "nosuid"],
        ..PLAIN
    },
    Row { name: "the root, readonly", at: "/", fs: "", has: &["ro"], ..PLAIN },
    Row {
        name: "the root, writable",
        set: |b| b.set("/root/readonly", json!(false)),
        at: "/",
        fs: "",
        has: &["rw"],
        ..PLAIN
    },
    Row {
        name: "tmpfs without options",
        set: |b| tmpfs(b, &[]),
        has: &["rw", "relatime"],
        lacks: &["nosuid", "nodev", "noexec"],
        ..PLAIN
    },
    Row {
        name: "tmpfs with data",
        set: |b| tmpfs(b, &["size=1m", "mode=0700", "uid=7", "gid=8", "nr_inodes=10"]),
        has: &["size=1024k", "mode=700", "uid=7", "gid=8", "nr_inodes=10"],
        ..PLAIN
    },
    Row { name: "ro", set: |b| tmpfs(b, &["ro"]), has: &["ro"], ..PLAIN },
    Row { name: "rw after ro", set: |b| tmpfs(b, &["ro", "rw"]), has: &["rw"], lacks: &["ro"], ..PLAIN },
    Row { name: "nosuid", set: |b| tmpfs(b, &["nosuid"]), has: &["nosuid"], lacks: &["nodev"], ..PLAIN },
    Row { name: "suid after nosuid", set: |b| tmpfs(b, &["nosuid", "suid"]), lacks: &["nosuid"], ..PLAIN },
    Row { name: "nodev", set: |b| tmpfs(b, &["nodev"]), has: &["nodev"], ..PLAIN },
    Row { name: "dev after nodev", set: |b| tmpfs(b, &["nodev", "dev"]), lacks: &["nodev"], ..PLAIN },
    Row { name: "noexec", set: |b| tmpfs(b, &["noexec"]), has: &["noexec"], ..PLAIN },
    Row { name: "exec after noexec", set: |b| tmpfs(b, &["noexec", "exec"]), lacks: &["noexec"], ..PLAIN },
    Row { name: "noatime", set: |b| tmpfs(b, &["noatime"]), has: &["noatime"], lacks: &["relatime"], ..PLAIN },
    Row { name: "strictatime", set: |b| tmpfs(b, &["strictatime"]), lacks: &["relatime", "noatime"], ..PLAIN },
    Row { name: "relatime", set: |b| tmpfs(b, &["relatime"]), has: &["relatime"], ..PLAIN },
    Row { name: "nodiratime", set: |b| tmpfs(b, &["nodiratime"]), has: &["nodiratime"], ..PLAIN },
    Row { name: "sync", set: |b| tmpfs(b, &["sync"]), has: &["sync"], ..PLAIN },
    Row { name: "dirsync", set: |b| tmpfs(b, &["dirsync"]), has: &["dirsync"], ..PLAIN },
    Row { name: "nosymfollow", set: |b| tmpfs(b, &["nosymfollow"]), has: &["nosymfollow"], ..PLAIN },
    Row { name: "bind", set: |b| bind(b, &["bind"]), fs: "", has: &["rw"], ..PLAIN },
    Row { name: "rbind", set: |b| bind(b, &["rbind"]), fs: "", has: &["rw"], ..PLAIN },
    Row { name: "rbind, rprivate, rw", set: |b| bind(b, &["rbind", "rprivate", "rw"]), fs: "", has: &["rw"], ..PLAIN },
    Row { name: "bind, ro", set: |b| bind(b, &["bind", "ro"]), fs: "", has: &["ro"], ..PLAIN },
    Row { name: "rbind, ro", set: |b| bind(b, &["rbind", "rprivate", "ro"]), fs: "", has: &["ro"], ..PLAIN },
    Row { name: "rbind, rro", set: |b| bind(b, &["rbind", "rprivate", "rro"]), fs: "", has: &["ro"], ..PLAIN },
    Row {
        name: "bind with more options",
        set: |b| bind(b, &["bind", "nosuid", "nodev", "noexec"]),
        fs: "",
        has: &["rw", "nosuid", "nodev", "noexec"],
        ..PLAIN
    },
    Row {
        name: "rnosuid, rnodev, rnoexec",
        set: |b| bind(b, &["rbind", "rnosuid", "rnodev", "rnoexec"]),
        fs: "",
        has: &["nosuid", "nodev", "noexec"],
        ..PLAIN
    },
    Row {
        name: "an option bind is enough without the type",
        set: |b| {
            let b = bind(b, &["bind", "ro"]);
            b.edit(|c| c["mounts"].as_array_mut().unwrap().last_mut().unwrap()["type"] = json!("none"))
        },
        fs: "",
        has: &["ro"],
        ..PLAIN
    },
    Row { name: "shared", set: |b| bind(b, &["bind", "shared"]), fs: "", propagation: "shared", ..PLAIN },
    Row { name: "rshared", set: |b| bind(b, &["rbind", "rshared"]), fs: "", propagation: "shared", ..PLAIN },
    Row { name: "private", set: |b| bind(b, &["bind", "private"]), fs: "", ..PLAIN },
    Row { name: "unbindable", set: |b| bind(b, &["bind", "unbindable"]), fs: "", propagation: "unbindable", ..PLAIN },
    Row {
        name: "runbindable",
        set: |b| bind(b, &["rbind", "runbindable"]),
        fs: "",
        propagation: "unbindable",
        ..PLAIN
    },
    Row { name: "slave of a private one is private", set: |b| bind(b, &["bind", "slave"]), fs: "", ..PLAIN },
    Row { name: "tmpfs shared", set: |b| tmpfs(b, &["rshared"]), propagation: "shared", ..PLAIN },
    Row {
        name: "a relative source counts from the bundle",
        set: |b| {
            std::fs::create_dir(b.path().join("here")).unwrap();
            b.mount("/mnt", "bind", "here", &["bind"])
        },
        fs: "",
        ..PLAIN
    },
    Row {
        name: "a target of several missing directories",
        set: |b| b.mount("/a/b/c", "tmpfs", "tmpfs", &[]),
        at: "/a/b/c",
        ..PLAIN
    },
    Row {
        name: "a mount on a mount",
        set: |b| tmpfs(b, &[]).mount("/mnt/deep/er", "tmpfs", "tmpfs", &["ro"]),
        at: "/mnt/deep/er",
        has: &["ro"],
        ..PLAIN
    },
    Row {
        name: "rootfsPropagation private",
        set: |b| b.set("/linux/rootfsPropagation", json!("private")),
        at: "/",
        fs: "",
        ..PLAIN
    },
    Row {
        name: "rootfsPropagation rprivate",
        set: |b| b.set("/linux/rootfsPropagation", json!("rprivate")),
        at: "/",
        fs: "",
        ..PLAIN
    },
    Row {
        name: "rootfsPropagation rshared",
        set: |b| b.set("/linux/rootfsPropagation", json!("rshared")),
        at: "/",
        fs: "",
        propagation: "shared",
        ..PLAIN
    },
    Row {
        name: "rootfsPropagation shared",
        set: |b| b.set("/linux/rootfsPropagation", json!("shared")),
        at: "/",
        fs: "",
        propagation: "shared",
        ..PLAIN
    },
    Row {
        name: "rootfsPropagation unbindable",
        set: |b| b.set("/linux/rootfsPropagation", json!("unbindable")),
        at: "/",
        fs: "",
        propagation: "unbindable",
        ..PLAIN
    },
];

#[test]
fn mount_table_shows_no_mount_of_the_host() {
    let runtime = Runtime::new("table");
    let bundle = Bundle::probe(&["report", "mountinfo"]).unmount("/sys/fs/cgroup");
    let table = mounts::reported(&runtime.run("c1", &bundle).ok().json());
    let allowed = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"];
    for mount in &table {
        let below = mount.point.starts_with("/proc/") || mount.point == "/sys/firmware";
        assert!(allowed.contains(&mount.point.as_str()) || below, "{mount:?}");
    }
}

/// Readers of the table expect the order of config.json. It cannot be had between Linux 6.8, which lists by age, and
/// 6.15, which copies detached mounts.
#[test]
fn mount_table_has_the_order_of_the_configuration() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).take(2).map(|n| n.parse().unwrap()).collect();
    if (6, 8) <= (numbers[0], numbers[1]) && (numbers[0], numbers[1]) < (6, 15) {
        eprintln!("skipped on Linux {release}");
        return;
    }
    let runtime = Runtime::new("table-order");
    let table = mounts::reported(&runtime.run("c1", &Bundle::probe(&["report", "mountinfo"])).ok().json());
    let wanted = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"];
    let listed: Vec<_> = table.iter().map(|m| m.point.as_str()).filter(|point| wanted.contains(point)).collect();
    assert_eq!(listed, wanted);
}

#[test]
fn file_is_bound_on_a_file_made_for_it() {
    let runtime = Runtime::new("bind-file");
    let bundle =
        Bundle::probe(&["report", "read=/etc/made/hosts", "stat=/etc/made/hosts", "+", "open", "w", "/etc/made/hosts"]);
    let source = bundle.path().join("hosts");
    std::fs::write(&source, "127.0.0.1 me\n").unwrap();
    let bundle = bundle.mount("/etc/made/hosts", "bind", source.to_str().unwrap(), &["rbind", "rprivate", "ro"]);
    let out = runtime.run("c1", &bundle).ok();
    let lines: Vec<serde_json::Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["read"]["/etc/made/hosts"], "127.0.0.1 me");
    assert_eq!(lines[0]["stat"]["/etc/made/hosts"]["type"], "f");
    assert_eq!(lines[1]["open"]["/etc/made/hosts"], libc::EROFS);
}

#[test]
fn rbind_and_rro_cover_submounts() {
    let runtime = Runtime::new("submounts");
    let source = Source::new(runtime.work());
    let rows: &[(&[&str], bool, bool, bool)] = &[
        // options; submount there; the mount itself readonly; the submount readonly
        (&["bind"], false, false, false),
        (&["rbind"], true, false, false),
        (&["rbind", "ro"], true, true, false),
        (&["rbind", "rro"], true, true, true),
    ];
    for (options, there, outer, inner) in rows {
        let bundle = Bundle::probe(&["report", "mountinfo"]).mount("/mnt", "bind", source.path(), options);
        let table = mounts::reported(&runtime.run("c1", &bundle).ok().json());
        assert_eq!(mounts::at(&table, "/mnt").unwrap().has("ro"), *outer, "{options:?}");
        let sub = mounts::at(&table, "/mnt/sub");
        assert_eq!(sub.is_some(), *there, "{options:?}");
        assert_eq!(sub.is_some_and(|m| m.has("ro")), *inner, "{options:?}");
    }
}

/// These are Bidirectional, HostToContainer and None of the CRI.
#[test]
fn mount_propagation_follows_the_configuration() {
    let runtime = Runtime::new("propagation");
    let source = Source::new(runtime.work());
    let rows: &[(&str, &str, bool, bool)] = &[
        // option; rootfsPropagation; host's new mount seen inside; the container's seen on the host
        ("rprivate", "", false, false),
        ("rslave", "rslave", true, false),
        ("rshared", "rshared", true, true),
    ];
    for (n, (option, root, inward, outward)) in rows.iter().enumerate() {
        let id = format!("c{n}");
        let mount = json!(["CAP_SYS_ADMIN"]);
        let bundle =
            Bundle::probe(&["sleep", "100"]).mount("/mnt", "bind", source.path(), &["rbind", option]).edit(|c| {
                for set in ["bounding", "effective", "permitted"] {
                    c["process"]["capabilities"][set] = mount.clone();
                }
                if !root.is_empty() {
                    c["linux"]["rootfsPropagation"] = json!(root);
                }
            });
        runtime.start(&id, &bundle);
        let inside = mounts::of_process(runtime.pid(&id));
        let expected = if *outward {
            "shared"
        } else if *inward {
            "slave"
        } else {
            "private"
        };
        assert_eq!(mounts::at(&inside, "/mnt").unwrap().propagation(), expected, "{option}");
        source.mount("in");
        let seen = mounts::at(&mounts::of_process(runtime.pid(&id)), "/mnt/in").is_some();
        source.unmount("in");
        assert_eq!(seen, *inward, "{option}: the host's new mount");
        // mount("none", "/mnt/out", "tmpfs", 0, NULL) inside
        let call = format!("{}:@none,@/mnt/out,@tmpfs,0,0", libc::SYS_mount);
        runtime.exec(&id, &["/probe", "syscall", &call]).ok();
        let seen = source.unmount("out");
        assert_eq!(seen, *outward, "{option}: the container's new mount");
        runtime.cmd(&["delete", "--force", &id]).ok();
    }
}

/// A directory that is a shared mount of its own, with a tmpfs mounted at `sub`.
struct Source(std::path::PathBuf);

impl Source {
    fn new(work: &std::path::Path) -> Self {
        let path = work.join("source");
        for dir in ["sub", "in", "out"] {
            std::fs::create_dir_all(path.join(dir)).unwrap();
        }
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
        mount_bind(&path, &path).unwrap();
        mount_change(&path, MountPropagationFlags::SHARED).unwrap();
        mount("none", path.join("sub"), "tmpfs", MountFlags::empty(), None).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn mount(&self, name: &str) {
        use rustix::mount::{MountFlags, mount};
        mount("none", self.0.join(name), "tmpfs", MountFlags::empty(), None).unwrap();
    }

    /// Unmounts `name` and returns whether it was mounted.
    fn unmount(&self, name: &str) -> bool {
        rustix::mount::unmount(self.0.join(name), rustix::mount::UnmountFlags::DETACH).is_ok()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for name in ["out", "in", "sub", ""] {
            self.unmount(name);
        }
    }
}

/// The cgroup mount has the container's own cgroup as its root, and is read-only if asked.
#[test]
fn cgroup_mount_shows_the_containers_own_cgroup() {
    if !cgroup::is_v2() {
        return cgroup_v1();
    }
    let runtime = Runtime::new("cgroup-mount");
    let out = runtime.run("c1", &Bundle::probe(&["report", "mountinfo", "list=/sys/fs/cgroup"])).ok();
    let table = mounts::reported(&out.json());
    let mount = mounts::at(&table, "/sys/fs/cgroup").unwrap();
    assert_eq!((mount.fs.as_str(), mount.root.as_str()), ("cgroup2", "/"));
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.has(option), "{option}: {mount:?}");
    }
    // The root of the host's hierarchy has no such file.
    let report = out.json();
    let names = report["list"]["/sys/fs/cgroup"].as_array().unwrap();
    assert!(names.iter().any(|name| name == "pids.max"), "{report}");
}

/// On v1 each hierarchy is mounted at the container's own cgroup.
fn cgroup_v1() {
    let runtime = Runtime::new("cgroup-mount");
    let out = runtime.run("c1", &Bundle::probe(&["report", "mountinfo", "list=/sys/fs/cgroup"])).ok();
    let table = mounts::reported(&out.json());
    let tmpfs = mounts::at(&table, "/sys/fs/cgroup").unwrap();
    assert_eq!(tmpfs.fs, "tmpfs");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        let hierarchies: Vec<_> = table.iter().filter(|m| m.fs == "cgroup").collect();
        assert!(hierarchies.len() >= 8, "{table:#?}");
        for mount in hierarchies {
            assert!(mount.has(option), "{option}: {mount:?}");
            assert_eq!(mount.root, runtime.cgroup("c1"), "{mount:?}");
        }
    }
    let names = out.json()["list"]["/sys/fs/cgroup"].as_array().unwrap().len();
    assert_eq!(names, table.iter().filter(|m| m.point.starts_with("/sys/fs/cgroup/")).count(), "{out:#?}");
}
