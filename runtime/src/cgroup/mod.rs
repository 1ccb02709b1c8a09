//! The container's cgroup: it has its limits and device rules before the first process runs in it. All operations on all
//! processes of a container are here, too.
//!
//! ```text
//! Cgroup::resolve ┐
//! Limits::new     ┴> Setup::begin (-> add_init) -> join_fds, add
//!                      -> update, freeze, thaw, pids, stats, oom_watch, … -> signal_all -> delete
//! ```
//!
//! [`Cgroup`] (in `location`) says where the cgroup is. Each sibling adds one operation to it as an `impl Cgroup`. Pure
//! translation from `linux.resources` is in `v1::limits`, `v2::limits`, `devices` and `systemd::properties`: rows in, rows
//! out, tested without root. `v1::apply`, `v2::apply` and `row` carry it out.
//!
//! This file is the door: siblings import each other directly and never from here, so that arrows between them have one
//! direction. The mounts inside a container ask [`host`] for the hierarchies of the host.

mod check;
mod delegate;
mod delete;
mod devices;
mod dir;
mod fields;
mod freeze;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
mod join;
mod limits;
mod location;
mod mkdir;
mod move_out;
mod nested;
mod oom;
mod path;
mod processes;
mod resolve;
mod rootless;
mod row;
mod setup;
mod snapshot;
mod stats;
mod sub_cgroups;
mod systemd;
mod tree;
mod unit;
mod update;
mod v1;
mod v2;

pub use self::{
    devices::rules::default_device_rules,
    host::{Host, Mount, host, usual_mount_is_v2},
    join::JoinFds,
    limits::Limits,
    location::{Cgroup, Hierarchy, Manager},
    move_out::{MovedOut, move_out},
    oom::{OomCount, OomWatch},
    processes::KILL_TIMEOUT,
    rootless::{Rights, Rootless},
    setup::Setup,
    snapshot::Snapshot,
    stats::{
        Blkio, BlkioEntry, Counters, IoEntry, MemoryEntry, MemoryEvents, Pids, Placement, Psi, PsiLine, Rdma,
        RdmaEntry, Stats, V1Cpu, V1Hugetlb, V1Memory, V1Stats, V2Cpu, V2Hugetlb, V2Io, V2Memory, V2Stats,
    },
    sub_cgroups::{DELEGATE_ANNOTATION, SUBGROUP_ANNOTATION},
};

/// Closes the D-Bus connection that is kept for the next operation. A process calls this before it goes idle, because a
/// user may have only a few hundred connections (dbus-daemon(1), `max_connections_per_user`).
pub fn drop_cached_connections() {
    systemd::manager::drop_cached_connection();
}
