//! The code of a pod's init, in assembly: it must run without a C library, memory of its own or a descriptor.
//!
//! ```text
//! close_range(0, ~0, 0); rt_sigprocmask(SIG_BLOCK, {SIGINT, SIGTERM, SIGCHLD})
//! loop:
//!     SIGCHLD = rt_sigtimedwait(the set), else exit (SIGINT, SIGTERM, an error other than EINTR)
//!     wait4(any child, WNOHANG) until there is none
//! ```
//!
//! The signals are blocked since the kernel drops a signal of default disposition to the init of a pid namespace unless it
//! is blocked (pid_namespaces(7)).
#![allow(unsafe_code)]

// The code between these two bytes refers to itself alone, by distances.
unsafe extern "C" {
    static berth_pod_init_code: u8;
    static berth_pod_init_end: u8;
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .rodata.berth_pod_init, \"a\", @progbits",
    ".balign 8",
    "berth_pod_init_code:",
    "xor edi, edi",
    "mov esi, -1",
    "xor edx, edx",
    "mov eax, 436", // close_range
    "syscall",
    "xor edi, edi", // SIG_BLOCK
    "lea rsi, [rip + 5f]",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, 14", // rt_sigprocmask
    "syscall",
    "2: lea rdi, [rip + 5f]",
    "xor esi, esi",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, 128", // rt_sigtimedwait
    "syscall",
    "cmp eax, -4", // EINTR
    "je 2b",
    "cmp eax, 17", // SIGCHLD
    "jne 4f",
    "3: mov rdi, -1",
    "xor esi, esi",
    "mov edx, 1", // WNOHANG
    "xor r10d, r10d",
    "mov eax, 61", // wait4
    "syscall",
    "test eax, eax",
    "jg 3b",
    "jmp 2b",
    "4: xor edi, edi",
    "mov eax, 231", // exit_group
    "syscall",
    "ud2",
    ".balign 8",
    "5: .quad 0x14002", // bits 1, 14 and 16: SIGINT, SIGTERM, SIGCHLD
    "berth_pod_init_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .rodata.berth_pod_init, \"a\", @progbits",
    ".balign 8",
    "berth_pod_init_code:",
    "mov x0, #0",
    "mov w1, #-1",
    "mov x2, #0",
    "mov x8, #436", // close_range
    "svc #0",
    "mov x0, #0", // SIG_BLOCK
    "adr x1, 5f",
    "mov x2, #0",
    "mov x3, #8",
    "mov x8, #135", // rt_sigprocmask
    "svc #0",
    "2: adr x0, 5f",
    "mov x1, #0",
    "mov x2, #0",
    "mov x3, #8",
    "mov x8, #137", // rt_sigtimedwait
    "svc #0",
    "cmn w0, #4", // EINTR
    "b.eq 2b",
    "cmp w0, #17", // SIGCHLD
    "b.ne 4f",
    "3: mov x0, #-1",
    "mov x1, #0",
    "mov x2, #1", // WNOHANG
    "mov x3, #0",
    "mov x8, #260", // wait4
    "svc #0",
    "cmp w0, #0",
    "b.gt 3b",
    "b 2b",
    "4: mov x0, #0",
    "mov x8, #94", // exit_group
    "svc #0",
    "udf #0",
    ".balign 8",
    "5: .quad 0x14002", // bits 1, 14 and 16: SIGINT, SIGTERM, SIGCHLD
    "berth_pod_init_end:",
    ".popsection",
);

/// The code.
pub fn code() -> &'static [u8] {
    let (start, end) = (&raw const berth_pod_init_code, &raw const berth_pod_init_end);
    // SAFETY: both symbols are in one section of read-only data of this program, the second one behind the first.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}
