//! The table of children in every order of its callers: two spawns, their exits, an orphan, and the sweeps that SIGCHLD causes.
//!
//! Each method of the table is one critical section, so the orders of the calls and of the exits between them are all that
//! threads can do to it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use berth_runtime::Result;

use super::children::{Children, Kernel, SpawnGuard};
use crate::testing::{Choices, explore};

/// The pid of the orphan.
const ORPHAN: i32 = 9;

/// The children that the kernel has.
#[derive(Debug, Default)]
struct Processes {
    /// Exited and not reaped, in the order in which waitid(2) finds them.
    exited: Vec<i32>,
    /// Reaped by a sweep.
    discarded: Vec<i32>,
    /// SIGCHLD was sent, and no sweep has begun since.
    signalled: bool,
}

#[derive(Clone, Debug, Default)]
struct Model(Arc<Mutex<Processes>>);

impl Model {
    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.0.lock().unwrap()
    }

    fn exit(&self, pid: i32) {
        let mut processes = self.processes();
        processes.exited.push(pid);
        processes.signalled = true;
    }
}

impl Kernel for Model {
    fn exited_child(&self) -> Result<Option<i32>> {
        Ok(self.processes().exited.first().copied())
    }

    fn discard_child(&self, pid: i32) {
        let mut processes = self.processes();
        processes.exited.retain(|other| *other != pid);
        processes.discarded.push(pid);
    }
}

/// The way of a spawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It fails after the clone, and reaps the child itself without registering it.
    Fails,
    /// A fault of the shim: the guard is dropped before the child is registered.
    RegistersLate,
}

/// A spawn, and the life of its child.
#[derive(Debug)]
struct Spawn {
    pid: i32,
    fault: Fault,
    step: usize,
    exited: bool,
    guard: Option<SpawnGuard<Model>>,
}

impl Spawn {
    const STEPS: usize = 6;

    fn new(pid: i32, fault: Fault) -> Self {
        Self { pid, fault, step: 0, exited: false, guard: None }
    }

    fn state(&self) -> (usize, bool) {
        (self.step, self.exited)
    }

    fn is_alive(&self) -> bool {
        self.step >= 2 && !self.exited
    }

    /// Returns true if the next step can be made: an owner reaps only processes that have exited.
    fn is_ready(&self) -> bool {
        let reaps = if self.fault == Fault::Fails { 2 } else { 4 };
        self.step < Self::STEPS && (self.step != reaps || self.exited)
    }

    fn next(&mut self, children: &Arc<Children<Model>>, kernel: &Model) {
        let reap = || {
            let mut processes = kernel.processes();
            let there = processes.exited.iter().position(|pid| *pid == self.pid);
            let there = there.unwrap_or_else(|| panic!("the exit of {} is lost: {:?}", self.pid, processes.discarded));
            processes.exited.remove(there);
        };
        match (self.step, self.fault) {
            (0, _) => self.guard = Some(children.begin_spawn()),
            (2, Fault::RegistersLate) | (3, Fault::None | Fault::Fails) => drop(self.guard.take()),
            (2, Fault::None) => children.register(self.guard.as_ref().unwrap(), self.pid),
            (3, Fault::RegistersLate) => children.register(&children.begin_spawn(), self.pid),
            (2, Fault::Fails) | (4, Fault::None | Fault::RegistersLate) => reap(),
            (5, Fault::None | Fault::RegistersLate) => children.unregister(self.pid),
            // The clone; and a spawn that has failed has no more to do.
            _ => {}
        }
        self.step += 1;
    }
}

/// The pid of the orphan is also that of a child that was reaped, if the kernel gives it again.
fn run(choices: &mut Choices, seen: &mut HashSet<String>, fault: Fault, orphan: i32) {
    let kernel = Model::default();
    let children = Arc::new(Children::new(kernel.clone()));
    let mut spawns = [Spawn::new(7, fault), Spawn::new(8, Fault::None)];
    let mut orphan_left = true;
    loop {
        if choices.is_new()
            && !seen.insert(format!("{children:?} {:?} {orphan_left}", spawns.each_ref().map(Spawn::state)))
        {
            return;
        }
        let mut moves: Vec<usize> = (0..2).filter(|n| spawns[*n].is_ready()).collect();
        moves.extend((0..2).filter(|n| spawns[*n].is_alive()).map(|n| 2 + n));
        // A pid is given again only after it was reaped.
        let is_free = spawns.iter().all(|spawn| spawn.pid != orphan || spawn.step > 4);
        moves.extend((orphan_left && is_free).then_some(4));
        moves.extend(kernel.processes().signalled.then_some(5));
        let Some(count) = Some(moves.len()).filter(|count| *count > 0) else { break };
        match moves[choices.pick(count)] {
            n @ 0..2 => spawns[n].next(&children, &kernel),
            n @ 2..4 => {
                spawns[n - 2].exited = true;
                kernel.exit(spawns[n - 2].pid);
            }
            4 => {
                orphan_left = false;
                kernel.exit(orphan);
            }
            _ => {
                kernel.processes().signalled = false;
                children.sweep();
            }
        }
    }
    let processes = kernel.processes();
    assert_eq!(processes.discarded, [orphan], "the orphan alone is swept");
    assert_eq!(processes.exited, Vec::<i32>::new(), "no zombie is left");
    let owned: BTreeSet<_> = spawns.iter().map(|spawn| spawn.step).collect();
    assert_eq!(owned, BTreeSet::from([Spawn::STEPS]));
}

/// Tries all orders; returns the number of states.
fn states(fault: Fault, orphan: i32) -> usize {
    let mut seen = HashSet::new();
    explore(|choices| run(choices, &mut seen, fault, orphan));
    seen.len()
}

#[test]
fn a_sweep_reaps_the_orphan_alone_in_every_order() {
    assert!(states(Fault::None, ORPHAN) > 1000);
}

#[test]
fn a_failed_spawn_reaps_its_own_child_in_every_order() {
    assert!(states(Fault::Fails, ORPHAN) > 1000);
}

#[test]
fn an_orphan_with_the_pid_of_a_reaped_child_is_swept_in_every_order() {
    assert!(states(Fault::None, 7) > 100);
}

#[test]
fn control_late_registration_loses_an_exit_in_some_order() {
    let lost = std::panic::catch_unwind(|| states(Fault::RegistersLate, ORPHAN)).unwrap_err();
    let words = lost.downcast_ref::<String>().unwrap();
    assert!(words.contains("the exit of 7 is lost"), "{words}");
}
