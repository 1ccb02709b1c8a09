//! The calls of the shim's task service. The driver joins the shim for the time of one call.

use super::{
    super::{
        Action, Class, Log, Order,
        judge::{self, Outcome},
        matrix::{Cell, Scene},
    },
    ID, restricted, seen,
};
use crate::{
    bundle::Bundle,
    cgroup, command,
    comparison::{self, Seen},
    procs,
    scratch::Scratch,
    shim::{Failure, Shim, container::exec_request},
    tools,
    wait::{LONG, until},
};
use berth_proto::{task::CreateTaskRequest, ttrpc::Code};
use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The id of the exec.
const EXEC: &str = "e1";
/// The bound of a call.
const BOUND: Duration = Duration::from_secs(30);

/// The call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Create.
    Create,
    /// Start of init.
    Start,
    /// Exec, and Start of the exec.
    Exec,
    /// Kill of init.
    Kill,
    /// Delete of a stopped container.
    Delete,
    /// Pause.
    Pause,
    /// Update of three limits.
    Update,
}

/// A shim that is called under an order.
pub struct Rpc {
    kind: Kind,
    shim: Option<Shim>,
    bundle: Bundle,
    work: Scratch,
    clean: Seen,
    next: usize,
}

impl Rpc {
    /// Starts a shim and makes the call once without a fault.
    pub fn new(kind: Kind) -> Self {
        let words: Vec<Value> = ["+", "sleep", "1000"].map(|word| json!(word)).into();
        let bundle = restricted().edit(|config| config["process"]["args"].as_array_mut().unwrap().extend(words));
        let work = Scratch::new("rpc");
        let mut scene = Self { kind, shim: None, bundle, work, clean: Seen::new(), next: 0 };
        let cell = scene.go(Order { action: Action::Count, class: Class::Child, at: 0 });
        assert!(cell.0.findings.is_empty(), "{:?}", cell.0);
        scene.clean = cell.1;
        scene
    }

    fn shim(&mut self) -> &Shim {
        self.shim.get_or_insert_with(|| Shim::start("rpc"))
    }

    fn report(&self) -> PathBuf {
        self.work.path().join("report")
    }

    /// Brings the container to where the call is made.
    fn set_up(&mut self) -> CreateTaskRequest {
        let (kind, bundle, stdout) = (self.kind, self.bundle.clone(), format!("file://{}", self.report().display()));
        let _ = fs::remove_file(self.report());
        let shim = self.shim();
        let request = CreateTaskRequest { stdout, ..shim.request(ID, &bundle) };
        if kind != Kind::Create {
            shim.create_as(request.clone()).unwrap();
        }
        if !matches!(kind, Kind::Create | Kind::Start) {
            shim.start_process(ID, "").unwrap();
        }
        if kind == Kind::Delete {
            shim.kill(ID, "", 9, false).unwrap();
            shim.wait(ID, "").unwrap();
        }
        request
    }

    /// Makes the call.
    fn call(&self, request: CreateTaskRequest) -> Result<(), Failure> {
        let shim = self.shim.as_ref().unwrap();
        match self.kind {
            Kind::Create => shim.create_as(request).map(drop),
            Kind::Start => shim.start_process(ID, "").map(drop),
            Kind::Exec => {
                let mut process = self.bundle.config["process"].clone();
                process["args"] = json!(comparison::report_words());
                let mut exec = exec_request(ID, EXEC, &process, None);
                exec.stdout = format!("file://{}", self.work.path().join("exec").display());
                shim.exec_as(exec)?;
                shim.start_process(ID, EXEC).map(drop)
            }
            Kind::Kill => shim.kill(ID, "", 9, false),
            Kind::Delete => shim.delete(ID, "").map(drop),
            Kind::Pause => shim.pause(ID),
            Kind::Update => {
                let resources = r#"{"memory":{"limit":50331648},"pids":{"limit":40},"cpu":{"shares":1024}}"#;
                shim.update(ID, resources)
            }
        }
    }

