//! Private functions for the fuzz targets (`integration/fuzz`). Nothing that is shipped enables this feature.

use berth_init::plan::{Capabilities, SeccompWhen};
use oci_spec::runtime::Process;

use crate::{
    arena::Arena,
    leaves::{caps, seccomp::Filter},
    plan::process::{self, Defaults},
};

pub use crate::{
    cgroup::fuzzing as cgroup,
    host::proc::parse as parse_stat,
    leaves::{
        mount::{Options, Submounts, attr, clean, clean_unless_dotdot, known_options, translate_idmaps},
        network::rtnetlink,
    },
    spawn::{Received, receive},
};

/// The plan of a payload, as far as it can be read without pointers.
#[derive(Debug, PartialEq, Eq)]
pub struct PlainProcess {
    /// Pointers of the arguments and of the environment, with the null pointers at their ends.
    pub vectors: (Vec<bool>, Vec<bool>),
    /// HOME is looked up.
    pub find_home: bool,
    /// The paths to execute.
    pub executables: Vec<Vec<u8>>,
    /// uid and gid.
    pub ids: (u32, u32),
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The umask.
    pub umask: Option<u32>,
    /// bounding, effective, permitted, inheritable, ambient.
    pub capabilities: [u64; 5],
    /// The number of resource limits.
    pub rlimits: usize,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// The length of the seccomp program, and when it is loaded.
    pub seccomp: Option<(usize, SeccompWhen)>,
}

fn masks(of: Capabilities) -> [u64; 5] {
    [of.bounding, of.effective, of.permitted, of.inheritable, of.ambient]
}

/// Plans a process: of an init, or of an exec in a container whose init is this process.
///
/// # Errors
/// As for a container.
pub fn plan_process(process: &Process, filter: Option<&Filter>, is_init: bool) -> crate::Result<PlainProcess> {
    let arena = Arena::default();
    let scheduling = crate::leaves::scheduling::Settings::default().overridden_by(process);
    let of_container = if is_init { None } else { process.capabilities().as_ref() };
    let defaults = Defaults {
        capabilities: caps::plan(of_container),
        umask: Some(0o022),
        apparmor: None,
        selinux: None,
        waits_for_start: is_init,
        keep_groups: false,
        scheduling: &scheduling,
    };
    let plan = process::plan(&arena, process, defaults, filter)?;
    Ok(PlainProcess {
        vectors: (
            plan.args.iter().map(|pointer| pointer.is_null()).collect(),
            plan.env.iter().map(|slot| slot.get().is_null()).collect(),
        ),
        find_home: plan.find_home,
        executables: plan.executables.iter().map(|path| path.to_bytes().to_vec()).collect(),
        ids: (plan.uid, plan.gid),
        groups: plan.groups.to_vec(),
        umask: plan.umask,
        capabilities: masks(plan.capabilities),
        rlimits: plan.rlimits.len(),
        no_new_privs: plan.no_new_privs,
        seccomp: plan.seccomp.map(|seccomp| (seccomp.filter.len(), seccomp.when)),
    })
}
