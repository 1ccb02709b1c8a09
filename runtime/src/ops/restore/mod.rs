//! The operation restore: makes a container from a bundle and from the images of a checkpoint, with CRIU.
//!
//! ```text
//! Checked -> Reserved -> CRIU runs in the cgroup -> processes exist -> compared with config.json -> recorded -> released
//! ```
//!
//! CRIU takes credentials, capabilities and filters from the images, which may be a stranger's. Therefore the processes
//! are compared with config.json while they are still stopped, and killed if they may do more.

mod compare;
mod root;
mod view;

use std::{
    collections::HashSet,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Instant,
};

use berth_init::sys::{set_loopback_up as set_loopback_up_here, setns, standard_stream, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};

use self::compare::Expected;
use super::{
    checkpoint::common::{
        CgroupsMode, Common, Directories, check_version, config_file, failed, outer_namespaces, refuse_user,
    },
    create::{Checked, Created, guards::PoststopGuard, phases::Reserved},
};
use crate::{
    Context, Error, Kind, Result, Stdio,
    cgroup::{Cgroup, KILL_TIMEOUT},
    container::pid_file,
    criu::{
        Event, Images, Options as CriuOptions, Session, Verb, find, images::is_replaced, option, session::Notification,
    },
    host::{kernel, proc},
    leaves::{mount::external, seccomp::Filter},
    namespace::{self, kind, path_to_join, thread::run_in_thread},
    plan,
    spec::bundle::Bundle,
    sys,
};

/// The file of CRIU's messages.
const LOG: &str = "restore.log";
/// The number of the first further file in the process of CRIU.
const FIRST_FILE: i32 = 4;

/// The request, besides that of create.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// `--image-path`
    pub images: &'a Path,
    /// The options that a dump has as well.
    pub common: Common<'a>,
    /// `--lsm-profile`: another profile than the one in the images, such as `apparmor:NAME`.
    pub lsm_profile: Option<&'a str>,
    /// `--lsm-mount-context`
    pub lsm_mount_context: Option<&'a str>,
}

/// Restores a container. It runs when this returns, and its init is a child of this process.
///
/// # Errors
/// [`Kind::AlreadyExists`] if the id is in use. [`Kind::NotFound`] without CRIU. CRIU's own reason, with the path of its
/// log. [`Kind::FailedPrecondition`] if the images ask for more rights than config.json. After an error nothing is left.
pub fn restore(checked: Checked<'_>, options: &Options<'_>) -> Result<Created> {
    make(checked, options).map_err(kernel::explain)
}

