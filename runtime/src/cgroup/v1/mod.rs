//! cgroup v1: a hierarchy for each controller.

pub(super) mod apply;
pub(super) mod limits;
