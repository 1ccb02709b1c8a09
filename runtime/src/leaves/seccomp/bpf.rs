//! Classic BPF: an assembler that writes programs backwards, and an interpreter.
//!
//! All jumps of classic BPF go forward. So with backward writing each target exists before the jump to it, and the
//! assembler knows the distance. If the distance exceeds the eight bits of a conditional jump, it writes a long jump
//! first.

use libc::sock_filter;

use crate::{Error, Result};

/// Longest program that the kernel accepts, in instructions (`linux/bpf_common.h`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Offset of the call number in `struct seccomp_data`, in bytes.
pub const NR: u32 = 0;
/// Offset of the audit token in `struct seccomp_data`, in bytes.
pub const ARCH: u32 = 4;

const LOAD: u16 = op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const AND: u16 = op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const JUMP: u16 = op(libc::BPF_JMP | libc::BPF_JA);
const RETURN: u16 = op(libc::BPF_RET | libc::BPF_K);

/// Compares the accumulator with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Jump {
    /// Equal.
    Eq = op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
    /// Greater, unsigned.
    Gt = op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K),
    /// Greater or equal, unsigned.
    Ge = op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K),
}

impl Jump {
    fn from_code(code: u16) -> Option<Self> {
        [Self::Eq, Self::Gt, Self::Ge].into_iter().find(|jump| *jump as u16 == code)
    }
}

/// One half of a 64-bit argument. BPF loads 32 bits at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

impl Half {
    /// Returns 0 for the low half and 1 for the high half, the order in memory on a little-endian machine.
    pub fn index(self) -> u32 {
        match self {
            Self::Low => 0,
            Self::High => 1,
        }
    }
}

/// Returns the offset of the low or high half of argument `index` in `struct seccomp_data`, in bytes, on a
/// little-endian machine.
pub fn argument(index: u32, half: Half) -> u32 {
    16 + 8 * index + 4 * half.index()
}

/// The target of a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A return instruction with this raw action, wherever one is in reach.
    Return(u32),
    /// An instruction that is already written, counted from the end of the program.
    At(usize),
}

/// Builds a program from its last instruction to its first.
#[derive(Default)]
pub struct Assembler {
    reversed: Vec<sock_filter>,
    /// Each action with the position of its latest return instruction.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    /// Writes `A = seccomp_data[offset]` before the instructions so far.
    pub fn load(&mut self, offset: u32) -> Target {
        self.push(LOAD, 0, 0, offset)
    }

    /// Writes `A &= mask` before the instructions so far.
    pub fn and(&mut self, mask: u32) -> Target {
        self.push(AND, 0, 0, mask)
    }

    /// Writes a conditional jump before the instructions so far. Writes nothing if both targets are the same.
    pub fn branch(&mut self, test: Jump, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let yes = self.reach(yes, 1);
        let no = self.reach(no, 0);
        let (yes, no) = (self.distance(yes), self.distance(no));
        // Both distances fit in eight bits, because reach() has written long jumps where needed.
        self.push(test as u16, u8::try_from(yes).unwrap_or(u8::MAX), u8::try_from(no).unwrap_or(u8::MAX), k)
    }

    /// Makes the program so far begin at `target`. Writes a return or a jump if it does not.
    pub fn start_at(&mut self, target: Target) {
        let at = self.reach(target, 0);
        if self.distance(at) > 0 {
            let k = u32::try_from(self.distance(at)).unwrap_or(u32::MAX);
            self.write(JUMP, 0, 0, k);
        }
    }

    /// Returns the program in its execution order.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] if it is longer than [`MAX_INSTRUCTIONS`].
    pub fn finish(mut self) -> Result<Vec<sock_filter>> {
        self.reversed.reverse();
        match self.reversed.len() {
            n if n > MAX_INSTRUCTIONS => Err(Error::invalid(format!(
                "linux.seccomp: the filter needs {n} instructions, the kernel takes {MAX_INSTRUCTIONS}"
            ))),
            _ => Ok(self.reversed),
        }
    }

