//! Looks up the numbers of system calls by name.
//!
//! `syscalls.tbl` is a text table, sorted by name, with one call per line: `name x86_64 i386 x32 aarch64 arm`. A `-`
//! says that the ABI lacks the call. x32 numbers are without their bit. The lookup searches the text in the binary: an
//! array of string slices would need relocations, and so private memory in every process.
//!
//! The numbers come from the kernel's `syscall.tbl` and `asm/unistd*.h` up to 7.1, and from `asm/unistd.h` of arm for
//! its private calls.

use std::cmp::Ordering;

use super::arch::{Abi, X32_BIT};

static TABLE: &[u8] = include_bytes!("syscalls.tbl");

/// One system call on every [`Abi`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    numbers: [Option<u32>; 5],
    /// The older form of the call on i386.
    pub mux: Option<Mux>,
}

/// A call that i386 programs can also make through `socketcall` or `ipc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mux {
    /// Number of `socketcall` or `ipc`.
    pub nr: u32,
    /// First argument of the multiplexer, which selects the call (`linux/net.h`, `linux/ipc.h`).
    pub selector: u32,
}

impl Call {
    /// Returns the call's number under `abi`, for x32 with [`X32_BIT`].
    pub fn number(&self, abi: Abi) -> Option<u32> {
        let nr = self.numbers.get(abi as usize).copied().flatten()?;
        Some(if abi == Abi::X32 { nr | X32_BIT } else { nr })
    }
}

/// For each first byte of a name, the offset in [`TABLE`] of the first name that starts with this byte or a greater
/// one.
static INDEX: [u16; 129] = index();

/// Finds a call by name. Returns `None` for a name that no kernel up to 7.1 has.
pub fn lookup(name: &str) -> Option<Call> {
    let name = name.as_bytes();
    let first = usize::from(*name.first()?);
    let (mut low, mut high) = (usize::from(*INDEX.get(first)?), usize::from(*INDEX.get(first + 1)?));
    while low < high {
        let window = TABLE.get(low..high)?;
        let start = window.get(..window.len() / 2)?.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let line = window.get(start..)?;
        match name.iter().cmp(line.iter().take_while(|b| **b != b' ')) {
            Ordering::Less => high = low + start,
            Ordering::Greater => low += start + line.iter().position(|b| *b == b'\n')? + 1,
            Ordering::Equal => {
                let fields = line.split(|b| *b == b'\n').next()?.split(|b| *b == b' ').skip(1);
                let mut numbers = [None; 5];
                for (number, field) in numbers.iter_mut().zip(fields) {
                    *number = decimal(field);
                }
                return Some(Call { numbers, mux: mux(name) });
            }
        }
    }
    None
}

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated by the compiler, once")]
const fn index() -> [u16; 129] {
    let mut index = [TABLE.len() as u16; 129];
    assert!(TABLE.len() <= u16::MAX as usize && TABLE[TABLE.len() - 1] == b'\n');
    let mut at = TABLE.len() - 1;
    while at > 0 {
        if TABLE[at - 1] == b'\n' {
            index[TABLE[at] as usize] = at as u16;
        }
        at -= 1;
    }
    index[TABLE[0] as usize] = 0;
    let mut byte = 128;
    while byte > 0 {
        byte -= 1;
        if index[byte] > index[byte + 1] {
            index[byte] = index[byte + 1];
        }
    }
    index
}

fn decimal(field: &[u8]) -> Option<u32> {
    field.iter().try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

fn mux(name: &[u8]) -> Option<Mux> {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let (nr, selector) = match name {
        b"socket" => (SOCKETCALL, 1),
        b"bind" => (SOCKETCALL, 2),
        b"connect" => (SOCKETCALL, 3),
        b"listen" => (SOCKETCALL, 4),
        b"accept" => (SOCKETCALL, 5),
        b"getsockname" => (SOCKETCALL, 6),
        b"getpeername" => (SOCKETCALL, 7),
        b"socketpair" => (SOCKETCALL, 8),
        b"send" => (SOCKETCALL, 9),
        b"recv" => (SOCKETCALL, 10),
        b"sendto" => (SOCKETCALL, 11),
        b"recvfrom" => (SOCKETCALL, 12),
        b"shutdown" => (SOCKETCALL, 13),
        b"setsockopt" => (SOCKETCALL, 14),
        b"getsockopt" => (SOCKETCALL, 15),
        b"sendmsg" => (SOCKETCALL, 16),
        b"recvmsg" => (SOCKETCALL, 17),
        b"accept4" => (SOCKETCALL, 18),
        b"recvmmsg" => (SOCKETCALL, 19),
        b"sendmmsg" => (SOCKETCALL, 20),
        b"semop" => (IPC, 1),
        b"semget" => (IPC, 2),
        b"semctl" => (IPC, 3),
        b"semtimedop" => (IPC, 4),
        b"msgsnd" => (IPC, 11),
        b"msgrcv" => (IPC, 12),
        b"msgget" => (IPC, 13),
        b"msgctl" => (IPC, 14),
        b"shmat" => (IPC, 21),
        b"shmdt" => (IPC, 22),
        b"shmget" => (IPC, 23),
        b"shmctl" => (IPC, 24),
        _ => return None,
    };
    Some(Mux { nr, selector })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syscall_table_is_sorted_and_complete() {
        let text = std::str::from_utf8(TABLE).unwrap();
        let names: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        assert!(names.len() >= 480, "{} names", names.len());
        for line in text.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            assert_eq!(fields.len(), 6, "{line}");
            let call = lookup(fields[0]).unwrap();
            for (number, field) in call.numbers.iter().zip(&fields[1..]) {
                assert_eq!(number.map_or("-".to_owned(), |n| n.to_string()), **field, "{line}");
            }
            assert!(call.numbers.iter().any(Option::is_some), "{line}");
        }
    }

    #[test]
    fn no_syscall_number_occurs_twice() {
        let text = std::str::from_utf8(TABLE).unwrap();
        for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm] {
            let mut numbers: Vec<_> =
                text.lines().filter_map(|l| lookup(l.split(' ').next().unwrap()).unwrap().number(abi)).collect();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), all, "{abi:?}");
        }
    }

    /// Compares with the numbers of the C library's headers, an independent source.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn syscall_numbers_agree_with_libc() {
        for (name, nr) in [
            ("read", libc::SYS_read),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("mseal", libc::SYS_mseal),
            ("newfstatat", libc::SYS_newfstatat),
        ] {
            assert_eq!(lookup(name).unwrap().number(Abi::X86_64).map(i64::from), Some(nr), "{name}");
        }
    }

    #[test]
    fn unknown_syscall_names_are_not_found() {
        for name in ["", "a", "zzz", "rea", "readx", "read ", "read 0", "-", "\n"] {
            assert_eq!(lookup(name), None, "{name:?}");
        }
    }

    #[test]
    fn x32_calls_have_their_bit_and_their_own_numbers() {
        let call = lookup("execve").unwrap();
        assert_eq!((call.number(Abi::X86_64), call.number(Abi::X32)), (Some(59), Some(X32_BIT | 520)));
    }
}