    /// Joins the shim with the driver.
    fn join(&mut self, order: Order) -> (Child, PathBuf) {
        self.next += 1;
        let log = self.work.path().join(format!("log-{}", self.next));
        let pid = self.shim().pid.to_string();
        let mut driver = Command::new(tools::built("berth-fault"));
        driver.arg(&log).arg(order.to_string()).args(["--attach", &pid]).stdin(Stdio::piped());
        let driver = driver.spawn().unwrap();
        until("the driver to join", LONG, || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("attached")).then_some(())
        });
        (driver, log)
    }

    /// Makes the call under an order. Returns the container as it was after it.
    fn go(&mut self, order: Order) -> (Cell, Seen) {
        let request = self.set_up();
        let (mut driver, file) = self.join(order);
        let begin = Instant::now();
        let answer = self.call(request);
        let took = begin.elapsed();
        drop(driver.stdin.take());
        command::wait(&mut driver, LONG).expect("the driver to leave");
        let log = Log::read(&file);
        fs::remove_file(&file).unwrap();
        let mut findings = vec![];
        if took > BOUND {
            findings.push(format!("takes {took:?}: {answer:?}"));
        }
        let shim = self.shim.as_ref().unwrap();
        let alive = procs::alive(shim.pid);
        let killed = order.action == Action::Kill;
        let last_words = if alive { String::new() } else { shim.log() };
        let out_of_memory = judge::is_out_of_memory(&last_words);
        let expected = killed && order.class == Class::Parent;
        if !(alive || out_of_memory || expected) {
            findings.push(format!("the shim has ended: {answer:?}: {last_words}"));
        }
        findings.extend(answer.as_ref().err().and_then(|failure| unnamed(failure, alive)));
        let seen = if alive && answer.is_ok() && !killed { self.look() } else { Seen::new() };
        if !self.clean.is_empty() && !seen.is_empty() {
            findings.extend(judge::weaker(&seen, &self.clean));
        }
        findings.extend(if alive { self.end() } else { self.end_without_shim() });
        if !findings.is_empty() {
            self.give_up();
        }
        let said = answer.as_ref().err().map(|failure| failure.message.clone()).unwrap_or_default();
        let outcome = match answer {
            _ if !findings.is_empty() => None,
            _ if log.spared => Some(Outcome::Spared),
            _ if killed => Some(Outcome::Cleared),
            _ if out_of_memory => Some(Outcome::NoMemory),
            Ok(()) => Some(Outcome::Same),
            Err(_) => Some(Outcome::Refused),
        };
        (Cell { log, outcome, findings, said }, seen)
    }

    /// The container after a call that succeeded.
    fn look(&self) -> Seen {
        let shim = self.shim.as_ref().unwrap();
        let mut all = Seen::new();
        let report = |path: PathBuf, lines: usize| {
            until("a report", LONG, || {
                let said = fs::read_to_string(&path).unwrap_or_default();
                (said.lines().count() >= lines).then(|| seen(&said)).flatten()
            })
        };
        match self.kind {
            Kind::Create => drop(shim.start_process(ID, "").unwrap()),
            Kind::Kill => {
                shim.wait(ID, "").unwrap();
                return all;
            }
            Kind::Delete => return all,
            Kind::Exec => {
                shim.wait(ID, EXEC).unwrap();
                all = report(self.work.path().join("exec"), 1);
                fs::remove_file(self.work.path().join("exec")).unwrap();
            }
            Kind::Pause => {
                all.insert("frozen".into(), cgroup::frozen(&shim.cgroup(ID)).to_string());
                return all;
            }
            Kind::Start | Kind::Update => {}
        }
        if self.kind != Kind::Exec {
            all.extend(report(self.report(), 2));
        }
        comparison::outside_of(shim.state(ID, "").unwrap().pid, &shim.cgroup(ID), &mut all);
        all
    }

    /// Ends the container as containerd does. Each call may be made again.
    fn end(&mut self) -> Vec<String> {
        let shim = self.shim.as_ref().unwrap();
        let mut findings = vec![];
        if shim.state(ID, "").is_ok() {
            let _ = shim.resume(ID);
            let _ = shim.delete(ID, EXEC);
            let _ = shim.kill(ID, "", 9, true);
            let phase = shim.phase(ID, "");
            if phase != "CREATED" {
                let begin = Instant::now();
                let waited = shim.wait(ID, "");
                if waited.is_err() || begin.elapsed() > BOUND {
                    findings.push(format!("Wait after Kill: {waited:?} after {:?}", begin.elapsed()));
                }
            }
            if let Err(failure) = shim.delete(ID, "") {
                findings.push(format!("Delete afterwards: {failure:?}"));
            }
        }
        let left = shim.residue();
        if !left.is_empty() {
            findings.push(format!("leaves {left:?}"));
        }
        findings
    }

    /// Ends what a dead shim has left, as containerd does.
    fn end_without_shim(&mut self) -> Vec<String> {
        let shim = self.shim.take().unwrap();
        let mut findings = vec![];
        match shim.try_delete_action(ID, self.bundle.path(), LONG) {
            Some(out) if out.status.success() => {}
            Some(out) => findings.push(format!("delete of the shim: {}", out.stderr)),
            None => findings.push("delete of the shim hangs".to_owned()),
        }
        let left = shim.residue();
        if !left.is_empty() {
            findings.push(format!("the shim's delete leaves {left:?}"));
        }
        shim.discard();
        findings
    }

    /// Removes everything, also what a finding is about.
    fn give_up(&mut self) {
        if let Some(shim) = self.shim.take() {
            shim.discard();
        }
    }
}

/// Returns what is wrong with an error.
fn unnamed(failure: &Failure, alive: bool) -> Option<String> {
    let message = failure.message.as_str();
    // The connection of a shim that is killed just ends.
    if !alive {
        return None;
    }
    let code = failure.code;
    let unknown = matches!(code, Code::UNKNOWN | Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED);
    judge::unnamed(message).or_else(|| unknown.then(|| format!("answers {code:?}: {message}")))
}

impl Scene for Rpc {
    fn cell(&mut self, order: Order) -> Cell {
        self.go(order).0
    }
}
