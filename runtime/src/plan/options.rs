//! The requests of the front doors: what to create, what to run in a container.

use std::{os::fd::BorrowedFd, path::Path};

use oci_spec::runtime::Process;

use crate::{
    Stdio,
    cgroup::{Cgroup, Manager, Rootless},
};

/// What to create and how.
pub struct CreateOptions<'a> {
    /// State root; the state is kept in `<root>/<id>`.
    pub root: &'a Path,
    /// The container's id.
    pub id: &'a str,
    /// Standard streams, unless the process has a terminal.
    pub stdio: Stdio,
    /// Who will start it.
    pub barrier: Barrier,
    /// Gets init's pid.
    pub pid_file: Option<&'a Path>,
    /// Chroot instead of pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Fds from 3 on for the payload.
    pub preserve_fds: u32,
    /// Who makes the cgroup.
    pub cgroup_manager: Manager,
    /// Give the container a place for a notification socket ([`crate::leaves::sd_notify`]).
    pub sd_notify: bool,
    /// `--rootless`: whether cgroup setup that the host forbids is skipped.
    pub rootless: Rootless,
    /// Becomes readable when the caller gives the container up; then init is ended, and nothing is left.
    pub abort: Option<BorrowedFd<'a>>,
}

/// Who will start the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// This process, by the fd that it gets back.
    Inherited,
    /// Any process, by a socket in the state directory.
    Listening,
}

/// What to run and how.
pub struct ExecOptions<'a> {
    /// The process.
    pub process: &'a Process,
    /// Standard streams, unless the process has a terminal.
    pub stdio: Stdio,
    /// Gets the pid.
    pub pid_file: Option<&'a Path>,
    /// Fds from 3 on for the payload.
    pub preserve_fds: u32,
    /// Run even when the container is frozen; the process freezes with it.
    pub ignore_paused: bool,
    /// Becomes readable when the caller gives the process up, which is ended then.
    pub abort: Option<BorrowedFd<'a>>,
    /// Where to be instead of the container's cgroup: one [`crate::cgroup::Cgroup::nested`] it.
    pub cgroup: Option<&'a Cgroup>,
}
