//! create: a bundle becomes a container whose init waits at the barrier.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::plan::{Enter, Plan, Source};
use oci_spec::runtime::LinuxResources;
use rustix::mount::UnmountFlags;

use crate::{
    Context, Error, Kind, Result, Stdio,
    arena::Arena,
    cgroup::{Cgroup, Limits, Manager, Rights, Rootless, Setup},
    container::{
        pid_file, start_socket,
        state::{self, Container, Draft, State},
    },
    host::{kernel, open_files, proc},
    id_maps::Ids,
    leaves::{
        caps,
        hooks::{self, CreateHooks},
        mount,
        network::devices::NetDevices,
        rdt, rlimit, sd_notify,
        seccomp::agent,
        user,
    },
    namespace::{
        self,
        enter::{PreEntry, UsernsHelper},
        kind,
        thread::run_in_mount_ns,
    },
    plan::{self, Choices, InitPlan},
    spawn::{
        self, Bounds, Outcome, Pending,
        failure::{self, Names},
    },
    spec::{bundle::Bundle, check::rootless},
};

/// What to create and how.
pub struct Options<'a> {
    /// State root; the state is kept in `<root>/<id>`.
    pub root: &'a Path,
    /// The container's id.
    pub id: &'a str,
    /// The bundle, as the front door has loaded and changed it.
    pub bundle: Bundle,
    /// Standard streams, unless the process has a terminal.
    pub stdio: Stdio,
    /// Who will start it.
    pub barrier: Barrier,
    /// Gets init's pid.
    pub pid_file: Option<&'a Path>,
    /// Chroot instead of pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Fds from 3 on for the payload.
    pub preserve_fds: u32,
    /// Who makes the cgroup.
    pub cgroup_manager: Manager,
    /// Give the container a place for a notification socket ([`sd_notify`]).
    pub sd_notify: bool,
    /// `--rootless`: whether cgroup setup that the host forbids is skipped.
    pub rootless: Rootless,
    /// Becomes readable when the caller gives the container up; then init is ended, and nothing is left.
    pub abort: Option<BorrowedFd<'a>>,
    /// Gets what a user should hear, at once: if there is to be no container, this may be why.
    pub warn: &'a dyn Fn(&str),
}

/// Who will start the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// This process, by the fd that it gets back.
    Inherited,
    /// Any process, by a socket in the state directory.
    Listening,
}

/// A container in the state "created".
pub struct Created {
    /// Its record.
    pub container: Container,
    /// init's pidfd.
    pub pidfd: OwnedFd,
    /// What releases init; `None` with [`Barrier::Listening`].
    pub barrier: Option<OwnedFd>,
    /// The pty master, when the process has a terminal.
    pub console: Option<OwnedFd>,
}

/// runc's warning.
const NO_WAY_TO_KILL: &str = "Creating a rootless container with no cgroup and no private pid namespace. Such \
configuration is strongly discouraged (as it is impossible to properly kill all container's processes)";

/// Creates a container.
///
/// # Errors
/// Whatever is wrong with the bundle, the host or the request, named; nothing is left behind.
pub fn create(options: Options<'_>) -> Result<Created> {
    make(options).map_err(kernel::explain)
}

