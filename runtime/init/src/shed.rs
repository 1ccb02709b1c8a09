//! Unmapping the parent's memory before other processes can see this one.
//!
//! The child has a copy of the runtime's memory: its command line and environment, and in a shim the secrets of other
//! containers of the pod. A process that is cloned into a pid namespace with other processes must not show that memory
//! to a process that may trace it (CAP_SYS_PTRACE), nor the command line to every process. The remaining part of the
//! plan is therefore copied into a new mapping, which also has a stack, and all other memory is unmapped except for
//! the program itself.
#![allow(unsafe_code)]

use core::{cell::Cell, ffi::CStr, ptr, slice};

use rustix::io::{Errno, Result as SysResult};

use crate::{
    error::{At, Result},
    payload::Remaining,
    plan::{Barrier, Hook, Hooks, Image, Process, Ptr, Scheduling, Seccomp},
    report::Report,
    sys, trap,
    wire::Step,
};

/// The size of the new stack, bytes. The remaining steps run hooks and read capabilities back, and nest few calls.
const STACK: usize = 256 << 10;
/// The room for the C library's thread data on each side of the thread pointer, bytes: code that closes an fd may use
/// it.
const THREAD: usize = 32 << 10;
/// A multiple of all page sizes, bytes.
const PAGE: usize = 64 << 10;

/// The state that the new mapping holds.
struct State {
    remaining: Remaining<'static>,
    report: Report<'static>,
    image: Image,
    area: (usize, usize),
    thread: usize,
    then: fn(&Remaining<'static>, &mut Report<'static>) -> !,
}

/// Copies `remaining` into a new mapping, unmaps all other memory except for the program, and calls `then`.
///
/// # Errors
/// `ENOMEM` and other errors of mmap(2), while the old memory is still there.
pub fn keep_only(
    image: &Image,
    remaining: &Remaining<'_>,
    report: &mut Report<'_>,
    then: fn(&Remaining<'static>, &mut Report<'static>) -> !,
) -> Result<core::convert::Infallible> {
    unregister_rseq(image).at(Step::UnmapMemory)?;
    let mut measure = Arena { next: 0, end: 0, measure: true };
    let _ = copy(&mut measure, remaining);
    let data = (measure.next + size_of::<State>() + align_of::<State>()).next_multiple_of(PAGE);
    let start = sys::map_memory(STACK + 2 * THREAD + data).at(Step::UnmapMemory)?;
    let stack_end = start + STACK;
    let (thread, end) = (stack_end + THREAD, stack_end + 2 * THREAD + data);
    let mut arena = Arena { next: stack_end + 2 * THREAD, end, measure: false };
    let remaining = copy(&mut arena, remaining);
    let place = arena.take(size_of::<State>(), align_of::<State>()).ok_or(Errno::NOMEM).at(Step::UnmapMemory)?;
    let state: *mut State = ptr::with_exposed_provenance_mut(place);
    // SAFETY: `place` is aligned memory of a new mapping. The fds of the report move to the copy: this function does
    // not return after it, so the original is not dropped.
    unsafe {
        let report = ptr::read(ptr::from_mut(report).cast::<Report<'static>>());
        state.write(State { remaining, report, image: *image, area: (start, end), thread, then });
        trap::on_stack(ptr::with_exposed_provenance_mut(stack_end), start_on_new_stack, state)
    }
}

/// The first function on the new stack.
extern "C" fn start_on_new_stack(state: *mut State) -> ! {
    // SAFETY: `keep_only` has just written it, and has passed its only pointer.
    let State { remaining, report, image, area: (start, end), thread, then } = unsafe { &mut *state };
    // SAFETY: the thread pointer lies in the middle of zeroed memory, and its own address is written there twice, as
    // the x86-64 ABI and the header of the C library's thread data want it.
    let moved = unsafe {
        let words: *mut usize = ptr::with_exposed_provenance_mut(*thread);
        words.write(*thread);
        words.add(2).write(*thread);
        trap::set_thread_pointer(*thread)
    };
    if let Err(failure) = moved.at(Step::UnmapMemory) {
        report.fail(failure);
    }
    // Unmaps the address space in ascending order, except for the program and the new mapping.
    let mut kept = [(image.start, image.end), (*start, *end)];
    kept.sort_unstable();
    let mut from = 0;
    for (first, last) in kept.into_iter().chain([(image.top, image.top)]) {
        if first > from {
            // SAFETY: no reference into the range is left. `remaining` is a copy, the stack and the thread data are
            // new, and no signal handler or registration with the kernel is left.
            let unmapped = unsafe { sys::unmap(from, first - from) };
            if let Err(failure) = unmapped.at(Step::UnmapMemory) {
                report.fail(failure);
            }
        }
        from = last.next_multiple_of(image.page);
    }
    then(remaining, report)
}

/// Unregisters the area of rseq(2): the kernel writes to it whenever the process returns to user mode, also after it
/// is unmapped.
fn unregister_rseq(image: &Image) -> SysResult<()> {
    let Some((offset, lengths)) = image.rseq else { return Ok(()) };
    let area = trap::thread_pointer().wrapping_add_signed(offset);
    if lengths.into_iter().any(|length| sys::unregister_rseq(area, length).is_ok()) {
        return Ok(());
    }
    // A parent that itself runs with `CLONE_VM` has no area, and neither has its child. rseq(2) can register one only
    // in that case, which proves it.
    match lengths.into_iter().find(|length| sys::register_rseq(area, *length).is_ok()) {
        Some(length) => sys::unregister_rseq(area, length),
        None => Err(Errno::INVAL),
    }
}

/// The destination of the copies. A destination that measures only counts bytes.
struct Arena {
    next: usize,
    end: usize,
    measure: bool,
}

impl Arena {
    fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        let place = self.next.next_multiple_of(align);
        self.next = place + size;
        (!self.measure && self.next <= self.end).then_some(place)
    }

    fn list<S, T>(&mut self, items: &[S], mut copy: impl FnMut(&mut Self, &S) -> T) -> &'static [T] {
        let place = self.take(items.len() * size_of::<T>(), align_of::<T>());
        let list: *mut T = ptr::with_exposed_provenance_mut(place.unwrap_or(0));
        for (n, item) in items.iter().enumerate() {
            let item = copy(self, item);
            if place.is_some() {
                // SAFETY: the memory is aligned and has room for all items.
                unsafe { list.add(n).write(item) };
            }
        }
        match place {
            // SAFETY: every item has just been written, and the mapping is never unmapped.
            Some(_) => unsafe { slice::from_raw_parts(list, items.len()) },
            None => &[],
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &'static [u8] {
        self.list(bytes, |_, byte| *byte)
    }

    fn text(&mut self, text: &CStr) -> &'static CStr {
        CStr::from_bytes_with_nul(self.bytes(text.to_bytes_with_nul())).unwrap_or_default()
    }

    fn pointer(&mut self, pointer: Ptr) -> Ptr {
        if pointer.is_null() {
            return pointer;
        }
        // SAFETY: each pointer of a plan that is not null points to a string of the plan.
        self.text(unsafe { CStr::from_ptr(pointer) }).as_ptr()
    }
}

