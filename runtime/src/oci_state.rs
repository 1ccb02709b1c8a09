//! The state of a container as hooks and seccomp agents get it (runtime.md, "State").

use std::{collections::HashMap, path::Path};

/// The version of the runtime specification that this runtime follows.
pub const OCI_VERSION: &str = "1.3.0";

/// All of the state but the status and the pid, which change.
#[derive(Clone, Copy)]
pub struct OciState<'s> {
    /// Of config.json.
    pub oci_version: &'s str,
    /// The container's id.
    pub id: &'s str,
    /// The bundle directory; the runtime's own hooks run there.
    pub bundle: &'s Path,
    /// Of config.json.
    pub annotations: &'s HashMap<String, String>,
}