fn make(options: Options<'_>) -> Result<Created> {
    state::check_id(options.id)?;
    let mut bundle = options.bundle;
    if options.sd_notify {
        sd_notify::add_to_spec(&mut bundle.spec, &options.root.join(options.id))?;
    }
    let mounts = bundle.spec.mounts().as_deref().unwrap_or_default().len();
    open_files::raise_own_for(mounts.saturating_add(usize::try_from(options.preserve_fds).unwrap_or(usize::MAX)));
    let process =
        bundle.spec.process().as_ref().ok_or_else(|| Error::invalid("config.json: process: must be specified"))?;
    let linux = bundle.spec.linux().as_ref();
    let cgroups_path = linux.and_then(|l| l.cgroups_path().as_deref());
    let rights = options.rootless.resolve(cgroups_path, options.cgroup_manager);
    rootless::check(&bundle.spec, rights)?;
    if rights == Rights::Full && bundle.spec.annotations().as_ref().is_some_and(user::keeps_groups) {
        let groups = user::own_groups()?;
        (options.warn)(&format!("{}: the container keeps the runtime's groups: {groups:?}", user::KEEP_GROUPS));
    }
    for warning in bundle.warnings.iter().chain(&caps::warnings(process.capabilities().as_ref())) {
        (options.warn)(warning);
    }
    let none = LinuxResources::default();
    let resources = linux.and_then(|l| l.resources().as_ref()).unwrap_or(&none);
    let mut cgroup = Cgroup::resolve(cgroups_path, options.id, options.cgroup_manager, rights)?;
    let limits = Limits::new(cgroup.hierarchy(), resources)?;
    for warning in limits.warnings() {
        (options.warn)(warning);
    }
    if rights == Rights::Delegated && cgroup.is_managed() {
        cgroup = cgroup.restrict(&limits, cgroups_path.is_some_and(|path| !path.as_os_str().is_empty()))?;
    }
    let filter = plan::filter(&bundle.spec)?;

    // Dropped after all that follows: poststop hooks run when nothing is left.
    let mut poststop = PoststopGuard::default();
    let draft = Draft::new(options.root, options.id)?;
    if options.sd_notify {
        sd_notify::make_dir(draft.dir())?;
    }
    let mut record = state::record(options.id, &bundle.spec, &bundle.dir, &plan::rootfs_path(&bundle), &cgroup)?;
    record.process.keyring = !options.no_new_keyring;
    let intel_rdt = linux.and_then(|l| l.intel_rdt().as_ref());
    let mut rdt = rdt::PendingGroup::of(intel_rdt, options.id, rdt::root)?;
    record.rdt = rdt.group();
    if !cgroup.is_managed() && !record.private_pid {
        (options.warn)(NO_WAY_TO_KILL);
    }
    // Before there is anything to clean up: a crash from here on finds on record where to look.
    draft.write(&record)?;
    let listener = match options.barrier {
        Barrier::Inherited => None,
        Barrier::Listening => Some(start_socket::listen(draft.dir())?),
    };
    let mut setup = Setup::begin(&cgroup, limits, options.id, bundle.spec.annotations().as_ref())?;
    rdt.create(intel_rdt)?;
    record.rdt = rdt.group();

    let inside = UsernsHelper::for_spec(&bundle.spec, &Ids::from_spec(&bundle.spec)?)?;
    if let Some(inside) = &inside {
        rootless::check_process(process, inside.setgroups())?;
    }
    let arena = Arena::default();
    let (ours, theirs) = spawn::channel()?;
    let choices = Choices {
        stdio: &options.stdio,
        listener: listener.as_ref().map(AsFd::as_fd),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds,
        inside: inside.as_ref(),
    };
    let hooks = CreateHooks::of(&bundle.spec);
    let mut devices = NetDevices::of(linux);
    let filter_of_init = filter.as_deref();
    let planned =
        |channel: BorrowedFd<'_>| plan::init(&arena, &bundle, &record, &cgroup, filter_of_init, channel, &choices);
    let (planned, pending) = match &inside {
        None => {
            let planned = planned(theirs.as_fd())?;
            // What it says is in the plan by now. After the clone every page that giving it back writes to would be copied
            // first: the child has them, too, until its execve.
            drop(bundle);
            settle();
            poststop.arm(&record);
            let pending = clone(&planned, (ours, theirs), options.abort, false)?;
            (planned, pending)
        }
        Some(inside) => {
            let pre_entry = PreEntry {
                oom_score_adj: process.oom_score_adj(),
                cgroup: Some(&cgroup).filter(|cgroup| cgroup.exists_before_init()),
                init: None,
            };
            inside.run_in_userns(&pre_entry, || {
                let planned = planned(theirs.as_fd())?;
                poststop.arm(&record);
                let pending = clone(&planned, (ours, theirs), options.abort, true)?;
                Ok((planned, pending))
            })?
        }
    };
    let mounted = InHost::of(&planned.plan);
    let pending = birth(&planned, pending, &cgroup, (&mut setup, &rdt), &record, (&hooks, &mut devices))?;
    setup.delegate(pending.pid(), planned.cgroup_owner)?;

    record.pid = pending.pid();
    record.start_time = proc::stat(record.pid).map_or(0, |s| s.start_time);
    record.namespaces = planned.own_namespaces;
    draft.write(&record)?;
    if let Some(filter) = &filter {
        draft.write_filter(filter)?;
    }
    if let Some(path) = options.pid_file {
        pid_file::write(path, record.pid)?;
    }
    let child = pending.keep()?;
    setup.keep();
    rdt.keep();
    devices.keep();
    mounted.keep();
    poststop.disarm();
    let barrier = match options.barrier {
        Barrier::Inherited => Some(child.channel),
        Barrier::Listening => None,
    };
    Ok(Created { container: draft.keep(record, filter), pidfd: child.pidfd, barrier, console: child.console })
}

/// Runs the poststop hooks of a container that is not kept, when everything else of it has been undone.
#[derive(Default)]
struct PoststopGuard(Option<State>);

impl PoststopGuard {
    /// From now on there is a container to be undone.
    fn arm(&mut self, state: &State) {
        self.0 = (!state.hooks.poststop.is_empty()).then(|| state.clone());
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for PoststopGuard {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            hooks::poststop(&state.hooks, state.oci_state());
        }
    }
}

/// Takes the tree of a container that is not kept out of the host's own mounts again, or out of those that it joined.
struct InHost<'a> {
    tree: Option<BorrowedFd<'a>>,
    joined: Option<BorrowedFd<'a>>,
}

impl<'a> InHost<'a> {
    fn of(plan: &Plan<'a>) -> Self {
        let rootfs = plan.container.as_ref().map(|container| &container.rootfs);
        let tree = rootfs.filter(|rootfs| rootfs.enter == Enter::InHost).map(|rootfs| rootfs.tree);
        let joined = plan.namespaces.joins.iter().find(|join| join.flags & kind::MOUNT != 0).map(|join| join.fd);
        Self { tree, joined }
    }

