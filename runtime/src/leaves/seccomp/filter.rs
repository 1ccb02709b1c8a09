//! A compiled filter, in the form that the kernel loads. It can be interpreted, and stored in a file.

use libc::sock_filter;

use super::bpf;
use crate::{Error, Result};

/// A program for `seccomp(SECCOMP_SET_MODE_FILTER)`, and the flags for that call.
#[derive(Clone)]
pub struct Filter {
    program: Box<[sock_filter]>,
    flags: u32,
}

/// First bytes of a stored filter.
const MAGIC: [u8; 8] = *b"berthbpf";
const VERSION: u16 = 1;
/// Bytes of the header: magic, checksum, version, number of instructions, flags.
const HEADER: usize = 8 + 2 + 2 + 4 + 8;

/// The flags that a program with one thread can use: LOG, SPEC_ALLOW, NEW_LISTENER, WAIT_KILLABLE_RECV.
const KNOWN_FLAGS: u32 = 0b10_1110;

impl Filter {
    pub(super) fn new(program: Vec<sock_filter>, flags: u32) -> Self {
        Self { program: program.into_boxed_slice(), flags }
    }

    /// Returns the instructions, to which `struct sock_fprog` points.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.program
    }

    /// Returns the flags for seccomp(2), `SECCOMP_FILTER_FLAG_*`.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Interprets the filter for one call and returns the raw `SECCOMP_RET_*` with its data. `arch` is an
    /// `AUDIT_ARCH_*`. `nr` is the number that the kernel sees, with bit 30 set for x32.
    pub fn verdict(&self, arch: u32, nr: i32, args: [u64; 6]) -> u32 {
        bpf::run(&self.program, arch, nr, args)
    }

    /// Returns the bytes for the state directory, little-endian: a header of 24 bytes and 8 bytes per instruction.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEADER + self.program.len() * 8);
        // Assembler::finish refuses more than 4096 instructions.
        let count = u16::try_from(self.program.len()).unwrap_or(u16::MAX);
        body.extend(VERSION.to_le_bytes());
        body.extend(count.to_le_bytes());
        body.extend(self.flags.to_le_bytes());
        for i in &self.program {
            body.extend(i.code.to_le_bytes());
            body.extend([i.jt, i.jf]);
            body.extend(i.k.to_le_bytes());
        }
        [&MAGIC[..], &checksum(&body).to_le_bytes(), &body].concat()
    }

    /// Reads the bytes that [`Filter::to_bytes`] returned.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] for another version, a wrong length, a wrong checksum, or a program with
    /// instructions that berth does not write. So a filter is never loaded in part.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |what: &'static str| Error::invalid(format!("stored seccomp filter: {what}"));
        let body = bytes.strip_prefix(&MAGIC).ok_or_else(|| bad("not one of berth's"))?;
        let (sum, body) = body.split_first_chunk::<8>().ok_or_else(|| bad("cut short"))?;
        let ([v0, v1, c0, c1, f0, f1, f2, f3], rest) = body.split_first_chunk::<8>().ok_or_else(|| bad("cut short"))?;
        if u16::from_le_bytes([*v0, *v1]) != VERSION {
            return Err(bad("of another version"));
        }
        let (program, tail) = rest.as_chunks::<8>();
        if program.len() != usize::from(u16::from_le_bytes([*c0, *c1])) || !tail.is_empty() {
            return Err(bad("not of the length it names"));
        }
        if checksum(body) != u64::from_le_bytes(*sum) {
            return Err(bad("its checksum differs"));
        }
        let program = bpf::decode(program);
        let flags = u32::from_le_bytes([*f0, *f1, *f2, *f3]);
        if flags & !KNOWN_FLAGS != 0 || !bpf::is_valid(&program) {
            return Err(bad("not a program that berth writes"));
        }
        Ok(Self::new(program, flags))
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} instructions, flags {:#x})", self.program.len(), self.flags)
    }
}

/// Returns the FNV-1a hash. It detects accidents only: a process that can write to the state directory can do worse.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        let mut asm = bpf::Assembler::default();
        asm.branch(bpf::Jump::Ge, 300, bpf::Target::Return(0x7fff_0000), bpf::Target::Return(0x0005_0026));
        asm.load(bpf::NR);
        Filter::new(asm.finish().unwrap(), 4)
    }

    #[test]
    fn stored_filter_is_read_back_unchanged() {
        let bytes = filter().to_bytes();
        assert_eq!(bytes.len(), HEADER + 4 * 8);
        let back = Filter::from_bytes(&bytes).unwrap();
        assert_eq!(back.to_bytes(), bytes);
        assert_eq!(back.flags(), 4);
        assert_eq!(back.verdict(0, 300, [0; 6]), 0x7fff_0000);
        assert_eq!(back.verdict(0, 299, [0; 6]), 0x0005_0026);
    }

    #[test]
    fn stored_filter_with_any_change_is_refused() {
        let bytes = filter().to_bytes();
        for n in 0..bytes.len() {
            assert!(Filter::from_bytes(&bytes[..n]).is_err(), "cut at {n}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[n] ^= 1 << bit;
                assert!(Filter::from_bytes(&changed).is_err(), "byte {n} bit {bit}");
            }
        }
        assert!(Filter::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Filter::from_bytes(&[&bytes[..], &[0; 8]].concat()).is_err());
    }

    #[test]
    fn stored_program_of_unknown_form_is_refused_despite_its_checksum() {
        let foreign = |program: Vec<sock_filter>, flags| Filter::from_bytes(&Filter::new(program, flags).to_bytes());
        let end = sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
        assert!(foreign(vec![end], 0).is_ok());
        assert!(foreign(vec![], 0).is_err());
        assert!(foreign(vec![end], 1).is_err(), "SECCOMP_FILTER_FLAG_TSYNC");
        assert!(foreign(vec![sock_filter { code: 5, jt: 0, jf: 0, k: 9 }, end], 0).is_err(), "jump outside");
        let e = foreign(vec![sock_filter { code: 0x15, jt: 0, jf: 9, k: 9 }, end], 0).unwrap_err();
        assert_eq!(e.to_string(), "stored seccomp filter: not a program that berth writes");
    }
}
