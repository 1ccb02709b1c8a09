//! File descriptors after stdio that the process gets, from 3 on: first the sockets of systemd's socket activation
//! (sd_listen_fds(3)), then those of `--preserve-fds`.

use berth_runtime::{Error, Result};

use crate::sys;

/// The extra file descriptors.
pub struct ExtraFds {
    /// The number of all of them.
    pub count: u32,
    /// The number of sockets among them.
    sockets: u32,
}

impl ExtraFds {
    /// Counts the sockets of this process, and `preserve` descriptors after them.
    ///
    /// # Errors
    /// Fails if `preserve` is negative, or if the caller has not passed one of the descriptors.
    pub fn with_sockets(preserve: i64) -> Result<Self> {
        let variable = |name| std::env::var(name).ok();
        let sockets = sockets(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
        Self::count(sockets, preserve, sys::was_passed)
    }

    /// Counts `preserve` descriptors. `exec` takes no part in socket activation.
    ///
    /// # Errors
    /// Fails as [`ExtraFds::with_sockets`] does.
    pub fn preserved(preserve: i64) -> Result<Self> {
        Self::count(0, preserve, sys::was_passed)
    }

    fn count(sockets: u32, wanted: i64, was_passed: impl Fn(u32) -> bool) -> Result<Self> {
        let invalid = || Error::invalid(format!("--preserve-fds {wanted}: not a number of file descriptors"));
        let preserve = u32::try_from(wanted).map_err(|_| invalid())?;
        let count = sockets.checked_add(preserve).ok_or_else(invalid)?;
        let first = sockets.checked_add(3).ok_or_else(invalid)?;
        if let Some(fd) = (3..first).find(|fd| !was_passed(*fd)) {
            return Err(Error::invalid(format!("LISTEN_FDS={sockets}: file descriptor {fd} was not passed")));
        }
        for n in 0..preserve {
            let fd = first.checked_add(n).ok_or_else(invalid)?;
            if !was_passed(fd) {
                let text =
                    format!("unable to stat preserved-fd {n} (of {preserve}): file descriptor {fd} was not passed");
                return Err(Error::invalid(text));
            }
        }
        Ok(Self { count, sockets })
    }

    /// The variables by which sd_listen_fds(3) finds the sockets; none without sockets. The container's process has pid 1
    /// in its pid namespace.
    pub fn environment(&self) -> Vec<String> {
        match self.sockets {
            0 => Vec::new(),
            sockets => vec![format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()],
        }
    }
}

/// Returns the number of sockets that sd_listen_fds(3) finds in a process with this pid and these variables.
fn sockets(listen_pid: Option<String>, listen_fds: Option<String>, pid: u32) -> u32 {
    match (listen_pid.map(|text| text.parse::<u32>()), listen_fds.map(|text| text.parse::<u32>())) {
        (Some(Ok(listen_pid)), Some(Ok(sockets))) if listen_pid == pid => sockets,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(sockets: u32, preserve: i64, open: u32) -> Result<u32> {
        ExtraFds::count(sockets, preserve, |fd| fd < 3 + open).map(|extra| extra.count)
    }

    #[test]
    fn sockets_for_another_pid_are_not_taken() {
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(sockets(text("7"), text("2"), 7), 2);
        assert_eq!(sockets(text("8"), text("2"), 7), 0);
        assert_eq!(sockets(None, text("2"), 7), 0);
        assert_eq!(sockets(text("7"), text("-2"), 7), 0);
    }

    #[test]
    fn preserved_fds_follow_the_sockets_and_must_be_open() {
        assert_eq!(count(0, 2, 2).unwrap(), 2);
        assert_eq!(count(2, 1, 3).unwrap(), 3);
        assert_eq!(count(0, 0, 0).unwrap(), 0);
        assert_eq!(
            count(1, 2, 2).unwrap_err().to_string(),
            "unable to stat preserved-fd 1 (of 2): file descriptor 5 was not passed"
        );
        assert_eq!(count(2, 0, 1).unwrap_err().to_string(), "LISTEN_FDS=2: file descriptor 4 was not passed");
        assert!(count(0, -1, 9).is_err());
        assert!(count(0, 4_294_967_295, 9).is_err());
    }
}
