//! The call conventions a filter can tell apart: which audit token the kernel gives them, how wide their arguments are.
//!
//! The numbers of their system calls are in [`super::syscalls`].

use oci_spec::runtime::Arch;

/// Set in the number of every x32 call; x32 shares its audit token with x86_64 (`asm/unistd.h`).
pub const X32_BIT: u32 = 0x4000_0000;

/// A convention for system calls. The discriminant is its column in the table of numbers.
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
    /// What this machine's own programs use; none where berth has no table of numbers.
    pub const NATIVE: Option<Self> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// The convention a profile's architecture means on a machine whose own is `native`; none for those of
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

    /// `AUDIT_ARCH_*` (`linux/audit.h`): what the kernel puts in `seccomp_data.arch`.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are compared on all 64 bits. The others pass 32; libseccomp looks at no more.
    pub fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }
}
