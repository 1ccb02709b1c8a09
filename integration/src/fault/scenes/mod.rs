//! The operations of the matrices, each with its judge, on a container with a restriction of every kind.

pub mod created;
pub mod held;
pub mod kept;
pub mod rpc;
pub mod run;

use self::{
    created::Created,
    held::Held,
    kept::{Kept, Kind},
    rpc::Rpc,
    run::Run,
};
use super::{
    Action, Log, Order,
    judge::{self, Outcome},
    matrix::{Cell, Scene},
};
use crate::{
    bundle::Bundle,
    comparison::{self, Seen},
    runtime::{Output, Running, Runtime},
    tools,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// An operation of the matrices: its name in the page, and its maker.
pub type Named = (&'static str, fn() -> Box<dyn Scene>);

/// All operations.
pub const ALL: &[Named] = &[
    ("run", || Box::new(Run::new("faults-run", false, |bundle| bundle))),
    ("run in a user namespace", || Box::new(Run::new("faults-userns", false, Bundle::mapped))),
    ("run with hooks", || Box::new(Run::new("faults-hooks", true, |bundle| bundle))),
    ("create, start", || Box::new(Created::new("faults-create", false, |bundle| bundle))),
    ("create, start in a user namespace", || Box::new(Created::new("faults-create", false, Bundle::mapped))),
    ("create, start with a terminal", || Box::new(Created::new("faults-terminal", true, |bundle| bundle))),
    ("exec", || kept(Kind::Exec)),
    ("update", || kept(Kind::Update)),
    ("pause", || kept(Kind::Pause)),
    ("resume", || kept(Kind::Resume)),
    ("kill", || kept(Kind::Kill)),
    ("kill --all", || kept(Kind::KillAll)),
    ("delete", || kept(Kind::Delete)),
    ("delete --force", || kept(Kind::ForceDelete)),
    ("state", || kept(Kind::State)),
    ("ps", || kept(Kind::Ps)),
    ("shim: Create", || Box::new(Rpc::new(rpc::Kind::Create))),
    ("shim: Start", || Box::new(Rpc::new(rpc::Kind::Start))),
    ("shim: Exec, Start", || Box::new(Rpc::new(rpc::Kind::Exec))),
    ("shim: Kill", || Box::new(Rpc::new(rpc::Kind::Kill))),
    ("shim: Delete", || Box::new(Rpc::new(rpc::Kind::Delete))),
    ("shim: Pause", || Box::new(Rpc::new(rpc::Kind::Pause))),
    ("shim: Update", || Box::new(Rpc::new(rpc::Kind::Update))),
];

/// The operations whose child is stopped.
pub const HELD: &[Named] = &[
    ("run, with init stopped", || Box::new(Held::run("faults-held", |bundle| bundle))),
    ("run in a user namespace, with init stopped", || Box::new(Held::run("faults-held", Bundle::mapped))),
    ("exec, with its process stopped", || Box::new(Held::exec("faults-held", |bundle| bundle))),
];

fn kept(kind: Kind) -> Box<dyn Scene> {
    Box::new(Kept::new("faults-kept", kind, |bundle| bundle))
}

/// The id of the container.
pub const ID: &str = "c1";

/// The files that the hooks make in the work directory.
pub const MARKS: [&str; 4] = ["hook-createRuntime", "hook-createContainer", "hook-poststart", "hook-poststop"];

/// A bundle with a restriction of every kind. Its process reports and tries a device that its rules deny.
pub fn restricted() -> Bundle {
    let words =
        [comparison::report_words(), vec!["read=/proc/sys/kernel/msgmax", "+", "open", "rw", "/dev/fuse"]].concat();
    let caps = json!(["CAP_KILL", "CAP_CHOWN"]);
    let sets =
        json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": ["CAP_KILL"]});
    let resources = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 50}, "cpu": {"shares": 512},
        "devices": [{"allow": false, "access": "rwm"}]});
    let rule = json!({"names": ["mkdirat", "keyctl"], "action": "SCMP_ACT_ERRNO"});
    Bundle::probe(&[])
        .args(&words)
        .dir("d", 0o755)
        .file("f", "x", 0o644)
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 63}))
        .set("/process/capabilities", sets)
        .set("/process/oomScoreAdj", json!(500))
        .set("/hostname", json!("one"))
        .set("/domainname", json!("two"))
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}))
        .set("/linux/resources", resources)
        .set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
        .set("/linux/devices", json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]))
        .set("/linux/maskedPaths", json!(["/d", "/f", "/proc/keys", "/sys/firmware", "/none"]))
        .mount("/made/for/it", "tmpfs", "tmpfs", &["size=1m", "mode=700", "noatime", "nosuid"])
        .mount("/b", "bind", "/etc", &["rbind", "ro", "nosuid", "rslave"])
        .mount("/c", "bind", "/etc/hostname", &["bind", "rro", "noexec"])
}