fn make(checked: Checked<'_>, options: &Options<'_>) -> Result<Created> {
    let Checked { options: create, bundle, cgroup, limits, filter } = checked;
    refuse_user()?;
    let criu = find::criu()?;
    let images = Images::open(options.images)?;
    let descriptors = images.read_descriptors()?;
    let directories = Directories { images, work: options.common.work.map(Images::make_work).transpose()? };
    let null =
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")?;
    let streams = streams(&create.stdio, bundle.terminal(), null.as_fd());
    let outer = outer_namespaces(&bundle.spec)
        .map(|(_, key, path)| Ok((key, open_namespace(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let files: Vec<BorrowedFd<'_>> = outer.iter().map(|(_, file)| file.as_fd()).collect();

    let mut poststop = PoststopGuard::default();
    let reserved = Reserved::take(&create, &bundle, (&cgroup, limits), &mut poststop)?;
    let root = root::Place::make(reserved.dir())?;
    let cgroups = own_cgroup_namespace(&bundle.spec, &cgroup, options.common.cgroups_mode())?;
    let session = root.start(&criu, &bundle, (streams, &files), cgroups.as_ref().map(AsFd::as_fd))?;
    let makers = Makers { init: None, session, cgroup: &cgroup, done: false };
    let mut restoring = Restoring { makers, console: None, reserved };
    check_version(&mut restoring.makers.session)?;
    let maker = restoring.makers.session.pid();
    restoring.reserved.place_maker(&cgroup, maker)?;

    let mut request = request(&bundle, options, &directories, (&root, &cgroup))?;
    manage_cgroups(&mut request, options.common.cgroups_mode(), maker)?;
    inherit(&mut request, &descriptors, bundle.terminal(), outer.iter().map(|(key, _)| *key));
    if options.common.lazy_pages {
        restoring.makers.session.wait_without_bound();
    }
    let expected = Expected::of(&bundle.spec, options.lsm_profile)?;
    restoring.makers.session.begin(Verb::Restore, &request)?;
    let explain = |error| directories.explain(error, Verb::Restore, LOG);
    restoring.converse(&bundle.spec, &expected, filter.as_deref(), explain)?;
    root.remove();
    let Restoring { makers, console, reserved } = restoring;
    if let (Some(path), Some((pid, _))) = (create.pid_file, &makers.init) {
        pid_file::write(path, *pid)?;
    }
    let (_, pidfd) = makers.finish()?;
    Ok(Created { container: reserved.keep(filter), pidfd, barrier: None, console })
}

/// A restore in progress. The makers are dropped first.
struct Restoring<'c> {
    makers: Makers<'c>,
    console: Option<OwnedFd>,
    reserved: Reserved<'c>,
}

impl Restoring<'_> {
    /// Answers CRIU until the processes run. `explain` words a failure of CRIU.
    fn converse(
        &mut self,
        spec: &Spec,
        expected: &Expected,
        filter: Option<&Filter>,
        explain: impl Fn(Error) -> Error,
    ) -> Result<()> {
        loop {
            match self.makers.session.next().map_err(&explain)? {
                Event::Notified(notice) => {
                    self.answer(notice, spec, expected, filter)?;
                    self.makers.session.acknowledge().map_err(&explain)?;
                }
                Event::Done(_) if self.makers.init.is_some() => return Ok(()),
                Event::Done(_) => return Err(explain(nothing_restored())),
                Event::Failed { errno } => return Err(explain(failed(errno))),
            }
        }
    }

    fn answer(
        &mut self,
        notice: Notification,
        spec: &Spec,
        expected: &Expected,
        filter: Option<&Filter>,
    ) -> Result<()> {
        match notice.script.as_str() {
            "setup-namespaces" => {
                self.makers.open_init(notice.pid)?;
                set_loopback_up(spec, notice.pid)?;
                self.reserved.set_up_restored(notice.pid)
            }
            "orphan-pts-master" => {
                self.console = notice.file;
                Ok(())
            }
            "post-restore" => self.makers.open_init(notice.pid),
            // The processes have their final rights, and CRIU still stops them.
            "pre-resume" => {
                let init = self.makers.init.as_ref().ok_or_else(nothing_restored)?.0;
                let restored = self.makers.restored()?;
                expected.compare(init, &restored)?;
                let namespaces = view::check_namespaces(spec, init, &restored)?;
                view::finish_root(spec, init)?;
                view::check_mounts(spec, init)?;
                self.reserved.record_init(init, namespaces, filter)
            }
            _ => Ok(()),
        }
    }
}

/// The process of CRIU and the container's init. Dropping this ends both, and all processes in the cgroup at once:
/// without CRIU, which stops them, they would run.
struct Makers<'c> {
    init: Option<(i32, OwnedFd)>,
    session: Session,
    cgroup: &'c Cgroup,
    done: bool,
}

impl Makers<'_> {
    /// Opens the process that becomes init: a child of this process, because CRIU makes it a sibling of its own.
    fn open_init(&mut self, pid: i32) -> Result<()> {
        if self.init.is_none() {
            let number = Pid::from_raw(pid).ok_or_else(nothing_restored)?;
            self.init = Some((pid, pidfd_open(number, PidfdFlags::empty()).context("pidfd_open")?));
        }
        Ok(())
    }

    /// Returns init and its descendants, and the other processes in the cgroup, but for CRIU and its helpers.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] if the images put a process outside of the cgroup.
    fn restored(&self) -> Result<Vec<i32>> {
        let mut pids = self.family()?;
        if self.cgroup.is_managed() {
            let mut inside = self.cgroup.pids()?;
            inside.retain(|pid| !proc::descends(*pid, self.session.pid()));
            if let Some(outside) = pids.iter().find(|pid| !inside.contains(pid) && proc::exists(**pid)) {
                let text = format!("the restored process {outside} is not in the cgroup of the container");
                return Err(Error::new(Kind::FailedPrecondition, text));
            }
            pids = inside;
        }
        Ok(pids)
    }

    /// Returns init and its descendants.
    fn family(&self) -> Result<Vec<i32>> {
        let init = self.init.as_ref().ok_or_else(nothing_restored)?.0;
        let mut pids = proc::all().context("list the processes")?;
        pids.retain(|pid| proc::descends(*pid, init));
        Ok(pids)
    }

    /// Leaves the processes to themselves, and returns init.
    fn finish(mut self) -> Result<(i32, OwnedFd)> {
        let init = self.init.take().ok_or_else(nothing_restored)?;
        self.done = true;
        self.session.finish();
        Ok(init)
    }
}

impl Drop for Makers<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // They do not run yet, so each pid is that of the process that was looked at.
        for pid in self.family().unwrap_or_default().into_iter().filter_map(Pid::from_raw) {
            let _ = pidfd_open(pid, PidfdFlags::empty()).map(|fd| sys::send_signal(fd.as_fd(), libc::SIGKILL));
        }
        if self.cgroup.is_managed() {
            let until = Instant::now() + KILL_TIMEOUT;
            let _ = self.cgroup.signal_all(libc::SIGKILL, until, &mut HashSet::new());
        }
        if let Some((_, init)) = &self.init {
            let _ = sys::send_signal(init.as_fd(), libc::SIGKILL);
        }
        // init can be reaped once its tracer is gone.
        self.session.kill();
        if let Some((_, init)) = &self.init {
            sys::reap(init.as_fd());
        }
    }
}

fn nothing_restored() -> Error {
    Error::new(Kind::Internal, "no process was restored")
}

