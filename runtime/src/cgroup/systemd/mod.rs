//! The systemd driver: the container's cgroup is that of a transient scope, which systemd makes.
//!
//! ```text
//! scope     the operations: prepare, start, update, stop
//!   properties, device_policy, gvariant    translation, pure
//!   manager    org.freedesktop.systemd1.Manager, with deadlines
//!     instance    the system instance or the user's: sockets
//!       bus, message, value    D-Bus
//! ```
//!
//! All operations on directories are in the siblings of this module; the directories of a scope are no different.

mod bus;
mod device_policy;
#[cfg(feature = "fuzzing")]
pub(in crate::cgroup) mod fuzzing;
mod gvariant;
pub(super) mod instance;
pub(super) mod manager;
mod message;
mod properties;
pub(super) mod scope;
mod value;
