//! [`Node`]: one private containerd with everything that the contestants need.
//!
//! All contestants share the daemon, the files of the root filesystem, and the config.json. Each container has a
//! cgroup, an overlay and (unless it joins a pod) a shim of its own. The daemon and its descendants are in one cgroup,
//! which accounts their CPU time and page faults, and from which no process escapes.

use super::{
    Contestant,
    cri_api::Cri,
    grpc::Channel,
    operation::{self, Prepared},
    tasks_api::{Any, Container, CreateTask, Mount, RuncOptions, RuntimeName, Tasks},
    template,
};
use berth_integration::{
    cgroup,
    containerd::{Containerd, Form, Runtime, Version},
    executable,
    tools::{built, built_dir, find, tool},
};
use prost::Message;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The containerd namespace of containers without a CRI pod.
pub const NAMESPACE: &str = "default";
/// A payload that exits at once.
pub const TRUE: [&str; 1] = ["/bin/true"];
/// A payload that stays.
pub const SLEEP: [&str; 2] = ["/bin/sleep", "100000"];

/// A containerd for the benchmark, as the module describes it.
pub struct Node {
    /// The daemon.
    pub containerd: Containerd,
    /// The client of its task service.
    pub tasks: Tasks,
    /// The client of its CRI.
    pub cri: Cri,
    template: Value,
    next: Cell<u64>,
}

impl Node {
    /// Starts containerd and takes the config.json from a pod.
    pub async fn start() -> Self {
        let containerd = Containerd::start_with(Version::V2_3, Runtime::Berth(Form::ByPath));
        account(&containerd);
        let template = template::take(&containerd);
        root_filesystem(&containerd.dir().join("rootfs"));
        let channel = Channel::connect(&containerd.dir().join("c.sock")).await;
        let (tasks, cri) = (Tasks::new(channel.clone(), NAMESPACE), Cri::new(channel));
        Self { containerd, tasks, cri, template, next: Cell::new(0) }
    }

    /// Returns the cgroup of this containerd.
    pub fn cgroup(&self) -> String {
        self.containerd.reservation.cgroup()
    }

    /// Returns its directory.
    pub fn dir(&self) -> &Path {
        self.containerd.dir()
    }

    /// Returns the config.json of a container `id` of the pod `pod` that runs `args`.
    pub fn config(&self, id: &str, pod: &str, args: &[&str]) -> Value {
        template::container(&self.template, &format!("{}/{id}", self.cgroup()), pod, args)
    }

    /// Returns the process object of config.json for an exec.
    pub fn process(&self, args: &[&str]) -> Any {
        let mut process = self.template["process"].clone();
        process["args"] = json!(args);
        oci("Process", &process)
    }

    /// Returns a unique name for a container or an exec.
    pub fn fresh(&self, word: &str) -> String {
        self.next.set(self.next.get() + 1);
        format!("{}-{word}-{}", self.containerd.reservation.tag(), self.next.get())
    }

