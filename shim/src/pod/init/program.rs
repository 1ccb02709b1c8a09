//! The program of a pod's init: a static ELF executable (elf(5)) of one segment around the code.

use super::sys;

/// The address of the segment, above every vm.mmap_min_addr.
const ADDRESS: u64 = 0x40_0000;
/// The alignment of the segment: the largest page of the supported machines.
const PAGE: u64 = 0x1_0000;
/// The sizes of the header and of an entry of the program's table.
const HEADER: u16 = 64;
const ENTRY: u16 = 56;
/// Entries: the segment, and the stack, which shall not be executable.
const ENTRIES: u16 = 2;
const PT_LOAD: u32 = 1;
const PT_GNU_STACK: u32 = 0x6474_e551;
const READ_EXECUTE: u32 = 5;
const READ_WRITE: u32 = 6;
/// `e_machine`.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// The bytes of the program.
pub fn bytes() -> Vec<u8> {
    let code = sys::code();
    let before = u64::from(HEADER + ENTRIES * ENTRY);
    let size = before + u64::try_from(code.len()).unwrap_or(0);
    let mut elf = Vec::new();
    // 64 bits, little endian, version 1, System V.
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    half(&mut elf, &[2, MACHINE]); // ET_EXEC
    word(&mut elf, &[1]);
    long(&mut elf, &[ADDRESS + before, u64::from(HEADER), 0]);
    word(&mut elf, &[0]);
    half(&mut elf, &[HEADER, ENTRY, ENTRIES, 0, 0, 0]);
    word(&mut elf, &[PT_LOAD, READ_EXECUTE]);
    long(&mut elf, &[0, ADDRESS, ADDRESS, size, size, PAGE]);
    word(&mut elf, &[PT_GNU_STACK, READ_WRITE]);
    long(&mut elf, &[0, 0, 0, 0, 0, 16]);
    elf.extend(code);
    elf
}

fn half(elf: &mut Vec<u8>, values: &[u16]) {
    elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn word(elf: &mut Vec<u8>, values: &[u32]) {
    elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn long(elf: &mut Vec<u8>, values: &[u64]) {
    elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, process::Command};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test without a container")]
    fn the_program_of_a_pods_init_runs_until_a_signal_and_holds_no_descriptor() {
        let scratch = crate::testing::Scratch::new();
        let file = scratch.path().join("pause");
        std::fs::write(&file, bytes()).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o700)).unwrap();
        let mut child = Command::new(&file).env_clear().spawn().unwrap();
        let proc = format!("/proc/{}", child.id());
        let open = || std::fs::read_dir(format!("{proc}/fd")).unwrap().count();
        // It sleeps in rt_sigtimedwait(2) alone.
        let sleeps = || std::fs::read_to_string(format!("{proc}/stat")).unwrap().contains(") S ");
        while open() > 0 || !sleeps() {
            std::thread::sleep(std::time::Duration::from_millis(1));
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
