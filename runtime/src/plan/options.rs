//! The requests of the front doors to create and exec.

use std::{os::fd::BorrowedFd, path::Path};

use oci_spec::runtime::Process;

use crate::{
    Stdio,
    cgroup::{Cgroup, Manager, Rootless},
};

/// The request to create a container.
pub struct CreateOptions<'a> {
    /// The state root. The container's state directory is `<root>/<id>`.
    pub root: &'a Path,
    /// The container's id.
    pub id: &'a str,
    /// The standard streams, unless the process has a terminal.
    pub stdio: Stdio,
    /// The way in which start releases init.
    pub barrier: Barrier,
    /// A file that gets init's pid.
    pub pid_file: Option<&'a Path>,
    /// Use chroot(2) instead of pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Number of descriptors from 3 on that the payload inherits.
    pub preserve_fds: u32,
    /// The creator of the cgroup: cgroupfs or systemd.
    pub cgroup_manager: Manager,
    /// Give the container a directory for a notification socket ([`crate::leaves::sd_notify`]).
    pub sd_notify: bool,
    /// `--rootless`: skip cgroup setup that the host forbids.
    pub rootless: Rootless,
    /// Becomes readable when the caller aborts the create. Then init is killed, and nothing is left.
    pub abort: Option<BorrowedFd<'a>>,
}

/// The way in which start releases init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The caller starts the container through the channel that create returns.
    Inherited,
    /// Any process starts the container through a socket in the state directory.
    Listening,
}

/// The request to run a process in a container.
pub struct ExecOptions<'a> {
    /// The process, already checked.
    pub process: &'a Process,
    /// The standard streams, unless the process has a terminal.
    pub stdio: Stdio,
    /// A file that gets the pid.
    pub pid_file: Option<&'a Path>,
    /// Number of descriptors from 3 on that the payload inherits.
    pub preserve_fds: u32,
    /// Run the process even if the container is frozen. It then freezes too.
    pub ignore_paused: bool,
    /// Becomes readable when the caller aborts the exec. Then the process is killed.
    pub abort: Option<BorrowedFd<'a>>,
    /// A sub-cgroup for the process ([`crate::cgroup::Cgroup::nested`]), instead of the container's cgroup.
    pub cgroup: Option<&'a Cgroup>,
}
