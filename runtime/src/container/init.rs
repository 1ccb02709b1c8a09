//! A container's init as the kernel has it now: whether it lives, and hold of it.
//!
//! The record names it by pid, start time and boot. It lives until its last thread has ended, whatever the state of its
//! first one: that is the state in /proc/PID/stat, and the namespaces, root and cgroup below /proc/PID are the first
//! thread's as well. Signals go by pidfd, which is readable when the last thread has ended.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
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
    host::proc::{self, Stat},
    namespace,
};

/// An init that lives.
#[derive(Debug)]
pub struct Init {
    /// Names it for as long as it is open.
    pub pidfd: OwnedFd,
    pid: i32,
    stat: Stat,
}

impl Init {
    /// Its directory in /proc, of a thread that lives. It is init's for as long as the pidfd is not readable.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it has ended meanwhile.
    pub fn directory(&self) -> Result<String> {
        proc::directory(self.pid, &self.stat).ok_or_else(not_running)
    }

    /// Its namespaces of these kinds (`CLONE_NEW*`) where its pidfd does not give them, which it does while the first thread
    /// lives; in the order in which they are joined.
    ///
    /// # Errors
    /// As [`Init::directory`], and of the opens.
    pub fn namespaces_by_file(&self, kinds: u32) -> Result<Vec<(u32, OwnedFd)>> {
        if self.stat.leader_ended { namespace::of_process(&self.directory()?, kinds) } else { Ok(Vec::new()) }
    }
}

impl Container {
    /// False when the machine has been started anew since: its processes are gone, and its cgroup's path may be another's.
    pub fn is_of_this_boot(&self) -> bool {
        let (then, now) = (self.state().boot.as_str(), proc::boot_id());
        then.is_empty() || now.is_empty() || then == now
    }

    /// Asks the kernel how the container is.
    ///
    /// # Errors
    /// When the cgroup cannot be asked.
    pub fn status(&self) -> Result<Status> {
        if !self.is_of_this_boot() {
            return Ok(Status::Stopped);
        }
        if self.pid() == 0 {
            return Ok(Status::Creating);
        }
        let Some(stat) = self.living() else { return Ok(Status::Stopped) };
        match self.cgroup().is_frozen() {
            Ok(true) => return Ok(Status::Paused),
            Ok(false) => {}
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
        if stat.leader_ended {
            // The runtime's own program has one thread: the payload runs.
            return Ok(Status::Running);
        }
        // Until it is started init runs the runtime's own program: no marker can be out of date.
        match fs::metadata(format!("/proc/{}/exe", self.pid())) {
            Ok(exe) if (exe.dev(), exe.ino()) == self.state().runtime => Ok(Status::Created),
            Ok(_) => Ok(Status::Running),
            // Of a process that hides, as init does until it is started, an ordinary user sees no program.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) && start_socket::connect(self.dir()).is_ok() => {
                Ok(Status::Created)
            }
            Err(_) => Ok(if self.living().is_some() { Status::Running } else { Status::Stopped }),
        }
    }

    /// The init that lives, if this is the same process as on record.
    fn living(&self) -> Option<Stat> {
        proc::stat(self.pid()).filter(|s| s.start_time == self.state().start_time && !s.ended())
    }

    /// Hold of init.
    ///
    /// # Errors
    /// [`Kind::NotFound`] "container not running" when it has ended or the pid is another process by now; else as
    /// pidfd_open(2).
    pub fn init(&self) -> Result<Init> {
        let pid = Pid::from_raw(self.pid()).filter(|_| self.is_of_this_boot()).ok_or_else(not_running)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| match e {
            // EINVAL: the number is a thread's by now.
            Errno::SRCH | Errno::INVAL => not_running(),
            other => Error::from(other).context("pidfd_open"),
        })?;
        // Only after the open: from now on the number cannot be given to another process unnoticed.
        let stat = self.living().ok_or_else(not_running)?;
        Ok(Init { pidfd, pid: self.pid(), stat })
    }

    /// A pidfd of init.
    ///
    /// # Errors
    /// As [`Container::init`].
    pub fn pidfd(&self) -> Result<OwnedFd> {
        self.init().map(|init| init.pidfd)
    }
}

/// runc's words.
pub(crate) fn not_running() -> Error {
    Error::new(Kind::NotFound, "container not running")
}
