//! The OOM kills that the cgroup above a container's has counted and no watch below it has told of: on v2 a count takes in
//! all that is below, and stays when the cgroup in which it happened goes.
//!
//! A shim has all containers of a pod, so what they have told can be taken off. In the slices that everybody's units are
//! in nothing can be known: there a count is nobody's.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{count, oom_file};
use crate::cgroup::{Hierarchy, dir::Dir};

/// The count of a cgroup with watched ones below it.
#[derive(Debug)]
pub(super) struct Above {
    path: PathBuf,
    counter: OwnedFd,
    /// Up to where it is accounted for.
    told: Mutex<u64>,
}

/// One for each cgroup, for as long as somebody watches below it.
static WATCHED: Mutex<Vec<Weak<Above>>> = Mutex::new(Vec::new());

/// Slices of systemd.special(7) that hold units of many owners.
const SHARED: [&str; 3] = ["system.slice", "user.slice", "machine.slice"];

/// That of the cgroup above `dir`. None where it has no count, or is not the pod's alone: then nothing is known.
pub(super) fn of(dir: &Path) -> Option<Arc<Above>> {
    let path = dir.parent()?;
    if SHARED.iter().any(|slice| path.ends_with(slice)) {
        return None;
    }
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.retain(|above| above.strong_count() > 0);
    if let Some(found) = watched.iter().filter_map(Weak::upgrade).find(|above| above.path == path) {
        return Some(found);
    }
    let counter = Dir::open(path).and_then(|above| above.reader(oom_file(Hierarchy::V2))).ok()?;
    let told = Mutex::new(count(&counter).ok()?);
    let above = Arc::new(Above { path: path.to_owned(), counter, told });
    watched.push(Arc::downgrade(&above));
    Some(above)
}

impl Above {
    /// A watch has told of so many.
    pub(super) fn tell(&self, kills: u64) {
        *self.accounted() += kills;
    }

    /// How many nobody has told of; they count as told now.
    pub(super) fn untold(&self) -> u64 {
        let mut told = self.accounted();
        let now = count(&self.counter).unwrap_or(*told);
        let untold = now.saturating_sub(*told);
        *told += untold;
        untold
    }

    fn accounted(&self) -> MutexGuard<'_, u64> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_told_is_taken_off_and_what_was_not_counts_once() {
        let dir = std::env::temp_dir().join(format!("berth-above-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let write = |kills: u64| fs::write(dir.join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        write(5);
        let (one, two) = (of(&dir.join("a.scope")).unwrap(), of(&dir.join("b.scope")).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.untold(), 0);
        write(8);
        one.tell(1);
        assert_eq!((two.untold(), one.untold()), (2, 0));
        drop((one, two));
        // A later one begins where the count is then.
        write(9);
        assert_eq!(of(&dir.join("c.scope")).unwrap().untold(), 0);
        assert!(of(&dir.join("missing/c.scope")).is_none());
        let system = dir.join("system.slice");
        fs::create_dir_all(&system).unwrap();
        fs::write(system.join("memory.events"), "oom_kill 1\n").unwrap();
        assert!(of(&system.join("d.scope")).is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
