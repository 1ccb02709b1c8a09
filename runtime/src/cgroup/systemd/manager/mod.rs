//! The calls to systemd: `org.freedesktop.systemd1.Manager` (org.freedesktop.systemd1(5)).
//!
//! An operation takes the cached connection of this process, or makes a new one, and returns it to the cache at its end. Two
//! concurrent operations have two connections. An operation has one deadline for all its calls. The system bus is preferred:
//! an idle connection to it receives nothing. Without a bus that answers, root uses systemd's private socket; that
//! connection is not cached, because it receives every signal of the system.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    bus::{Bus, Failure},
    instance::GREETING,
    message::Message,
    value::Value,
};
use crate::{
    cgroup::unit::Instance,
    error::{Error, Kind, Result},
};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// The unit was unloaded between two calls.
const NO_SUCH_OBJECT: &str = "org.freedesktop.DBus.Error.UnknownObject";
/// The errors of systemd for a property or a value that it refuses.
const BAD_ARGUMENT: [&str; 3] = [
    "org.freedesktop.DBus.Error.InvalidArgs",
    "org.freedesktop.DBus.Error.PropertyReadOnly",
    "org.freedesktop.DBus.Error.UnknownProperty",
];

/// The errors of the bus while systemd is not connected to it, such as during `systemctl daemon-reexec`.
const BACK_SOON: [&str; 3] = [
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.ServiceUnknown",
];
/// The pause before the call is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The time limit for starting or changing a unit; the same as with runc.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The time limit for stopping a unit. Nothing depends on the stop: the processes are dead, the directories are removed
/// anyway, and a unit without processes ends by itself. containerd gives the cleanup after a crashed shim 5 s.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(4);

/// The connection for the next operation.
static CACHED: Mutex<Option<(Instance, Bus)>> = Mutex::new(None);

/// A property of a unit.
pub(in crate::cgroup) type Property = (String, Value);

/// A connection to systemd for one operation.
pub(in crate::cgroup) struct Manager {
    bus: Bus,
    instance: Instance,
    until: Instant,
    patience: Duration,
    /// The connection was lost and a new one was made.
    reopened: bool,
}

/// The result of stopping a unit.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cgroup) enum Stopped {
    /// The unit was stopped.
    Now,
    /// There was no such unit.
    Before,
}

