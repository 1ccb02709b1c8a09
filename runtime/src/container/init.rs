//! The init of an existing container: finds out from the kernel whether it lives, and opens it.
//!
//! state.json identifies init by pid, start time and boot. init lives until its last thread exits. /proc/PID/stat and
//! the namespaces, root and cgroup below /proc/PID show the first thread only, which may have exited earlier. Signals
//! go through the pidfd, which becomes readable when the last thread has exited.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    Error, Kind, Result,
    container::{
        start_socket,
        state::{Container, Status},
    },
    host::proc::{self, Stat, is_gone},
    namespace,
};

/// Longest time from the sign of init's end to that end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A living init.
#[derive(Debug)]
pub struct Init {
    /// Identifies the process while it is open.
    pub pidfd: OwnedFd,
    pid: i32,
    stat: Stat,
}

impl Init {
    /// Returns the directory in /proc of a living thread of init. It is valid until the pidfd becomes readable.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if init has exited meanwhile.
    pub fn directory(&self) -> Result<String> {
        proc::directory(self.pid, &self.stat)?.ok_or_else(not_running)
    }

    /// Opens init's namespaces of these types (`CLONE_NEW*`) if setns(2) with its pidfd cannot join them. That is the
    /// case when the first thread has exited. The order is that of joining.
    ///
    /// # Errors
    /// As [`Init::directory`] and open(2).
    pub fn namespaces_by_file(&self, kinds: u32) -> Result<Vec<(u32, OwnedFd)>> {
        if self.stat.leader_ended { namespace::of_process(&self.directory()?, kinds) } else { Ok(Vec::new()) }
    }
}

impl Container {
    /// Returns false if the machine has booted since. Then the processes are gone, and another cgroup may have the
    /// path.
    pub fn is_of_this_boot(&self) -> bool {
        proc::is_this_boot(&self.state().boot)
    }

    /// Returns the container's status from the kernel's view.
    ///
    /// # Errors
    /// /proc or the cgroup's freezer cannot be read.
    pub fn status(&self) -> Result<Status> {
        if !self.is_of_this_boot() {
            return Ok(Status::Stopped);
        }
        if self.pid() == 0 {
            return Ok(Status::Creating);
        }
        let Some(stat) = self.living()? else { return Ok(Status::Stopped) };
        match self.cgroup().is_frozen() {
            Ok(true) => return Ok(Status::Paused),
            Ok(false) => {}
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
        if stat.leader_ended {
            // A process with several threads runs the payload: berth's own program in init has one thread.
            return Ok(Status::Running);
        }
        // Until start, init runs the runtime's program. The executable in /proc cannot be out of date, as a file could.
        match fs::metadata(format!("/proc/{}/exe", self.pid())) {
            Ok(exe) if (exe.dev(), exe.ino()) == self.state().runtime => Ok(Status::Created),
            Ok(_) => Ok(Status::Running),
            // init is not dumpable until start, so an unprivileged caller may not read its executable.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) && start_socket::connect(self.dir()).is_ok() => {
                Ok(Status::Created)
            }
            // Another user's process may not be looked at.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                Ok(if self.living()?.is_some() { Status::Running } else { Status::Stopped })
            }
            Err(e) if is_gone(&e) => Ok(if self.has_ended()? { Status::Stopped } else { Status::Running }),
            Err(e) => Err(Error::from(e).context(format!("stat /proc/{}/exe", self.pid()))),
        }
    }

    /// Returns the state of init, if it lives and is the process in state.json.
    fn living(&self) -> Result<Option<Stat>> {
        Ok(proc::stat(self.pid())?.filter(|s| s.start_time == self.state().start_time && !s.ended()))
    }

    /// Opens init.
    ///
    /// # Errors
    /// [`Kind::NotFound`] "container not running" if it has exited or another process has its pid. Otherwise as
    /// pidfd_open(2).
    pub fn init(&self) -> Result<Init> {
        let pid = Pid::from_raw(self.pid()).filter(|_| self.is_of_this_boot()).ok_or_else(not_running)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| match e {
            // EINVAL: the number belongs to a thread now.
            Errno::SRCH | Errno::INVAL => not_running(),
            other => Error::from(other).context("pidfd_open"),
        })?;
        // The check comes after pidfd_open(2), so that the pidfd and the checked process are the same.
        let stat = self.living()?.ok_or_else(not_running)?;
        Ok(Init { pidfd, pid: self.pid(), stat })
    }

    /// Returns true if init has exited, or has given up its memory, and with it its executable. That comes first in an
    /// exit; the kernel then ends the pid namespace, and waits for the parents of all its processes.
    fn has_ended(&self) -> Result<bool> {
        let exe = fs::metadata(format!("/proc/{}/exe", self.pid()));
        // Other threads live on after the first one.
        let single = |stat: Stat| !stat.leader_ended && stat.threads <= 1;
        Ok(self.living()?.is_none_or(|stat| single(stat) && exe.is_err_and(|e| is_gone(&e))))
    }

    /// Waits a short time for the end of init, which a failure of another process has announced. Returns false if init
    /// lives on.
    pub fn ends_soon(&self) -> bool {
        let until = Instant::now() + END_TIMEOUT;
        let mut pause = Duration::from_millis(1);
        while Instant::now() < until {
            if self.has_ended().unwrap_or(false) {
                return true;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        false
    }

    /// Opens a pidfd of init.
    ///
    /// # Errors
    /// As [`Container::init`].
    pub fn pidfd(&self) -> Result<OwnedFd> {
        self.init().map(|init| init.pidfd)
    }
}

/// Returns runc's error for a container without a living init.
pub(crate) fn not_running() -> Error {
    Error::new(Kind::NotFound, "container not running")
}
