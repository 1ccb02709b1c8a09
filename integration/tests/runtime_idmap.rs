//! Idmapped mounts: by the container's user namespace, by mappings of their own, of host files and of mounts inside the
//! container.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::{Bundle, MAPPED, map},
    case::{self, Case, Refusal, refused, skipped_on_runc},
    runtime::Runtime,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

/// Makes a directory `source` in the bundle, 0755 of the host's root, with the files `root` and `five` of uids and gids
/// 0 and 5.
fn source(bundle: &Bundle) -> PathBuf {
    let dir = bundle.path().join("source");
    fs::create_dir(&dir).unwrap();
    for (name, id) in [("root", 0), ("five", 5)] {
        fs::write(dir.join(name), name).unwrap();
        chown(dir.join(name), Some(id), Some(id)).unwrap();
    }
    dir
}

/// Adds a bind mount with these options and its own mappings.
fn bind(bundle: Bundle, from: &Path, to: &str, options: &[&str], mapping: Option<Value>) -> Bundle {
    let mut mount = json!({"destination": to, "type": "bind", "source": from, "options": options});
    if let Some(mapping) = mapping {
        mount["uidMappings"] = mapping.clone();
        mount["gidMappings"] = mapping;
    }
    bundle.set("/mounts/-", mount)
}

/// Mounts the source at /mnt with these options and its own mappings.
fn volume(bundle: Bundle, options: &[&str], mapping: Option<Value>) -> Bundle {
    let source = source(&bundle);
    let bundle = bind(bundle, &source, "/mnt", options, mapping);
    bundle.args(&["/probe", "report", "stat=/mnt/root", "stat=/mnt/five"])
}

/// Mounts the source at /mnt and another directory at /mnt/sub, and then binds /mnt with its submount to two more
/// places, with these options and their own mappings.
fn copies(bundle: Bundle, options: &[&str], mapping: Option<Value>) -> Bundle {
    let bundle = volume(bundle, &["bind"], None);
    fs::create_dir(bundle.path().join("source/sub")).unwrap();
    let other = bundle.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("root"), "").unwrap();
    let bundle = bind(bundle, &other, "/mnt/sub", &["bind"], None);
    let there = bundle.rootfs().join("mnt");
    let bundle = bind(bundle, &there, "/copy", options, mapping.clone());
    let stats = ["stat=/mnt/root", "stat=/copy/root", "stat=/copy/sub/root", "stat=/again/five"];
    bind(bundle, &there, "/again", options, mapping).args(&[&["/probe", "report"], &stats[..]].concat())
}

#[test]
fn idmapped_mounts_show_the_mapped_owners() {
    case::all("idmap", CASES);
}

