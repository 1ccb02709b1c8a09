//! The operation kill: sends a signal to init, or to all processes of the container.
//!
//! init gets the signal through its pidfd, the others through the cgroup. The cgroup alone is not enough: an agent, a
//! nested manager or an administrator may have moved init out of it, or may have removed it (runc#5089, #5117).

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use crate::{
    Context, Error, Kind, Result,
    cgroup::KILL_TIMEOUT,
    container::{init::not_running, state::Container},
    host::kernel,
};

/// The highest signal number (signal(7)).
const MAX: i32 = 64;

/// Sends a signal to init.
///
/// SIGKILL goes to all processes of a container without its own pid namespace: the kernel would not end them with init.
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
    let init = container.pidfd()?;
    signal_init(container, init.as_fd(), signal)?;
    if signal == libc::SIGKILL && container.cgroup().is_frozen().unwrap_or(false) {
        // A process in a frozen v1 cgroup dies only after a thaw. In a frozen v2 cgroup SIGKILL works at once.
        container.cgroup().thaw()?;
    }
    Ok(())
}

fn signal_init(container: &Container, init: BorrowedFd<'_>, signal: i32) -> Result<()> {
    crate::sys::send_signal(init, signal).map_err(|e| match e.errno() {
        Some(libc::ESRCH) => not_running(),
        _ => e.context(format!("kill {}: signal {signal}", container.pid())),
    })
}

/// Sends a signal to all processes of the container. Without a cgroup only init gets it.
///
/// # Errors
/// [`Kind::NotFound`] if there is no process.
pub fn kill_all(container: &Container, signal: i32) -> Result<()> {
    check(signal)?;
    if !container.cgroup().is_managed() && !container.private_pid_namespace() {
        let hint = "possibly due to lack of cgroup (Hint: enable cgroup v2 delegation)";
        log::warn!("failed to kill all processes, {hint}");
    }
    let init = open_init(container)?;
    let mut sent = HashSet::new();
    signal_all(container, init.as_ref().map(AsFd::as_fd), signal, Instant::now() + KILL_TIMEOUT, &mut sent).map(drop)
}

/// Returns a pidfd of init, or `None` if it has exited.
pub(crate) fn open_init(container: &Container) -> Result<Option<std::os::fd::OwnedFd>> {
    match container.pidfd() {
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        pidfd => pidfd.map(Some),
    }
}

/// Sends a signal to `init` and to all processes in the cgroup that are not in `sent`. Adds them to `sent`, and returns
/// the number of processes in the cgroup.
///
/// # Errors
/// [`Kind::NotFound`] if there is neither init nor a process in the cgroup. Otherwise the errors of both ways.
pub(crate) fn signal_all(
    container: &Container,
    init: Option<BorrowedFd<'_>>,
    signal: i32,
    until: Instant,
    sent: &mut HashSet<i32>,
) -> Result<usize> {
    let cgroup = container.cgroup();
    let in_cgroup = if cgroup.is_managed() && container.is_of_this_boot() {
        match cgroup.signal_all(signal, until, sent) {
            Err(e) if e.kind() == Kind::NotFound => Ok(0),
            reached => reached.with_context(|| format!("signal all processes of {}", container.id())),
        }
    } else {
        Ok(0)
    };
    let to_init = match init {
        // init must get the signal once. SIGKILL may be sent twice, because the process cannot count it.
        Some(init) if signal == libc::SIGKILL || !sent.contains(&container.pid()) => {
            match signal_init(container, init, signal) {
                Err(e) if e.kind() == Kind::NotFound => Ok(()),
                sent => sent,
            }
        }
        Some(_) => Ok(()),
        None if matches!(in_cgroup, Ok(0)) => return Err(not_running()),
        None => Ok(()),
    };
    match (in_cgroup, to_init) {
        (Ok(there), Ok(())) => Ok(there),
        (in_cgroup, to_init) => Error::all(in_cgroup.err().into_iter().chain(to_init.err())).map(|()| 0),
    }
}

/// Checks a signal number. Signal 0 only tests that the process exists (kill(2)).
fn check(signal: i32) -> Result<()> {
    if (0..=MAX).contains(&signal) { Ok(()) } else { Err(Error::invalid(format!("unknown signal {signal}"))) }
}

/// Parses a signal: a number, or a name with or without SIG, as in kill(1).
///
/// # Errors
/// [`Kind::InvalidArgument`] with the text.
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
    fn signal_names_and_numbers_are_parsed() {
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