    /// Returns the position of an instruction that leads to `target` and is in reach of a conditional jump that is
    /// written after `more` further instructions. Writes a long jump or a return if there is none.
    fn reach(&mut self, target: Target, more: usize) -> usize {
        let near = |at: usize| self.distance(at) + more <= usize::from(u8::MAX);
        match target {
            Target::At(at) if near(at) => at,
            Target::At(at) => {
                let k = u32::try_from(self.distance(at)).unwrap_or(u32::MAX);
                self.write(JUMP, 0, 0, k)
            }
            Target::Return(action) => {
                let known = self.returns.iter().find(|(a, _)| *a == action).map(|(_, at)| *at);
                match known {
                    Some(at) if near(at) => at,
                    _ => {
                        let at = self.write(RETURN, 0, 0, action);
                        self.returns.retain(|(a, _)| *a != action);
                        self.returns.push((action, at));
                        at
                    }
                }
            }
        }
    }

    /// Returns the number of instructions that the next one must skip to reach `at`.
    fn distance(&self, at: usize) -> usize {
        self.reversed.len() - at - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        Target::At(self.write(code, jt, jf, k))
    }

    fn write(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }
}

/// Decodes instructions from `struct sock_filter` of a little-endian machine, 8 bytes each. All machines with a table
/// of call numbers are little-endian.
pub fn decode(program: &[[u8; 8]]) -> Vec<sock_filter> {
    let instruction = |[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]| sock_filter {
        code: u16::from_le_bytes([*c0, *c1]),
        jt: *jt,
        jf: *jf,
        k: u32::from_le_bytes([*k0, *k1, *k2, *k3]),
    };
    program.iter().map(instruction).collect()
}

/// Returns true if [`Assembler`] could have written the program and the kernel will accept it. It may have only known
/// instructions, loads inside `seccomp_data`, jumps inside the program, and no way past its end.
pub fn is_valid(program: &[sock_filter]) -> bool {
    find_invalid(program).is_none()
}

/// Describes the first fault of a program that is not valid ([`is_valid`]).
pub fn find_invalid(program: &[sock_filter]) -> Option<String> {
    let len = program.len();
    if !(1..=MAX_INSTRUCTIONS).contains(&len) {
        return Some(format!("{len} instructions, the kernel takes {MAX_INSTRUCTIONS}"));
    }
    let fits = |n: usize, skip: usize| n + 1 + skip < len;
    let instruction = |(n, i): (usize, &sock_filter)| match i.code {
        RETURN => true,
        LOAD => i.k.is_multiple_of(4) && i.k < 64 && fits(n, 0),
        AND => fits(n, 0),
        JUMP => usize::try_from(i.k).is_ok_and(|k| k < MAX_INSTRUCTIONS && fits(n, k)),
        code => Jump::from_code(code).is_some() && fits(n, i.jt.into()) && fits(n, i.jf.into()),
    };
    let (n, i) = program.iter().enumerate().find(|(n, i)| !instruction((*n, *i)))?;
    Some(format!("instruction {n}, code {:#x}: unknown, or it leaves the program or struct seccomp_data", i.code))
}

/// Interprets a valid program ([`is_valid`]) for one call and returns the raw action.
pub fn run(program: &[sock_filter], arch: u32, nr: i32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        NR => nr.cast_unsigned(),
        ARCH => arch,
        // berth and libseccomp never load the instruction pointer (bytes 8 to 15).
        _ => {
            let arg = args.iter().zip(2u32..).find(|(_, n)| offset / 8 == *n).map_or(0, |(arg, _)| *arg);
            let [a, b, c, d, e, f, g, h] = arg.to_le_bytes();
            u32::from_le_bytes(if offset.is_multiple_of(8) { [a, b, c, d] } else { [e, f, g, h] })
        }
    };
    let (mut rest, mut a) = (program, 0);
    while let Some((i, next)) = rest.split_first() {
        let skip = match i.code {
            RETURN => return i.k,
            LOAD => {
                a = word(i.k);
                0
            }
            AND => {
                a &= i.k;
                0
            }
            JUMP => usize::try_from(i.k).unwrap_or(usize::MAX),
            code => usize::from(match Jump::from_code(code) {
                Some(Jump::Eq) if a == i.k => i.jt,
                Some(Jump::Gt) if a > i.k => i.jt,
                Some(Jump::Ge) if a >= i.k => i.jt,
                _ => i.jf,
            }),
        };
        rest = next.get(skip..).unwrap_or_default();
    }
    // A valid program never runs past its end.
    libc::SECCOMP_RET_KILL_PROCESS
}