const CASES: &[Case] = &[
    Case {
        name: "a volume of the host's is nobody's",
        set: |b| volume(b.mapped(), &["bind"], None),
        sees: &[("/stat/~1mnt~1root/uid", "65534"), ("/stat/~1mnt~1root/gid", "65534")],
    },
    Case {
        name: "a volume with the container's mapping",
        set: |b| volume(b.mapped(), &["bind"], Some(map(0, MAPPED, 65536))),
        sees: &[
            ("/stat/~1mnt~1root/uid", "0"),
            ("/stat/~1mnt~1root/gid", "0"),
            ("/stat/~1mnt~1five/uid", "5"),
            ("/stat/~1mnt~1five/gid", "5"),
        ],
    },
    Case {
        name: "a volume with a mapping of its own",
        set: |b| volume(b.mapped(), &["bind"], Some(map(5, MAPPED + 70, 1))),
        sees: &[("/stat/~1mnt~1root/uid", "65534"), ("/stat/~1mnt~1five/uid", "70"), ("/stat/~1mnt~1five/gid", "70")],
    },
    Case {
        name: "several mappings of one volume",
        set: |b| {
            let two = json!([{"containerID": 0, "hostID": MAPPED + 1, "size": 1},
                {"containerID": 5, "hostID": MAPPED + 10, "size": 1}]);
            volume(b.mapped(), &["rbind"], Some(two))
        },
        sees: &[("/stat/~1mnt~1root/uid", "1"), ("/stat/~1mnt~1five/uid", "10")],
    },
    Case {
        name: "idmap alone takes the container's",
        set: |b| volume(b.mapped(), &["bind", "idmap"], None),
        sees: &[("/stat/~1mnt~1root/uid", "0"), ("/stat/~1mnt~1five/gid", "5")],
    },
    Case {
        name: "ridmap alone takes the container's",
        set: |b| volume(b.mapped(), &["rbind", "ridmap"], None),
        sees: &[("/stat/~1mnt~1root/uid", "0"), ("/stat/~1mnt~1five/gid", "5")],
    },
    Case {
        name: "without a user namespace the mapping's ids show",
        set: |b| volume(b, &["bind", "idmap"], Some(map(0, MAPPED, 65536))),
        sees: &[("/stat/~1mnt~1root/uid", "100000"), ("/stat/~1mnt~1five/gid", "100005")],
    },
    Case {
        name: "a mapping without a word about it",
        set: |b| volume(b, &["bind"], Some(map(0, 7, 10))),
        sees: &[("/stat/~1mnt~1root/uid", "7"), ("/stat/~1mnt~1five/gid", "12")],
    },
    Case {
        name: "a part of the root with the container's mapping, and not what is mounted below it",
        set: |b| copies(b.mapped(), &["rbind", "idmap"], None),
        sees: &[
            ("/stat/~1mnt~1root/uid", "65534"),
            ("/stat/~1copy~1root/uid", "0"),
            ("/stat/~1copy~1sub~1root/uid", "65534"),
            ("/stat/~1again~1five/gid", "5"),
        ],
    },
    Case {
        name: "a part of the root, and all below it",
        set: |b| copies(b.mapped(), &["rbind", "ridmap"], None),
        sees: &[
            ("/stat/~1copy~1root/gid", "0"),
            ("/stat/~1copy~1sub~1root/uid", "0"),
            ("/stat/~1again~1five/uid", "5"),
        ],
    },
    Case {
        name: "a part of the root with a mapping of its own",
        set: |b| copies(b.mapped(), &["rbind"], Some(map(5, MAPPED + 70, 1))),
        sees: &[("/stat/~1copy~1root/uid", "65534"), ("/stat/~1again~1five/uid", "70")],
    },
    Case {
        name: "a part of the root without a user namespace",
        set: |b| copies(b, &["rbind"], Some(map(0, MAPPED, 65536))),
        sees: &[
            ("/stat/~1mnt~1root/uid", "0"),
            ("/stat/~1copy~1root/uid", "100000"),
            ("/stat/~1copy~1sub~1root/uid", "0"),
            ("/stat/~1again~1five/gid", "100005"),
        ],
    },
];

