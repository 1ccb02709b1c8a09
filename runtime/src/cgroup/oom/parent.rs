//! OOM kills counted in the parent cgroup that no container's own watch has reported. On v2 the count of a cgroup includes
//! all cgroups below it, and stays when such a cgroup is removed.
//!
//! A shim has all containers of a pod, so it can subtract the kills that their watches have reported. This is not used below
//! system.slice and the like, where the count includes unrelated units.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::counter::{count, file};
use crate::cgroup::{dir::Dir, location::Hierarchy};

/// The count of a cgroup that has watched cgroups below it.
#[derive(Debug)]
pub(super) struct Parent {
    path: PathBuf,
    counter: OwnedFd,
    /// The number of kills that are accounted for.
    reported: Mutex<u64>,
}

/// One entry for each cgroup, as long as a watch below it exists.
static WATCHED: Mutex<Vec<Weak<Parent>>> = Mutex::new(Vec::new());

/// Slices that hold units of many owners (systemd.special(7)).
const SHARED: [&str; 3] = ["system.slice", "user.slice", "machine.slice"];

impl Parent {
    /// The parent of the cgroup `dir`. None if it has no count, or holds units of many owners.
    pub(super) fn of(dir: &Path) -> Option<Arc<Self>> {
        let path = dir.parent()?;
        if SHARED.iter().any(|slice| path.ends_with(slice)) {
            return None;
        }
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|parent| parent.strong_count() > 0);
        if let Some(found) = watched.iter().filter_map(Weak::upgrade).find(|parent| parent.path == path) {
            return Some(found);
        }
        let counter = Dir::open(path).and_then(|dir| dir.reader(file(Hierarchy::V2))).ok()?;
        let reported = Mutex::new(count(&counter).ok()?);
        let parent = Arc::new(Self { path: path.to_owned(), counter, reported });
        watched.push(Arc::downgrade(&parent));
        Some(parent)
    }

    /// As [`of`](Self::of), with the number of kills that another program of this process has accounted for.
    pub(super) fn again(dir: &Path, accounted: u64) -> Option<Arc<Self>> {
        let parent = Self::of(dir)?;
        *parent.accounted() = accounted;
        Some(parent)
    }

    /// The number of kills that are accounted for.
    pub(super) fn count_accounted(&self) -> u64 {
        *self.accounted()
    }

    /// Accounts for kills that a watch has reported.
    pub(super) fn report(&self, kills: u64) {
        *self.accounted() += kills;
    }

    /// The number of kills that no watch has reported; they count as reported afterwards.
    pub(super) fn take_unreported(&self) -> u64 {
        let mut reported = self.accounted();
        let now = count(&self.counter).unwrap_or(*reported);
        let unreported = now.saturating_sub(*reported);
        *reported += unreported;
        unreported
    }

    fn accounted(&self) -> MutexGuard<'_, u64> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn kills_without_a_report_are_returned_once() {
        let dir = std::env::temp_dir().join(format!("berth-oom-parent-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let write = |kills: u64| fs::write(dir.join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        write(5);
        let (one, two) = (Parent::of(&dir.join("a.scope")).unwrap(), Parent::of(&dir.join("b.scope")).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.take_unreported(), 0);
        write(8);
        one.report(1);
        assert_eq!((two.take_unreported(), one.take_unreported()), (2, 0));
        drop((one, two));
        // A later watch starts with the count of its time.
        write(9);
        assert_eq!(Parent::of(&dir.join("c.scope")).unwrap().take_unreported(), 0);
        assert!(Parent::of(&dir.join("missing/c.scope")).is_none());
        let system = dir.join("system.slice");
        fs::create_dir_all(&system).unwrap();
        fs::write(system.join("memory.events"), "oom_kill 1\n").unwrap();
        assert!(Parent::of(&system.join("d.scope")).is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
