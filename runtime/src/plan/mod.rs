//! The plan of a container: every leaf called once, in order.

pub mod process;

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_init::plan::{Barrier, Container, Device, Enter, Plan, Rootfs, SeccompWhen, Stdio as PlanStdio};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};
use rustix::fs::{Mode, OFlags};

use self::process::Defaults;
use crate::{
    Context, Error, Kind, Result, Stdio,
    arena::Arena,
    cgroup::Cgroup,
    container::state::State,
    host::{caller, mountinfo},
    id_maps::Ids,
    leaves::{
        hooks, lsm,
        mount::{self, device},
        network::devices::NetDevices,
        scheduling,
        seccomp::{self, Filter},
        streams, sysctl, user,
    },
    namespace::{self, UserNamespace, enter::UsernsHelper, time},
    spec::bundle::Bundle,
};

/// What the front door chose.
pub struct Choices<'c> {
    /// Standard streams.
    pub stdio: &'c Stdio,
    /// The listening socket, when a later process starts the container.
    pub listener: Option<BorrowedFd<'c>>,
    /// Chroot instead of pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Fds from 3 on for the payload.
    pub preserve_fds: u32,
    /// The user namespace that this process is in for the time, which is the container's.
    pub inside: Option<&'c UsernsHelper>,
}

/// The plan of an init, and what its maker needs besides.
pub struct InitPlan<'a> {
    /// For the child.
    pub plan: Plan<'a>,
    /// For clone3 and setns.
    pub placement_clone: u32,
    /// A v2 cgroup to be born in.
    pub born_in: Option<BorrowedFd<'a>>,
    /// The offsets of a new time namespace.
    pub clocks: Option<String>,
    /// What an exec has to join.
    pub own_namespaces: u32,
    /// There is a user namespace among them.
    pub user_namespace: bool,
    /// The maps to write for a user namespace that clone3 makes.
    pub maps: Option<Ids>,
    /// What to write for the child, which in such a namespace has no right to lower it any more.
    pub oom_score_adj: Option<i32>,
    /// Who on the host gets the container's cgroup.
    pub cgroup_owner: Option<u32>,
    /// Its cgroup is to have some of the CPUs only.
    pub cpus_bound: bool,
    /// Words for mounts that fail.
    pub mount_names: Vec<String>,
}

/// The absolute path of the root file system.
pub fn rootfs_path(bundle: &Bundle) -> PathBuf {
    bundle.spec.root().as_ref().map_or_else(|| bundle.dir.clone(), |root| bundle.dir.join(root.path()))
}

/// The compiled filter of a config.json, or the one of its annotations. Whoever may set annotations must not be able to
/// take a profile away with them, so there is no filter in the place of another.
///
/// # Errors
/// As [`seccomp::compile`] and [`seccomp::bpf_annotation::decode`]; both are given.
pub fn filter(spec: &Spec) -> Result<Option<Arc<Filter>>> {
    use seccomp::bpf_annotation::{ANNOTATION, decode};
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    match (profile, spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION))) {
        (Some(_), Some(_)) => Err(Error::invalid(format!("annotations.{ANNOTATION}: there is linux.seccomp already"))),
        (None, Some(text)) => decode(text).map(Some),
        (profile, None) => profile.map(seccomp::compile).transpose(),
    }
}