/// A file that is written through an idmapped mount belongs on the host to the id of the mapping.
#[test]
fn files_written_through_an_idmapped_mount_have_host_ids() {
    let runtime = Runtime::new("userns-write");
    let bundle = volume(Bundle::probe(&[]).mapped(), &["rbind", "idmap"], None)
        .set("/process/user", json!({"uid": 5, "gid": 6}));
    fs::set_permissions(bundle.path().join("source"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let new = bundle.path().join("source/new");
    runtime.run("c1", &bundle.args(&["/probe", "write", "/mnt/new", "x"])).ok();
    let new = fs::metadata(new).unwrap();
    assert_eq!((new.uid(), new.gid()), (5, 6));
}

/// `idmap` applies to the mount alone, `ridmap` also to the mounts below it.
#[test]
fn ridmap_covers_submounts_and_idmap_does_not() {
    let runtime = Runtime::new("userns-submounts");
    for (word, inner) in [("idmap", 65534), ("ridmap", 0)] {
        let bundle = volume(Bundle::probe(&[]).mapped(), &["rbind", word], None);
        let sub = Submount::new(&bundle.path().join("source"));
        let report =
            runtime.run("c1", &bundle.args(&["/probe", "report", "stat=/mnt/root", "stat=/mnt/sub/root"])).ok().json();
        drop(sub);
        assert_eq!(report["stat"]["/mnt/root"]["uid"], 0, "{word}");
        assert_eq!(report["stat"]["/mnt/sub/root"]["uid"], inner, "{word}");
        runtime.assert_clean(word);
    }
}

/// Another directory mounted at `sub`, with the file `root`. (A tmpfs can be idmapped only since Linux 6.3.)
struct Submount(PathBuf);

impl Submount {
    fn new(dir: &Path) -> Self {
        let path = dir.join("sub");
        let other = dir.with_file_name("other");
        for dir in [&path, &other] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(other.join("root"), "").unwrap();
        rustix::mount::mount_bind(&other, &path).unwrap();
        Self(path)
    }
}

impl Drop for Submount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn bad_mappings_of_mounts_are_refused() {
    refused("idmap-refused", REFUSED);
    if !skipped_on_runc("idmap", "it names neither field nor file system") {
        refused("idmap-named", NAMED);
    }
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "a mapped mount that is no bind mount",
        set: |b| {
            b.mount("/mnt", "tmpfs", "tmpfs", &["idmap"]).edit(|c| {
                let mount = c["mounts"].as_array_mut().unwrap().last_mut().unwrap();
                mount["uidMappings"] = map(0, MAPPED, 1);
                mount["gidMappings"] = map(0, MAPPED, 1);
            })
        },
        says: &["id-mapped mounts are only supported for bind-mounts"],
    },
    Refusal {
        name: "idmap with no mapping to take",
        set: |b| volume(b, &["bind", "idmap"], None),
        says: &["id-mapped mounts must have both uid and gid mappings specified"],
    },
    Refusal {
        name: "a mount with uids alone",
        set: |b| {
            volume(b, &["bind"], Some(map(0, MAPPED, 1))).edit(|c| {
                c["mounts"].as_array_mut().unwrap().last_mut().unwrap().as_object_mut().unwrap().remove("gidMappings");
            })
        },
        says: &["id-mapped mounts must have both uid and gid mappings specified"],
    },
    Refusal {
        name: "a filesystem that cannot be idmapped",
        set: |b| b.mapped().mount("/mnt", "bind", "/sys/kernel", &["bind", "idmap"]),
        says: &["MOUNT_ATTR_IDMAP", "/sys/kernel", "invalid argument"],
    },
];

const NAMED: &[Refusal] = &[
    Refusal {
        name: "a mapping of a mount",
        set: |b| volume(b, &["bind"], Some(map(0, MAPPED, 0))),
        says: &["mounts[7].uidMappings[0]: size"],
    },
    Refusal {
        name: "a filesystem that cannot be idmapped",
        set: |b| b.mapped().mount("/mnt", "bind", "/sys/kernel", &["bind", "idmap"]),
        says: &["/sys/kernel", "/mnt", "sysfs cannot be idmapped"],
    },
    Refusal {
        name: "a filesystem below that cannot be idmapped",
        set: |b| b.mapped().mount("/mnt", "bind", "/proc", &["rbind", "ridmap"]).unmount("/proc"),
        says: &["/proc", "cannot be idmapped"],
    },
    Refusal {
        name: "a filesystem in the root that cannot be idmapped",
        set: |b| {
            let sys = b.rootfs().join("sys");
            bind(b.mapped(), &sys, "/mnt", &["bind", "idmap"], None)
        },
        says: &["rootfs/sys", "/mnt", "MOUNT_ATTR_IDMAP /sys: the file system there cannot be idmapped"],
    },
];
