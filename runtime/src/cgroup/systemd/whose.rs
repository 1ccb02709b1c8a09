//! Which systemd is asked, and where it is: the machine's, or that of one user (`systemd --user`, user@.service(5)).

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::bus::{Bus, Failure};
use crate::{
    error::{Error, Kind, Result},
    host::{caller, unix_address::Address},
};

/// The environment variables of the D-Bus specification, and what holds without them.
const SYSTEM_ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const USER_ADDRESS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// systemd's own socket, for root alone.
const DIRECT: &str = "/run/systemd/private";
/// Where a user's sockets are: `bus`, and systemd's own `systemd/private`.
const USER_DIRECTORY: &str = "XDG_RUNTIME_DIR";
/// Its presence says that systemd runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// How long a bus may take to take us in, which is before it has to ask systemd anything.
pub(super) const GREETING: Duration = Duration::from_secs(5);

/// Whose systemd it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cgroup) enum Whose {
    /// The machine's.
    #[default]
    Host,
    /// That of whoever calls.
    User,
}

impl Whose {
    /// For the record: the machine's is not mentioned.
    pub(super) fn is_host(&self) -> bool {
        *self == Self::Host
    }

    /// Where a unit is that names no slice.
    pub(super) fn slice(self) -> &'static str {
        match self {
            Self::Host => "system.slice",
            Self::User => "user.slice",
        }
    }

    /// A connection to the first of the usual sockets that answers. An address that was given has no stand-in.
    pub(super) fn open(self, until: Instant) -> Result<Bus> {
        match self {
            Self::Host => open_host(std::env::var_os(SYSTEM_ADDRESS), until),
            Self::User => open_user(std::env::var_os(USER_ADDRESS), std::env::var_os(USER_DIRECTORY), until),
        }
    }
}

/// Whose the systemd is that root of a user namespace would reach by the bus of the user outside: 0 where the whole
/// machine is in the namespace, with a systemd of its own, or where there is no such bus.
pub(in crate::cgroup) fn owner_of_bus() -> u32 {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if has_user_bus(set(USER_ADDRESS), set(USER_DIRECTORY)) { owner() } else { 0 }
}

fn has_user_bus(address: Option<OsString>, directory: Option<OsString>) -> bool {
    address.is_some()
        || directory
            .is_some_and(|dir| ["bus", "systemd/private"].iter().any(|name| Path::new(&dir).join(name).exists()))
}

/// The user's id as the bus sees it: in a user namespace the kernel says only how the ids there are mapped, and systemd by
/// the names of its slices who is behind them (sd_pid_get_owner_uid(3)).
fn owner() -> u32 {
    if !caller::in_user_namespace() {
        return caller::uid();
    }
    std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| owner_of(&text)).unwrap_or(0)
}

/// `0::/user.slice/user-1000.slice/user@1000.service/…`: 1000.
fn owner_of(cgroup: &str) -> Option<u32> {
    let mut parts = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    parts.find_map(|part| part.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok())
}

fn open_host(address: Option<OsString>, until: Instant) -> Result<Bus> {
    if let Some(text) = address {
        return open_given(SYSTEM_ADDRESS, &text.to_string_lossy(), Whose::Host, until);
    }
    let failure = match connect(SYSTEM_BUS, Whose::Host, false, until) {
        Ok(bus) => return Ok(bus),
        Err(failure) => failure,
    };
    if let Ok(bus) = connect(DIRECT, Whose::Host, true, until) {
        return Ok(bus);
    }
    if !Path::new(BOOTED).is_dir() {
        let text = format!("systemd cgroup driver: this host is not run by systemd (no {BOOTED})");
        return Err(Error::unsupported(text));
    }
    Err(no_bus(SYSTEM_BUS, Whose::Host, failure))
}

fn open_user(address: Option<OsString>, directory: Option<OsString>, until: Instant) -> Result<Bus> {
    if let Some(text) = address.filter(|text| !text.is_empty()) {
        return open_given(USER_ADDRESS, &text.to_string_lossy(), Whose::User, until);
    }
    let directory = directory.filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let mut failed = None;
    for (name, direct) in [("bus", false), ("systemd/private", true)] {
        let Some(place) = directory.as_ref().map(|dir| dir.join(name)).filter(|place| place.exists()) else { continue };
        let place = place.to_string_lossy().into_owned();
        match connect(&place, Whose::User, direct, until) {
            Ok(bus) => return Ok(bus),
            Err(failure) => failed = failed.or(Some(no_bus(&place, Whose::User, failure))),
        }
    }
    Err(failed.unwrap_or_else(|| {
        let text = "no bus of the user: DBUS_SESSION_BUS_ADDRESS is not set and there is none in $XDG_RUNTIME_DIR \
            (the package dbus-user-session has one started at login)";
        Error::unsupported(format!("systemd cgroup driver: {text}"))
    }))
}

