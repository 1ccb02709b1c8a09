//! The state of a container in the shim, driven by any order of requests and of the events of the runtime. The oracle is a model
//! of it, and the laws of its events: an exit comes once and after its start, the exit of init is the last one.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use berth_proto::task::Status;
use berth_runtime::Kind;
use berth_shim::{
    abort::Abort,
    container::state::{NewProcess, State},
    io::{Prepared, uri::StdioRequest},
    process::ExecSpec,
    publish::Event,
    reap::Exit,
};

use crate::input::Input;

const NAMES: [&str; 3] = ["e", "f", "g"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Creating,
    Created,
    Unstartable,
    Starting,
    Running,
    Pausing,
    Paused,
    Stopped,
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exec {
    Added,
    Opening,
    Starting,
    Running,
    Stopped,
}

/// The model: the container's phase, whether init was reaped and cleaned up, its execs.
#[derive(Debug)]
struct Model {
    phase: Phase,
    exited: bool,
    cleaned: bool,
    execs: BTreeMap<&'static str, Exec>,
    /// Starts of execs that the shim has begun and not ended, also of deleted containers.
    opening: Vec<&'static str>,
    pausing: bool,
    resuming: bool,
}

impl Model {
    fn takes_execs(&self) -> Result<(), Kind> {
        match self.phase {
            Phase::Creating | Phase::Deleted => Err(Kind::NotFound),
            Phase::Created | Phase::Unstartable | Phase::Starting | Phase::Running if !self.exited => Ok(()),
            _ => Err(Kind::FailedPrecondition),
        }
    }

    fn exec(&self, name: &'static str) -> Result<Exec, Kind> {
        if matches!(self.phase, Phase::Creating | Phase::Deleted) {
            return Err(Kind::NotFound);
        }
        self.execs.get(name).copied().ok_or(Kind::NotFound)
    }

    /// A move that is allowed in some phases while init lives.
    fn allowed(&self, phases: &[Phase]) -> Result<(), Kind> {
        match self.phase {
            Phase::Creating | Phase::Deleted => Err(Kind::NotFound),
            phase if phases.contains(&phase) && !self.exited => Ok(()),
            _ => Err(Kind::FailedPrecondition),
        }
    }

    /// The exit of init, once nothing must come before it.
    fn announce(&mut self) -> Vec<String> {
        let holds = self.execs.values().any(|exec| matches!(exec, Exec::Starting | Exec::Running));
        let over = matches!(self.phase, Phase::Starting | Phase::Stopped | Phase::Deleted | Phase::Creating);
        if !self.exited || !self.cleaned || holds || over {
            return Vec::new();
        }
        self.phase = Phase::Stopped;
        vec!["exit c".into()]
    }

    fn status(&self) -> Result<Status, Kind> {
        Ok(match self.phase {
            Phase::Creating | Phase::Deleted => return Err(Kind::NotFound),
            Phase::Created | Phase::Unstartable | Phase::Starting => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Pausing => Status::PAUSING,
            Phase::Paused => Status::PAUSED,
            Phase::Stopped => Status::STOPPED,
        })
    }

    fn status_of(&self, name: &'static str) -> Result<Status, Kind> {
        let (container, exec) = (self.status()?, self.exec(name)?);
        let frozen = matches!(container, Status::PAUSED | Status::PAUSING);
        Ok(match exec {
            Exec::Starting | Exec::Running if frozen => container,
            Exec::Added | Exec::Opening | Exec::Starting => Status::CREATED,
            Exec::Running => Status::RUNNING,
            Exec::Stopped => Status::STOPPED,
        })
    }

    fn signal(&self, name: &'static str) -> Result<(), Kind> {
        if name.is_empty() {
            let over = self.exited || matches!(self.phase, Phase::Stopped);
            let missing = matches!(self.phase, Phase::Creating | Phase::Deleted);
            return if over || missing { Err(Kind::NotFound) } else { Ok(()) };
        }
        match self.exec(name)? {
            Exec::Running => Ok(()),
            Exec::Stopped => Err(Kind::NotFound),
            _ => Err(Kind::FailedPrecondition),
        }
    }
}

fn null() -> OwnedFd {
    thread_local! {
        static NULL: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    }
    NULL.with(|null| null.try_clone().unwrap())
}

fn new_process(pid: i32) -> NewProcess {
    NewProcess { pid, pidfd: Arc::new(null()), io: Prepared::unconnected().attach(None).unwrap() }
}

fn names(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let name = |event: Event| match event {
        Event::Exit(e) => format!("exit {}", e.id),
        Event::Start(_) => "start".into(),
        Event::ExecStarted(e) => format!("exec-started {}", e.exec_id),
        Event::ExecAdded(e) => format!("exec-added {}", e.exec_id),
        Event::Paused(_) => "paused".into(),
        Event::Resumed(_) => "resumed".into(),
        other => other.topic().to_owned(),
    };
    events.into_iter().map(name).collect()
}

fn kind<T>(result: berth_runtime::Result<T>) -> Result<T, Kind> {
    result.map_err(|e| e.kind())
}

struct Driver {
    state: State,
    model: Model,
    events: Vec<String>,
    pid: i32,
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let model = Model {
        phase: Phase::Creating,
        exited: false,
        cleaned: false,
        execs: BTreeMap::new(),
        opening: Vec::new(),
        pausing: false,
        resuming: false,
    };
    let mut driver = Driver { state: State::new("c", StdioRequest::default()), model, events: Vec::new(), pid: 100 };
    for _ in 0..120 {
        if input.is_empty() {
            break;
        }
        let (step, exec) = (input.below(20), input.of(&NAMES));
        let (is, expected) = if step < 8 { driver.container(step) } else { driver.exec(step, exec) };
        assert_eq!(is, expected, "step {step} of {exec}: {:?}", driver.model);
        driver.events.extend(is);
        driver.check();
    }
}

impl Driver {
    /// A step of the container: the events of berth and of the model.
    fn container(&mut self, step: usize) -> (Vec<String>, Vec<String>) {
        let Self { state, model, .. } = self;
        let exit = Exit { status: 7, seconds: 1, nanoseconds: 2 };
        match step {
            0 if model.phase == Phase::Creating => {
                state.created(new_process(100), Some(null()));
                model.phase = Phase::Created;
            }
            1 => {
                let expected = model.allowed(&[Phase::Created]);
                assert_eq!(kind(state.starting()).map(drop), expected);
                if expected.is_ok() {
                    model.phase = Phase::Starting;
                }
            }
            2 if model.phase == Phase::Starting => {
                model.phase = Phase::Running;
                let mut expected = vec!["start".to_owned()];
                expected.extend(model.announce());
                return (names(state.started()), expected);
            }
            3 if model.phase == Phase::Starting => {
                model.phase = Phase::Unstartable;
                return (names(state.start_failed()), model.announce());
            }
            4 if !model.exited && model.phase != Phase::Creating => {
                model.exited = true;
                assert_eq!(state.init_exited(exit), matches!(model.phase, Phase::Pausing | Phase::Paused));
            }
            5 if model.exited && !model.cleaned => {
                model.cleaned = true;
                return (names(state.init_cleaned_up()), model.announce());
            }
            6 => return self.pause(),
            7 => {
                let good = matches!(model.phase, Phase::Created | Phase::Unstartable | Phase::Stopped);
                let missing = matches!(model.phase, Phase::Creating | Phase::Deleted);
                let expected = match (good, missing) {
                    (true, _) => Ok(()),
                    (_, true) => Err(Kind::NotFound),
                    _ => Err(Kind::FailedPrecondition),
                };
                assert_eq!(kind(state.deletable()), expected);
                if expected.is_ok() {
                    assert_eq!(state.deleted().len(), model.execs.len());
                    model.execs.clear();
                    model.phase = Phase::Deleted;
                }
            }
            _ => {}
        }
        (Vec::new(), Vec::new())
    }

    /// The next step of a pause or of a resume.
    fn pause(&mut self) -> (Vec<String>, Vec<String>) {
        let Self { state, model, pid, .. } = self;
        *pid += 1;
        if model.pausing {
            model.pausing = false;
            let pending = model.phase == Phase::Pausing;
            if *pid % 3 == 0 {
                state.pause_failed();
                model.phase = if pending { Phase::Running } else { model.phase };
                return (Vec::new(), Vec::new());
            }
            model.phase = if pending { Phase::Paused } else { model.phase };
            return (names(state.paused()), if pending { vec!["paused".into()] } else { Vec::new() });
        }
        if model.resuming {
            model.resuming = false;
            let pending = model.phase == Phase::Paused;
            model.phase = if pending { Phase::Running } else { model.phase };
            return (names(state.resumed()), if pending { vec!["resumed".into()] } else { Vec::new() });
        }
        if model.phase == Phase::Paused {
            assert_eq!(kind(state.resuming()), Ok(()));
            model.resuming = true;
            return (Vec::new(), Vec::new());
        }
        let expected = model.allowed(&[Phase::Running]);
        assert_eq!(kind(state.pausing()), expected);
        if expected.is_ok() {
            (model.phase, model.pausing) = (Phase::Pausing, true);
        }
        assert_eq!(
            kind(state.updatable()),
            model.allowed(&[Phase::Created, Phase::Unstartable, Phase::Running, Phase::Paused])
        );
        (Vec::new(), Vec::new())
    }

    /// A request about an exec, or an event of the runtime: the events of berth and of the model.
    fn exec(&mut self, step: usize, name: &'static str) -> (Vec<String>, Vec<String>) {
        let Self { state, model, .. } = self;
        match step {
            8 | 9 => {
                let expected = match model.takes_execs() {
                    Ok(()) if model.execs.contains_key(name) => Err(Kind::AlreadyExists),
                    takes => takes,
                };
                let added = kind(state.add_exec(
                    name,
                    StdioRequest::default(),
                    ExecSpec::parse(br#"{"cwd":"/","args":["a"]}"#).unwrap(),
                ));
                assert_eq!(added.as_ref().map(drop), expected.as_ref().map(drop));
                if let Ok(event) = added {
                    model.execs.insert(name, Exec::Added);
                    return (names([event]), vec![format!("exec-added {name}")]);
                }
            }
            10 | 11 => {
                let expected = model.exec(name).and_then(|exec| {
                    model.takes_execs()?;
                    if exec == Exec::Added { Ok(()) } else { Err(Kind::FailedPrecondition) }
                });
                assert_eq!(kind(state.exec_opening(name, Arc::new(Abort::new().unwrap()))).map(drop), expected);
                if expected.is_ok() {
                    model.execs.insert(name, Exec::Opening);
                    model.opening.push(name);
                }
            }
            18 => {
                let expected = model.exec(name).and_then(|exec| match exec {
                    Exec::Added | Exec::Stopped => Ok(()),
                    _ => Err(Kind::FailedPrecondition),
                });
                let taken = kind(state.take_exec(name));
                assert_eq!(taken.as_ref().map(drop), expected.as_ref().map(drop));
                if let Ok(process) = taken {
                    assert!(process.exit().is_some());
                    model.execs.remove(name);
                }
            }
            19 => {
                let starting = matches!(model.execs.get(name), Some(Exec::Opening | Exec::Starting));
                assert_eq!(state.abort_exec(name, 9).is_some(), starting);
            }
            _ => return self.exec_event(step, name),
        }
        (Vec::new(), Vec::new())
    }

    /// An event of the runtime about an exec.
    fn exec_event(&mut self, step: usize, name: &'static str) -> (Vec<String>, Vec<String>) {
        let Self { state, model, pid, .. } = self;
        let exit = Exit { status: 8, seconds: 3, nanoseconds: 4 };
        match step {
            12 | 13 if model.opening.contains(&name) && model.execs.get(name).is_none_or(|e| *e == Exec::Opening) => {
                let expected = model.exec(name).and_then(|_| model.takes_execs());
                assert_eq!(kind(state.exec_starting(name)), expected);
                if expected.is_ok() {
                    model.execs.insert(name, Exec::Starting);
                } else {
                    model.opening.retain(|other| *other != name);
                    if model.execs.contains_key(name) {
                        model.execs.insert(name, Exec::Stopped);
                    }
                    return (names(state.exec_start_failed(name)), model.announce());
                }
            }
            14 if model.opening.contains(&name) => {
                model.opening.retain(|other| *other != name);
                let is_there = model.execs.contains_key(name);
                if is_there {
                    model.execs.insert(name, Exec::Stopped);
                }
                let expected = if is_there { model.announce() } else { Vec::new() };
                return (names(state.exec_start_failed(name)), expected);
            }
            15 | 16 if model.execs.get(name) == Some(&Exec::Starting) => {
                model.opening.retain(|other| *other != name);
                model.execs.insert(name, Exec::Running);
                *pid += 1;
                return (names(state.exec_started(name, new_process(*pid))), vec![format!("exec-started {name}")]);
            }
            17 if model.execs.get(name) == Some(&Exec::Running) => {
                model.execs.insert(name, Exec::Stopped);
                let mut expected = vec![format!("exit {name}")];
                expected.extend(model.announce());
                return (names(state.exec_exited(name, exit)), expected);
            }
            _ => {}
        }
        (Vec::new(), Vec::new())
    }

    /// Checks the state that clients see, and the laws of the events.
    fn check(&self) {
        let Self { state, model, events, .. } = self;
        assert_eq!(kind(state.status()), model.status(), "{model:?}");
        assert_eq!(kind(state.signal_target("")).map(drop), model.signal(""), "{model:?}");
        for name in NAMES {
            assert_eq!(kind(state.process_status(name)), model.status_of(name), "{name} of {model:?}");
            assert_eq!(kind(state.signal_target(name)).map(drop), model.signal(name), "{name} of {model:?}");
        }
        let at = |what: &str| events.iter().position(|event| event == what);
        if let Some(exit) = at("exit c") {
            assert!(events[exit + 1..].iter().all(|event| !event.starts_with("ex") && event != "start"), "{events:?}");
            assert_eq!(events.iter().filter(|event| *event == "exit c").count(), 1);
        }
        for name in NAMES {
            let count = |what: &str| events.iter().filter(|event| **event == format!("{what} {name}")).count();
            let started = count("exec-started");
            assert!(count("exit") <= started && started <= count("exec-added"), "{events:?}");
        }
    }
}
