//! Removing a container's cgroup, and the systemd unit that it belongs to.

use std::time::Duration;

use super::{
    location::{Cgroup, Driver},
    systemd::scope,
    tree::{self, Deadline},
};
use crate::error::{Error, Result};

impl Cgroup {
    /// Removes the cgroup with all cgroups below it, in every hierarchy, and stops the unit. Waits about a second in all for
    /// processes that are exiting. A cgroup that does not exist is no error.
    ///
    /// # Errors
    /// All failures together. A failure of systemd is only logged if the directories are gone: a scope without processes
    /// ends by itself.
    pub fn delete(&self) -> Result<()> {
        self.delete_within(Duration::MAX)
    }

    /// Like [`Cgroup::delete`]; neither systemd nor the directories are waited for longer than `patience`.
    ///
    /// # Errors
    /// As [`Cgroup::delete`].
    pub fn delete_within(&self, patience: Duration) -> Result<()> {
        let stopped = match &self.driver {
            Driver::Cgroupfs => Ok(()),
            Driver::Systemd(unit) => scope::stop(unit, patience),
        };
        let errors = self.remove_directories(patience);
        match stopped {
            Err(e) if errors.is_empty() => {
                log::warn!("{e}");
                Ok(())
            }
            stopped => Error::all(stopped.err().into_iter().chain(errors)),
        }
    }

    /// Removes the directories and returns all errors.
    pub(super) fn remove_directories(&self, patience: Duration) -> Vec<Error> {
        let until = Deadline::new(patience);
        self.places.iter().filter_map(|p| tree::remove(&p.dir, &until).err()).collect()
    }
}
