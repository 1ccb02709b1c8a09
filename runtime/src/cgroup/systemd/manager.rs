//! What berth asks of systemd: `org.freedesktop.systemd1.Manager` (org.freedesktop.systemd1(5)).
//!
//! An operation takes the connection that this process keeps, or makes one, and gives it back when it is done; two
//! operations at once have one each. Each has one deadline for all that it asks. The system bus comes first: on it a
//! connection at rest receives nothing. Where there is none, or one that does not answer, root talks to systemd directly;
//! every signal of the machine arrives on that connection, so it is not kept.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    bus::{Bus, Failure},
    message::Message,
    value::Value,
    whose::{GREETING, Whose},
};
use crate::error::{Error, Kind, Result};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// Forgotten between two questions.
const NO_SUCH_OBJECT: &str = "org.freedesktop.DBus.Error.UnknownObject";
/// What systemd calls a property or a value that it does not take.
const BAD_ARGUMENT: [&str; 3] = [
    "org.freedesktop.DBus.Error.InvalidArgs",
    "org.freedesktop.DBus.Error.PropertyReadOnly",
    "org.freedesktop.DBus.Error.UnknownProperty",
];

/// What the bus says of a systemd that is not on it at this moment.
const BACK_SOON: [&str; 3] = [
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.ServiceUnknown",
];
/// How long it is given before it is asked again.
const AWAY: Duration = Duration::from_millis(100);

/// How long systemd may take to start a unit or to change it, as long as with runc.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to stop one. No more depends on it: the processes are dead and the directories go anyway, and a
/// unit without processes ends by itself. Less than the 5 s in which containerd wants a crashed shim's leftovers gone.
pub(super) const STOP: Duration = Duration::from_secs(4);

/// The connection between two operations.
static KEPT: Mutex<Option<(Whose, Bus)>> = Mutex::new(None);

/// A property of a unit.
pub(in crate::cgroup) type Property = (String, Value);

/// systemd, for one operation.
pub(in crate::cgroup) struct Manager {
    bus: Bus,
    whose: Whose,
    until: Instant,
    patience: Duration,
    /// The connection was lost and made anew.
    reopened: bool,
}

/// What came of asking for a unit's end.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cgroup) enum Stopped {
    /// It is gone.
    Now,
    /// There was none.
    Before,
}

impl Manager {
    /// Connects, unless a connection is at hand, for an operation that may take `patience`.
    pub(in crate::cgroup) fn connect(whose: Whose, patience: Duration) -> Result<Self> {
        let until = Instant::now() + patience;
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = kept.filter(|(of, _)| *of == whose).map(|(_, bus)| bus);
        let bus = match kept.and_then(|mut bus| bus.is_alive().then_some(bus)) {
            Some(bus) => bus,
            None => whose.open(until)?,
        };
        Ok(Self { bus, whose, until, patience, reopened: false })
    }

    /// Over a connection of one's own.
    #[cfg(test)]
    pub(super) fn over(bus: Bus, patience: Duration) -> Self {
        Self { bus, whose: Whose::Host, until: Instant::now() + patience, patience, reopened: false }
    }

