//! The device program of a v2 cgroup: loaded, attached, and exchanged without a moment in which none is there.
//!
//! It counts together with those of the cgroups above: a device is open only if all of them allow it. Loading needs no
//! RLIMIT_MEMLOCK since 5.11, and none is touched.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::{devices::Rule, dir::Dir, filter, sys};
use crate::error::{Context, Error, Kind, Result};

/// Which of the programs that a cgroup has are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// It has none.
    None,
    /// All: those of a runtime that was asked before, or of a device plug-in, too.
    All,
    /// Those that berth has attached: systemd looks after its own.
    Own,
}

/// Makes `rules` the device rules of the cgroup `dir`.
pub(super) fn install(dir: &Dir, rules: &[Rule], replaced: Replaced) -> Result<()> {
    let reopened = dir.for_bpf()?;
    let mut old = if replaced == Replaced::None { Vec::new() } else { attached(&reopened)? };
    if replaced == Replaced::Own {
        old.retain(|program| sys::is_own_program(program).unwrap_or(false));
    }
    if let Some(program) = filter::compile(rules)? {
        let new = sys::load_device_program(&program)
            .with_context(|| format!("load device program of {} instructions", program.len()))?;
        // One old program is replaced in place (5.6). With more, the new one first: both restrict until the old go.
        let one = match old.as_slice() {
            [one] => Some(one),
            _ => None,
        };
        sys::attach_device_program(&reopened, &new, one)
            .with_context(|| format!("attach device program to {}", dir.path().display()))?;
        if one.is_some() {
            return Ok(());
        }
    }
    for program in &old {
        sys::detach_device_program(&reopened, program)
            .with_context(|| format!("detach device program from {}", dir.path().display()))?;
    }
    Ok(())
}

/// The programs attached to this very cgroup.
fn attached(dir: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; 64];
    // The kernel attaches no more than 64 (BPF_CGROUP_MAX_PROGS).
    let n = sys::query_device_programs(dir, &mut ids).context("query device programs")?;
    let ids = ids.get(..n).ok_or_else(|| Error::new(Kind::Internal, "query device programs: more than 64"))?;
    let mut programs = Vec::with_capacity(n);
    for id in ids {
        match sys::program_by_id(*id) {
            Ok(fd) => programs.push(fd),
            // Gone since, or another's under an LSM that hides it: one more that restricts does no harm.
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
            Err(e) => return Err(e).with_context(|| format!("open device program {id}")),
        }
    }
    Ok(programs)
}
