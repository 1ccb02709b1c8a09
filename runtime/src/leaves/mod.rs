//! The leaves. Each one translates a part of the spec into a part of the plan. No leaf imports another.

pub mod caps;
pub mod hooks;
pub mod lsm;
pub mod mount;
pub mod network;
pub mod rdt;
pub mod rlimit;
pub mod scheduling;
pub mod sd_notify;
pub mod seccomp;
pub mod streams;
pub mod sysctl;
pub mod user;