/// The streams that the processes get in place of the pipes that they had. A terminal of the container is in the images,
/// and needs nothing from outside.
fn streams<'s>(stdio: &'s Stdio, terminal: bool, null: BorrowedFd<'s>) -> [BorrowedFd<'s>; 3] {
    match stdio {
        Stdio::Inherit if !terminal => [0, 1, 2].map(|n| standard_stream(n).unwrap_or(null)),
        Stdio::Fds(fds) if !terminal => fds.each_ref().map(AsFd::as_fd),
        _ => [null; 3],
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.with_context(|| format!("linux.namespaces: open {}", path.display()))
}

/// Returns the request for CRIU, without the descriptors and the cgroups.
fn request(
    bundle: &Bundle,
    options: &Options<'_>,
    directories: &Directories,
    (root, cgroup): (&root::Place, &Cgroup),
) -> Result<CriuOptions> {
    let spec = &bundle.spec;
    let mut request = options.common.request(directories, LOG);
    request.switch(option::RST_SIBLING, true);
    request.switch(option::EVASIVE_DEVICES, true);
    request.text(option::ROOT, root.path().as_os_str().as_bytes());
    for (field, text) in
        [(option::LSM_PROFILE, options.lsm_profile), (option::LSM_MOUNT_CONTEXT, options.lsm_mount_context)]
    {
        if let Some(text) = text {
            request.text(field, text);
        }
    }
    if let Some(config) = config_file(spec)? {
        request.text(option::CONFIG_FILE, config.as_os_str().as_bytes());
    }
    for mount in external::external(spec, &bundle.dir, &plan::rootfs_path(bundle), cgroup)? {
        request.pair(option::EXT_MNT, mount.at.as_os_str().as_bytes(), mount.source.as_os_str().as_bytes());
    }
    request.pair(option::EXT_MNT, external::MASK, external::MASK);
    join_namespaces(&mut request, spec)?;
    Ok(request)
}

/// Adds the namespaces that the processes join by path, besides those of [`outer_namespaces`].
fn join_namespaces(request: &mut CriuOptions, spec: &Spec) -> Result<()> {
    for namespace in namespace::listed(spec) {
        let Some(path) = path_to_join(namespace) else { continue };
        let kind = namespace.typ();
        let name = match kind {
            LinuxNamespaceType::Network | LinuxNamespaceType::Pid => continue,
            LinuxNamespaceType::Cgroup => {
                return Err(Error::unsupported("linux.namespaces: CRIU cannot join a cgroup namespace"));
            }
            _ => namespace::file_name(kind),
        };
        request.pair(option::JOIN_NS, name, path.as_os_str().as_bytes());
    }
    Ok(())
}

/// Makes the cgroup namespace of config.json, for CRIU to run in: if it ignores cgroups, it makes none.
fn own_cgroup_namespace(spec: &Spec, cgroup: &Cgroup, mode: CgroupsMode) -> Result<Option<OwnedFd>> {
    let mut namespaces = namespace::listed(spec);
    let asked = namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup);
    // systemd makes a scope on v2 only for a process. Then `check_namespaces` ends the restore.
    if !asked || mode != CgroupsMode::Ignore || !cgroup.is_managed() || !cgroup.exists_before_init() {
        return Ok(None);
    }
    let made = sys::run_in_vfork_child(|| {
        cgroup.join(None)?;
        unshare(kind::CGROUP).context("unshare the cgroup namespace")?;
        open_namespace(Path::new("/proc/thread-self/ns/cgroup"))
    });
    made.flatten().map(Some)
}

/// Tells CRIU what to do with cgroups. The cgroup is that of its own process.
fn manage_cgroups(request: &mut CriuOptions, mode: CgroupsMode, pid: i32) -> Result<()> {
    if mode == CgroupsMode::Ignore {
        return Ok(());
    }
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            request.pair(option::CG_ROOT, controllers, path);
        }
    }
    Ok(())
}

/// Gives the processes new files for the pipes, and for the files of the host, that they had as standard streams, and
/// gives them namespaces of the host.
fn inherit<'k>(
    request: &mut CriuOptions,
    descriptors: &[String; 3],
    terminal: bool,
    namespaces: impl Iterator<Item = &'k str>,
) {
    for (number, link) in (0..).zip(descriptors).filter(|(_, link)| !terminal && is_replaced(link)) {
        request.inherit(link, number);
    }
    for (number, key) in (FIRST_FILE..).zip(namespaces) {
        request.inherit(key, number);
    }
}

/// Sets up the loopback device of a new network namespace, as create does. CRIU leaves the namespace empty.
fn set_loopback_up(spec: &Spec, pid: i32) -> Result<()> {
    let mut namespaces = namespace::listed(spec);
    if !namespaces.any(|n| n.typ() == LinuxNamespaceType::Network && path_to_join(n).is_none()) {
        return Ok(());
    }
    let file = open_namespace(Path::new(&format!("/proc/{pid}/ns/net")))?;
    run_in_thread(&file, |file| {
        setns(file.as_fd(), kind::NETWORK).context("join the container's network namespace")?;
        set_loopback_up_here().context("set the loopback device up")
    })
}
