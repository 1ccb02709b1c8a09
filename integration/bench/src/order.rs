//! The order of contestants: a new one in each round, so that none always follows the same one.

use super::Contestant;

/// A sequence of pseudo-random numbers (SplitMix64). The same seed gives the same sequence.
pub struct Order(u64);

impl Order {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns `contestants` in a random order (Fisher and Yates).
    pub fn shuffled(&mut self, contestants: &[Contestant]) -> Vec<Contestant> {
        let mut all = contestants.to_vec();
        for last in (1..all.len()).rev() {
            let other = usize::try_from(self.next() % (last as u64 + 1)).expect("less than the length");
            all.swap(last, other);
        }
        all
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_all_contestants_and_all_orders_occur() {
        let mut order = Order::new(1);
        let three = &Contestant::ALL[..3];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let round = order.shuffled(three);
            let mut sorted = round.clone();
            sorted.sort();
            assert_eq!(sorted, three);
            seen.insert(round);
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn same_seed_repeats_its_sequence() {
        let run =
            |seed| (0..5).map(|_| seed).scan(Order::new(seed), |o, _| Some(o.shuffled(&Contestant::ALL))).collect();
        let (one, again, other): (Vec<_>, Vec<_>, Vec<_>) = (run(7), run(7), run(8));
        assert_eq!(one, again);
        assert_ne!(one, other);
    }
}
