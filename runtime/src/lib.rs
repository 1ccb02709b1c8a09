//! The runtime core: config.json in, a container out. No async; both front doors call these verbs.
//!
//! Floor 2, the verbs, each named as the OCI operation: [`create`], [`start`], [`exec`], [`kill`], [`delete`],
//! [`pause`], [`update`], [`ps`], [`stats`], [`events`], and [`state`] for `state` and `list`. They call [`plan`], which
//! calls every leaf once, and [`spawn`], which makes the process.
//! Floor 1, the leaves, pure translation from the spec to a part of the plan: mount, device, namespace, user,
//! userns, net_devices, caps, seccomp, lsm, sysctl, rlimit, process, streams, [`sd_notify`], [`rdt`], [`cgroup`]. Floor 0 is the crate `berth-init`, which runs in the child.

mod arena;
pub mod bundle;
mod caps;
pub mod cgroup;
mod check;
pub mod create;
pub mod delete;
mod device;
pub mod error;
pub mod events;
pub mod exec;
mod failure;
pub mod features;
pub mod foreign_dir;
pub mod hooks;
mod init_process;
mod inside;
pub mod json;
pub mod kernel;
pub mod kill;
pub mod live_mounts;
mod lsm;
mod mount;
pub mod mountinfo;
mod namespace;
mod net_devices;
mod notify;
mod objects;
pub mod pause;
mod pid_file;
mod plan;
mod proc;
mod process;
pub mod program;
pub mod ps;
pub mod rdt;
pub mod rlimit;
pub mod rootless;
mod rtnetlink;
mod scheduling;
pub mod sd_notify;
pub mod sealed;
pub mod seccomp;
mod signals;
mod spawn;
pub mod spec;
pub mod start;
mod start_socket;
pub mod state;
pub mod stats;
mod streams;
mod sys;
mod sysctl;
pub mod time;
mod timens;
pub mod unix_address;
pub mod update;
mod user;
pub mod userns;

use std::os::fd::OwnedFd;

pub use error::{Context, Error, Kind, Result};
pub use mount::clone_mapped;

/// Where a process gets its standard streams. One with a terminal gets that, and its master comes back.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// `/dev/null`.
    Null,
    /// stdin, stdout, stderr.
    Fds([OwnedFd; 3]),
    /// As `Null`, but a terminal will be shown on another one, which turns newlines into what it needs: so the
    /// process' own must not.
    Relayed,
}
