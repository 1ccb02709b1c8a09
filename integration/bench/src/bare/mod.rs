//! The floor of the core: the system calls that a container needs, made by one process that took every decision before.
//! It has no JSON, no RPC, no state on disk and no client.
//!
//! ```text
//! recipe (config.json, once) ─┬─ cgroups: mkdir, limits ─ clone ─ child: cgroup, mounts, pivot, identity, filter, execve
//!   mounts, cgroups           └─ wait ─ rmdir
//! ```
//!
//! It leaves in the kernel what berth leaves there for the same bundle: the same namespaces, mounts, nodes, limits,
//! keyring, ids, capabilities and filter. It omits the calls by which a runtime makes sure: resolving paths inside the
//! root, reading back settings, a barrier between create and start. So it is the cost of the kernel alone, and not a
//! target for a runtime. berth's compiler compiles the filter. On a machine with v2 alone it loads no device program,
//! and the floor is lower there.

mod cgroups;
mod child;
mod json;
mod mounts;
mod recipe;
mod step;
mod sys;

use cgroups::{Cgroups, Made};
use child::{Given, Role};
use recipe::Recipe;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Instant,
};
use sys::{Mailbox, Namespace};

pub use json::Failure;

/// The cost of one operation, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The wall time.
    pub wall: u64,
    /// The CPU time of this process and of the children that it waited for.
    pub cpu: u64,
}

/// A bundle that is ready to be run many times.
pub struct Bare {
    recipe: Recipe,
    cgroups: Cgroups,
    mailbox: Mailbox,
    null: OwnedFd,
    own_pid_namespace: OwnedFd,
    kept: Option<Kept>,
}

/// A container that stays, for execs.
struct Kept {
    process: OwnedFd,
    made: Made,
}

impl Bare {
    /// Reads the bundle and makes the cgroup `parent` in every hierarchy. It must not exist.
    ///
    /// # Errors
    /// The floor does not know a field of the bundle, or a cgroup cannot be made.
    pub fn new(bundle: &Path, parent: &str) -> Result<Self, Failure> {
        let path = format!("{parent}/bare");
        let recipe = Recipe::read(bundle, &path)?;
        let cgroups = Cgroups::new(parent, &path, &recipe.limits)?;
        let null = File::options().read(true).write(true).open("/dev/null")?.into();
        let own_pid_namespace = File::open("/proc/self/ns/pid")?.into();
        Ok(Self { recipe, cgroups, mailbox: Mailbox::new()?, null, own_pid_namespace, kept: None })
    }

    /// Makes a container, waits for its payload and removes it: cgroups, clone, payload, exit, cgroups removed.
    ///
    /// # Errors
    /// A failed call, or a payload that did not exit with 0. It must not be mixed with [`Bare::exec`].
    pub fn run(&mut self) -> Result<Cost, Failure> {
        if self.kept.is_some() {
            return Err("run after exec: the cgroup is in use".into());
        }
        self.timed(|bare| {
            let made = bare.cgroups.make()?;
            let process = bare.init(&made, Role::Payload)?;
            bare.wait(&process)?;
            bare.cgroups.remove()
        })
    }

    /// Runs one more process in a container that the first call makes, untimed, and that stays.
    ///
    /// # Errors
    /// As [`Bare::run`].
    pub fn exec(&mut self) -> Result<Cost, Failure> {
        if self.kept.is_none() {
            let made = self.cgroups.make()?;
            let process = self.init(&made, Role::Keeper)?;
            self.kept = Some(Kept { process, made });
            self.until_kept()?;
        }
        self.timed(|bare| {
            let Some(kept) = &bare.kept else { return Err("no container".into()) };
            let (recipe, mailbox) = (&bare.recipe, &bare.mailbox);
            let given = Given { tasks: &kept.made.tasks, null: bare.null.as_fd() };
            let keeper = kept.process.as_fd();
            let pid = recipe.new_namespaces & Namespace::Pid.flag();
            // setns(2) with a pid namespace only selects the namespace of future children.
            if pid != 0 {
                sys::join(keeper, pid)?;
            }
            let made = sys::clone(0, kept.made.unified.as_ref().map(AsFd::as_fd), || {
                child::exec(recipe, &given, keeper, mailbox)
            });
            if pid != 0 {
                sys::join(bare.own_pid_namespace.as_fd(), pid)?;
            }
            bare.wait(&made?)
        })
    }

    fn timed(&mut self, operation: impl FnOnce(&Self) -> Result<(), Failure>) -> Result<Cost, Failure> {
        let (start, cpu) = (Instant::now(), sys::cpu_time());
        operation(self)?;
        let wall = u64::try_from(start.elapsed().as_nanos())?;
        Ok(Cost { wall, cpu: sys::cpu_time() - cpu })
    }

    fn init(&self, made: &Made, role: Role) -> Result<OwnedFd, Failure> {
        let given = Given { tasks: &made.tasks, null: self.null.as_fd() };
        let unified = made.unified.as_ref().map(AsFd::as_fd);
        let child = || child::run(&self.recipe, &given, role, &self.mailbox);
        sys::clone(self.recipe.new_namespaces, unified, child).map_err(|e| format!("clone3: {e}").into())
    }

    /// Waits until the keeper reports that it is ready, since its state in /proc does not show that.
    fn until_kept(&self) -> Result<(), Failure> {
        let end = Instant::now() + berth_integration::wait::LONG;
        loop {
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            if self.mailbox.is_ready() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err("the container that stays did not come up".into());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn wait(&self, process: &OwnedFd) -> Result<(), Failure> {
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED))?;
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        match status.and_then(|status| status.exit_status()) {
            Some(0) => Ok(()),
            other => Err(format!("the payload ended with {other:?}").into()),
        }
    }

    fn failure(&self) -> Option<Failure> {
        let (place, errno) = self.mailbox.take()?;
        Some(format!("{}: {errno}", child::place(&self.recipe, place)).into())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            let _ = pidfd_send_signal(&kept.process, Signal::KILL);
            let _ = waitid(WaitId::PidFd(kept.process.as_fd()), WaitIdOptions::EXITED);
        }
    }
}
