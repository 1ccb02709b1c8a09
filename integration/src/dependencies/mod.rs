//! The crates of the programs that are shipped, and of all tests: a reason for each, allowed licences, one source, known
//! duplicates, and no known advisory. `make conformance` writes docs/security/dependencies.md; `make advisories DB=DIR` takes
//! the advisories over from a checkout of RustSec's database.

#[cfg(test)]
mod advisories;
#[cfg(test)]
mod page;
#[cfg(test)]
mod version;