    /// Records a container in containerd, with a root filesystem of its own: in the pod of the container `pod`, or as
    /// the first one of a new pod.
    pub async fn prepare(&self, who: Contestant, pod: Option<&str>, args: &[&str]) -> Prepared {
        let id = self.fresh(who.name());
        let pod = pod.unwrap_or(&id);
        self.containerd.reservation.expect_shim(NAMESPACE, pod);
        let container = Container {
            id: id.clone(),
            runtime: Some(self.runtime(who)),
            spec: Some(oci("Spec", &self.config(&id, pod, args))),
        };
        self.tasks.record(container).await.unwrap_or_else(|e| panic!("make {id} known: {e}"));
        let layers = self.layers(&id);
        let [upper, work] = ["upper", "work"].map(|name| layers.join(name));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).expect("make a layer");
        }
        let options = [
            format!("lowerdir={}", self.dir().join("rootfs").display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        let overlay = Mount { kind: "overlay".into(), source: "overlay".into(), options: options.into() };
        Prepared { create: CreateTask { container_id: id.clone(), rootfs: vec![overlay] }, id }
    }

    /// Removes the files and the record of [`Node::prepare`]. The task must be deleted already.
    pub async fn discard(&self, id: &str) {
        self.tasks.forget(id).await.unwrap_or_else(|e| panic!("forget {id}: {e}"));
        fs::remove_dir_all(self.layers(id)).expect("remove the layers");
    }

    /// Starts a container, in a pod as [`Node::prepare`] does, and returns its id.
    pub async fn launch(&self, who: Contestant, pod: Option<&str>) -> String {
        let prepared = self.prepare(who, pod, &SLEEP).await;
        operation::launch(&self.tasks, &prepared).await;
        prepared.id
    }

    /// Kills a container of [`Node::launch`] and removes it. Returns the times of the answers of Kill and of Wait (ns).
    pub async fn end(&self, id: &str) -> (u64, u64) {
        let took = operation::kill(&self.tasks, id).await;
        self.discard(id).await;
        took
    }

    /// Returns the pid of the shim of the pod whose first container is `id`.
    pub fn shim(&self, id: &str) -> i32 {
        let serves = |line: &str| line.contains("shim") && line.split(' ').any(|word| word == id);
        let found = berth_integration::procs::mentioning(self.dir()).into_iter().find(|process| serves(&process.line));
        found.unwrap_or_else(|| panic!("no shim of {id}")).pid
    }

    fn layers(&self, id: &str) -> PathBuf {
        self.dir().join("layers").join(id)
    }

    fn runtime(&self, who: Contestant) -> RuntimeName {
        let path = |name: &str| RuntimeName { name: built(name).display().to_string(), options: None };
        match who {
            Contestant::Berth => path("containerd-shim-berth-v2"),
            Contestant::Null => path("berth-null-shim"),
            Contestant::Runc => self.with_go_shim(tool("RUNC"), "runc"),
            Contestant::Crun => self.with_go_shim(tool("CRUN"), "crun"),
            Contestant::Bare => panic!("the bare system calls do not run through containerd"),
        }
    }

    fn with_go_shim(&self, program: &Path, name: &str) -> RuntimeName {
        let root = self.dir().join(name).display().to_string();
        let options = RuncOptions { binary_name: program.display().to_string(), root };
        let options = Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() };
        RuntimeName { name: "io.containerd.runc.v2".into(), options: Some(options) }
    }
}

/// Returns the contestants that this machine has.
pub fn present() -> Vec<Contestant> {
    let has = |who: &Contestant| match who {
        Contestant::Berth => true,
        Contestant::Runc => find("RUNC").is_some(),
        Contestant::Crun => find("CRUN").is_some(),
        Contestant::Null => built_dir().join("berth-null-shim").exists(),
        Contestant::Bare => built_dir().join("berth-bare").exists(),
    };
    Contestant::ALL.into_iter().filter(has).collect()
}

/// Makes a root filesystem with busybox and links for the payloads.
pub fn root_filesystem(dir: &Path) {
    for sub in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(dir.join(sub)).expect("make a directory of the root filesystem");
    }
    for file in ["hosts", "hostname", "resolv.conf"] {
        fs::write(dir.join("etc").join(file), "").expect("make a file of the root filesystem");
    }
    executable::copy(tool("BUSYBOX"), &dir.join("bin/busybox"));
    for applet in ["true", "sleep", "sh"] {
        symlink("busybox", dir.join("bin").join(applet)).expect("link an applet");
    }
}

/// Moves the daemon into the reservation's cgroup in the hierarchies that account CPU time and memory. Its children
/// inherit that.
fn account(containerd: &Containerd) {
    let path = containerd.reservation.cgroup();
    let path = path.trim_start_matches('/');
    for root in cgroup::hierarchies() {
        let accounts = ["cpuacct", "cpu,cpuacct", "memory"].iter().any(|name| root.ends_with(name));
        let dir = if cgroup::is_v2() || accounts { root.join(path).join("containerd") } else { root.join(path) };
        // A directory without cgroup files is the mount point of an unmounted hierarchy.
        if !root.join("cgroup.procs").exists() {
            continue;
        }
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
        if dir.ends_with("containerd") {
            fs::write(dir.join("cgroup.procs"), containerd.pid().to_string()).expect("move containerd");
        }
    }
}

fn oci(kind: &str, value: &Value) -> Any {
    Any {
        type_url: format!("types.containerd.io/opencontainers/runtime-spec/1/{kind}"),
        value: serde_json::to_vec(value).expect("JSON"),
    }
}
