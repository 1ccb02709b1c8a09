//! Divides all call numbers, 0 to 2³²−1, into ranges with the same answer.
//!
//! The ranges also cover numbers without a rule: those of ABIs that the profile does not list, and those of calls that
//! are newer than the profile, which get ENOSYS.

use super::{
    arch::{Abi, X32_BIT},
    profile::RET_ERRNO,
};

/// The answer for a call of an unlisted architecture. It is libseccomp's default, and runc does not change it.
pub const BAD_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// The answer for a call that is newer than the profile, so that C libraries use their fallback (runc since 1.0-rc93).
const NO_SUCH_CALL: u32 = RET_ERRNO | libc::ENOSYS.unsigned_abs();

/// A range of numbers, from `start` to the start of the next range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<T> {
    /// First number.
    pub start: u32,
    /// The answer for the range.
    pub answer: T,
}

/// The answers for numbers without a rule.
pub struct Background {
    /// Ascending; the first range starts at 0.
    runs: Vec<Range<u32>>,
    /// First and last numbers of the ranges that get ENOSYS even if a rule names them. runc's stub precedes
    /// libseccomp's filter.
    stubs: Vec<(u32, u32)>,
}

impl Background {
    /// Covers an audit token with a single ABI. `newest` is the newest call of the profile; newer calls get ENOSYS.
    /// `None` adds no stub.
    pub fn plain(default: u32, newest: Option<u32>) -> Self {
        let stubs = newest.and_then(|n| n.checked_add(1)).map(|n| (n, u32::MAX)).into_iter().collect();
        Self { runs: vec![Range { start: 0, answer: default }], stubs }
    }

    /// Covers the audit token that x86_64 and x32 share. [`X32_BIT`] tells them apart. `abis` has one of them or both.
    pub fn x86_64(abis: &[Abi], default: u32, newest: impl Fn(Abi) -> Option<u32>) -> Self {
        let (plain, x32) = (abis.contains(&Abi::X86_64), abis.contains(&Abi::X32));
        let mut runs = vec![
            Range { start: 0, answer: if plain { default } else { BAD_ARCH } },
            Range { start: X32_BIT, answer: if x32 { default } else { BAD_ARCH } },
        ];
        if !x32 {
            // A tracer sets the number to −1 to skip a call, and since Linux 4.8 the filter sees it.
            runs.push(Range { start: u32::MAX, answer: default });
        }
        let mut stubs = Vec::new();
        if let Some(n) = newest(Abi::X86_64).filter(|_| plain) {
            stubs.push((n + 1, X32_BIT - 1));
            stubs.push((2 * X32_BIT, 3 * X32_BIT - 1));
        }
        if let Some(n) = newest(Abi::X32).filter(|_| x32) {
            stubs.push((n + 1, 2 * X32_BIT - 1));
            stubs.push((3 * X32_BIT, u32::MAX));
        }
        stubs.sort_unstable();
        Self { runs, stubs }
    }

    /// Puts the answers of `rules`, ascending by number, over the background. Adjacent ranges have different answers.
    pub fn overlay<T: Copy + PartialEq>(&self, rules: &[(u32, T)], answer: impl Fn(u32) -> T) -> Vec<Range<T>> {
        let mut out: Vec<Range<T>> = Vec::with_capacity(rules.len());
        let mut push = |start, answer: T| {
            out.pop_if(|last| last.start == start);
            if out.last().is_none_or(|last| last.answer != answer) {
                out.push(Range { start, answer });
            }
        };
        let mut base = self.flatten().into_iter().peekable();
        let mut under = BAD_ARCH;
        for (nr, rule) in rules.iter().filter(|(nr, _)| !self.stubbed(*nr)) {
            while let Some(run) = base.next_if(|run| run.start <= *nr) {
                under = run.answer;
                push(run.start, answer(under));
            }
            push(*nr, *rule);
            if let Some(after) = nr.checked_add(1) {
                push(after, answer(under));
            }
        }
        base.for_each(|run| push(run.start, answer(run.answer)));
        out
    }

    fn stubbed(&self, nr: u32) -> bool {
        self.stubs.iter().any(|(first, last)| (*first..=*last).contains(&nr))
    }

    /// Merges the ranges and the stubs into one list.
    fn flatten(&self) -> Vec<Range<u32>> {
        let under = |nr: u32| self.runs.iter().rev().find(|run| run.start <= nr).map_or(BAD_ARCH, |run| run.answer);
        let mut starts: Vec<u32> = self.runs.iter().map(|run| run.start).collect();
        for (first, last) in &self.stubs {
            starts.push(*first);
            starts.extend(last.checked_add(1));
        }
        starts.sort_unstable();
        starts.dedup();
        starts
            .into_iter()
            .map(|start| Range { start, answer: if self.stubbed(start) { NO_SUCH_CALL } else { under(start) } })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: u32 = RET_ERRNO | 1;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn starts(ranges: &[Range<u32>]) -> Vec<(u32, u32)> {
        ranges.iter().map(|r| (r.start, r.answer)).collect()
    }

    #[test]
    fn consecutive_numbers_with_one_answer_become_one_range() {
        let rules = [(0, ALLOW), (1, ALLOW), (2, ALLOW), (5, ALLOW), (u32::MAX, ALLOW)];
        let ranges = Background::plain(DEFAULT, None).overlay(&rules, |raw| raw);
        assert_eq!(starts(&ranges), [(0, ALLOW), (3, DEFAULT), (5, ALLOW), (6, DEFAULT), (u32::MAX, ALLOW)]);
    }

    #[test]
    fn calls_newer_than_the_profile_get_enosys() {
        let ranges = Background::plain(DEFAULT, Some(3)).overlay(&[(3, ALLOW), (9, ALLOW)], |raw| raw);
        assert_eq!(starts(&ranges), [(0, DEFAULT), (3, ALLOW), (4, NO_SUCH_CALL)]);
    }

    #[test]
    fn unlisted_x32_calls_are_killed_but_a_skipped_call_is_not() {
        let alone = Background::x86_64(&[Abi::X86_64], DEFAULT, |_| None).overlay(&[(1, ALLOW)], |raw| raw);
        let want = [(0, DEFAULT), (1, ALLOW), (2, DEFAULT), (X32_BIT, BAD_ARCH), (u32::MAX, DEFAULT)];
        assert_eq!(starts(&alone), want);
        let both = Background::x86_64(&[Abi::X86_64, Abi::X32], DEFAULT, |_| None).overlay(&[(1, ALLOW)], |raw| raw);
        assert_eq!(starts(&both), [(0, DEFAULT), (1, ALLOW), (2, DEFAULT)]);
    }

    #[test]
    fn x32_and_x86_64_have_separate_newest_calls() {
        let newest = |abi| Some(if abi == Abi::X32 { X32_BIT | 20 } else { 10 });
        let both = Background::x86_64(&[Abi::X86_64, Abi::X32], DEFAULT, newest).overlay(&[], |raw| raw);
        let want = [(0, DEFAULT), (11, NO_SUCH_CALL), (X32_BIT, DEFAULT), (X32_BIT + 21, NO_SUCH_CALL)];
        assert_eq!(starts(&both), want);
        let alone = Background::x86_64(&[Abi::X86_64], DEFAULT, newest).overlay(&[], |raw| raw);
        let want = [
            (0, DEFAULT),
            (11, NO_SUCH_CALL),
            (X32_BIT, BAD_ARCH),
            (2 * X32_BIT, NO_SUCH_CALL),
            (3 * X32_BIT, BAD_ARCH),
            (u32::MAX, DEFAULT),
        ];
        assert_eq!(starts(&alone), want);
    }
}
