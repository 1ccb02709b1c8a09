//! The phases of create after the check. Each one holds the guards of all that has been created so far.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
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

/// The container has its id, its cgroup and its resctrl group, and no process.
pub struct Reserved<'c> {
    // Fields are dropped from here down.
    devices: NetDevices,
    cgroup: CgroupSetup<'c>,
    rdt: rdt::PendingGroup,
    draft: Draft,
    // The other fields have no effect when they are dropped. The caller of `take` owns the guard of the hooks.
    poststop: &'c mut PoststopGuard,
    hooks: CreateHooks,
    record: State,
    listener: Option<OwnedFd>,
}

impl<'c> Reserved<'c> {
    /// Reserves the id, and creates the cgroup with its limits and the resctrl group.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if the id is in use. Otherwise names the operation that the host refuses.
    pub fn take(
        options: &Options<'_>,
        bundle: &Bundle,
        (cgroup, limits): (&'c Cgroup, Limits),
        poststop: &'c mut PoststopGuard,
    ) -> Result<Self> {
        let spec = &bundle.spec;
        let draft = Draft::new(options.root, options.id)?;
        if options.sd_notify {
            sd_notify::make_dir(draft.dir())?;
        }
        let mut record = state::record(options.id, spec, &bundle.dir, &plan::rootfs_path(bundle), cgroup)?;
        record.process.keyring = !options.no_new_keyring;
        let intel_rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let mut rdt = rdt::PendingGroup::of(intel_rdt, options.id, rdt::root)?;
        record.rdt = rdt.group();
        // After a crash, state.json says what must be cleaned up. So it is written before anything else is created.
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

    /// Plans init and clones its process.
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
                // The plan holds copies of all that it needs. After the clone, each write to a freed page would copy
                // the page, because parent and child share it until execve(2).
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

    /// Returns the container's state directory.
    pub fn dir(&self) -> &Path {
        self.draft.dir()
    }

    /// Puts CRIU into the cgroup and the resctrl group, so that the processes that it makes are born there.
    ///
    /// # Errors
    /// The kernel or systemd refuses.
    pub fn place_maker(&mut self, cgroup: &Cgroup, pid: i32) -> Result<()> {
        if cgroup.exists_before_init() {
            cgroup.add(pid)?;
        }
        self.cgroup.add_init(pid)?;
        self.rdt.add_process(pid)
    }

    /// Moves network devices to a restored init, and runs the hooks of create.
    ///
    /// # Errors
    /// The error of the first device or hook that fails.
    pub fn set_up_restored(&mut self, pid: i32) -> Result<()> {
        self.devices.move_to(pid)?;
        self.poststop.arm(&self.record);
        self.hooks.run(self.record.oci_state(), pid)
    }

    /// Writes the final state of a container whose init exists. `namespaces` are those that an exec joins.
    ///
    /// # Errors
    /// As write(2), with the path.
    pub fn record_init(&mut self, pid: i32, namespaces: u32, filter: Option<&Filter>) -> Result<()> {
        self.record.pid = pid;
        self.record.start_time = proc::stat(pid)?.map_or(0, |stat| stat.start_time);
        self.record.namespaces = namespaces;
        self.draft.write(&self.record)?;
        filter.map_or(Ok(()), |filter| self.draft.write_filter(filter))
    }

    /// Keeps the container. After this nothing is undone.
    pub fn keep(self, filter: Option<Arc<Filter>>) -> state::Container {
        self.devices.keep();
        self.cgroup.keep();
        self.rdt.keep();
        self.poststop.disarm();
        self.draft.keep(self.record, filter)
    }
}

/// Makes glibc's malloc consolidate its fast and unsorted bins now, before the clone.
///
/// malloc delays that until a large request, and consolidation writes to every freed block.
fn settle() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 16)));
}

/// Clones the process that becomes init.
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
    let bounds = Bounds { abort, timeout: spawn::child_timeout(&plan.plan) };
    spawn::spawn(&plan.plan, &how, bounds, channel)
}

/// init's process exists, and waits for the parent.
pub struct Spawned<'o, 'a, 'c> {
    // Fields are dropped from here down. The process is killed first.
    pending: Pending<'o>,
    mounted: HostMount<'a>,
    plan: InitPlan<'a>,
    reserved: Reserved<'c>,
}

impl<'o, 'a, 'c> Spawned<'o, 'a, 'c> {
    /// Does what only the parent can do for init, and answers its requests until it is at the barrier.
    ///
    /// # Errors
    /// The failure of init or of a hook, or the error of an answer.
    pub fn set_up(mut self, cgroup: &Cgroup) -> Result<AtBarrier<'o, 'a, 'c>> {
        self.place()?;
        match self.pending.go() {
            // init has died. The channel holds its last message, or the OOM count shows why; both are read below.
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
            End::Closed | End::Unheard => return Err(ended_early(cgroup)),
        }
        self.reserved.cgroup.delegate(self.pending.pid(), self.plan.cgroup_owner)?;
        Ok(AtBarrier(self))
    }

    /// Writes the id maps of a new user namespace, and puts init in its cgroup and its resctrl group.
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

/// Returns the error for an init that exits without a message.
fn ended_early(cgroup: &Cgroup) -> Error {
    let text = match cgroup.oom_kills() {
        Ok(kills) if kills > 0 => "container init was OOM-killed (memory limit too low?)",
        _ => "container init ended before it was ready",
    };
    Error::new(Kind::Internal, text).context("unable to start container process")
}

/// init waits at the barrier. Only the files and the commit are left.
pub struct AtBarrier<'o, 'a, 'c>(Spawned<'o, 'a, 'c>);

impl AtBarrier<'_, '_, '_> {
    /// Writes the final state, and keeps the container. After this nothing is undone.
    ///
    /// # Errors
    /// As write(2), with the path.
    pub fn commit(self, options: &Options<'_>, filter: Option<Arc<Filter>>) -> Result<Created> {
        let mut spawned = self.0;
        let (pid, namespaces) = (spawned.pending.pid(), spawned.plan.own_namespaces);
        spawned.reserved.record_init(pid, namespaces, filter.as_deref())?;
        if let Some(path) = options.pid_file {
            pid_file::write(path, pid)?;
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