    fn keep(mut self) {
        self.tree = None;
    }
}

impl Drop for InHost<'_> {
    fn drop(&mut self) {
        let (Some(tree), joined) = (self.tree, self.joined) else { return };
        // One that never got there is refused, and goes with its fd.
        let _ = run_in_mount_ns(joined, || {
            rustix::process::fchdir(tree)?;
            Ok(rustix::mount::unmount(".", UnmountFlags::DETACH)?)
        });
    }
}

/// Has the C library sort what was freed, which it puts off until somebody asks for more than it has at hand (malloc's
/// fast and unsorted bins), and which writes to every freed block.
fn settle() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 16)));
}

/// Makes the process that will be init.
fn clone<'a>(
    planned: &InitPlan<'_>,
    channel: (OwnedFd, OwnedFd),
    abort: Option<BorrowedFd<'a>>,
    beside: bool,
) -> Result<Pending<'a>> {
    let how = spawn::Clone {
        flags: planned.placement_clone,
        cgroup: planned.born_in,
        instead: None,
        cpus: None,
        clocks: planned.clocks.as_deref(),
        beside,
    };
    let bounds = Bounds { abort, patience: spawn::patience(&planned.plan) };
    spawn::spawn(&planned.plan, &how, bounds, channel)
}

/// From the clone to the barrier.
fn birth<'a>(
    planned: &InitPlan<'_>,
    mut pending: Pending<'a>,
    cgroup: &Cgroup,
    (setup, rdt): (&mut Setup<'_>, &rdt::PendingGroup),
    record: &State,
    (hooks, devices): (&CreateHooks, &mut NetDevices),
) -> Result<Pending<'a>> {
    if let Some(ids) = &planned.maps {
        namespace::user::write_maps(pending.pid(), ids).context("linux")?;
    }
    if let Some(value) = planned.oom_score_adj {
        proc::write_oom_score_adj(pending.pid(), value).context("process.oomScoreAdj")?;
    }
    if planned.user_namespace {
        rlimit::raise_hard_limits(pending.pid(), planned.plan.process.rlimits);
    }
    setup.add_init(pending.pid())?;
    rdt.add_process(pending.pid())?;
    match pending.go() {
        // A child that has died already has said why, or the limit that killed it shows: both are seen below.
        Err(e) if matches!(e.errno(), Some(libc::EPIPE | libc::ECONNRESET)) => {}
        other => other?,
    }
    let what = "unable to start container process: error during container init";
    let mut outcome = pending.wait()?;
    while let Outcome::MapIds(index, tree) = &outcome {
        map_ids(planned, *index, tree).context(what)?;
        pending.ids_mapped()?;
        outcome = pending.wait()?;
    }
    if let Outcome::RunHooks = outcome {
        devices.move_to(pending.pid()).context(what)?;
        hooks.run(record.oci_state(), pending.pid()).context(what)?;
        pending.hooks_done()?;
        outcome = pending.wait()?;
    }
    if let (Outcome::SeccompListener(number), Some(listener)) = (&outcome, &record.process.listener) {
        let pid = pending.pid();
        let about = (record.oci_state(), "creating", pid);
        agent::send(listener, about, (pid, pending.pidfd(), *number)).context(what)?;
        pending.agent_ready()?;
        outcome = pending.wait()?;
    }
    match outcome {
        Outcome::MapIds(..) | Outcome::RunHooks | Outcome::SeccompListener(_) => Err(spawn::foreign()),
        Outcome::Ready => Ok(pending),
        Outcome::Failed(failure, output) if hooks::is_hook(failure) => {
            Err(hooks::to_error("createContainer", &hooks.create_container, failure, output).context(what))
        }
        Outcome::Failed(failure, _) => {
            let names = Names {
                mounts: &planned.mount_names,
                program: &record.process.program,
                cpus_bound: planned.cpus_bound,
            };
            Err(failure::to_error(failure, Some(&planned.plan), &names).context(what))
        }
        Outcome::Closed => {
            let text = match cgroup.oom_kills() {
                Ok(kills) if kills > 0 => "container init was OOM-killed (memory limit too low?)",
                _ => "container init ended before it was ready",
            };
            Err(Error::new(Kind::Internal, text).context("unable to start container process"))
        }
    }
}

/// Maps the ids of a tree that init has made for the mount of this index.
fn map_ids(planned: &InitPlan<'_>, index: u32, tree: &OwnedFd) -> Result<()> {
    let n = usize::try_from(index).unwrap_or(usize::MAX);
    let mount = planned.plan.container.as_ref().and_then(|container| container.rootfs.mounts.get(n));
    let (Some(Source::RootBind(inside)), Some(name)) = (mount.map(|mount| &mount.source), planned.mount_names.get(n))
    else {
        return Err(spawn::foreign());
    };
    mount::map_inside(inside, tree.as_fd()).with_context(|| format!("error mounting {name}"))
}