    /// Nothing more to ask. A connection over which something went wrong is not given back.
    pub(in crate::cgroup) fn done(self) {
        if !self.bus.is_direct() {
            *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.whose, self.bus));
        }
    }

    /// systemd's version: 257. As the first question of an operation it is asked again where systemd is just starting itself
    /// anew (`systemctl daemon-reexec`), or the connection that was kept has ended.
    pub(in crate::cgroup) fn version(&mut self) -> Result<u32> {
        let text = self.property("Version")?;
        version(&text).ok_or_else(|| Error::new(Kind::Internal, format!("systemd: version {text:?} is not understood")))
    }

    /// The cgroup that it manages: `/user.slice/user-1000.slice/user@1000.service`. Also a first question.
    pub(in crate::cgroup) fn control_group(&mut self) -> Result<String> {
        self.property("ControlGroup")
    }

    fn property(&mut self, name: &str) -> Result<String> {
        let what = || format!("get its {}", name.to_lowercase());
        let asked = Instant::now();
        let answer = loop {
            let body = vec![Value::text(MANAGER), Value::text(name)];
            let call = Message::call(NAME, PATH, PROPERTIES, "Get", body);
            match self.bus.call(call, self.until) {
                Ok(answer) => break answer,
                Err(failure) if asked.elapsed() < GREETING && Instant::now() + AWAY < self.until => match failure {
                    Failure::Refused { ref name, .. } if BACK_SOON.contains(&name.as_str()) => {}
                    Failure::Lost(_) if !std::mem::replace(&mut self.reopened, true) => {
                        self.bus = self.whose.open(self.until)?;
                    }
                    other => return Err(self.word(&what(), other)),
                },
                Err(failure) => return Err(self.word(&what(), failure)),
            }
            std::thread::sleep(AWAY);
        };
        Ok(variant_text(&answer).unwrap_or_default())
    }

    /// Starts the transient unit `unit` and waits until it is there. One of that name that has failed is forgotten first.
    /// After an error there may be one if systemd was late: it ends by itself with the processes that it was given.
    pub(in crate::cgroup) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let what = format!("start unit {unit}");
        self.expect_jobs_of(unit).map_err(|e| self.word(&what, e))?;
        let started = self.start_matched(unit, properties, &what);
        self.forget_jobs_of(unit);
        started
    }

    fn start_matched(&mut self, unit: &str, properties: &[Property], what: &str) -> Result<()> {
        let pairs = properties.iter().map(|(name, value)| {
            Value::Struct(vec![Value::text(name.as_str()), Value::Variant(Box::new(value.clone()))])
        });
        let body = vec![
            Value::text(unit),
            Value::text("fail"),
            Value::Array("(sv)".to_owned(), pairs.collect()),
            Value::Array("(sa(sv))".to_owned(), vec![]),
        ];
        let mut tried = false;
        let job = loop {
            match self.manager("StartTransientUnit", body.clone()) {
                Ok(answer) => break answer,
                Err(Failure::Refused { name, .. }) if name == UNIT_EXISTS && !tried => {
                    tried = true;
                    // It may only be remembered because it failed.
                    let _ = self.manager("ResetFailedUnit", vec![Value::text(unit)]);
                }
                Err(Failure::Refused { name, text }) if name == UNIT_EXISTS => {
                    return Err(Error::new(Kind::FailedPrecondition, format!("systemd: {what}: {text}")));
                }
                Err(e) => return Err(self.refused(what, e, properties)),
            }
        };
        match self.job_result(&job) {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => {
                let _ = self.manager("ResetFailedUnit", vec![Value::text(unit)]);
                Err(Error::new(Kind::Internal, format!("systemd: {what}: the job ended as {result:?}")))
            }
            Err(e) => Err(self.word(what, e)),
        }
    }

    /// Stops `unit` and makes systemd forget it, if it is in `slice`: names of units are one space, and another container's
    /// unit may have taken this one in another slice.
    pub(in crate::cgroup) fn stop(&mut self, unit: &str, slice: &str) -> Result<Stopped> {
        let what = format!("stop unit {unit}");
        match self.slice_of(unit) {
            Ok(Some(is)) if is == slice => {}
            Ok(_) => return Ok(Stopped::Before),
            Err(e) => return Err(self.word(&what, e)),
        }
        self.expect_jobs_of(unit).map_err(|e| self.word(&what, e))?;
        let stopped = self.stop_matched(unit);
        self.forget_jobs_of(unit);
        stopped.map_err(|e| self.word(&what, e))
    }

    fn stop_matched(&mut self, unit: &str) -> Result<Stopped, Failure> {
        match self.manager("StopUnit", vec![Value::text(unit), Value::text("replace")]) {
            Ok(job) => self.job_result(&job)?,
            Err(Failure::Refused { name, .. }) if name == NO_SUCH_UNIT => return Ok(Stopped::Before),
            Err(e) => return Err(e),
        };
        // One whose process was killed is remembered as failed; one that was not is forgotten already.
        match self.manager("ResetFailedUnit", vec![Value::text(unit)]) {
            Ok(_) | Err(Failure::Refused { .. }) => Ok(Stopped::Now),
            Err(e) => Err(e),
        }
    }

    /// The slice that a loaded unit is in.
    fn slice_of(&mut self, unit: &str) -> Result<Option<String>, Failure> {
        let gone = |failure| match failure {
            Failure::Refused { name, .. } if name == NO_SUCH_UNIT || name == NO_SUCH_OBJECT => Ok(None),
            other => Err(other),
        };
        let path = match self.manager("GetUnit", vec![Value::text(unit)]) {
            Ok(answer) => match answer.into_iter().next() {
                Some(Value::Path(path)) => path,
                _ => return Err(Failure::Lost(Error::new(Kind::Internal, "the answer names no unit"))),
            },
            Err(e) => return gone(e),
        };
        let body = vec![Value::text("org.freedesktop.systemd1.Scope"), Value::text("Slice")];
        match self.bus.call(Message::call(NAME, &path, PROPERTIES, "Get", body), self.until) {
            Ok(answer) => Ok(variant_text(&answer)),
            Err(e) => gone(e),
        }
    }

    /// Sets properties of a unit that is there, until the next boot.
    pub(in crate::cgroup) fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let pairs = properties.iter().map(|(name, value)| {
            Value::Struct(vec![Value::text(name.as_str()), Value::Variant(Box::new(value.clone()))])
        });
        let body = vec![Value::text(unit), Value::Bool(true), Value::Array("(sv)".to_owned(), pairs.collect())];
        match self.manager("SetUnitProperties", body) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.refused(&format!("set properties of unit {unit}"), e, properties)),
        }
    }

    /// Has systemd put a process into a unit's cgroup, for one who may not do it himself (since 238).
    pub(in crate::cgroup) fn attach(&mut self, unit: &str, pid: i32) -> Result<()> {
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.unsigned_abs())]);
        let body = vec![Value::text(unit), Value::text(""), pids];
        match self.manager("AttachProcessesToUnit", body) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.word(&format!("put process {pid} into unit {unit}"), e)),
        }
    }

    fn manager(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>, Failure> {
        self.bus.call(Message::call(NAME, PATH, MANAGER, member, body), self.until)
    }

    /// Before a job is asked for: its end must not be missed.
    fn expect_jobs_of(&mut self, unit: &str) -> Result<(), Failure> {
        if self.bus.is_direct() {
            return Ok(());
        }
        self.bus.call_bus("AddMatch", vec![Value::Text(rule(unit))], self.until).map(|_| ())
    }

    fn forget_jobs_of(&mut self, unit: &str) {
        if !self.bus.is_direct() {
            let body = vec![Value::Text(rule(unit))];
            let call = Message::call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "RemoveMatch",
                body,
            );
            // Lost with a connection that is lost.
            let _ = self.bus.tell(call, self.until);
        }
    }

    /// How the job with the path in `answer` ended.
    fn job_result(&mut self, answer: &[Value]) -> Result<String, Failure> {
        let [Value::Path(path)] = answer else {
            return Err(Failure::Lost(Error::new(Kind::Internal, "the answer names no job")));
        };
        loop {
            let signal = self.bus.signal(self.until)?;
            if signal.member.as_deref() != Some("JobRemoved") {
                continue;
            }
            if let [_, Value::Path(job), _, Value::Text(result)] = signal.body.as_slice()
                && job == path
            {
                return Ok(result.clone());
            }
        }
    }

    /// The error for a call with properties: says which ones, where systemd does not.
    fn refused(&self, what: &str, failure: Failure, properties: &[Property]) -> Error {
        match failure {
            Failure::Refused { name, text } => {
                let names: Vec<&str> = properties.iter().map(|(n, _)| n.as_str()).collect();
                let kind = if BAD_ARGUMENT.contains(&name.as_str()) { Kind::InvalidArgument } else { Kind::Internal };
                let which = if names.iter().any(|n| text.contains(n)) {
                    String::new()
                } else {
                    format!(" (one of {})", names.join(", "))
                };
                Error::new(kind, format!("systemd: {what}: {text}{which}"))
            }
            other => self.word(what, other),
        }
    }

    fn word(&self, what: &str, failure: Failure) -> Error {
        match failure {
            Failure::Refused { name, text } => Error::new(Kind::Internal, format!("systemd: {what}: {text} ({name})")),
            Failure::Late => {
                let seconds = self.patience.as_secs_f32();
                Error::new(Kind::Internal, format!("systemd: {what}: no answer within {seconds} s"))
            }
            Failure::Lost(e) => e.context(format!("systemd: {what}: connection lost")),
        }
    }
}

/// Closes the connection between two operations, if there is one.
pub(super) fn disconnect() {
    drop(KEPT.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// The text in the one variant of an answer.
fn variant_text(answer: &[Value]) -> Option<String> {
    match answer {
        [Value::Variant(value)] => match value.as_ref() {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Only the jobs of this one unit, so that a connection at rest is left alone.
fn rule(unit: &str) -> String {
    format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved',path='{PATH}',arg2='{unit}'")
}

/// `257.4-1`, `v245`.
fn version(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches('v');
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok())
}

#[cfg(test)]
mod tests;