/// Narrows an opcode of `linux/bpf_common.h` to the 16 bits of the instruction's field.
#[allow(clippy::cast_possible_truncation, reason = "all codes are below 256, and this is only used in constants")]
const fn op(code: u32) -> u16 {
    assert!(code < 256);
    code as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(program: &[sock_filter], nr: i32) -> u32 {
        run(program, 0, nr, [0; 6])
    }

    #[test]
    fn targets_out_of_reach_get_long_jumps() {
        for filler in [0, 250, 252, 253, 254, 255, 256, 257, 300, 3000] {
            let mut asm = Assembler::default();
            let far = asm.branch(Jump::Eq, 7, Target::Return(1), Target::Return(2));
            let mut near = Target::Return(3);
            for _ in 0..filler {
                asm.and(u32::MAX);
                near = asm.load(NR);
            }
            // Both targets are out of reach, in either order, and so is a return.
            let both = asm.branch(Jump::Ge, 5, far, near);
            let top = asm.branch(Jump::Gt, 100, Target::Return(2), both);
            assert_ne!(top, both);
            asm.load(NR);
            let Ok(program) = asm.finish() else {
                assert!(filler == 3000);
                continue;
            };
            assert!(is_valid(&program), "{filler}");
            assert_eq!(verdict(&program, 101), 2, "{filler}");
            assert_eq!(verdict(&program, 7), 1, "{filler}");
            assert_eq!(verdict(&program, 6), 2, "{filler}");
        }
    }

    #[test]
    fn load_reads_each_word_of_seccomp_data() {
        let args = [0x1111_1111_0000_0000, 2, 3, 4, 5, 0x6666_0000_7777_0000];
        let load = |offset| {
            let eq = |k| {
                let mut asm = Assembler::default();
                asm.branch(Jump::Eq, k, Target::Return(1), Target::Return(0));
                asm.load(offset);
                run(&asm.finish().unwrap(), 0xabcd, -1, args) == 1
            };
            [0xabcd, u32::MAX, 0x1111_1111, 0, 2, 0x6666_0000, 0x7777_0000].into_iter().find(|k| eq(*k))
        };
        assert_eq!(load(NR), Some(u32::MAX));
        assert_eq!(load(ARCH), Some(0xabcd));
        assert_eq!(load(argument(0, Half::High)), Some(0x1111_1111));
        assert_eq!(load(argument(0, Half::Low)), Some(0));
        assert_eq!(load(argument(1, Half::Low)), Some(2));
        assert_eq!(load(argument(5, Half::High)), Some(0x6666_0000));
        assert_eq!(load(argument(5, Half::Low)), Some(0x7777_0000));
    }

    #[test]
    fn programs_that_the_kernel_refuses_are_not_valid() {
        let i = |code, jt, jf, k| sock_filter { code, jt, jf, k };
        let end = i(RETURN, 0, 0, 0);
        assert!(is_valid(&[end]));
        assert!(!is_valid(&[]));
        assert!(!is_valid(&[i(LOAD, 0, 0, 0)]), "runs off the end");
        assert!(!is_valid(&[i(LOAD, 0, 0, 64), end]), "outside seccomp_data");
        assert!(!is_valid(&[i(LOAD, 0, 0, 2), end]), "unaligned");
        assert!(!is_valid(&[i(JUMP, 0, 0, 1), end]), "jump past the end");
        assert!(!is_valid(&[i(JUMP, 0, 0, u32::MAX), end]), "jump past the end");
        assert!(!is_valid(&[i(Jump::Eq as u16, 0, 1, 0), end]), "branch past the end");
        assert!(!is_valid(&[i(0x87, 0, 0, 0), end]), "not an instruction of ours");
        assert!(!is_valid(&vec![end; MAX_INSTRUCTIONS + 1]), "too long");
    }
}
