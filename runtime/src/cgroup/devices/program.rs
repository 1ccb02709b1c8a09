//! The device program of a v2 cgroup: loading, attaching, and replacing it without a moment in which none is attached.
//!
//! A device is open only if the programs of the cgroup and of all its parents allow it. Since Linux 5.11 loading does not
//! count towards RLIMIT_MEMLOCK, so the limit stays as it is.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::{bpf, filter, rules::Rule};
use crate::{
    cgroup::dir::Dir,
    error::{Context, Error, Kind, Result},
};

/// The attached programs that a new one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cgroup) enum Replaced {
    /// The cgroup is new and has none.
    None,
    /// All, also those of another runtime or of a device plug-in.
    All,
    /// Those of berth. systemd manages its own.
    Own,
}

/// Makes `rules` the device rules of the cgroup `dir`.
///
/// # Errors
/// A rule that cannot be expressed; the bpf(2) command that failed.
pub(in crate::cgroup) fn install(dir: &Dir, rules: &[Rule], replaced: Replaced) -> Result<()> {
    let reopened = dir.for_bpf()?;
    let mut old = if replaced == Replaced::None { Vec::new() } else { attached(&reopened)? };
    if replaced == Replaced::Own {
        old.retain(|program| bpf::is_own_program(program).unwrap_or(false));
    }
    if let Some(program) = filter::compile(rules)? {
        let new = bpf::load_device_program(&program)
            .with_context(|| format!("load device program of {} instructions", program.len()))?;
        // Linux 5.6 and newer replace one program in place. If there are more, the new one is attached first: until the old
        // ones are detached, a device has to be allowed by all.
        let one = match old.as_slice() {
            [one] => Some(one),
            _ => None,
        };
        bpf::attach_device_program(&reopened, &new, one)
            .with_context(|| format!("attach device program to {}", dir.path().display()))?;
        if one.is_some() {
            return Ok(());
        }
    }
    for program in &old {
        bpf::detach_device_program(&reopened, program)
            .with_context(|| format!("detach device program from {}", dir.path().display()))?;
    }
    Ok(())
}

/// The programs attached to this cgroup, without those of its parents.
fn attached(dir: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; 64];
    // The kernel attaches at most 64 programs (BPF_CGROUP_MAX_PROGS).
    let n = bpf::query_device_programs(dir, &mut ids).context("query device programs")?;
    let ids = ids.get(..n).ok_or_else(|| Error::new(Kind::Internal, "query device programs: more than 64"))?;
    let mut programs = Vec::with_capacity(n);
    for id in ids {
        match bpf::program_by_id(*id) {
            Ok(fd) => programs.push(fd),
            // The program is gone, or an LSM hides it. One that stays can only restrict further.
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
            Err(e) => return Err(e).with_context(|| format!("open device program {id}")),
        }
    }
    Ok(programs)
}
