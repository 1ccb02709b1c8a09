//! Races: another owner of a directory replaces an entry of it again and again, while a runtime uses the entry.
//!
//! A [`Swapper`] replaces the entry, mostly by a link to files of the host. A [`Ground`] has these files and shows every
//! change of them. A [`Row`] is one kind of path; [`outcomes`] runs a container with it many times. Every row has a
//! program that acts by name ([`naive`]), which the same swappers must lead to the host's files ([`is_caught`]).

mod ground;
pub mod naive;
mod row;
mod swapper;

pub use self::{
    ground::Ground,
    row::{Entry, Outcomes, Row, TEXT, is_caught, mounts_stay_inside, outcomes},
    swapper::{Swap, Swapper},
};

/// The number of containers for each kind of path and each swap. A runtime uses the path some dozen times in each.
/// `BERTH_RACES` sets another number.
pub fn rounds() -> usize {
    let default = if crate::runtime::is_runc() { 1 } else { 5 };
    std::env::var("BERTH_RACES").map_or(default, |n| n.parse().expect("a number in BERTH_RACES"))
}
