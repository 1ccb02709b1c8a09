//! The runtime core: turns config.json into a container. It has no async code. The CLI and the shim call its
//! operations.
//!
//! Each module may import only modules below it in this list. The test in `tests/arrows/` checks that.
//!
//! ```text
//! ops         the operations of the OCI runtime, each under its own name
//! spawn       the clone, and the conversation with the child
//! plan        turns config.json, or the process of an exec, into the child's plan; calls every leaf once
//! container   an existing container: its state directory, and the state of its init
//! spec        reads and checks config.json
//! leaves      each translates one part of the spec into one part of the plan, and imports no other leaf
//! namespace   creates, joins and enters namespaces
//! cgroup      cgroups v1 and v2, through cgroupfs or systemd
//! criu        speaks to CRIU, for checkpoint and restore
//! host        facts about the host, and its files, sockets and programs
//! arena, id_maps, oci_state
//! sys         system calls that neither nix nor rustix wraps
//! error
//! ```
//!
//! Below all of them is the crate `berth-init`, which runs in the child.

mod arena;
pub mod cgroup;
mod container;
mod criu;
pub mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
mod id_maps;
mod leaves;
mod namespace;
mod oci_state;
mod ops;
mod plan;
mod spawn;
mod spec;
mod sys;

pub use berth_init::path::retry;
pub use container::state;
pub use error::{Context, Error, Kind, Result};
pub use host::{
    caller, environment, foreign_dir, kernel, mountinfo, open_files, own_process, program, time, unix_address,
};
pub use id_maps::Ids;
pub use leaves::{
    hooks,
    mount::{MountAccess, clone_mapped},
    rdt, sd_notify, seccomp,
    streams::Stdio,
};
pub use namespace::user as user_namespace;
pub use oci_state::OCI_VERSION;
pub use ops::{
    checkpoint, create, delete, events, exec, features, kill, live_mounts, pause, pod, ps, restore, start, stats,
    update,
};
pub use spawn::sealed;
pub use spec::{bundle, default_spec, go_bool, go_json};
pub use sys::send_signal;
