//! From a saved image to an OCI bundle that a runtime starts.
//!
//! Main path of `unpack`: [`source`] opens the image (a docker-archive, or an OCI image layout as a directory or a tar),
//! and chooses one image of it; [`unpack`] takes the bundle directory, and hands each layer through [`stream`] (digests,
//! decompression) and [`tar`] (the archive's members) to [`apply`], which is the only module that changes the root
//! filesystem; [`config`] makes config.json of the image's configuration, the runtime's defaults and the caller's flags.
//!
//! `registry` lists the tags of a repository; it is the only module that uses the network.
//!
//! An image is hostile input. Every path of it is resolved by openat2(2) with `RESOLVE_IN_ROOT` against a descriptor of
//! the root filesystem, every count and size has a bound in [`limits`], and [`sandbox`] puts Landlock around the process
//! where the kernel has it.

pub mod apply;
pub mod cli;
pub mod config;
#[cfg(test)]
mod fixture;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod ids;
pub mod limits;
mod names;
#[cfg(feature = "registry")]
pub mod registry;
pub mod sandbox;
pub mod source;
pub mod stream;
mod sys;
#[cfg(feature = "registry")]
mod tags;
pub mod tar;
pub mod text;
pub mod unpack;
