//! Pods and containers through crictl, with the terms of the CRI.

use crate::{
    command::Output,
    containerd::Containerd,
    image,
    session::Session,
    wait::{LONG, until, until_true},
};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

/// Returns the configuration of a pod for `crictl runp`. A test changes the fields that it is about.
pub fn pod_config(containerd: &Containerd, name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("{}-{name}", containerd.reservation.tag()), "attempt": 1},
        "hostname": name,
        "labels": {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default"},
        "log_directory": containerd.dir().join("logs").join(name),
        "linux": {"cgroup_parent": containerd.reservation.cgroup(), "security_context": {}},
    })
}

/// Returns the configuration of a container of the busybox image that runs `args`.
pub fn container_config(name: &str, args: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "attempt": 1},
        "image": {"image": image::BUSYBOX},
        "command": args,
        "labels": {"io.kubernetes.container.name": name},
        "log_path": format!("{name}.log"),
        "linux": {"resources": {}, "security_context": {}},
    })
}

/// A running pod.
pub struct Pod<'a> {
    /// The id of the pod.
    pub id: String,
    containerd: &'a Containerd,
    config: Value,
}

/// A container in a pod.
pub struct Container<'a> {
    /// The id of the container.
    pub id: String,
    log: PathBuf,
    containerd: &'a Containerd,
}

impl<'a> Pod<'a> {
    /// Runs a pod of this name.
    pub fn run(containerd: &'a Containerd, name: &str) -> Self {
        Self::run_config(containerd, pod_config(containerd, name))
    }

    /// Runs a pod with the given configuration.
    pub fn run_config(containerd: &'a Containerd, config: Value) -> Self {
        let file = write(containerd, "pod", &config["metadata"]["name"], &config);
        let id = containerd.crictl(["runp", "--runtime", containerd.runtime.handler(), &file]).ok();
        containerd.reservation.expect_shim("k8s.io", &id);
        Self { id, containerd, config }
    }

    /// Creates a container from `config` without starting it.
    pub fn create(&self, config: &Value) -> Container<'a> {
        let output = self.try_create(config);
        let id = output.ok();
        let log =
            self.containerd.dir().join("logs").join(self.name()).join(config["log_path"].as_str().expect("a log path"));
        Container { id, log, containerd: self.containerd }
    }

    /// Runs `crictl create` with `config` and returns its output.
    pub fn try_create(&self, config: &Value) -> Output {
        let pod = write(self.containerd, "pod", &self.config["metadata"]["name"], &self.config);
        let mut config = config.clone();
        config["labels"]["io.kubernetes.pod.name"] = self.name().into();
        config["labels"]["io.kubernetes.pod.namespace"] = "default".into();
        let file = write(self.containerd, self.name(), &config["metadata"]["name"], &config);
        self.containerd.crictl(["create", "--no-pull", &self.id, &file, &pod])
    }

    /// Creates and starts a container that runs `args`.
    pub fn start(&self, name: &str, args: &[&str]) -> Container<'a> {
        self.start_config(&container_config(name, args))
    }

    /// Creates and starts a container from `config`.
    pub fn start_config(&self, config: &Value) -> Container<'a> {
        let container = self.create(config);
        container.start();
        container
    }

    /// Runs `crictl inspectp`, whose member `info` has containerd's own data.
    pub fn inspect(&self) -> Value {
        parse(&self.containerd.crictl(["inspectp", &self.id]).ok())
    }

    /// Stops the pod and all its containers.
    pub fn stop(&self) {
        self.containerd.crictl(["stopp", &self.id]).ok();
    }

    /// Removes the stopped pod and its containers.
    pub fn remove(&self) {
        self.containerd.crictl(["rmp", &self.id]).ok();
    }

    /// Stops and removes the pod with retries, as the kubelet does. While containerd cleans up after a dead shim it
    /// answers "ttrpc: closed", until the orphans of the shim are reaped.
    pub fn clear(&self) {
        for verb in ["stopp", "rmp"] {
            until_true("the pod to be cleared", LONG, || self.containerd.crictl([verb, &self.id]).status.success());
        }
    }

    fn name(&self) -> &str {
        self.config["metadata"]["name"].as_str().expect("a name")
    }
}

impl Container<'_> {
    /// Starts the container.
    pub fn start(&self) {
        self.try_start().ok();
    }

    /// Runs `crictl start` and returns its output.
    pub fn try_start(&self) -> Output {
        self.containerd.crictl(["start", &self.id])
    }

    /// Runs a command in the container, as an exec probe does.
    pub fn exec(&self, args: &[&str]) -> Output {
        self.containerd.crictl(["exec", "--sync", &self.id].iter().chain(args))
    }

    /// Runs a command in the container on a terminal.
    pub fn exec_on_terminal(&self, args: &[&str]) -> Session {
        let mut command = self.containerd.crictl_command();
        Session::on_terminal(command.args(["exec", "-i", "-t", &self.id]).args(args))
    }

    /// Returns the log so far, in the line format of the kubelet: time, stream, tag, text.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has `text`.
    pub fn expect_log(&self, text: &str) -> String {
        until(&format!("{text:?} in {}", self.log.display()), LONG, || {
            Some(self.log()).filter(|log| log.contains(text))
        })
    }

    /// Runs `crictl inspect`.
    pub fn inspect(&self) -> Value {
        parse(&self.containerd.crictl(["inspect", &self.id]).ok())
    }

    /// Returns the status alone: `state`, `exitCode`, `reason`, times.
    pub fn status(&self) -> Value {
        self.inspect()["status"].clone()
    }

    /// Waits until the container has exited and returns its status.
    pub fn exited(&self) -> Value {
        until("the container to exit", LONG, || {
            Some(self.status()).filter(|status| status["state"] == "CONTAINER_EXITED")
        })
    }

    /// Returns the pid of the container's first process in the pid namespace of the tests.
    pub fn pid(&self) -> i32 {
        self.inspect()["info"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid")
    }

    /// Returns the path of the container's cgroup inside the hierarchies.
    pub fn cgroup(&self) -> String {
        format!("{}/{}", self.containerd.reservation.cgroup(), self.id)
    }

    /// Stops the container: its stop signal, then SIGKILL after `seconds`.
    pub fn stop(&self, seconds: u32) {
        self.containerd.crictl(["stop", "--timeout", &seconds.to_string(), &self.id]).ok();
    }

    /// Removes the stopped container.
    pub fn remove(&self) {
        self.containerd.crictl(["rm", &self.id]).ok();
    }
}

/// Parses JSON that a tool printed.
pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

fn write(containerd: &Containerd, kind: &str, name: &Value, config: &Value) -> String {
    let file = containerd.dir().join(format!("{kind}-{}.json", name.as_str().expect("a name")));
    fs::write(&file, config.to_string()).expect("write a configuration");
    file.to_string_lossy().into_owned()
}
