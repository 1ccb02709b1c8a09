//! Seeded mutations without coverage, for the smoke test.

/// A xorshift64* generator.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let n = u64::try_from(n.max(1)).unwrap();
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n).unwrap()
    }
}

/// Changes an input at a few places: bytes and words at edges, copies, removals, parts of another input.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const BYTES: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b':', b'\n', b' ', b'0', b'9'];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(17)).min(bytes.len());
        match random.below(7) {
            0 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            3 if !other.is_empty() => {
                let from = random.below(other.len());
                let part = other[from..(from + random.below(33)).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            4 if end > at => bytes[at] ^= 1 << random.below(8),
            5 if end > at => bytes[at] = BYTES[random.below(BYTES.len())],
            _ if end > at => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            _ => bytes.push(u8::try_from(random.below(256)).unwrap()),
        }
    }
    bytes.truncate(4096);
}
