//! The runtime core: config.json in, a container out. No async; both front doors call these verbs.
//!
//! The rooms. Each may use those below it, and a test holds the arrows (`tests/arrows/`):
//!
//! ```text
//! ops         the verbs, each named as the OCI operation
//! spawn       the clone, and the conversation with the child
//! plan        config.json, or an exec's process, becomes what the child carries out: every leaf once, in order
//! container   a container on record, and its init as the kernel has it
//! spec        config.json read and checked
//! leaves      each translates one part of the spec into one part of the plan, and knows no other leaf
//! namespace   namespaces made, joined and entered
//! cgroup      cgroups of both hierarchies, by file or by systemd
//! host        facts that are asked once; files, sockets and programs of the host
//! arena, id_maps, oci_state
//! sys         the calls that neither nix nor rustix wraps
//! error
//! ```
//!
//! Below all of them is the crate `berth-init`, which runs in the child.

mod arena;
pub mod cgroup;
mod container;
pub mod error;
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

pub use container::state;
pub use error::{Context, Error, Kind, Result};
pub use host::{caller, foreign_dir, kernel, mountinfo, open_files, program, time, unix_address};
pub use id_maps::Ids;
pub use leaves::{hooks, mount::clone_mapped, rdt, sd_notify, seccomp, streams::Stdio};
pub use namespace::user as user_namespace;
pub use oci_state::OCI_VERSION;
pub use ops::{create, delete, events, exec, features, kill, live_mounts, pause, ps, start, stats, update};
pub use spawn::sealed;
pub use spec::{bundle, default_spec, go_json};
