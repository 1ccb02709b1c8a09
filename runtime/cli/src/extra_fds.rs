//! Fds beyond stdio that go on to the process: the sockets of systemd's socket activation, then those of
//! `--preserve-fds`, from 3 on.

use berth_runtime::{Error, Result};

use super::{args::Parsed, sys};

/// How many there are.
pub struct ExtraFds {
    /// All of them.
    pub count: u32,
    listen: u32,
}

impl ExtraFds {
    /// Counts them for `create` and `run`, and sees that they were passed.
    ///
    /// # Errors
    /// One that was not passed, or is the runtime's own, is named; a negative number of them.
    pub fn find(parsed: &Parsed) -> Result<Self> {
        let variable = |name| std::env::var(name).ok();
        let listen = sockets(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
        Self::count(listen, parsed, sys::was_given)
    }

    /// Counts them for `exec`, which takes no part in socket activation.
    ///
    /// # Errors
    /// As [`ExtraFds::find`].
    pub fn preserved(parsed: &Parsed) -> Result<Self> {
        Self::count(0, parsed, sys::was_given)
    }

    fn count(listen: u32, parsed: &Parsed, given: impl Fn(u32) -> bool) -> Result<Self> {
        let wanted = parsed.int("preserve-fds").unwrap_or(0);
        let invalid = || Error::invalid(format!("--preserve-fds {wanted}: not a number of file descriptors"));
        let preserve = u32::try_from(wanted).map_err(|_| invalid())?;
        let count = listen.checked_add(preserve).ok_or_else(invalid)?;
        let first = listen.checked_add(3).ok_or_else(invalid)?;
        if let Some(fd) = (3..first).find(|fd| !given(*fd)) {
            return Err(Error::invalid(format!("LISTEN_FDS={listen}: file descriptor {fd} was not passed")));
        }
        for n in 0..preserve {
            let fd = first.checked_add(n).ok_or_else(invalid)?;
            if !given(fd) {
                let text =
                    format!("unable to stat preserved-fd {n} (of {preserve}): file descriptor {fd} was not passed");
                return Err(Error::invalid(text));
            }
        }
        Ok(Self { count, listen })
    }

    /// The variables by which sd_listen_fds(3) finds the sockets; none without sockets. The container's process has pid 1
    /// in its pid namespace.
    pub fn environment(&self) -> Vec<String> {
        match self.listen {
            0 => Vec::new(),
            sockets => vec![format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()],
        }
    }
}

/// How many sockets sd_listen_fds(3) would find in the process `us`.
fn sockets(pid: Option<String>, fds: Option<String>, us: u32) -> u32 {
    match (pid.map(|pid| pid.parse::<u32>()), fds.map(|fds| fds.parse::<u32>())) {
        (Some(Ok(pid)), Some(Ok(fds))) if pid == us => fds,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args, create};

    fn count(listen: u32, flag: &str, open: u32) -> Result<u32> {
        let parsed = args::parse(create::COMMAND.flags, &[flag.to_owned()], false).unwrap();
        ExtraFds::count(listen, &parsed, |fd| fd < 3 + open).map(|extra| extra.count)
    }

    #[test]
    fn sockets_are_ours_only_if_systemd_says_so() {
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(sockets(text("7"), text("2"), 7), 2);
        assert_eq!(sockets(text("8"), text("2"), 7), 0);
        assert_eq!(sockets(None, text("2"), 7), 0);
        assert_eq!(sockets(text("7"), text("-2"), 7), 0);
    }

    #[test]
    fn preserved_fds_come_behind_the_sockets_and_must_be_open() {
        assert_eq!(count(0, "--preserve-fds=2", 2).unwrap(), 2);
        assert_eq!(count(2, "--preserve-fds=1", 3).unwrap(), 3);
        assert_eq!(count(0, "--preserve-fds=0", 0).unwrap(), 0);
        assert_eq!(
            count(1, "--preserve-fds=2", 2).unwrap_err().to_string(),
            "unable to stat preserved-fd 1 (of 2): file descriptor 5 was not passed"
        );
        assert_eq!(
            count(2, "--preserve-fds=0", 1).unwrap_err().to_string(),
            "LISTEN_FDS=2: file descriptor 4 was not passed"
        );
        assert!(count(0, "--preserve-fds=-1", 9).is_err());
        assert!(count(0, "--preserve-fds=4294967295", 9).is_err());
    }
}
