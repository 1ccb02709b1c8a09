//! The phases of create from the first thing that is made on, each with the guards of all that is made by then.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use super::{
    Barrier, Created, Options,
    guards::{HostMount, PoststopGuard},
};
use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    cgroup::{Cgroup, Limits, Setup as CgroupSetup},
    container::{
        pid_file, start_socket,
        state::{self, Draft, State},
    },
    host::proc,
    id_maps::Ids,
    leaves::{
        hooks::{self, CreateHooks},
        network::devices::NetDevices,
        rdt, rlimit, sd_notify,
        seccomp::Filter,
    },
    namespace::{
        self,
        enter::{PreEntry, UsernsHelper},
    },
    plan::{
        self,
        init::{InitPlan, Sources},
    },
    spawn::{
        self, Bounds, Pending,
        converse::{Answers, DURING_INIT, End, Peer, Setup, converse},
        failure::{self, Names},
    },
    spec::{bundle::Bundle, check::rootless},
};

/// The id, the cgroup and the resctrl group are the container's. There is no process yet.
pub struct Reserved<'c> {
    // Dropped from here down: poststop hooks run when nothing else is left.
    devices: NetDevices,
    cgroup: CgroupSetup<'c>,
    rdt: rdt::PendingGroup,
    draft: Draft,
    poststop: PoststopGuard,
    // These hold nothing.
    hooks: CreateHooks,
    record: State,
    listener: Option<OwnedFd>,
}

impl<'c> Reserved<'c> {
    /// Takes the id, makes the cgroup with its limits, and the resctrl group.
    ///
    /// # Errors
    /// The id is taken; names what the host refuses.
    pub fn take(options: &Options<'_>, bundle: &Bundle, cgroup: &'c Cgroup, limits: Limits) -> Result<Self> {
        let spec = &bundle.spec;
        let poststop = PoststopGuard::default();
        let draft = Draft::new(options.root, options.id)?;
        if options.sd_notify {
            sd_notify::make_dir(draft.dir())?;
        }
        let mut record = state::record(options.id, spec, &bundle.dir, &plan::rootfs_path(bundle), cgroup)?;
        record.process.keyring = !options.no_new_keyring;
        let intel_rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let mut rdt = rdt::PendingGroup::of(intel_rdt, options.id, rdt::root)?;
        record.rdt = rdt.group();
        // Before there is anything to clean up: after a crash the record says where to look.
        draft.write(&record)?;
        let listener = match options.barrier {
            Barrier::Inherited => None,
            Barrier::Listening => Some(start_socket::listen(draft.dir())?),
        };
        let cgroup = CgroupSetup::begin(cgroup, limits, options.id, spec.annotations().as_ref())?;
        rdt.create(intel_rdt)?;
        record.rdt = rdt.group();
        let (hooks, devices) = (CreateHooks::of(spec), NetDevices::of(spec.linux().as_ref()));
        Ok(Self { devices, cgroup, rdt, draft, poststop, hooks, record, listener })
    }

    /// Plans init and makes its process.
    ///
    /// # Errors
    /// As [`Sources::plan`] and [`spawn::spawn`].
    pub fn spawn<'o, 'a>(
        mut self,
        arena: &'a Arena,
        bundle: Bundle,
        options: &Options<'o>,
        cgroup: &Cgroup,
        filter: Option<&'a Filter>,
    ) -> Result<Spawned<'o, 'a, 'c>> {
        let process = bundle.spec.process().as_ref();
        let inside = UsernsHelper::for_spec(&bundle.spec, &Ids::from_spec(&bundle.spec)?)?;
        if let (Some(inside), Some(process)) = (&inside, process) {
            rootless::check_process(process, inside.setgroups())?;
        }
        let (ours, theirs) = spawn::channel()?;
        let sources = Sources {
            bundle: &bundle,
            options,
            record: &self.record,
            cgroup,
            filter,
            listener: self.listener.take().map(|socket| arena.fd(socket)),
            inside: inside.as_ref(),
        };
        let (plan, pending) = match &inside {
            None => {
                let plan = sources.plan(arena, theirs.as_fd())?;
                // The plan has copied all of config.json that it needs. After the clone each page that a free writes to
                // would be copied first, since the child has it, too, until its execve.
                drop(bundle);
                settle();
                self.poststop.arm(&self.record);
                let pending = clone(&plan, (ours, theirs), options.abort, false)?;
                (plan, pending)
            }
            Some(inside) => {
                let pre_entry = PreEntry {
                    oom_score_adj: process.and_then(|process| process.oom_score_adj()),
                    cgroup: Some(cgroup).filter(|cgroup| cgroup.exists_before_init()),
                    init: None,
                };
                inside.run_in_userns(&pre_entry, || {
                    let plan = sources.plan(arena, theirs.as_fd())?;
                    self.poststop.arm(&self.record);
                    let pending = clone(&plan, (ours, theirs), options.abort, true)?;
                    Ok((plan, pending))
                })?
            }
        };
        Ok(Spawned { mounted: HostMount::of(&plan.plan), pending, plan, reserved: self })
    }

    fn keep(self, filter: Option<Arc<Filter>>) -> state::Container {
        self.devices.keep();
        self.cgroup.keep();
        self.rdt.keep();
        self.poststop.disarm();
        self.draft.keep(self.record, filter)
    }
}

