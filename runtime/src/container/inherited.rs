//! The container's settings that an exec takes over.

use serde::{Deserialize, Serialize};

use crate::leaves::{scheduling::Settings as Scheduling, seccomp::agent::Listener};

/// The settings that an exec takes over unless its process has its own. state.json keeps them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inherited {
    /// `process.args[0]` of init.
    pub program: String,
    /// Capability masks: bounding, effective, permitted, inheritable, ambient.
    pub capabilities: [u64; 5],
    /// `process.user.umask`.
    pub umask: Option<u32>,
    /// `process.oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub selinux: Option<String>,
    /// The agent that gets the filter's notifications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// The exec joins the container's session keyring.
    pub keyring: bool,
    /// Scheduler, I/O priority, CPU affinity, memory policy, execution domain.
    #[serde(default, skip_serializing_if = "Scheduling::is_empty")]
    pub scheduling: Scheduling,
}
