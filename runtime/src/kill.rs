//! kill: a signal to init, or to everything in the container.

use std::os::fd::AsRawFd;

use crate::{
    Context, Error, Kind, Result, kernel,
    state::{Container, Status},
};

/// The highest signal number, signal(7).
const MAX: i32 = 64;

/// Sends a signal to init. SIGKILL to a container that shares its pid namespace reaches all of it: nothing else would
/// end the rest.
///
/// # Errors
/// [`Kind::NotFound`] "container not running".
pub fn kill(container: &Container, signal: i32) -> Result<()> {
    send(container, signal).map_err(kernel::explain)
}

fn send(container: &Container, signal: i32) -> Result<()> {
    check(signal)?;
    if signal == libc::SIGKILL && !container.private_pid_namespace() {
        return kill_all(container, signal);
    }
    signal_init(container, signal)
}

fn signal_init(container: &Container, signal: i32) -> Result<()> {
    let pidfd = container.pidfd()?;
    crate::sys::send_signal(pidfd.as_raw_fd(), signal).map_err(|e| match e.errno() {
        Some(libc::ESRCH) => not_running(),
        _ => e.context(format!("kill {}: signal {signal}", container.pid())),
    })?;
    if signal == libc::SIGKILL && container.cgroup().is_frozen().unwrap_or(false) {
        // A v1 freezer holds back even this one until it lets go; v2 does not, and nobody is left to be thawed.
        container.cgroup().thaw()?;
    }
    Ok(())
}

/// Sends a signal to every process of the container; where it has no cgroup that says which they are, to init.
///
/// # Errors
/// [`Kind::NotFound`] when there is none.
pub fn kill_all(container: &Container, signal: i32) -> Result<()> {
    check(signal)?;
    if !container.cgroup().is_any() {
        if !container.private_pid_namespace() {
            let hint = "possibly due to lack of cgroup (Hint: enable cgroup v2 delegation)";
            log::warn!("failed to kill all processes, {hint}");
        }
        return signal_init(container, signal);
    }
    if container.status()? == Status::Stopped && container.cgroup().pids().map_or(true, |p| p.is_empty()) {
        return Err(not_running());
    }
    container.cgroup().signal_all(signal).with_context(|| format!("signal all processes of {}", container.id()))
}

fn not_running() -> Error {
    Error::new(Kind::NotFound, "container not running")
}

/// Signal 0 asks whether the process is there (kill(2)).
fn check(signal: i32) -> Result<()> {
    if (0..=MAX).contains(&signal) { Ok(()) } else { Err(Error::invalid(format!("unknown signal {signal}"))) }
}

/// Reads a signal: a number, or a name with or without SIG, as kill(1) does.
///
/// # Errors
/// [`Kind::InvalidArgument`] naming the text.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::invalid(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=MAX).contains(&number) || number == 0 { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |base: i32, digits: &str, sign: i32| -> Option<i32> {
        let n = if digits.is_empty() { 0 } else { digits.parse::<u8>().ok().map(i32::from)? };
        Some(base + sign * n).filter(|s| (libc::SIGRTMIN()..=MAX).contains(s))
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(libc::SIGRTMIN(), rest.trim_start_matches('+'), 1).ok_or_else(unknown);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(MAX, rest.trim_start_matches('-'), -1).ok_or_else(unknown);
    }
    match name {
        "IOT" => Ok(libc::SIGABRT),
        "CLD" => Ok(libc::SIGCHLD),
        "POLL" => Ok(libc::SIGIO),
        _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().map(|s| s as i32).map_err(|_| unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("term", 15),
            ("sighup", 1),
            ("64", 64),
            ("0", 0),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("RTMAX", 64),
            ("CLD", 17),
            ("IOT", 6),
            ("POLL", 29),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "65", "-1", "SIG", "SIGFOO", "RTMIN+99", "9x", "RTMAX-40", " 9"] {
            assert!(parse_signal(bad).is_err(), "{bad:?}");
        }
    }
}
