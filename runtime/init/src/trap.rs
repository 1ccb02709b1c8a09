//! The system call instruction, and the other operations that need assembly.
//!
//! Nothing here uses the C library or its thread data, which [`crate::shed`] unmaps.
#![allow(unsafe_code)]

use core::arch::asm;

use rustix::io::{Errno, Result};

/// A value that fits a register.
pub trait Word {
    /// The value, sign-extended.
    fn word(self) -> usize;
}

macro_rules! words {
    ($($integer:ty => |$value:ident| $word:expr),*) => {
        $(impl Word for $integer {
            fn word(self) -> usize {
                let $value = self;
                $word
            }
        })*
    };
}

words! {
    i32 => |value| (value as isize).cast_unsigned(),
    u32 => |value| value as usize,
    i64 => |value| usize::from_ne_bytes(value.to_ne_bytes()),
    u64 => |value| usize::from_ne_bytes(value.to_ne_bytes()),
    usize => |value| value
}

impl<T> Word for *const T {
    fn word(self) -> usize {
        self.addr()
    }
}

impl<T> Word for *mut T {
    fn word(self) -> usize {
        self.addr()
    }
}

/// Makes a system call, and returns the kernel's result: a value from -4095 to -1 is a negated errno.
///
/// # Safety
/// The arguments meet the requirements of the call's man page.
#[cfg(target_arch = "x86_64")]
pub unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the instruction clobbers rcx and r11 (syscall(2)). The caller guarantees the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call, and returns the kernel's result: a value from -4095 to -1 is a negated errno.
///
/// # Safety
/// The arguments meet the requirements of the call's man page.
#[cfg(target_arch = "aarch64")]
pub unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: only x0 is written (syscall(2)). The caller guarantees the rest.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

/// The thread pointer, at which the C library keeps its thread data.
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a word that the ABI defines, or a register.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
    }
    pointer
}

/// Sets the thread pointer.
///
/// # Errors
/// `EPERM` if a filter forbids arch_prctl(2).
///
/// # Safety
/// `pointer` has zeroed memory on both sides, for the C library's thread data, and holds its own address where the ABI
/// wants it.
pub unsafe fn set_thread_pointer(pointer: usize) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        const ARCH_SET_FS: usize = 0x1002;
        let number = libc::SYS_arch_prctl.word();
        // SAFETY: the caller guarantees the address.
        match unsafe { call(number, [ARCH_SET_FS, pointer, 0, 0, 0, 0]) } {
            0 => Ok(()),
            _ => Err(Errno::PERM),
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: the caller guarantees the address.
        unsafe { asm!("msr tpidr_el0, {}", in(reg) pointer, options(nostack, nomem, preserves_flags)) };
        Ok(())
    }
}

/// Calls `then` with `argument` on another stack, whose upper end is `top`.
///
/// # Safety
/// `top` is the end of writable memory that has no other use, aligned to 16 bytes. `argument` is valid for `then`.
pub unsafe fn on_stack<T>(top: *mut u8, then: extern "C" fn(*mut T) -> !, argument: *mut T) -> ! {
    // SAFETY: the old stack is not used again, since `then` does not return.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov rsp, {top}", "xor ebp, ebp", "call {then}", "ud2",
            top = in(reg) top, then = in(reg) then, in("rdi") argument, options(noreturn),
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "mov sp, {top}", "mov x29, xzr", "blr {then}", "brk #1",
            top = in(reg) top, then = in(reg) then, in("x0") argument, options(noreturn),
        );
    }
}
