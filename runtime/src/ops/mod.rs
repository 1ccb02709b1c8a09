//! The verbs, each named as the operation of the runtime specification or of runc.

pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
pub mod live_mounts;
pub mod pause;
pub mod ps;
pub mod start;
pub mod stats;
pub mod update;
