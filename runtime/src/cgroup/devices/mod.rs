//! Device rules: read from config.json (`rules`), reduced to a default and exceptions (`allowlist`), and on v2 compiled
//! (`filter`), loaded and attached (`program`, `bpf`).

pub(super) mod allowlist;
mod bpf;
pub(super) mod filter;
pub(super) mod program;
pub(super) mod rules;