/// Has the C library sort what was freed, which it puts off until somebody asks for more than it has at hand (malloc's
/// fast and unsorted bins), and which writes to every freed block.
fn settle() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 16)));
}

/// Makes the process that will be init.
fn clone<'o>(
    plan: &InitPlan<'_>,
    channel: (OwnedFd, OwnedFd),
    abort: Option<BorrowedFd<'o>>,
    beside: bool,
) -> Result<Pending<'o>> {
    let how = spawn::Clone {
        flags: plan.placement_clone,
        cgroup: plan.born_in,
        instead: None,
        cpus: None,
        clocks: plan.clocks.as_deref(),
        beside,
    };
    let bounds = Bounds { abort, patience: spawn::patience(&plan.plan) };
    spawn::spawn(&plan.plan, &how, bounds, channel)
}

/// Init's process is there, and waits to begin.
pub struct Spawned<'o, 'a, 'c> {
    // Dropped from here down: the process is ended first.
    pending: Pending<'o>,
    mounted: HostMount<'a>,
    plan: InitPlan<'a>,
    reserved: Reserved<'c>,
}

impl<'o, 'a, 'c> Spawned<'o, 'a, 'c> {
    /// Gives init what only the parent can give, and has it do its work up to the barrier.
    ///
    /// # Errors
    /// The failure of init, of a hook, or of the answer to a request of init's.
    pub fn set_up(mut self, cgroup: &Cgroup) -> Result<AtBarrier<'o, 'a, 'c>> {
        self.place()?;
        match self.pending.go() {
            // A child that has died already has said why, or the limit that killed it shows: both are seen below.
            Err(e) if matches!(e.errno(), Some(libc::EPIPE | libc::ECONNRESET)) => {}
            other => other?,
        }
        let reserved = &mut self.reserved;
        let answers = Answers {
            state: reserved.record.oci_state(),
            status: "creating",
            init: None,
            listener: reserved.record.process.listener.as_ref(),
            setup: Some(Setup {
                plan: &self.plan.plan,
                mount_names: &self.plan.mount_names,
                hooks: &reserved.hooks,
                devices: &mut reserved.devices,
            }),
        };
        match converse(&mut Peer::Cloned(&mut self.pending), answers)? {
            End::Ready => {}
            End::Failed(failure, output) if hooks::is_hook(failure) => {
                let list = &self.reserved.hooks.create_container;
                return Err(hooks::to_error("createContainer", list, failure, output).context(DURING_INIT));
            }
            End::Failed(failure, _) => {
                let names = Names {
                    mounts: &self.plan.mount_names,
                    program: &self.reserved.record.process.program,
                    cpus_bound: self.plan.cpus_bound,
                };
                return Err(failure::to_error(failure, Some(&self.plan.plan), &names).context(DURING_INIT));
            }
            End::Closed => return Err(ended_early(cgroup)),
        }
        self.reserved.cgroup.delegate(self.pending.pid(), self.plan.cgroup_owner)?;
        Ok(AtBarrier(self))
    }

    /// Maps the ids of a new user namespace, and puts init into its cgroup and its resctrl group.
    fn place(&mut self) -> Result<()> {
        let (pid, plan) = (self.pending.pid(), &self.plan);
        if let Some(ids) = &plan.maps {
            namespace::user::write_maps(pid, ids).context("linux")?;
        }
        if let Some(value) = plan.oom_score_adj {
            proc::write_oom_score_adj(pid, value).context("process.oomScoreAdj")?;
        }
        if plan.user_namespace {
            rlimit::raise_hard_limits(pid, plan.plan.process.rlimits);
        }
        self.reserved.cgroup.add_init(pid)?;
        self.reserved.rdt.add_process(pid)
    }
}

/// The error for an init that has ended without a word.
fn ended_early(cgroup: &Cgroup) -> Error {
    let text = match cgroup.oom_kills() {
        Ok(kills) if kills > 0 => "container init was OOM-killed (memory limit too low?)",
        _ => "container init ended before it was ready",
    };
    Error::new(Kind::Internal, text).context("unable to start container process")
}

/// Init waits at the barrier; all that is left is to write down and to keep.
pub struct AtBarrier<'o, 'a, 'c>(Spawned<'o, 'a, 'c>);

impl AtBarrier<'_, '_, '_> {
    /// Completes the record, and keeps the container: from here on nothing is undone.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn commit(self, options: &Options<'_>, filter: Option<Arc<Filter>>) -> Result<Created> {
        let mut spawned = self.0;
        let record = &mut spawned.reserved.record;
        record.pid = spawned.pending.pid();
        record.start_time = proc::stat(record.pid).map_or(0, |stat| stat.start_time);
        record.namespaces = spawned.plan.own_namespaces;
        spawned.reserved.draft.write(record)?;
        if let Some(filter) = &filter {
            spawned.reserved.draft.write_filter(filter)?;
        }
        if let Some(path) = options.pid_file {
            pid_file::write(path, record.pid)?;
        }
        let child = spawned.pending.keep()?;
        spawned.mounted.keep();
        let container = spawned.reserved.keep(filter);
        let barrier = match options.barrier {
            Barrier::Inherited => Some(child.channel),
            Barrier::Listening => None,
        };
        Ok(Created { container, pidfd: child.pidfd, barrier, console: child.console })
    }
}