/// Plans a container's init.
///
/// # Errors
/// Names the field, path or namespace that cannot be had.
pub fn init<'a>(
    arena: &'a Arena,
    bundle: &Bundle,
    state: &State,
    cgroup: &Cgroup,
    filter: Option<&'a Filter>,
    channel: BorrowedFd<'_>,
    choices: &Choices<'a>,
) -> Result<InitPlan<'a>> {
    let spec = &bundle.spec;
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("linux: must be specified"))?;
    let payload = spec.process().as_ref().ok_or_else(|| Error::invalid("process: must be specified"))?;
    let given = Ids::from_spec(spec)?;
    let placement = namespace::plan(arena, linux.namespaces().as_deref().unwrap_or_default(), &given, choices.inside)?;
    check_identity(payload, &placement.users)?;
    if placement.users.ids.has_mappings() && choices.inside.is_none() {
        streams::chown_pipes_to_root(choices.stdio, || Ok(placement.users.ids.clone()))?;
    }

    let defaults = Defaults {
        capabilities: crate::leaves::caps::plan(None),
        umask: Some(0o022),
        waits_for_start: true,
        apparmor: None,
        selinux: None,
        keep_groups: user::keeps_groups(&state.annotations),
    };
    let scheduling = scheduling::plan(arena, &state.process.scheduling, false)?;
    let mut process = berth_init::plan::Process { scheduling, ..process::plan(arena, payload, defaults, filter)? };
    let root = rootfs_path(bundle);
    let hooks = hooks::plan(arena, spec, state.oci_state(), &root, process.env)?;
    if let Some(filter) = &mut process.seccomp
        && filter.when == SeccompWhen::BeforeVisible
        && !hooks.start_container.list.is_empty()
    {
        // init can neither create a hook nor wait for one under this filter.
        filter.when = SeccompWhen::BeforeExec;
    }
    let (mut rootfs, mount_names) = rootfs(arena, bundle, linux, payload, cgroup, &placement, choices)?;
    if hooks.need_root_in_bundle() || rootfs.enter == Enter::InHost {
        let root = root.canonicalize().with_context(|| format!("root.path: rootfs {}", root.display()))?;
        rootfs.attach_at = Some(arena.path(&root, "root.path")?);
    }
    let sysctls = sysctl::plan(arena, linux.sysctl().as_ref().unwrap_or(&std::collections::HashMap::new()), |kind| {
        placement.is_private(kind)
    })?;
    let bytes = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(|t| arena.bytes(t.as_bytes()));
    let container = Container {
        new_network: placement.made & namespace::kind::NETWORK != 0,
        hostname: bytes(spec.hostname()),
        domainname: bytes(spec.domainname()),
        rootfs,
        sysctls: arena.list(sysctls),
        runtime_hooks: hooks.runtime || NetDevices::any(linux),
        create_container: hooks.create_container,
        start_container: hooks.start_container,
    };
    // Who is inside has come into the cgroup on the way, and has oom_score_adj and the clocks with it.
    let outside = choices.inside.is_none();
    let (born_in, cgroups) =
        if outside && cgroup.exists_before_init() { entry(arena, cgroup, None)? } else { (None, &[][..]) };
    let new_users = placement.clone & namespace::kind::USER != 0;
    let user_namespace = placement.is_private(LinuxNamespaceType::User);
    let adj = payload.oom_score_adj().filter(|_| outside);
    let cgroup_owner = if outside { cgroup_owner(spec, payload, &placement) } else { None };
    let plan = Plan {
        channel: arena.inherit_raw(channel),
        keep_fds: &[],
        image: None,
        preserve_fds: choices.preserve_fds,
        cgroup_tasks: cgroups,
        namespaces: placement.child,
        all_cpus: true,
        oom_score_adj: oom_score_adj(arena, adj.filter(|_| !new_users)),
        keyring: keyring(arena, &state.id, choices.no_new_keyring)?,
        keyring_label: lsm::key_label(arena, payload, None)?,
        container: Some(container),
        stdio: stdio(arena, payload, choices.stdio)?,
        process,
        namespace_files: match (choices.inside, choices.listener) {
            // In mounts that are joined /proc is somebody else's.
            (Some(_), Some(_)) if placement.made & namespace::kind::MOUNT != 0 => {
                namespace::own_files(arena, placement.own)?
            }
            _ => &[],
        },
        barrier: Some(
            choices.listener.map_or(Barrier::Channel, |socket| Barrier::Listen(arena.inherit_borrowed(socket))),
        ),
    };
    Ok(InitPlan {
        plan: Plan { keep_fds: arena.fd_numbers(), image: crate::sys::image(), ..plan },
        placement_clone: placement.clone,
        born_in,
        clocks: (outside && placement.time).then(|| time::offsets(linux.time_offsets().as_ref())),
        own_namespaces: placement.own,
        user_namespace,
        cgroup_owner,
        maps: new_users.then_some(placement.users.ids),
        oom_score_adj: adj.filter(|_| new_users),
        cpus_bound: linux
            .resources()
            .as_ref()
            .and_then(|r| r.cpu().as_ref())
            .is_some_and(|cpu| cpu.cpus().as_ref().is_some_and(|cpus| !cpus.is_empty())),
        mount_names,
    })
}

