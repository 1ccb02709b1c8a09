//! Giving up the parent's memory before others can see the process.
//!
//! A child has a copy of all that the runtime holds: its command line and environment, and in a shim what other containers
//! of the pod were given. A process that is cloned into a pid namespace with others in it must not show that to one that
//! may trace it (CAP_SYS_PTRACE), nor the command line to all. So what is still needed is copied into memory of its own,
//! with a stack, and everything else but the program itself is unmapped.
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

/// The stack of what follows: it runs hooks and reads capabilities back, and calls nothing deep.
const STACK: usize = 256 << 10;
/// Room for what the C library keeps of a thread, on either side of the thread pointer: descriptors are closed through it.
const THREAD: usize = 32 << 10;
/// A multiple of every page size.
const PAGE: usize = 64 << 10;

/// What follows in the new memory.
struct Follow {
    tail: Remaining<'static>,
    report: Report<'static>,
    image: Image,
    area: (usize, usize),
    thread: usize,
    then: fn(&Remaining<'static>, &mut Report<'static>) -> !,
}

/// Goes on as `then`, with a copy of `tail`, in memory that holds nothing else.
///
/// # Errors
/// Only before anything is given up: there is no memory.
pub fn keep_only(
    image: &Image,
    tail: &Remaining<'_>,
    report: &mut Report<'_>,
    then: fn(&Remaining<'static>, &mut Report<'static>) -> !,
) -> Result<core::convert::Infallible> {
    forget_rseq(image).at(Step::UnmapMemory)?;
    let mut measure = Room { next: 0, end: 0, measures: true };
    let _ = copy(&mut measure, tail);
    let data = (measure.next + size_of::<Follow>() + align_of::<Follow>()).next_multiple_of(PAGE);
    let start = sys::map_memory(STACK + 2 * THREAD + data).at(Step::UnmapMemory)?;
    let stack_end = start + STACK;
    let (thread, end) = (stack_end + THREAD, stack_end + 2 * THREAD + data);
    let mut room = Room { next: stack_end + 2 * THREAD, end, measures: false };
    let tail = copy(&mut room, tail);
    let place = room.take(size_of::<Follow>(), align_of::<Follow>()).ok_or(Errno::NOMEM).at(Step::UnmapMemory)?;
    let follow: *mut Follow = ptr::with_exposed_provenance_mut(place);
    // SAFETY: `place` is aligned room in a fresh mapping. The descriptors of the report go with it: it is forgotten here, since
    // this function does not return any more.
    unsafe {
        let report = ptr::read(ptr::from_mut(report).cast::<Report<'static>>());
        follow.write(Follow { tail, report, image: *image, area: (start, end), thread, then });
        trap::on_stack(ptr::with_exposed_provenance_mut(stack_end), go_on, follow)
    }
}

/// The first thing on the new stack.
extern "C" fn go_on(follow: *mut Follow) -> ! {
    // SAFETY: `shed` has just written it, and nobody else knows it.
    let Follow { tail, report, image, area: (start, end), thread, then } = unsafe { &mut *follow };
    // SAFETY: the thread pointer is in the middle of zeroed room, and has its own address in it, twice (x86-64's ABI, and the
    // C library's header of a thread).
    let moved = unsafe {
        let words: *mut usize = ptr::with_exposed_provenance_mut(*thread);
        words.write(*thread);
        words.add(2).write(*thread);
        trap::set_thread_pointer(*thread)
    };
    if let Err(failure) = moved.at(Step::UnmapMemory) {
        report.fail(failure);
    }
    // All else of the address space, in its order: the program itself and this memory stay.
    let mut kept = [(image.start, image.end), (*start, *end)];
    kept.sort_unstable();
    let mut from = 0;
    for (first, last) in kept.into_iter().chain([(image.top, image.top)]) {
        if first > from {
            // SAFETY: nothing in there is referred to any more: the tail is a copy, the stack and the thread's data are
            // others, and no handler of a signal and no registration with the kernel is left.
            let unmapped = unsafe { sys::unmap(from, first - from) };
            if let Err(failure) = unmapped.at(Step::UnmapMemory) {
                report.fail(failure);
            }
        }
        from = last.next_multiple_of(image.page);
    }
    then(tail, report)
}

/// The kernel writes to a registered area whenever the process comes back from it (rseq(2)).
fn forget_rseq(image: &Image) -> SysResult<()> {
    let Some((offset, lengths)) = image.rseq else { return Ok(()) };
    let area = trap::thread_pointer().wrapping_add_signed(offset);
    if lengths.into_iter().any(|length| sys::forget_rseq(area, length).is_ok()) {
        return Ok(());
    }
    // A maker that shares another's memory has nothing registered, and so its child (CLONE_VM). Only then can anything be.
    match lengths.into_iter().find(|length| sys::register_rseq(area, *length).is_ok()) {
        Some(length) => sys::forget_rseq(area, length),
        None => Err(Errno::INVAL),
    }
}

/// Where copies go; one that measures only counts.
struct Room {
    next: usize,
    end: usize,
    measures: bool,
}

impl Room {
    fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        let place = self.next.next_multiple_of(align);
        self.next = place + size;
        (!self.measures && self.next <= self.end).then_some(place)
    }

    fn list<S, T>(&mut self, items: &[S], mut copy: impl FnMut(&mut Self, &S) -> T) -> &'static [T] {
        let place = self.take(items.len() * size_of::<T>(), align_of::<T>());
        let room: *mut T = ptr::with_exposed_provenance_mut(place.unwrap_or(0));
        for (n, item) in items.iter().enumerate() {
            let item = copy(self, item);
            if place.is_some() {
                // SAFETY: the room is aligned and holds as many items.
                unsafe { room.add(n).write(item) };
            }
        }
        match place {
            // SAFETY: every item has just been written; the room is never given up.
            Some(_) => unsafe { slice::from_raw_parts(room, items.len()) },
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
        // SAFETY: a plan's pointers that are not null are to strings of its own.
        self.text(unsafe { CStr::from_ptr(pointer) }).as_ptr()
    }
}