fn open_given(variable: &str, text: &str, whose: Whose, until: Instant) -> Result<Bus> {
    let place = text.split(';').find_map(unix_path);
    let place = place.ok_or_else(|| Error::invalid(format!("{variable}: {text:?} names no unix:path")))?;
    connect(&place, whose, false, until).map_err(|e| no_bus(&place, whose, e))
}

fn no_bus(place: &str, whose: Whose, failure: Failure) -> Error {
    let bus = match whose {
        Whose::Host => "the system bus",
        Whose::User => "the user's bus",
    };
    let what = format!("systemd cgroup driver: connect to {bus} at {place}");
    match failure {
        Failure::Lost(e) => e.context(what),
        Failure::Late => Error::new(Kind::Internal, format!("{what}: no answer within {} s", GREETING.as_secs())),
        Failure::Refused { name, text } => Error::new(Kind::Internal, format!("{what}: {text} ({name})")),
    }
}

fn connect(path: &str, whose: Whose, direct: bool, until: Instant) -> Result<Bus, Failure> {
    let uid = match whose {
        Whose::Host => caller::uid(),
        Whose::User => owner(),
    };
    let address = Address::of(Path::new(path)).map_err(|e: Errno| Failure::Lost(e.into()))?;
    Bus::connect(address.socket(), direct, uid, until.min(Instant::now() + GREETING))
}

/// `unix:path=/run/dbus/system_bus_socket,guid=…`; other transports serve no bus of this machine.
fn unix_path(address: &str) -> Option<String> {
    let keys = address.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| pair.strip_prefix("path=")).map(unescape)
}

/// What the D-Bus specification has for bytes that are not letters, digits or one of a few others: `%20`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(part.as_bytes().get(..2).unwrap_or_default()),
        }
        bytes.extend(part.as_bytes().get(2..).unwrap_or_default());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for a machine under load.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn addresses() {
        for (text, want) in [
            ("unix:path=/run/x", Some("/run/x")),
            ("unix:guid=1,path=/run/x", Some("/run/x")),
            ("unix:path=/run/a%20b%2c", Some("/run/a b,")),
            ("unix:abstract=/x", None),
            ("tcp:host=a", None),
        ] {
            assert_eq!(unix_path(text).as_deref(), want, "{text}");
        }
        let e = open_host(Some("tcp:host=a".into()), Instant::now()).err().unwrap();
        assert_eq!(e.to_string(), "DBUS_SYSTEM_BUS_ADDRESS: \"tcp:host=a\" names no unix:path");
        let gone = std::env::temp_dir().join(format!("berth-no-bus-{}", std::process::id()));
        let e = open_host(Some(format!("unix:path={}", gone.display()).into()), Instant::now() + LONG).err().unwrap();
        assert_eq!(
            e.to_string(),
            format!(
                "systemd cgroup driver: connect to the system bus at {}: no such file or directory",
                gone.display()
            )
        );
    }

    #[test]
    fn a_user_without_a_bus() {
        let until = Instant::now() + LONG;
        for directory in [None, Some(OsString::new()), Some("/nonexistent".into())] {
            let e = open_user(Some(OsString::new()), directory, until).err().unwrap();
            assert_eq!(e.kind(), Kind::Unsupported);
            assert!(e.to_string().contains("DBUS_SESSION_BUS_ADDRESS"), "{e}");
        }
        let e = open_user(Some("tcp:host=a".into()), None, until).err().unwrap();
        assert_eq!(e.to_string(), "DBUS_SESSION_BUS_ADDRESS: \"tcp:host=a\" names no unix:path");
        // What is there and takes no connection is named.
        let dir = std::env::temp_dir().join(format!("berth-user-bus-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("bus"), "").unwrap();
        let e = open_user(None, Some(dir.clone().into()), until).err().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let place = dir.join("bus");
        let says =
            format!("systemd cgroup driver: connect to the user's bus at {}: connection refused", place.display());
        assert_eq!(e.to_string(), says);
    }

    #[test]
    fn a_bus_is_named_or_where_buses_are() {
        let dir = std::env::temp_dir().join(format!("berth-has-bus-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        assert!(!has_user_bus(None, None) && !has_user_bus(None, Some(dir.clone().into())));
        assert!(has_user_bus(Some("unix:path=/x".into()), None));
        std::fs::write(dir.join("bus"), "").unwrap();
        assert!(has_user_bus(None, Some(dir.clone().into())));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn who_is_behind_a_user_namespace() {
        for (text, uid) in [
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", Some(1000)),
            ("12:pids:/\n0::/user.slice/user-7.slice/session-1.scope\n", Some(7)),
            ("0::/system.slice/a.service\n", None),
            ("0::/user-x.slice\n", None),
        ] {
            assert_eq!(owner_of(text), uid, "{text}");
        }
    }
}
