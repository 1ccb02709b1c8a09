//! Plans a container's init.

use std::{collections::HashMap, os::fd::BorrowedFd, path::Path};

use berth_init::plan::{Barrier, Container, Enter, Plan, Process as ProcessPlan, SeccompWhen};
use oci_spec::runtime::{Linux, Process, Spec};

use super::{
    Common, entry, finish,
    options::CreateOptions,
    process::{self, Defaults},
    rootfs_path,
};
use crate::{
    Context, Error, Result,
    arena::Arena,
    cgroup::Cgroup,
    container::state::State,
    id_maps::Ids,
    leaves::{caps, hooks, mount, network::devices::NetDevices, seccomp::Filter, streams, sysctl, user},
    namespace::{self, NamespacePlan, UserNamespace, enter::UsernsHelper, kind, time},
    spec::bundle::Bundle,
};

/// The plan of an init, with the parent's part.
pub struct InitPlan<'a> {
    /// The child's part.
    pub plan: Plan<'a>,
    /// `CLONE_NEW*` flags for clone3(2).
    pub placement_clone: u32,
    /// The v2 cgroup for `CLONE_INTO_CGROUP`.
    pub born_in: Option<BorrowedFd<'a>>,
    /// The content of timens_offsets, for a new time namespace.
    pub clocks: Option<String>,
    /// `CLONE_NEW*` flags of the namespaces that an exec must join.
    pub own_namespaces: u32,
    /// The container has a user namespace of its own.
    pub user_namespace: bool,
    /// The maps that the parent writes for a user namespace of clone3(2).
    pub maps: Option<Ids>,
    /// The value that the parent writes for a child in a new user namespace, where the child may not lower it.
    pub oom_score_adj: Option<i32>,
    /// The uid of the host that gets the container's cgroup.
    pub cgroup_owner: Option<u32>,
    /// `linux.resources.cpu.cpus` restricts the container's CPUs.
    pub cpus_bound: bool,
    /// Descriptions of the mounts for error messages.
    pub mount_names: Vec<String>,
}

/// The input for the plan of an init.
pub struct Sources<'s, 'a> {
    /// The bundle.
    pub bundle: &'s Bundle,
    /// The request.
    pub options: &'s CreateOptions<'s>,
    /// The container's state so far.
    pub record: &'s State,
    /// The container's cgroup.
    pub cgroup: &'s Cgroup,
    /// The compiled seccomp filter.
    pub filter: Option<&'a Filter>,
    /// The listening socket, if a later process starts the container.
    pub listener: Option<BorrowedFd<'a>>,
    /// The container's user namespace, if this process has entered it to plan and clone.
    pub inside: Option<&'s UsernsHelper>,
}

