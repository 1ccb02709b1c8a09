//! The errors of the child: a step of the plan and the errno of the system call that failed there.

use crate::wire::{Failure, Step};

/// The result of a step.
pub type Result<T> = core::result::Result<T, Failure>;

/// Adds the step to the errno of a failed system call.
pub trait At<T> {
    /// Names a step that occurs once.
    fn at(self, step: Step) -> Result<T>;
    /// Names a step that occurs for each item of one of the plan's lists; `index` is the item's.
    fn at_index(self, step: Step, index: usize) -> Result<T>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step) -> Result<T> {
        self.at_index(step, 0)
    }

    fn at_index(self, step: Step, index: usize) -> Result<T> {
        self.map_err(|e| Failure { errno: e.raw_os_error(), ..refusal(step, index) })
    }
}

/// The failure of a step at which berth refuses to continue although no system call failed: its errno is 0.
pub(crate) fn refusal(step: Step, index: usize) -> Failure {
    Failure { step, index: u32::try_from(index).unwrap_or(u32::MAX), errno: 0 }
}