/// Adds a hook of every kind that runs beside the container, each of which makes a file in `work`.
pub fn with_hooks(bundle: Bundle, work: &Path) -> Bundle {
    let hook = |name: &str| json!([{"path": "/usr/bin/touch", "args": ["touch", work.join(format!("hook-{name}"))]}]);
    let hooks: serde_json::Map<String, Value> =
        MARKS.iter().filter_map(|mark| mark.strip_prefix("hook-")).map(|name| (name.to_owned(), hook(name))).collect();
    bundle.edit(|config| config["hooks"] = Value::Object(hooks))
}

/// A runtime whose calls go through the driver.
pub struct Stage {
    /// The runtime.
    pub runtime: Runtime,
    driver: String,
    next: usize,
}

impl Stage {
    /// Makes the stage. `name` appears in the names of its files.
    pub fn new(name: &str) -> Self {
        let driver = tools::built("berth-fault").to_str().unwrap().to_owned();
        Self { runtime: Runtime::new(name), driver, next: 0 }
    }

    /// Begins a call under an order. Returns it and the file of the driver's log.
    pub fn begin(&mut self, order: Order, words: &[&str]) -> (Running, PathBuf) {
        self.next += 1;
        let log = self.runtime.work().join(format!("log-{}", self.next));
        let call = self.runtime.call(words).through(&[&self.driver, log.to_str().unwrap(), &order.to_string()]);
        (call.spawn(), log)
    }

    /// Returns the log of a call that has ended, and removes it.
    pub fn end(&self, log: &Path) -> Log {
        let read = Log::read(log);
        fs::remove_file(log).unwrap();
        read
    }

    /// Makes a call under an order.
    pub fn drive(&mut self, order: Order, words: &[&str]) -> (Output, Log) {
        let (call, log) = self.begin(order, words);
        let out = call.wait();
        (out, self.end(&log))
    }

    /// Does what an operator would do, and returns what is still left.
    pub fn clear(&self) -> Vec<String> {
        if self.runtime.residue_now().is_empty() {
            return vec![];
        }
        let mut findings = vec![];
        let out = self.runtime.cmd(&["delete", "--force", ID]);
        if out.code != 0 {
            findings.push(format!("delete --force: {}", out.stderr));
        }
        let left = self.runtime.residue();
        if !left.is_empty() {
            findings.push(format!("delete --force leaves {left:?}"));
            self.runtime.clear();
        }
        findings
    }
}

/// Returns what the process saw, if it came to its report.
pub fn seen(stdout: &str) -> Option<Seen> {
    // A runtime that is killed may have copied a part of the line.
    let (report, rest) = stdout.split_once('\n')?;
    let mut seen = comparison::inside("init", report);
    seen.insert("device".to_owned(), rest.lines().collect());
    Some(seen)
}

/// Puts the cell together.
pub fn cell(order: Order, out: Output, log: Log, findings: Vec<String>) -> Cell {
    let outcome = match order.action {
        _ if !findings.is_empty() => None,
        _ if log.spared => Some(Outcome::Spared),
        Action::Kill | Action::Hold => Some(Outcome::Cleared),
        _ if judge::is_out_of_memory(&out.stderr) => Some(Outcome::NoMemory),
        _ if out.code != 0 => Some(Outcome::Refused),
        _ if out.stderr.trim().is_empty() => Some(Outcome::Same),
        _ => Some(Outcome::Warned),
    };
    Cell { log, outcome, findings, said: out.stderr.trim().to_owned() }
}
