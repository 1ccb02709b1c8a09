//! containerd-shim-berth-v2.
fn main() {}