/// A copy of all that the tail refers to and that is still of use.
fn copy(room: &mut Room, tail: &Remaining<'_>) -> Remaining<'static> {
    let process = &tail.process;
    let seccomp = process.seccomp.as_ref().map(|filter| Seccomp {
        filter: room.list(filter.filter, |_, line| *line),
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
            args: room.list(process.args, |room, pointer| room.pointer(*pointer)),
            env: room.list(process.env, |room, pointer| Cell::new(room.pointer(pointer.get()))),
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
            rlimits: room.list(process.rlimits, |_, limit| *limit),
            ignored_signals: process.ignored_signals,
            no_new_privs: process.no_new_privs,
            labels: &[],
            seccomp,
            scheduling,
            chown_stdio: process.chown_stdio,
        },
        executable: room.text(tail.executable),
        start_container: hooks(room, &tail.start_container),
        barrier: tail.barrier.map(barrier),
        enters_pid: tail.enters_pid,
        terminal: tail.terminal,
    }
}

fn barrier(barrier: Barrier<'_>) -> Barrier<'static> {
    match barrier {
        Barrier::Channel => Barrier::Channel,
        Barrier::Listen(socket) => Barrier::Listen(sys::kept(socket)),
    }
}

fn hooks(room: &mut Room, hooks: &Hooks<'_>) -> Hooks<'static> {
    let list = room.list(hooks.list, |room, hook| Hook {
        path: room.text(hook.path),
        args: room.list(hook.args, |room, pointer| room.pointer(*pointer)),
        env: room.list(hook.env, |room, pointer| Cell::new(room.pointer(pointer.get()))),
        timeout: hook.timeout,
    });
    let [before, after] = hooks.state;
    Hooks {
        list,
        state: [room.bytes(before), room.bytes(after)],
        directory: hooks.directory.map(|path| room.text(path)),
        limit: hooks.limit,
        ignored_signals: hooks.ignored_signals,
    }
}
