//! Setting up a container's cgroup before its init takes the first step. A setup that is not kept is undone.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    dir::{Dir, gone},
    freeze,
    join::add,
    limits::Limits,
    location::{Cgroup, Driver, Hierarchy, OpenPlace},
    mkdir::NewDirs,
    processes::KILL_TIMEOUT,
    sub_cgroups::SubCgroups,
    systemd::scope::Scope,
    tree, v1, v2,
};
use crate::{
    cgroup::devices::program::{self, Replaced},
    error::{Context, Error, Kind, Result},
};

/// A cgroup that is being set up for a container. Dropping it kills the processes in the cgroup and removes it, unless
/// [`Setup::keep`] was called.
pub struct Setup<'c> {
    cgroup: &'c Cgroup,
    limits: Limits,
    /// The unit to start, with the systemd driver.
    scope: Option<Scope<'c>>,
    sub_cgroups: SubCgroups,
    undo: Undo,
}

/// The work of dropping a [`Setup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undo {
    Nothing,
    /// Remove the directories.
    Directories,
    /// Stop the unit, too.
    Unit,
}

impl<'c> Setup<'c> {
    /// Makes the directories, with limits and device rules, before any process is in them. With the systemd driver it checks
    /// the request and connects to systemd. A scope on v2 does not exist before [`Setup::add_init`] starts it.
    ///
    /// `annotations` are those of config.json: they may name systemd properties and sub-cgroups.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] for a cgroup that exists and has processes or is frozen; a limit that the kernel
    /// refuses, with file, value and errno; an annotation that is malformed; systemd's errors. Nothing is left.
    pub fn begin(
        cgroup: &'c Cgroup,
        limits: Limits,
        id: &str,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self> {
        let sub_cgroups = SubCgroups::of(cgroup, annotations)?;
        let mut setup = Self { cgroup, limits, scope: None, sub_cgroups, undo: Undo::Nothing };
        if let Driver::Systemd(unit) = &cgroup.driver {
            refuse_existing(cgroup)?;
            let (rows, rules) = (setup.limits.rows.clone(), &setup.limits.rules);
            setup.scope = Some(Scope::prepare(unit, id, cgroup.hierarchy, rows, rules, annotations)?);
        }
        if cgroup.exists_before_init() {
            // With systemd on v1 as well: the container's mounts may bind the directories before there is a unit, and init
            // can write itself into them, which is far cheaper than a migration by systemd. systemd takes over directories
            // that exist.
            create(cgroup, &setup.limits)?;
            setup.undo = Undo::Directories;
        }
        Ok(setup)
    }

    /// Starts the unit with the container's init in it, and completes the limits. `init` must not have done anything yet.
    /// Without the systemd driver there is nothing to do: init is cloned into the cgroup or joins it by itself.
    ///
    /// # Errors
    /// As [`Setup::begin`].
    pub fn add_init(&mut self, init: i32) -> Result<()> {
        let Some(scope) = &mut self.scope else { return Ok(()) };
        scope.start(init)?;
        self.undo = Undo::Unit;
        complete_scope(self.cgroup, &self.limits, scope, init)?;
        self.sub_cgroups.before_namespace(self.cgroup, init)
    }

    /// Gives the delegated cgroup to user `owner` of the host. If an annotation names a delegated sub-cgroup, makes it and
    /// moves `init` there. Called when init is in all its namespaces.
    ///
    /// # Errors
    /// Names the annotation, or the file whose owner cannot be changed.
    pub fn delegate(&self, init: i32, owner: Option<u32>) -> Result<()> {
        self.sub_cgroups.in_namespace(self.cgroup, init, owner)
    }

    /// Leaves the cgroup in place: the container exists now.
    pub fn keep(mut self) {
        self.undo = Undo::Nothing;
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        if self.undo != Undo::Nothing {
            // Init is dead. Without a pid namespace of its own, children of its hooks are not.
            let _ = self.cgroup.signal_all(libc::SIGKILL, Instant::now() + KILL_TIMEOUT, &mut HashSet::new());
        }
        match self.undo {
            Undo::Nothing => {}
            Undo::Directories => {
                let _ = self.cgroup.remove_directories(Duration::MAX);
            }
            Undo::Unit => {
                let _ = self.cgroup.delete();
            }
        }
    }
}

/// Makes the directories in every hierarchy and writes limits and device rules. On error removes the directories that it
/// made, and no others.
fn create(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    let mut made = NewDirs::new()?;
    let mut open = Vec::with_capacity(cgroup.places.len());
    for place in &cgroup.places {
        let fresh = made.make(&place.dir)?;
        // A new directory in which nothing is written need not be opened.
        if !fresh || place.is_v2() || v1::apply::is_written(place, &limits.rows) {
            open.push(OpenPlace { place, dir: place.open()?, fresh });
        }
    }
    for existing in open.iter().filter(|o| !o.fresh) {
        refuse_used(existing)?;
    }
    let rules = Some(limits.rules.as_slice()).filter(|_| cgroup.has_device_rules());
    match cgroup.hierarchy {
        Hierarchy::V1 => v1::apply::fill(&open, &limits.rows, rules)?,
        Hierarchy::V2 => v2::apply::fill(&open, &limits.rows, limits.needs_domain, rules)?,
    }
    made.keep();
    Ok(())
}

/// Refuses a cgroup that exists and is used, before systemd is asked to make it.
fn refuse_existing(cgroup: &Cgroup) -> Result<()> {
    for place in &cgroup.places {
        match place.open() {
            Ok(dir) => refuse_used(&OpenPlace { place, dir, fresh: false })?,
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Refuses a cgroup with processes or a frozen one. The limits and the final kill would hit the processes of others; in a
/// frozen cgroup the container would never take its first step.
fn refuse_used(open: &OpenPlace<'_>) -> Result<()> {
    let found = tree::pids(&open.place.dir)?.unwrap_or_default().len();
    let text = if found > 0 {
        format!("container's cgroup is not empty: {found} process(es) found")
    } else if freeze::is_freeze_requested(&open.dir)? {
        "container's cgroup unexpectedly frozen".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::FailedPrecondition, text).context(open.place.dir.display().to_string()))
}

/// Writes the limits and device rules of a cgroup that systemd has made for `scope`, with `init` in it.
fn complete_scope(cgroup: &Cgroup, limits: &Limits, scope: &Scope<'_>, init: i32) -> Result<()> {
    let mut open = Vec::with_capacity(cgroup.places.len());
    for place in &cgroup.places {
        let dir = place.open().with_context(|| format!("cgroup of unit {}", scope.name()))?;
        if !has_process(&dir, init)? {
            match cgroup.hierarchy {
                // systemd does not know this controller, and init has not joined it by itself yet.
                Hierarchy::V1 => add(&dir, init)?,
                Hierarchy::V2 => {
                    let (name, dir) = (scope.name(), place.dir.display());
                    let text = format!("unit {name} has not put process {init} into {dir}");
                    return Err(Error::new(Kind::Internal, text));
                }
            }
        }
        open.push(OpenPlace { place, dir, fresh: false });
    }
    let rules = Some(limits.rules.as_slice()).filter(|_| cgroup.has_device_rules());
    match (cgroup.hierarchy, open.first()) {
        (Hierarchy::V1, _) => v1::apply::fill(&open, &scope.rows, rules),
        (Hierarchy::V2, Some(open)) => {
            v2::apply::enable_controllers(&open.dir, limits.needs_domain)?;
            v2::apply::apply(&open.dir, &scope.rows)?;
            // systemd's own device program stays attached.
            rules.map_or(Ok(()), |rules| program::install(&open.dir, rules, Replaced::Own))
        }
        (Hierarchy::V2, None) => Err(Error::new(Kind::Internal, "cgroup without a directory")),
    }
}

fn has_process(dir: &Dir, pid: i32) -> Result<bool> {
    Ok(dir.read("cgroup.procs")?.lines().any(|line| line.parse() == Ok(pid)))
}
