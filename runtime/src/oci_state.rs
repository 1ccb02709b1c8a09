//! The OCI state of a container, which hooks and seccomp agents receive (runtime.md, "State").

use std::{collections::HashMap, path::Path};

/// The version of the runtime specification that berth implements.
pub const OCI_VERSION: &str = "1.3.0";

/// The OCI state without the status and the pid, which change.
#[derive(Clone, Copy)]
pub struct OciState<'s> {
    /// `ociVersion` of config.json.
    pub oci_version: &'s str,
    /// The container's id.
    pub id: &'s str,
    /// The bundle directory. The runtime's own hooks run there.
    pub bundle: &'s Path,
    /// `annotations` of config.json.
    pub annotations: &'s HashMap<String, String>,
}