impl<'a> Sources<'_, 'a> {
    /// Plans init. `channel` is the child's end of the channel.
    ///
    /// # Errors
    /// Names the field, path or namespace that the host refuses.
    pub fn plan(&self, arena: &'a Arena, channel: BorrowedFd<'_>) -> Result<InitPlan<'a>> {
        let (spec, linux, payload) = (&self.bundle.spec, self.linux()?, self.payload()?);
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let placement = namespace::plan(arena, namespaces, &Ids::from_spec(spec)?, self.inside)?;
        check_identity(payload, &placement.users)?;
        let outside = self.inside.is_none();
        if placement.users.ids.has_mappings() && outside {
            streams::chown_pipes_to_root(&self.options.stdio, || Ok(placement.users.ids.clone()))?;
        }
        let process = self.process(arena)?;
        let (container, process, mount_names) = self.container(arena, &placement, process)?;
        // A vfork child in the user namespace has joined the cgroup, and has written oom_score_adj and the time
        // offsets.
        let (born_in, cgroup_tasks) = if outside && self.cgroup.exists_before_init() {
            entry(arena, self.cgroup, None)?
        } else {
            (None, &[][..])
        };
        let new_users = placement.clone & kind::USER != 0;
        let adj = payload.oom_score_adj().filter(|_| outside);
        let cgroup_owner = if outside { cgroup_owner(spec, payload, &placement) } else { None };
        let common = Common {
            channel,
            preserve_fds: self.options.preserve_fds,
            cgroup_tasks,
            namespaces: placement.child,
            all_cpus: true,
            oom_score_adj: adj.filter(|_| !new_users),
            keyring: Some(self.record.id.as_str()).filter(|_| !self.options.no_new_keyring),
            selinux: None,
            stdio: &self.options.stdio,
            spec: payload,
            process,
        };
        let plan = Plan {
            container: Some(container),
            namespace_files: self.namespace_files(arena, placement.made, placement.own)?,
            barrier: Some(
                self.listener.map_or(Barrier::Channel, |socket| Barrier::Listen(arena.inherit_borrowed(socket))),
            ),
            ..common.plan(arena)?
        };
        Ok(InitPlan {
            plan: finish(arena, plan),
            placement_clone: placement.clone,
            born_in,
            clocks: (outside && placement.time).then(|| time::offsets(linux.time_offsets().as_ref())),
            own_namespaces: placement.own,
            user_namespace: placement.own & kind::USER != 0,
            cgroup_owner,
            maps: new_users.then_some(placement.users.ids),
            oom_score_adj: adj.filter(|_| new_users),
            cpus_bound: binds_cpus(linux),
            mount_names,
        })
    }

    /// Returns `linux` of config.json.
    pub(super) fn linux(&self) -> Result<&Linux> {
        self.bundle.spec.linux().as_ref().ok_or_else(|| Error::invalid("linux: must be specified"))
    }

    /// Returns `process` of config.json.
    pub(super) fn payload(&self) -> Result<&Process> {
        self.bundle.spec.process().as_ref().ok_or_else(|| Error::invalid("process: must be specified"))
    }

    fn process(&self, arena: &'a Arena) -> Result<ProcessPlan<'a>> {
        let defaults = Defaults {
            capabilities: caps::plan(None),
            umask: Some(0o022),
            waits_for_start: true,
            apparmor: None,
            selinux: None,
            keep_groups: user::keeps_groups(&self.record.annotations),
            scheduling: &self.record.process.scheduling,
        };
        process::plan(arena, self.payload()?, defaults, self.filter)
    }

    /// Plans the container itself. Returns it with the process, which may load its filter later, and the names of the
    /// mounts.
    fn container(
        &self,
        arena: &'a Arena,
        placement: &NamespacePlan<'a>,
        mut process: ProcessPlan<'a>,
    ) -> Result<(Container<'a>, ProcessPlan<'a>, Vec<String>)> {
        let (spec, linux, root) = (&self.bundle.spec, self.linux()?, rootfs_path(self.bundle));
        let hooks = hooks::plan(arena, spec, self.record.oci_state(), &root, process.env)?;
        if let Some(filter) = &mut process.seccomp
            && filter.when == SeccompWhen::BeforeVisible
            && !hooks.start_container.list.is_empty()
        {
            // init can neither create a hook nor wait for one under this filter.
            filter.when = SeccompWhen::BeforeExec;
        }
        let (mut rootfs, mount_names) = self.rootfs(arena, placement)?;
        if hooks.need_root_in_bundle() || rootfs.enter == Enter::InHost {
            let root = root.canonicalize().with_context(|| format!("root.path: rootfs {}", root.display()))?;
            rootfs.attach_at = Some(arena.path(&root, "root.path")?);
        }
        let none = HashMap::new();
        let is_private = |kind| placement.is_private(kind);
        let sysctls = sysctl::plan(arena, linux.sysctl().as_ref().unwrap_or(&none), is_private)?;
        let bytes = |text: &Option<String>| {
            text.as_deref().filter(|text| !text.is_empty()).map(|text| arena.bytes(text.as_bytes()))
        };
        let container = Container {
            new_network: placement.made & kind::NETWORK != 0,
            hostname: bytes(spec.hostname()),
            domainname: bytes(spec.domainname()),
            rootfs,
            sysctls: arena.list(sysctls),
            runtime_hooks: hooks.runtime || NetDevices::any(linux),
            create_container: hooks.create_container,
            start_container: hooks.start_container,
        };
        Ok((container, process, mount_names))
    }

    /// Returns the files of the namespaces that init sends to an unprivileged exec before start.
    fn namespace_files(&self, arena: &'a Arena, made: u32, own: u32) -> Result<&'a [&'a std::ffi::CStr]> {
        match (self.inside, self.listener) {
            // In a joined mount namespace /proc may belong to another pid namespace.
            (Some(_), Some(_)) if made & kind::MOUNT != 0 => namespace::own_files(arena, own),
            _ => Ok(&[]),
        }
    }
}

/// Returns true if `linux.resources.cpu.cpus` restricts the container's CPUs.
fn binds_cpus(linux: &Linux) -> bool {
    let cpu = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
    cpu.is_some_and(|cpu| cpu.cpus().as_ref().is_some_and(|cpus| !cpus.is_empty()))
}

/// Checks that the user namespace maps the process's ids, and permits its groups.
fn check_identity(process: &Process, users: &UserNamespace<'_>) -> Result<()> {
    let user = process.user();
    let ids = &users.ids;
    if users.denies_setgroups && user.additional_gids().as_ref().is_some_and(|gids| !gids.is_empty()) {
        return Err(Error::invalid("process.user.additionalGids: the user namespace denies setgroups"));
    }
    if ids.has_mappings() {
        ids.host_uid(user.uid(), "process.user.uid")?;
        ids.host_gid(user.gid(), "process.user.gid")?;
        for gid in user.additional_gids().iter().flatten() {
            ids.host_gid(*gid, "process.user.additionalGids")?;
        }
    }
    Ok(())
}

/// Returns the payload's uid on the host, if the payload can write to a cgroup mount that shows only its own cgroup
/// (config-linux.md, "Cgroup ownership").
fn cgroup_owner(spec: &Spec, process: &Process, placement: &NamespacePlan<'_>) -> Option<u32> {
    let writable = |m: &oci_spec::runtime::Mount| {
        mount::is_cgroup(m) && !m.options().iter().flatten().any(|word| word == "ro" || word == "rro")
    };
    let mut shown =
        spec.mounts().iter().flatten().filter(|m| mount::clean(m.destination()) == Path::new("/sys/fs/cgroup"));
    let ids = &placement.users.ids;
    (placement.made & kind::CGROUP != 0 && ids.has_mappings() && shown.next_back().is_some_and(writable))
        .then(|| ids.host_uid(process.user().uid(), "").ok())?
}
