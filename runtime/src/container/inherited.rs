//! What an exec takes from the container that it runs in.

use serde::{Deserialize, Serialize};

use crate::leaves::{scheduling::Inherited as Scheduling, seccomp::agent::Listener};

/// What an exec takes from the container unless it says otherwise; a part of the record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inherited {
    /// `process.args[0]` of init.
    pub program: String,
    /// Bounding, effective, permitted, inheritable, ambient.
    pub capabilities: [u64; 5],
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// OOM score adjustment.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub selinux: Option<String>,
    /// Who answers the filter's notifications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// There is a session keyring to join.
    pub keyring: bool,
    /// Scheduler, I/O priority, CPU affinity, memory policy, execution domain.
    #[serde(default, skip_serializing_if = "Scheduling::is_empty")]
    pub scheduling: Scheduling,
}
