//! System call filters: our own compiler from the OCI profile (`linux.seccomp`) to classic BPF.
//!
//! ```text
//! LinuxSeccomp ─ profile: check ─ rules: merge by number ─ ranges: cover all numbers ─ compile + bpf: program ─ Filter
//! ```
//!
//! What a filter answers is what runc's answers, which is libseccomp's with an ENOSYS stub before it; the tests hold
//! the two against each other. How it finds the answer is ours: a balanced search over runs of numbers, and no trees
//! of linked nodes, so that compiling costs a fraction of a millisecond instead of ten.
//! Loading a filter is left to the child; [`Filter::to_bytes`] is how an exec gets the filter of its container.

pub mod agent;
mod arch;
mod bpf;
mod cache;
mod compile;
mod filter;
mod profile;
mod ranges;
pub mod raw;
mod rules;
mod syscalls;

use std::sync::Arc;

use oci_spec::runtime::LinuxSeccomp;

use crate::{Error, Result};

pub use filter::Filter;

/// Compiles a profile for this machine, or finds it compiled: the last few profiles are kept by their content.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the field (`linux.seccomp.…`) for a bad profile or one too long for the
/// kernel.
pub fn compile(profile: &LinuxSeccomp) -> Result<Arc<Filter>> {
    let native = arch::Abi::NATIVE
        .ok_or_else(|| Error::unsupported("linux.seccomp: berth does not know the system calls of this machine"))?;
    cache::get_or(profile, || compile::compile(profile, native))
}
