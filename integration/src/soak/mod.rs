//! The soak: weeks of use in an hour. Pods come and go beside kills, out-of-memory kills, full disks and restarts of
//! containerd ([`churn`]); one shim runs very many execs ([`execs`]); many pods are probed for a long time ([`probes`]).
//! Each part fails on a wrong exit, on an event that is lost or out of order, and on anything that grows.

pub mod churn;
pub mod execs;
pub mod probes;
mod table;

pub use table::Table;

use crate::{
    containerd::{Containerd, Form, Version},
    footprint, matrix,
};
use std::sync::Mutex;

/// The sizes of a soak.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The number of pods that come and go.
    pub pods: usize,
    /// The number of execs of one shim.
    pub execs: usize,
    /// The number of pods that are probed.
    pub probed: usize,
    /// The time for which they are probed, in minutes. 0 is one round.
    pub minutes: u64,
}

/// Returns the number in an environment variable, or the default.
pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap_or_else(|e| panic!("{variable}={value}: {e}")))
}

/// Runs all parts, one after the other, and returns their tables.
pub fn run(plan: Plan) -> Vec<Table> {
    static PLAN: Mutex<Option<(Plan, Vec<Table>)>> = Mutex::new(None);
    *PLAN.lock().unwrap() = Some((plan, vec![execs::soak(plan.execs)]));
    matrix::run(Version::V2_3, Form::ByPath, |containerd: &Containerd| {
        let plan = PLAN.lock().unwrap().as_ref().unwrap().0;
        let tables = [churn::soak(containerd, plan.pods, 5), probes::soak(containerd, plan.probed, plan.minutes)];
        PLAN.lock().unwrap().as_mut().unwrap().1.extend(tables);
    });
    PLAN.lock().unwrap().take().unwrap().1
}

/// Waits until shims are idle and have returned free memory.
fn settle() {
    footprint::settle();
}
