//! Files of the host's /proc. Each is verified to be on a proc file system: a mount over /proc, or over a part of it,
//! could otherwise swallow the write of a label or a kernel parameter, and the container would run without it.

use core::ffi::CStr;

use rustix::{
    fd::OwnedFd,
    fs::{self, Mode, OFlags, PROC_SUPER_MAGIC},
};

use crate::{
    defence::Defence,
    error::{At, Result, refusal},
    wire::Step,
};

/// Opens a file of /proc, for item `n` of `step`.
pub(crate) fn open(path: &CStr, flags: OFlags, step: Step, n: usize) -> Result<OwnedFd> {
    let file = fs::open(path, flags, Mode::empty()).at_index(step, n)?;
    verify(&file, step, n)?;
    Ok(file)
}

/// Fails unless the file is on a proc file system.
pub(crate) fn verify(file: &OwnedFd, step: Step, n: usize) -> Result<()> {
    if !Defence::HostProc.stands() {
        return Ok(());
    }
    let found = fs::fstatfs(file).at_index(step, n)?.f_type;
    if found == PROC_SUPER_MAGIC { Ok(()) } else { Err(refusal(Step::NotProcfs, n)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_proc_file_system_are_accepted() {
        let open = |path| open(path, OFlags::RDONLY, Step::Label, 3);
        assert!(open(c"/proc/self/status").is_ok() && open(c"/proc/sys/kernel/ostype").is_ok());
        let refused = open(c"/etc/passwd").unwrap_err();
        assert!(refused.step == Step::NotProcfs && refused.errno == 0);
        let missing = open(c"/proc/no-such-file").unwrap_err();
        assert!(missing.step == Step::Label && missing.index == 3 && missing.errno == libc::ENOENT);
    }
}
