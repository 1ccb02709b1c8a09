//! The instance of systemd that is asked, and its sockets: the system instance, or the instance of one user
//! (`systemd --user`, user@.service(5)).

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::bus::{Bus, Failure};
use crate::{
    cgroup::unit::Instance,
    error::{Error, Kind, Result},
    host::{caller, unix_address::Address},
};

/// The environment variables of the D-Bus specification, and the default path of the system bus.
const SYSTEM_ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const USER_ADDRESS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// The private socket of the system instance; only root may use it.
const DIRECT: &str = "/run/systemd/private";
/// The variable with the directory of a user's sockets: `bus`, and the private `systemd/private`.
const USER_DIRECTORY: &str = "XDG_RUNTIME_DIR";
/// This directory exists if systemd is the init system (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// The time limit for the greeting of a bus, during which the bus does not need systemd.
pub(super) const GREETING: Duration = Duration::from_secs(5);

impl Instance {
    /// Connects to the first of the usual sockets that answers. If an environment variable names an address, tries only that
    /// one.
    ///
    /// # Errors
    /// Names the first socket, and the reason.
    pub(super) fn open(self, until: Instant) -> Result<Bus> {
        match self {
            Self::System => open_host(std::env::var_os(SYSTEM_ADDRESS), until),
            Self::User => open_user(std::env::var_os(USER_ADDRESS), std::env::var_os(USER_DIRECTORY), until),
        }
    }
}

/// The uid that owns the user bus which the caller would reach. 0 if there is no such bus, or if a whole system runs inside
/// the user namespace (LXC) and has a systemd of its own.
pub(in crate::cgroup) fn owner_of_bus() -> u32 {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if has_user_bus(set(USER_ADDRESS), set(USER_DIRECTORY)) { owner() } else { 0 }
}

fn has_user_bus(address: Option<OsString>, directory: Option<OsString>) -> bool {
    address.is_some()
        || directory
            .is_some_and(|dir| ["bus", "systemd/private"].iter().any(|name| Path::new(&dir).join(name).exists()))
}

/// The uid of the caller as the bus sees it. Inside a user namespace the caller's own uid is a mapped one; the names of
/// systemd's slices show the uid outside (sd_pid_get_owner_uid(3)).
fn owner() -> u32 {
    if !caller::in_user_namespace() {
        return caller::uid();
    }
    std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| owner_of(&text)).unwrap_or(0)
}

/// Reads the uid 1000 from `0::/user.slice/user-1000.slice/user@1000.service/…`.
fn owner_of(cgroup: &str) -> Option<u32> {
    let mut parts = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    parts.find_map(|part| part.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok())
}

fn open_host(address: Option<OsString>, until: Instant) -> Result<Bus> {
    if let Some(text) = address {
        return open_given(SYSTEM_ADDRESS, &text.to_string_lossy(), Instance::System, until);
    }
    let failure = match connect(SYSTEM_BUS, Instance::System, false, until) {
        Ok(bus) => return Ok(bus),
        Err(failure) => failure,
    };
    if let Ok(bus) = connect(DIRECT, Instance::System, true, until) {
        return Ok(bus);
    }
    if !Path::new(BOOTED).is_dir() {
        let text = format!("systemd cgroup driver: this host is not run by systemd (no {BOOTED})");
        return Err(Error::unsupported(text));
    }
    Err(no_bus(SYSTEM_BUS, Instance::System, failure))
}

fn open_user(address: Option<OsString>, directory: Option<OsString>, until: Instant) -> Result<Bus> {
    if let Some(text) = address.filter(|text| !text.is_empty()) {
        return open_given(USER_ADDRESS, &text.to_string_lossy(), Instance::User, until);
    }
    let directory = directory.filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let mut failed = None;
    for (name, direct) in [("bus", false), ("systemd/private", true)] {
        let Some(place) = directory.as_ref().map(|dir| dir.join(name)).filter(|place| place.exists()) else { continue };
        let place = place.to_string_lossy().into_owned();
        match connect(&place, Instance::User, direct, until) {
            Ok(bus) => return Ok(bus),
            Err(failure) => failed = failed.or(Some(no_bus(&place, Instance::User, failure))),
        }
    }
    Err(failed.unwrap_or_else(|| {
        let text = "no bus of the user: DBUS_SESSION_BUS_ADDRESS is not set and there is none in $XDG_RUNTIME_DIR \
            (the package dbus-user-session has one started at login)";
        Error::unsupported(format!("systemd cgroup driver: {text}"))
    }))
}

fn open_given(variable: &str, text: &str, instance: Instance, until: Instant) -> Result<Bus> {
    let place = text.split(';').find_map(unix_path);
    let place = place.ok_or_else(|| Error::invalid(format!("{variable}: {text:?} names no unix:path")))?;
    connect(&place, instance, false, until).map_err(|e| no_bus(&place, instance, e))
}

fn no_bus(place: &str, instance: Instance, failure: Failure) -> Error {
    let bus = match instance {
        Instance::System => "the system bus",
        Instance::User => "the user's bus",
    };
    let what = format!("systemd cgroup driver: connect to {bus} at {place}");
    match failure {
        Failure::Lost(e) => e.context(what),
        Failure::Late => Error::new(Kind::Internal, format!("{what}: no answer within {} s", GREETING.as_secs())),
        Failure::Refused { name, text } => Error::new(Kind::Internal, format!("{what}: {text} ({name})")),
    }
}

fn connect(path: &str, instance: Instance, direct: bool, until: Instant) -> Result<Bus, Failure> {
    let uid = match instance {
        Instance::System => caller::uid(),
        Instance::User => owner(),
    };
    let address = Address::new(Path::new(path)).map_err(|e: Errno| Failure::Lost(e.into()))?;
    Bus::connect(address.socket(), direct, uid, until.min(Instant::now() + GREETING))
}

/// The path in `unix:path=/run/dbus/system_bus_socket,guid=…`. Other transports are not used for a bus of the host.
fn unix_path(address: &str) -> Option<String> {
    let keys = address.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| pair.strip_prefix("path=")).map(unescape)
}

/// Decodes escaped bytes (`%20`) in an address (D-Bus specification, "Server Addresses").
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
    fn bus_address_is_a_unix_path_or_an_error() {
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
    fn missing_user_bus_is_unsupported_and_a_broken_one_is_named() {
        let until = Instant::now() + LONG;
        for directory in [None, Some(OsString::new()), Some("/nonexistent".into())] {
            let e = open_user(Some(OsString::new()), directory, until).err().unwrap();
            assert_eq!(e.kind(), Kind::Unsupported);
            assert!(e.to_string().contains("DBUS_SESSION_BUS_ADDRESS"), "{e}");
        }
        let e = open_user(Some("tcp:host=a".into()), None, until).err().unwrap();
        assert_eq!(e.to_string(), "DBUS_SESSION_BUS_ADDRESS: \"tcp:host=a\" names no unix:path");
        // A socket that exists and refuses the connection is named.
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
    fn user_bus_is_found_by_variable_or_in_the_runtime_directory() {
        let dir = std::env::temp_dir().join(format!("berth-has-bus-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        assert!(!has_user_bus(None, None) && !has_user_bus(None, Some(dir.clone().into())));
        assert!(has_user_bus(Some("unix:path=/x".into()), None));
        std::fs::write(dir.join("bus"), "").unwrap();
        assert!(has_user_bus(None, Some(dir.clone().into())));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn owner_is_read_from_the_name_of_the_slice() {
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
