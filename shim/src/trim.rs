//! The memory of the server, and its return to the kernel when the server is idle. `unsafe` is allowed here.
//!
//! A pod is idle nearly always, and a node has hundreds of pods. The memory of an operation (a config.json and its
//! spec, the buffers of a request, the frames of a deep call) is free afterwards, but the C library keeps it.
//! [`IdleTrim`] returns it to the kernel a moment after the work.
#![allow(unsafe_code)]

use std::{convert::Infallible, time::Duration};

use tokio::sync::Notify;

/// The delay from the first work to the return of memory. It is longer than the pool keeps its threads. Under a steady
/// load the trim runs once in this time and takes some dozen µs; after a large burst it has taken 2 ms.
const IDLE_DELAY: Duration = Duration::from_secs(3);
/// The number of bytes of stack below the caller that are returned. It is more than any call here has needed, and less
/// than the stack of a thread (2 MiB) and the gap below the main thread's stack.
const STACK_BYTES: usize = 256 << 10;

/// The size of a page in bytes. With larger pages madvise(2) refuses most ranges, and the stack keeps its pages.
const PAGE: usize = 4096;

/// Returns memory to the kernel some time after work, and drops the connections that the runtime caches.
#[derive(Debug, Default)]
pub struct IdleTrim {
    used: Notify,
}

impl IdleTrim {
    /// Reports work that used memory. Never blocks. Any thread may call it.
    pub fn poke(&self) {
        self.used.notify_one();
    }

    /// Returns memory after each period of work; never returns. The stack is that of the awaiting thread.
    pub async fn run(&self) -> Infallible {
        loop {
            self.used.notified().await;
            tokio::time::sleep(IDLE_DELAY).await;
            berth_runtime::cgroup::drop_cached_connections();
            trim_heap();
            trim_stack();
        }
    }
}

/// Limits glibc's heap to one arena. Threads of the pool come and go, and an arena for each would keep its pages.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number inside the allocator. No other thread exists yet.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Returns the free pages of the heap to the kernel, also those between pages in use (malloc_trim(3)).
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the allocator's own locks and touches free memory alone.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Returns the pages of this thread's stack below the caller's frame to the kernel. Earlier, deeper calls have left
/// them.
#[inline(never)]
pub fn trim_stack() {
    let frame = 0_u8;
    // At least one page stays for the frames of the call below.
    let end = ((&raw const frame).addr() & !(PAGE - 1)).saturating_sub(PAGE);
    let start = std::ptr::without_provenance_mut(end.saturating_sub(STACK_BYTES));
    // SAFETY: no value lives below the stack pointer, and a later call finds zeroed pages there. The range holds
    // nothing else: a thread's stack is larger than it and the caller is near the top; below the main thread's stack
    // the kernel keeps 1 MiB free of mappings (stack_guard_gap); madvise(2) passes over unmapped pages (ENOMEM).
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

    /// The resident kB of the mapping that holds this thread's stack.
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
    fn stack_pages_of_a_deep_call_are_returned() {
        let (before, _) = (resident(), deep(5));
        let used = resident();
        assert!(used >= before + 100, "{before} {used}");
        trim_stack();
        let after = resident();
        assert!(after <= used - 100, "{used} {after}");
    }
}
