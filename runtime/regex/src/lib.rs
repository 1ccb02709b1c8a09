//! The API of the crate `regex` as far as `regex-lite` has it. oci-spec matches one pattern of ASCII characters,
//! `execCPUAffinity`'s, and the engine of `regex` was a quarter of each program.

pub use regex_lite::*;
