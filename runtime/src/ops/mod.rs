//! The operations, each with the name that the runtime specification or runc gives it.

pub mod checkpoint;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
pub mod live_mounts;
pub mod pause;
pub mod pod;
pub mod ps;
pub mod restore;
pub mod start;
pub mod stats;
pub mod update;
