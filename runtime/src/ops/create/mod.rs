//! The operation create: turns a bundle into a container whose init waits at the barrier.
//!
//! ```text
//! bundle, options -> Checked -> Reserved -> Spawned -> AtBarrier -> Created
//!                    creates    id, state,  init's     init is     kept: the
//!                    nothing    cgroup,     process    set up      only commit
//!                               resctrl                            point
//! ```
//!
//! Each phase is a type that the next phase consumes. Dropping a phase undoes all that it holds, in the order of its
//! fields.

pub(in crate::ops) mod guards;
pub(in crate::ops) mod phases;

use std::{os::fd::OwnedFd, sync::Arc};

use oci_spec::runtime::LinuxResources;

use self::{guards::PoststopGuard, phases::Reserved};
use crate::{
    Error, Result,
    arena::Arena,
    cgroup::{Cgroup, Limits, Rights},
    container::state::{self, Container},
    host::{kernel, open_files},
    leaves::{sd_notify, seccomp::Filter, user},
    plan,
    spec::{bundle::Bundle, check::rootless},
};

pub use crate::plan::options::{Barrier, CreateOptions as Options};

/// A container with the status "created".
pub struct Created {
    /// The container.
    pub container: Container,
    /// init's pidfd.
    pub pidfd: OwnedFd,
    /// The channel that releases init; `None` with [`Barrier::Listening`].
    pub barrier: Option<OwnedFd>,
    /// The master of the process's pty, if it has a terminal.
    pub console: Option<OwnedFd>,
}

/// runc prints the same warning.
const NO_WAY_TO_KILL: &str = "Creating a rootless container with no cgroup and no private pid namespace. Such \
configuration is strongly discouraged (as it is impossible to properly kill all container's processes)";

/// A request that is checked against the host. Nothing has been created yet.
pub struct Checked<'o> {
    pub(in crate::ops) options: Options<'o>,
    pub(in crate::ops) bundle: Bundle,
    pub(in crate::ops) cgroup: Cgroup,
    pub(in crate::ops) limits: Limits,
    pub(in crate::ops) filter: Option<Arc<Filter>>,
}

/// Checks a request, and determines the container's cgroup. Returns warnings for the user besides [`Bundle::warnings`],
/// also with an error. They may explain it, or a later failure, so log them first.
///
/// # Errors
/// Names the field of config.json that the caller may not use, or that this host does not support.
pub fn check(bundle: Bundle, options: Options<'_>) -> (Vec<String>, Result<Checked<'_>>) {
    let mut warnings = Vec::new();
    let checked = check_request(bundle, options, &mut warnings).map_err(kernel::explain);
    (warnings, checked)
}

/// Creates the container.
///
/// # Errors
/// Names the operation that the host refuses. After an error nothing is left.
pub fn create(checked: Checked<'_>) -> Result<Created> {
    make(checked).map_err(kernel::explain)
}

fn check_request<'o>(mut bundle: Bundle, options: Options<'o>, warnings: &mut Vec<String>) -> Result<Checked<'o>> {
    state::check_id(options.id)?;
    if options.sd_notify {
        sd_notify::add_to_spec(&mut bundle.spec, &options.root.join(options.id))?;
    }
    let spec = &bundle.spec;
    let mounts = spec.mounts().as_deref().unwrap_or_default().len();
    open_files::raise_own_for(mounts.saturating_add(usize::try_from(options.preserve_fds).unwrap_or(usize::MAX)));
    if spec.process().is_none() {
        return Err(Error::invalid("config.json: process: must be specified"));
    }
    let cgroups_path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let rights = options.rootless.resolve(cgroups_path, options.cgroup_manager);
    rootless::check(spec, rights)?;
    if rights == Rights::Full && spec.annotations().as_ref().is_some_and(user::keeps_groups) {
        let groups = user::own_groups()?;
        warnings.push(format!("{}: the container keeps the runtime's groups: {groups:?}", user::KEEP_GROUPS));
    }
    let mut cgroup = Cgroup::resolve(cgroups_path, options.id, options.cgroup_manager, rights)?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = Limits::new(cgroup.hierarchy(), resources.unwrap_or(&LinuxResources::default()))?;
    warnings.extend(limits.warnings().iter().map(ToString::to_string));
    if rights == Rights::Delegated && cgroup.is_managed() {
        let named = cgroups_path.is_some_and(|path| !path.as_os_str().is_empty());
        cgroup = cgroup.restrict(&limits, named)?;
    }
    if !cgroup.is_managed() && !state::has_private_pid(spec) {
        warnings.push(NO_WAY_TO_KILL.to_owned());
    }
    let filter = plan::filter(spec)?;
    Ok(Checked { options, bundle, cgroup, limits, filter })
}

fn make(checked: Checked<'_>) -> Result<Created> {
    let Checked { options, bundle, cgroup, limits, filter } = checked;
    // Dropped last: the hooks must find no descriptor of the plan open.
    let mut poststop = PoststopGuard::default();
    let arena = Arena::default();
    let reserved = Reserved::take(&options, &bundle, (&cgroup, limits), &mut poststop)?;
    let spawned = reserved.spawn(&arena, bundle, &options, &cgroup, filter.as_deref())?;
    let at_barrier = spawned.set_up(&cgroup)?;
    at_barrier.commit(&options, filter.clone())
}
