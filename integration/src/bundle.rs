//! [`Bundle`]: a directory with config.json and a root filesystem that holds only the probe, or busybox.

use crate::{cgroup, executable, scratch::Scratch, tools};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Returns `uidMappings` or `gidMappings` of one line.
pub fn map(inside: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": inside, "hostID": host, "size": size}])
}

/// The host id of root in a [`Bundle::mapped`] container.
pub const MAPPED: u32 = 100_000;

/// A bundle under construction. Each method returns the bundle, so that a bundle can be written as one expression.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: Arc<Scratch>,
    /// config.json as `runc spec` writes it, without a terminal and with the process `/probe report`.
    pub config: Value,
}

impl Bundle {
    /// Makes a bundle whose process is the probe with these words.
    pub fn probe(words: &[&str]) -> Self {
        let bundle = Self { dir: Arc::new(Scratch::new("bundle")), config: default_config() }
            .args(&[&["/probe"], words].concat());
        fs::create_dir(bundle.rootfs()).unwrap();
        executable::copy(&tools::built("berth-probe"), &bundle.rootfs().join("probe"));
        bundle
    }

    /// Makes a bundle that also has busybox, with links for these applets in /bin.
    pub fn busybox(args: &[&str], applets: &[&str]) -> Self {
        let bundle = Self::probe(&[]).args(args).dir("bin", 0o755);
        executable::copy(tools::tool("BUSYBOX"), &bundle.rootfs().join("bin/busybox"));
        applets.iter().fold(bundle, |b, applet| b.link(&format!("bin/{applet}"), "busybox"))
    }

    /// Returns the directory that holds config.json.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the directory as a handle. The directory exists as long as a handle does.
    pub fn keep(&self) -> Arc<Scratch> {
        self.dir.clone()
    }

    /// Returns the path of the root filesystem.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Changes the configuration.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self
    }

    /// Sets the value at a JSON pointer. Its parents must exist. In a list the pointer names an existing element, or
    /// `-` to append.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = self.config.pointer_mut(parent).unwrap_or_else(|| panic!("no parent of {pointer}"));
        match parent.as_array_mut() {
            Some(list) if name == "-" => list.push(value),
            Some(list) => list[name.parse::<usize>().expect("a place in a list")] = value,
            None => parent[name] = value,
        }
        self
    }

    /// Removes the member at a JSON pointer.
    pub fn unset(mut self, pointer: &str) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a JSON pointer");
        if let Some(map) = self.config.pointer_mut(parent).and_then(Value::as_object_mut) {
            map.remove(name);
        }
        self
    }

    /// Sets process.args.
    pub fn args(self, args: &[&str]) -> Self {
        self.set("/process/args", json!(args))
    }

    /// Adds a mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        self.set("/mounts/-", json!({"destination": destination, "type": kind, "source": source, "options": options}))
    }

    /// Removes the mount at a destination.
    pub fn unmount(self, destination: &str) -> Self {
        self.edit(|c| c["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != destination))
    }

    /// Removes the namespace of a type, so that the container shares the host's.
    pub fn host_namespace(self, kind: &str) -> Self {
        self.edit(|c| c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != kind))
    }

    /// Adds the namespace of a type: joined at `path`, or new if `path` is empty.
    pub fn namespace(self, kind: &str, path: &str) -> Self {
        let new = if path.is_empty() { json!({"type": kind}) } else { json!({"type": kind, "path": path}) };
        self.host_namespace(kind).set("/linux/namespaces/-", new)
    }

    /// Chowns the root filesystem to the id [`MAPPED`], as a snapshotter does. Files that are added later stay root's.
    pub fn owned(self) -> Self {
        give(&self.rootfs(), MAPPED);
        self
    }

    /// Applies what `runc spec --rootless` does for a user: `uid` is mapped to root, the network namespace is the
    /// host's, and /sys is bound. The root filesystem is chowned to `uid`, and no cgroup is named.
    pub fn rootless(self, uid: u32) -> Self {
        give(&self.rootfs(), uid);
        let map = map(0, uid, 1);
        self.unmount("/sys")
            .unset("/linux/resources")
            .host_namespace("network")
            .namespace("user", "")
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
            .set("/linux/cgroupsPath", json!(""))
            .edit(|config| {
                let mounts = config["mounts"].as_array_mut().unwrap();
                for options in mounts.iter_mut().filter_map(|mount| mount["options"].as_array_mut()) {
                    options.retain(|word| word != "gid=5");
                }
                let options = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
                let sys = json!({"destination": "/sys", "type": "none", "source": "/sys", "options": options});
                // The mounts below /sys must come after it.
                mounts.insert(mounts.len() - 1, sys);
            })
    }

    /// Adds a new user namespace that maps its ids 0 to 65535 to the host's from [`MAPPED`] on, and chowns the root
    /// filesystem to its root ([`Self::owned`]).
    pub fn mapped(self) -> Self {
        let map = map(0, MAPPED, 65536);
        self.owned().namespace("user", "").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
    }

    /// Makes a directory and its parents in the root filesystem.
    pub fn dir(self, path: &str, mode: u32) -> Self {
        let path = self.rootfs().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Writes a file in the root filesystem.
    pub fn file(self, path: &str, content: &str, mode: u32) -> Self {
        let path = self.rootfs().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        executable::write(&path, content, mode);
        self
    }

    /// Makes a symbolic link in the root filesystem.
    pub fn link(self, path: &str, target: &str) -> Self {
        let path = self.rootfs().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// Writes config.json. The container's cgroup is `cgroup` unless the bundle names one.
    pub fn save(&self, cgroup: &str) {
        let mut config = self.config.clone();
        if config["linux"].is_object() && config["linux"].get("cgroupsPath").is_none() {
            config["linux"]["cgroupsPath"] = json!(cgroup);
        }
        fs::write(self.path().join("config.json"), serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    }
}

fn give(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), id));
    }
}

/// Returns the config.json of `runc spec` (1.5) without a terminal and with the probe's args.
pub fn default_config() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if cgroup::is_v2() {
        namespaces.push("cgroup");
    }
    let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe", "report"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
