//! The ABIs that a filter can tell apart, with the audit token and the width of the arguments of each.
//!
//! [`super::syscalls`] holds the numbers of their system calls.

use oci_spec::runtime::Arch;

/// The kernel sets this bit in the number of every x32 call. x32 shares its audit token with x86_64 (`asm/unistd.h`).
pub const X32_BIT: u32 = 0x4000_0000;

/// An ABI for system calls. The discriminant is the ABI's column in the table of call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit x86.
    X86_64 = 0,
    /// 32-bit x86 (i386).
    X86 = 1,
    /// x86_64 with 32-bit pointers.
    X32 = 2,
    /// 64-bit Arm.
    Aarch64 = 3,
    /// 32-bit Arm, EABI.
    Arm = 4,
}

impl Abi {
    /// The ABI of programs of this machine. `None` if berth has no table of its call numbers.
    pub const NATIVE: Option<Self> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// Returns the ABI of a profile's `architectures` entry, on a machine with the ABI `native`. Returns `None` for
    /// machines that berth does not run on.
    pub fn from_oci(arch: Arch, native: Self) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Some(native),
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// Returns `AUDIT_ARCH_*` (`linux/audit.h`), which the kernel puts in `seccomp_data.arch`.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Returns true if arguments have 64 bits. Those of the other ABIs have 32, and libseccomp compares no more.
    pub fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }
}
