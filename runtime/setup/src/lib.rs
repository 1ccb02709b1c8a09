//! `berth check` tells whether a host has what berth needs. `berth install` registers berth with an engine, and
//! `berth uninstall` restores the engine's configuration byte for byte.
//!
//! [`check`] makes a list of findings and changes nothing. [`install`] goes in four steps: the engine's module computes
//! texts of files from texts of files ([`install::engine`]), the record of earlier work says which texts are berth's own
//! ([`install::record`]), the plan is shown, and [`install::file`] carries it out.
//!
//! All files are read through [`host`], below a directory that the caller may choose.

pub mod check;
pub mod cli;
pub mod containerd;
pub mod host;
pub mod install;
