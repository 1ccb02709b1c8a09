//! cgroup v2: the unified hierarchy.

pub(super) mod apply;
pub(super) mod limits;