/// Copies `remaining` with all that it refers to. Fields that no remaining step uses are left empty.
fn copy(arena: &mut Arena, remaining: &Remaining<'_>) -> Remaining<'static> {
    let process = &remaining.process;
    let seccomp = process.seccomp.as_ref().map(|filter| Seccomp {
        filter: arena.list(filter.filter, |_, line| *line),
        flags: filter.flags,
        when: filter.when,
        state_readable: filter.state_readable,
        dumpable_for_agent: filter.dumpable_for_agent,
    });
    let scheduling = process.scheduling.as_ref().map(|wanted| Scheduling {
        cpus: None,
        policy: wanted.policy,
        io_priority: None,
        personality: None,
        memory: None,
    });
    Remaining {
        process: Process {
            args: arena.list(process.args, |arena, pointer| arena.pointer(*pointer)),
            env: arena.list(process.env, |arena, pointer| Cell::new(arena.pointer(pointer.get()))),
            find_home: process.find_home,
            executables: &[],
            from_path: process.from_path,
            cwd: c"",
            uid: process.uid,
            gid: process.gid,
            groups: &[],
            keep_groups: process.keep_groups,
            groups_buffer: &[],
            umask: process.umask,
            capabilities: process.capabilities,
            rlimits: arena.list(process.rlimits, |_, limit| *limit),
            ignored_signals: process.ignored_signals,
            no_new_privs: process.no_new_privs,
            labels: &[],
            seccomp,
            scheduling,
            chown_stdio: process.chown_stdio,
        },
        executable: arena.text(remaining.executable),
        start_container: hooks(arena, &remaining.start_container),
        barrier: remaining.barrier.map(barrier),
        enters_pid: remaining.enters_pid,
        terminal: remaining.terminal,
    }
}

fn barrier(barrier: Barrier<'_>) -> Barrier<'static> {
    match barrier {
        Barrier::Channel => Barrier::Channel,
        Barrier::Listen(socket) => Barrier::Listen(sys::until_exec(socket)),
    }
}

fn hooks(arena: &mut Arena, hooks: &Hooks<'_>) -> Hooks<'static> {
    let list = arena.list(hooks.list, |arena, hook| Hook {
        path: arena.text(hook.path),
        args: arena.list(hook.args, |arena, pointer| arena.pointer(*pointer)),
        env: arena.list(hook.env, |arena, pointer| Cell::new(arena.pointer(pointer.get()))),
        timeout: hook.timeout,
    });
    let [before, after] = hooks.state;
    Hooks {
        list,
        state: [arena.bytes(before), arena.bytes(after)],
        directory: hooks.directory.map(|path| arena.text(path)),
        limit: hooks.limit,
        ignored_signals: hooks.ignored_signals,
    }
}
