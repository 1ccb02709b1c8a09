//! The memory of the server: how it is kept, and given back after work. One of the few files with `unsafe`.
//!
//! A pod is at rest nearly always, and a node has hundreds. What work needed (a config.json and its spec, the buffers of
//! a request, the frames of a deep call) is free afterwards, but the C library and the kernel keep it for the process.
//! [`IdleTrim`] hands it back a moment after the work.
#![allow(unsafe_code)]

use std::{convert::Infallible, time::Duration};

use tokio::sync::Notify;

/// How long after the first work memory is given back: longer than the pool keeps its threads. Under a steady load that
/// is once in this time, and takes some dozen µs; after a large burst it has taken 2 ms.
const IDLE_DELAY: Duration = Duration::from_secs(3);
/// How much of a stack below the caller is looked at, in bytes: more than any call here has needed, less than the
/// stack of a thread (2 MiB) and than the gap below the stack of the first one.
const STACK_BYTES: usize = 256 << 10;

/// A page, in bytes. Where pages are larger madvise(2) refuses most ranges, and the stack stays as it is.
const PAGE: usize = 4096;

/// Gives memory back some time after work, and with it what the runtime keeps for its next operation.
#[derive(Debug, Default)]
pub struct IdleTrim {
    used: Notify,
}

impl IdleTrim {
    /// There was work that used memory. Never blocks; may be called from any thread.
    pub fn poke(&self) {
        self.used.notify_one();
    }

    /// Gives memory back whenever there was work; never returns. The stack that is meant is the awaiting thread's.
    pub async fn run(&self) -> Infallible {
        loop {
            self.used.notified().await;
            tokio::time::sleep(IDLE_DELAY).await;
            berth_runtime::cgroup::rest();
            trim_heap();
            trim_stack();
        }
    }
}

/// Keeps the heap in one arena. Threads of the blocking pool come and go; an arena for each would keep its pages.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number inside the allocator; called before there are other threads.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Returns the free pages of the heap to the kernel, those between pages in use too.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the allocator's own locks and touches only what is free.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Returns the pages of this thread's stack below the caller's frame to the kernel: earlier calls left them.
#[inline(never)]
pub fn trim_stack() {
    let frame = 0_u8;
    // a page or more stays for the frames of the call below
    let end = ((&raw const frame).addr() & !(PAGE - 1)).saturating_sub(PAGE);
    let start = std::ptr::without_provenance_mut(end.saturating_sub(STACK_BYTES));
    // SAFETY: what is below the stack pointer is nobody's; a later call finds it zeroed. The range holds nothing else:
    // a thread's stack is larger and the caller is near its top; below the first thread's the kernel keeps a gap of
    // 1 MiB free of mappings (stack_guard_gap), and what is not mapped is passed over (ENOMEM, madvise(2)).
    let _ = unsafe { libc::madvise(start, STACK_BYTES, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn deep(rounds: u8) -> u64 {
        let mut block = [rounds; 32 << 10];
        std::hint::black_box(&mut block);
        if rounds == 0 { 0 } else { deep(rounds - 1) + u64::from(block.iter().fold(0, |a: u8, b| a | b)) }
    }

    /// Resident kB of the mapping that holds this thread's stack.
    fn resident() -> u64 {
        let here = 0_u8;
        let here = (&raw const here).addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((range, _)) = line.split_once(' ').filter(|(range, _)| range.contains('-')) {
                let (start, end) = range.split_once('-').unwrap();
                let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
                inside = (start..end).contains(&here);
            } else if inside && let Some(rss) = line.strip_prefix("Rss:") {
                return rss.trim().strip_suffix(" kB").unwrap().parse().unwrap();
            }
        }
        panic!("no stack")
    }

    #[test]
    fn what_a_deep_call_left_is_given_back() {
        let (before, _) = (resident(), deep(5));
        let used = resident();
        assert!(used >= before + 100, "{before} {used}");
        trim_stack();
        let after = resident();
        assert!(after <= used - 100, "{used} {after}");
    }
}
