//! The floor of the core: the system calls that a container needs, made by one process that has decided everything
//! beforehand. No JSON, no RPC, no state on disk, nobody to talk to.
//!
//! ```text
//! recipe (config.json, once) ─┬─ cgroups: mkdir, limits ─ clone ─ child: cgroup, mounts, pivot, identity, filter, execve
//!   mounts, cgroups           └─ wait ─ rmdir
//! ```
//!
//! What it leaves in the kernel is what berth leaves there for the same bundle: the same namespaces, mounts, nodes,
//! limits, keyring, ids, capabilities and filter. What it leaves out is what a runtime does to be sure: looking up paths
//! inside the root, reading back what it set, a barrier between create and start. So it is the least that the kernel
//! itself asks for, and no target for a runtime. The filter is compiled by berth's compiler; on a machine with v2 alone
//! no device program is loaded, which makes the floor lower there.

mod cgroups;
mod child;
mod json;
mod mounts;
mod recipe;
mod step;
mod sys;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use cgroups::{Cgroups, Made};
use child::{Given, Role};
pub use json::Failure;
use recipe::Recipe;
use sys::{Mailbox, Namespace};

/// What one operation took, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// On the wall.
    pub wall: u64,
    /// On the CPUs, of this process and of the children that it waited for.
    pub cpu: u64,
}

/// A bundle, ready to be run again and again.
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
    /// Reads the bundle, and makes the cgroup `parent` in every hierarchy; it must not be there.
    ///
    /// # Errors
    /// A bundle that is not known here, or a cgroup that cannot be made.
    pub fn new(bundle: &Path, parent: &str) -> Result<Self, Failure> {
        let path = format!("{parent}/bare");
        let recipe = Recipe::read(bundle, &path)?;
        let cgroups = Cgroups::new(parent, &path, &recipe.limits)?;
        let null = File::options().read(true).write(true).open("/dev/null")?.into();
        let own_pid_namespace = File::open("/proc/self/ns/pid")?.into();
        Ok(Self { recipe, cgroups, mailbox: Mailbox::new()?, null, own_pid_namespace, kept: None })
    }

    /// A container from nothing to nothing: cgroups, clone, payload, its end, cgroups gone.
    ///
    /// # Errors
    /// What failed, or a payload that did not exit with 0. Must not be mixed with [`Bare::exec`].
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

    /// One more process of a container that is made, untimed, at the first call and stays.
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
            // setns(2) with a pid namespace decides where children are born, no more.
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

    /// Waits until the keeper keeps: it is in no state that the outside could mistake for it.
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
