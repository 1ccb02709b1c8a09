//! A compiled filter: ready for the kernel, askable without one, and storable.

use libc::sock_filter;

use super::bpf;
use crate::{Error, Result};

/// A program for `seccomp(SECCOMP_SET_MODE_FILTER)` and the flags to load it with.
#[derive(Clone)]
pub struct Filter {
    program: Box<[sock_filter]>,
    flags: u32,
}

/// What a stored filter starts with: a name, the version of the form, and the byte order of what it was made for.
const MAGIC: [u8; 8] = *b"berthbpf";
const VERSION: u16 = 1;
/// Magic, version, number of instructions, flags, checksum.
const HEADER: usize = 8 + 2 + 2 + 4 + 8;

/// All flags that can be loaded without other threads: LOG, SPEC_ALLOW, NEW_LISTENER, WAIT_KILLABLE_RECV.
const FLAGS: u32 = 0b10_1110;

impl Filter {
    pub(super) fn new(program: Vec<sock_filter>, flags: u32) -> Self {
        Self { program: program.into_boxed_slice(), flags }
    }

    /// The program, as `struct sock_fprog` points to it.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.program
    }

    /// Flags of seccomp(2): `SECCOMP_FILTER_FLAG_*`.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// What the filter answers, as a raw `SECCOMP_RET_*` with its data: `arch` is an `AUDIT_ARCH_*`, `nr` the number
    /// as the kernel has it (x32's with bit 30).
    pub fn verdict(&self, arch: u32, nr: i32, args: [u64; 6]) -> u32 {
        bpf::run(&self.program, arch, nr, args)
    }

    /// The form kept in a state directory: little-endian, 24 bytes and 8 more an instruction.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEADER + self.program.len() * 8);
        // The assembler has bounded the number.
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

    /// Takes back what [`Filter::to_bytes`] gave.
    ///
    /// # Errors
    /// Anything that is not exactly that: of another version, cut short or longer, changed, or a program that berth
    /// does not write. A filter is never loaded in part.
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
        let program = bpf::read(program);
        let flags = u32::from_le_bytes([*f0, *f1, *f2, *f3]);
        if flags & !FLAGS != 0 || !bpf::valid(&program) {
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

/// FNV-1a. Against accidents: who can write to a state directory needs no collision.
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
    fn bytes_come_back_as_the_same_filter() {
        let bytes = filter().to_bytes();
        assert_eq!(bytes.len(), HEADER + 4 * 8);
        let back = Filter::from_bytes(&bytes).unwrap();
        assert_eq!(back.to_bytes(), bytes);
        assert_eq!(back.flags(), 4);
        assert_eq!(back.verdict(0, 300, [0; 6]), 0x7fff_0000);
        assert_eq!(back.verdict(0, 299, [0; 6]), 0x0005_0026);
    }

    #[test]
    fn every_cut_addition_and_changed_bit_is_refused() {
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
    fn a_foreign_program_is_refused_even_with_a_right_checksum() {
        let foreign = |program: Vec<sock_filter>, flags| Filter::from_bytes(&Filter::new(program, flags).to_bytes());
        let end = sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
        assert!(foreign(vec![end], 0).is_ok());
        assert!(foreign(vec![], 0).is_err());
        assert!(foreign(vec![end], 1).is_err(), "a flag for other threads");
        assert!(foreign(vec![sock_filter { code: 5, jt: 0, jf: 0, k: 9 }, end], 0).is_err(), "jump outside");
        let e = foreign(vec![sock_filter { code: 0x15, jt: 0, jf: 9, k: 9 }, end], 0).unwrap_err();
        assert_eq!(e.to_string(), "stored seccomp filter: not a program that berth writes");
    }
}