#[allow(clippy::too_many_arguments, reason = "each is one leaf's result")]
fn rootfs<'a>(
    arena: &'a Arena,
    bundle: &Bundle,
    linux: &Linux,
    payload: &Process,
    cgroup: &Cgroup,
    placement: &namespace::NamespacePlan<'a>,
    choices: &Choices<'_>,
) -> Result<(Rootfs<'a>, Vec<String>)> {
    let spec = &bundle.spec;
    let path = rootfs_path(bundle);
    let ids = &placement.users.ids;
    let user_namespace = placement.is_private(LinuxNamespaceType::User);
    let own_tree = placement.made & namespace::kind::MOUNT != 0;
    let cwd = arena.path(payload.cwd(), "process.cwd")?;
    let propagation = mount::root_propagation(linux.rootfs_propagation().as_deref())?;
    let label = lsm::mount_label(arena, linux.mount_label().as_deref())?;
    let empty = Rootfs {
        tree: arena.fd(open_rootfs(&path)?),
        attach_at: None,
        host_propagation: 0,
        enter: Enter::Chroot,
        mounts: &[],
        devices: &[],
        dev_links: false,
        console: false,
        cwd,
        readonly_paths: &[],
        masked_paths: &[],
        mask_options: &[],
        readonly: false,
        propagation: 0,
    };
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let readonly = spec.root().as_ref().is_some_and(|r| r.readonly() == Some(true));
    let hidden = [linux.masked_paths(), linux.readonly_paths()].into_iter().flatten().any(|list| !list.is_empty());
    if !own_tree && mounts.is_empty() && !readonly && !hidden {
        return Ok((empty, Vec::new()));
    }
    let needs_devices = mount::needs_devices(mounts);
    let devices = if needs_devices {
        device::plan(arena, linux.devices().as_deref().unwrap_or_default(), ids)?
    } else {
        Vec::new()
    };
    let host_propagation = match propagation {
        None => libc::MS_SLAVE,
        // Nothing could be bound from the tree any more while the root is being built; the root becomes it at the end.
        Some(libc::MS_UNBINDABLE) => libc::MS_PRIVATE,
        Some(other) => other,
    };
    // First of all the mounts: mountinfo lists them in the order of their making, and `/` belongs at the top.
    let tree = mount::clone_tree(&path, mount::Submounts::Include)
        .with_context(|| format!("root.path: rootfs {}", path.display()))?;
    // A shared root is shared with others of the container, and not with the host: there, whatever is mounted in it would
    // appear, and stay. Volumes have the host's peer group all the same.
    let before = if user_namespace { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    // Nor is it anybody's slave unless that is asked for, whatever the host's mounts are.
    let own = if propagation.is_some() { host_propagation } else { libc::MS_PRIVATE };
    mount::set_propagation(&tree, own, Some(before)).context("rootfs propagation")?;
    // A fifo is no device: anybody may make one.
    let partition = |devices: Vec<Device<'a>>, apart: bool| -> (Vec<_>, Vec<_>) {
        devices.into_iter().partition(|d| apart && d.mode & libc::S_IFMT != libc::S_IFIFO)
    };
    let (mut bound, devices) = partition(devices, caller::is_user() || caller::in_user_namespace());
    let (dev, devices) =
        if needs_devices { device::build_dev(arena, mounts, devices, ids, label)? } else { (None, devices) };
    let (left, devices) = partition(devices, user_namespace);
    bound.extend(left);
    let dev_links = needs_devices && dev.is_none();
    let memory = linux.resources().as_ref().and_then(|r| r.memory().as_ref()).and_then(|memory| memory.limit());
    let context = mount::MountContext {
        bundle: &bundle.dir,
        host_propagation,
        cgroup,
        cgroup_namespace: placement.is_private(LinuxNamespaceType::Cgroup),
        users: &placement.users,
        user_namespace,
        label,
        root: tree.as_fd(),
        rootfs: &path,
        pid_namespace: placement
            .child
            .joins
            .iter()
            .find(|join| join.flags & namespace::kind::PID != 0)
            .map(|join| join.fd),
        // 0 and -1 are no limit.
        memory: memory.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0),
        dev,
    };
    let mounts = mount::plan(arena, mounts, &bound, context)
        .context("unable to start container process: error during container init")?;
    let paths = |list: &Option<Vec<String>>, field: &str| -> Result<&'a [&'a std::ffi::CStr]> {
        let mut paths: Vec<_> = list.iter().flatten().map(|p| mount::clean_unless_dotdot(Path::new(p))).collect();
        // One that is named twice is covered once.
        let mut seen = HashSet::new();
        paths.retain(|path| seen.insert(path.clone()));
        let texts: Result<Vec<_>> = paths.iter().map(|path| arena.path(path, field)).collect();
        Ok(arena.list(texts?))
    };
    let rootfs = Rootfs {
        tree: arena.fd(tree),
        host_propagation,
        enter: if !own_tree {
            Enter::InHost
        } else if choices.no_pivot {
            Enter::MoveAndChroot { hide: mountinfo::whole_mounts(arena, &path)? }
        } else {
            Enter::Pivot
        },
        mounts: mounts.list,
        devices: arena.list(devices),
        dev_links,
        console: payload.terminal() == Some(true),
        readonly_paths: paths(linux.readonly_paths(), "linux.readonlyPaths")?,
        masked_paths: paths(linux.masked_paths(), "linux.maskedPaths")?,
        mask_options: mount::mask_options(arena, label),
        readonly,
        propagation: propagation.unwrap_or(0),
        ..empty
    };
    Ok((rootfs, mounts.names))
}

