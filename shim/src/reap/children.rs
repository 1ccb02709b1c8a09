//! The children of the shim, and the orphans among them.
//!
//! The shim is a subreaper (PR_SET_CHILD_SUBREAPER). It inherits children that it did not make: processes of a container
//! without a pid namespace whose parent has died. [`Children::sweep`] reaps those alone. It looks at an exited child
//! first (WNOWAIT), and leaves a child that is registered, or that a spawn in flight may be making.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_runtime::Result;

use crate::sys;

/// The calls of the kernel about exited children, which a test replaces.
pub trait Kernel {
    /// An exited child, which stays waitable; the same one each time until it is reaped.
    fn exited_child(&self) -> Result<Option<i32>>;
    /// Reaps an exited child and drops its status.
    fn discard_child(&self, pid: i32);
}

/// The real kernel.
#[derive(Debug, Default)]
pub struct Linux;

impl Kernel for Linux {
    fn exited_child(&self) -> Result<Option<i32>> {
        sys::exited_child()
    }

    fn discard_child(&self, pid: i32) {
        sys::discard_child(pid);
    }
}

/// The children of the shim: those that have an owner, and the spawns in flight.
#[derive(Debug, Default)]
pub struct Children<K: Kernel> {
    kernel: K,
    table: Mutex<ReapTable>,
}

#[derive(Debug, Default)]
pub(super) struct ReapTable {
    known: BTreeSet<i32>,
    /// The number of the next spawn.
    next: u64,
    in_flight: BTreeSet<u64>,
    /// An exited child that no owner has registered, and the first spawn that began after it had exited.
    unclaimed: Option<(i32, u64)>,
    /// A sweep stopped at a child that may have an owner. The next change of the table repeats it.
    sweep_pending: bool,
}

/// Work that may make children that are not registered yet. Its holder registers or reaps them before it drops the
/// guard.
#[derive(Debug)]
pub struct SpawnGuard<K: Kernel> {
    children: Arc<Children<K>>,
    number: u64,
}

impl<K: Kernel> Children<K> {
    /// Makes an empty table for the children of `kernel`.
    pub fn new(kernel: K) -> Self {
        Self { kernel, table: Mutex::default() }
    }

    /// Begins work that may make children.
    pub fn begin_spawn(self: &Arc<Self>) -> SpawnGuard<K> {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.in_flight.insert(number);
        SpawnGuard { children: self.clone(), number }
    }

    /// Registers a child whose owner will reap it through its pidfd.
    pub fn register(&self, _spawning: &SpawnGuard<K>, pid: i32) {
        self.table().known.insert(pid);
    }

    /// Removes a child that its owner has reaped.
    pub fn unregister(&self, pid: i32) {
        let mut table = self.table();
        table.known.remove(&pid);
        table.resume(&self.kernel);
    }

    /// The pids of the children with an owner. `None` while a spawn is in flight.
    pub fn owned(&self) -> Option<BTreeSet<i32>> {
        let table = self.table();
        table.in_flight.is_empty().then(|| table.known.clone())
    }

    /// Reaps exited children without an owner. Never blocks. The server calls it on SIGCHLD.
    pub fn sweep(&self) {
        self.table().sweep(&self.kernel);
    }

    pub(super) fn table(&self) -> MutexGuard<'_, ReapTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Kernel> Drop for SpawnGuard<K> {
    fn drop(&mut self) {
        let mut table = self.children.table();
        table.in_flight.remove(&self.number);
        table.resume(&self.children.kernel);
    }
}

impl ReapTable {
    fn resume(&mut self, kernel: &impl Kernel) {
        if self.sweep_pending {
            self.sweep(kernel);
        }
    }

    fn sweep(&mut self, kernel: &impl Kernel) {
        self.sweep_pending = false;
        loop {
            match kernel.exited_child() {
                Ok(None) => return self.unclaimed = None,
                Ok(Some(pid)) if self.is_orphan(pid) => kernel.discard_child(pid),
                // The owner will reap this child, or a spawn in flight is about to register it.
                Ok(Some(_)) => return self.sweep_pending = true,
                Err(e) => return log::error!("find an exited child: {e}"),
            }
        }
    }

    /// Reports whether the exited child `pid` has no owner. waitid(2) with WNOWAIT returns the same child each time, so
    /// the sweep comes back to it, and by then all spawns that could have made it have ended.
    pub(super) fn is_orphan(&mut self, pid: i32) -> bool {
        if self.known.contains(&pid) {
            return false;
        }
        let bound = match self.unclaimed {
            Some((unclaimed, bound)) if unclaimed == pid => bound,
            _ => self.next,
        };
        let orphan = self.in_flight.first().is_none_or(|&first| first >= bound);
        self.unclaimed = (!orphan).then_some((pid, bound));
        orphan
    }
}
