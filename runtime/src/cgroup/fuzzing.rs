//! The parsers and compilers of this room for the fuzz targets, with plain types.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::{
    devices::{allowlist::Allowlist, filter, rules},
    host::Host,
    oom,
    stats::fuzzing as stats,
    systemd::fuzzing as systemd,
};
use crate::error::Result;

pub use stats::{counters, numbers_of_devices, one_number, pressure, usage_of_rdma};
pub use systemd::{gvariant, message, message_size};

/// One eBPF instruction: code, registers, offset, immediate value.
pub type Instruction = (u8, u8, i16, i32);

/// The program of the device rules on v2; `None` if it allows everything.
///
/// # Errors
/// As for a container.
pub fn device_program(resources: &LinuxResources) -> Result<Option<Vec<Instruction>>> {
    let program = filter::compile(&rules::rules(resources)?)?;
    Ok(program.map(|program| program.iter().map(|i| (i.code, i.regs, i.off, i.imm)).collect()))
}

/// The writes to `devices.allow` (true) and `devices.deny` that turn the list `from` into that of the rules; all of them
/// without `from`.
///
/// # Errors
/// As for a container.
pub fn device_writes(resources: &LinuxResources, from: Option<&str>) -> Result<Vec<(bool, String)>> {
    let from = from.map(Allowlist::parse).transpose()?;
    let target = Allowlist::new(&rules::rules(resources)?)?;
    Ok(target.changes(from.as_ref()).into_iter().map(|change| (change.allow, change.line)).collect())
}

/// A cgroup hierarchy: mount point, controllers, root, own path.
pub type Hierarchy = (PathBuf, Vec<String>, PathBuf, PathBuf);

/// The hierarchies that the texts of mountinfo and `/proc/self/cgroup` name, and whether v2 has all controllers.
///
/// # Errors
/// There is none.
pub fn hierarchies(mountinfo: &str, cgroup: &str) -> Result<(bool, Vec<Hierarchy>)> {
    let host = Host::parse(mountinfo.as_bytes(), cgroup)?;
    let mounts = host.mounts().iter();
    let plain = mounts.map(|m| (m.point.clone(), m.controllers.clone(), m.root.clone(), m.own.clone())).collect();
    Ok((host.unified(), plain))
}

/// The count of OOM kills in a file.
pub fn oom_kills(text: &[u8]) -> u64 {
    oom::counter::oom_kill(text)
}