fn open_rootfs(path: &Path) -> Result<OwnedFd> {
    let what = || format!("root.path: rootfs {}", path.display());
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    fd.map_err(|e| match e {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => Error::from(e).with_kind(Kind::NotFound),
        other => other.into(),
    })
    .with_context(what)
}

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

/// The payload's user, where the container can write to a cgroup file system that shows no more than its own
/// (config-linux.md, "Cgroup ownership").
fn cgroup_owner(spec: &Spec, process: &Process, placement: &namespace::NamespacePlan<'_>) -> Option<u32> {
    let writable = |m: &oci_spec::runtime::Mount| {
        mount::is_cgroup(m) && !m.options().iter().flatten().any(|word| word == "ro" || word == "rro")
    };
    let mut shown =
        spec.mounts().iter().flatten().filter(|m| mount::clean(m.destination()) == Path::new("/sys/fs/cgroup"));
    let ids = &placement.users.ids;
    (placement.made & namespace::kind::CGROUP != 0 && ids.has_mappings() && shown.next_back().is_some_and(writable))
        .then(|| ids.host_uid(process.user().uid(), "").ok())?
}

/// The ways into the container's cgroup: the v2 directory to be born in, the v1 files to write oneself to. `init` is that of
/// an exec's container, as [`Cgroup::join_fds`] takes it.
pub fn entry<'a>(
    arena: &'a Arena,
    cgroup: &Cgroup,
    init: Option<&str>,
) -> Result<(Option<BorrowedFd<'a>>, &'a [BorrowedFd<'a>])> {
    let fds = cgroup.join_fds(init)?;
    let join = fds.tasks.into_iter().map(|fd| arena.fd(fd)).collect();
    Ok((fds.clone_into.map(|fd| arena.fd(fd)), arena.list(join)))
}

/// The text for oom_score_adj.
pub fn oom_score_adj(arena: &Arena, value: Option<i32>) -> Option<&[u8]> {
    value.map(|v| arena.bytes(v.to_string().as_bytes()))
}

/// runc's name of a container's session keyring.
pub fn keyring<'a>(arena: &'a Arena, id: &str, none: bool) -> Result<Option<&'a std::ffi::CStr>> {
    if none { Ok(None) } else { arena.text(format!("_ses.{id}"), "id").map(Some) }
}

/// The streams of a process.
pub fn stdio<'a>(arena: &'a Arena, process: &Process, stdio: &Stdio) -> Result<PlanStdio<'a>> {
    if process.terminal() == Some(true) {
        let size = process.console_size().unwrap_or_default();
        let cells = |value: u64, field: &str| {
            u16::try_from(value)
                .map_err(|_| Error::invalid(format!("process.consoleSize.{field}: {value} is out of range")))
        };
        return Ok(PlanStdio::Terminal {
            rows: cells(size.height(), "height")?,
            columns: cells(size.width(), "width")?,
            bare_newlines: matches!(stdio, Stdio::Relayed),
        });
    }
    let keep = |fd: &OwnedFd| -> Result<BorrowedFd<'a>> { Ok(arena.fd(fd.try_clone().context("dup stdio")?)) };
    match stdio {
        Stdio::Inherit => Ok(PlanStdio::Inherit),
        Stdio::Null | Stdio::Relayed => {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            let null = arena.fd(null.context("open /dev/null")?);
            Ok(PlanStdio::Fds([null; 3]))
        }
        Stdio::Fds([stdin, stdout, stderr]) => Ok(PlanStdio::Fds([keep(stdin)?, keep(stdout)?, keep(stderr)?])),
    }
}