impl Manager {
    /// Takes the cached connection or makes one, for an operation that may take `patience`.
    ///
    /// # Errors
    /// As [`Instance::open`].
    pub(in crate::cgroup) fn connect(instance: Instance, patience: Duration) -> Result<Self> {
        let until = Instant::now() + patience;
        let cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner).take();
        let cached = cached.filter(|(of, _)| *of == instance).map(|(_, bus)| bus);
        let bus = match cached.and_then(|mut bus| bus.is_alive().then_some(bus)) {
            Some(bus) => bus,
            None => instance.open(until)?,
        };
        Ok(Self { bus, instance, until, patience, reopened: false })
    }

    /// An operation over this connection.
    #[cfg(test)]
    pub(super) fn over(bus: Bus, patience: Duration) -> Self {
        Self { bus, instance: Instance::System, until: Instant::now() + patience, patience, reopened: false }
    }

    /// Ends the operation and caches the connection. After an error this is not called, so a broken connection is dropped.
    pub(in crate::cgroup) fn done(self) {
        if !self.bus.is_direct() {
            *CACHED.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.instance, self.bus));
        }
    }

    /// The version of systemd, such as 257. This is the first call of an operation, so it is repeated while systemd
    /// re-executes itself (`systemctl daemon-reexec`), and once if the cached connection has ended.
    ///
    /// # Errors
    /// systemd does not answer in time, or with something else than a version.
    pub(in crate::cgroup) fn version(&mut self) -> Result<u32> {
        let text = self.property("Version")?;
        version(&text).ok_or_else(|| Error::new(Kind::Internal, format!("systemd: version {text:?} is not understood")))
    }

    /// The cgroup that systemd manages: `/user.slice/user-1000.slice/user@1000.service`. Repeated like [`Manager::version`].
    ///
    /// # Errors
    /// systemd does not answer in time.
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
                Err(failure) if asked.elapsed() < GREETING && Instant::now() + RETRY_PAUSE < self.until => {
                    match failure {
                        Failure::Refused { ref name, .. } if BACK_SOON.contains(&name.as_str()) => {}
                        Failure::Lost(_) if !std::mem::replace(&mut self.reopened, true) => {
                            self.bus = self.instance.open(self.until)?;
                        }
                        other => return Err(self.failed(&what(), other)),
                    }
                }
                Err(failure) => return Err(self.failed(&what(), failure)),
            }
            std::thread::sleep(RETRY_PAUSE);
        };
        Ok(variant_text(&answer).unwrap_or_default())
    }

    /// Starts the transient unit `unit` and waits for the end of the job. Resets a failed unit of that name first.
    ///
    /// # Errors
    /// The unit exists; systemd refuses a property or does not answer in time; the job fails. If systemd was late, the unit
    /// may exist after an error; it ends by itself with its processes.
    pub(in crate::cgroup) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let what = format!("start unit {unit}");
        self.expect_jobs_of(unit).map_err(|e| self.failed(&what, e))?;
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
                    // systemd may remember the unit only because it failed.
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
            Err(e) => Err(self.failed(what, e)),
        }
    }

    /// Stops `unit` and makes systemd forget it, if it is in `slice`. The unit of another container, in another slice, may
    /// have the same name.
    ///
    /// # Errors
    /// systemd does not answer in time.
    pub(in crate::cgroup) fn stop(&mut self, unit: &str, slice: &str) -> Result<Stopped> {
        let what = format!("stop unit {unit}");
        match self.slice_of(unit) {
            Ok(Some(is)) if is == slice => {}
            Ok(_) => return Ok(Stopped::Before),
            Err(e) => return Err(self.failed(&what, e)),
        }
        self.expect_jobs_of(unit).map_err(|e| self.failed(&what, e))?;
        let stopped = self.stop_matched(unit);
        self.forget_jobs_of(unit);
        stopped.map_err(|e| self.failed(&what, e))
    }

    fn stop_matched(&mut self, unit: &str) -> Result<Stopped, Failure> {
        match self.manager("StopUnit", vec![Value::text(unit), Value::text("replace")]) {
            Ok(job) => self.job_result(&job)?,
            Err(Failure::Refused { name, .. }) if name == NO_SUCH_UNIT => return Ok(Stopped::Before),
            Err(e) => return Err(e),
        };
        // systemd remembers a unit whose process was killed as failed; any other it has forgotten already.
        match self.manager("ResetFailedUnit", vec![Value::text(unit)]) {
            Ok(_) | Err(Failure::Refused { .. }) => Ok(Stopped::Now),
            Err(e) => Err(e),
        }
    }

    /// The slice of a loaded unit.
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

    /// Sets properties of a unit that exists, until the next boot.
    ///
    /// # Errors
    /// systemd refuses a property or does not answer in time.
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

    /// Moves a process into the cgroup of a unit, for a caller that may not do so itself (systemd 238 and newer).
    ///
    /// # Errors
    /// systemd refuses or does not answer in time.
    pub(in crate::cgroup) fn attach(&mut self, unit: &str, pid: i32) -> Result<()> {
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.unsigned_abs())]);
        let body = vec![Value::text(unit), Value::text(""), pids];
        match self.manager("AttachProcessesToUnit", body) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.failed(&format!("put process {pid} into unit {unit}"), e)),
        }
    }

    fn manager(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>, Failure> {
        self.bus.call(Message::call(NAME, PATH, MANAGER, member, body), self.until)
    }

    /// Subscribes to the ends of jobs, before a job is requested.
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
            // A lost connection has no matches any more.
            let _ = self.bus.send_no_reply(call, self.until);
        }
    }

    /// Waits for the end of the job with the path in `answer` and returns its result.
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

    /// The error for a call with properties. Lists them if systemd does not say which one it refuses.
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
            other => self.failed(what, other),
        }
    }

    /// The error for a failed call.
    fn failed(&self, what: &str, failure: Failure) -> Error {
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

/// Closes the cached connection, if there is one.
pub(in crate::cgroup) fn drop_cached_connection() {
    drop(CACHED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// The text in an answer that is one variant.
fn variant_text(answer: &[Value]) -> Option<String> {
    match answer {
        [Value::Variant(value)] => match value.as_ref() {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// A match rule for the jobs of one unit, so that other jobs do not wake the connection.
fn rule(unit: &str) -> String {
    format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved',path='{PATH}',arg2='{unit}'")
}

/// Reads the number from `257.4-1` or `v245`.
fn version(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches('v');
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok())
}

#[cfg(test)]
mod tests;
