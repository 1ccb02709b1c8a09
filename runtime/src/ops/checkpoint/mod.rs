//! The operation checkpoint: writes a running container to a directory of images, with CRIU.
//!
//! CRIU freezes the container, writes its processes, and then kills them or lets them run. The caller deletes a container
//! that was not left running. If anything fails, the container runs on.

pub mod common;
mod lost;

use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use berth_init::path;
use rustix::fs::{FileType, Mode, OFlags, fstat};

use self::common::{Common, Directories, check_version, config_file, failed, outer_namespaces, refuse_user};
use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    cgroup::Hierarchy,
    container::state::{Container, Status},
    criu::{
        Event, Images, Options as CriuOptions, Session, Verb, Version, find,
        images::{is_outer_file, streams_of},
        message::Feature,
        option,
    },
    host::kernel,
    leaves::mount::{self, external},
    spec::bundle::Bundle,
};

pub use self::common::{CgroupsMode, Common as CommonOptions, check_empty_namespaces};

/// The first CRIU with [`Verb::SinglePreDump`].
const SINGLE_PRE_DUMP: Version = Version(31600);
/// The file of CRIU's messages.
const LOG: &str = "dump.log";

/// The request.
#[derive(Debug)]
pub struct Options<'a> {
    /// `--image-path`: the directory of the images. It is made if it is missing.
    pub images: &'a Path,
    /// The options that a restore has as well.
    pub common: Common<'a>,
    /// `--parent-path`: the directory of an earlier dump, relative to that of the images.
    pub parent: Option<&'a Path>,
    /// The fate of the processes.
    pub then: Then,
    /// `--tcp-skip-in-flight`
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`
    pub link_remap: bool,
    /// `--page-server`: the address and port to which the memory goes.
    pub page_server: Option<(&'a str, u16)>,
    /// `--status-fd`: gets a zero byte when a lazy dump can be restored.
    pub status: Option<OwnedFd>,
}

/// The fate of the processes after a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// They are killed.
    Stop,
    /// They run on.
    Run,
    /// They run on, and only their memory is written (`--pre-dump`).
    PreDump,
}

/// Writes a container to images. With [`Then::Stop`] its processes are dead afterwards, and the caller deletes it.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless the container runs or is paused. [`Kind::NotFound`] without CRIU. CRIU's own reason,
/// with the path of its log. The container then runs on.
pub fn checkpoint(container: &Container, options: Options<'_>) -> Result<()> {
    dump(container, options).map_err(kernel::explain)
}

fn dump(container: &Container, mut options: Options<'_>) -> Result<()> {
    let status = container.status()?;
    if !matches!(status, Status::Running | Status::Paused) {
        let text = format!("Container cannot be checkpointed in {status} state");
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    refuse_user()?;
    let criu = find::criu()?;
    let bundle = Bundle::load(container.bundle())?;
    let images = Images::make(options.images)?;
    let directories = Directories { images, work: options.common.work.map(Images::make_work).transpose()? };
    options.parent.map_or(Ok(()), |parent| directories.images.check_parent(parent))?;

    let null =
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")?;
    let mut session = Session::start(&criu, [null.as_fd(); 3], &[])?;
    let version = check_version(&mut session)?;
    session.require(&features(&options))?;
    let mut request = request(container, &bundle, &options, &directories)?;
    let verb = match options.then {
        Then::PreDump if version >= SINGLE_PRE_DUMP => Verb::SinglePreDump,
        Then::PreDump => Verb::PreDump,
        Then::Stop | Then::Run => Verb::Dump,
    };
    if options.then != Then::PreDump {
        let streams = streams_of(container.pid())?;
        streams.iter().filter(|name| is_outer_file(name)).for_each(|name| request.text(option::EXTERNAL, name));
        directories.images.write_descriptors(&streams)?;
    }
    if options.then == Then::Stop {
        lost::warn(container);
    }
    if options.common.lazy_pages || options.page_server.is_some() {
        session.wait_without_bound();
    }
    let done = session.begin(verb, &request).and_then(|()| converse(&mut session, options.status.take()));
    match &done {
        Ok(()) => session.finish(),
        Err(_) => {
            session.kill();
            // A CRIU that was killed leaves the container frozen, or thawed after it has seized the processes.
            let _ = match status {
                Status::Running => container.cgroup().thaw(),
                _ => container.cgroup().freeze(),
            };
        }
    }
    done.map_err(|error| directories.explain(error, verb, LOG))
}

/// Answers CRIU until its work is done.
fn converse(session: &mut Session, mut status: Option<OwnedFd>) -> Result<()> {
    loop {
        match session.next()? {
            Event::Notified(notice) => {
                if notice.script == "status-ready"
                    && let Some(file) = status.take()
                {
                    File::from(file).write_all(&[0]).context("write to --status-fd")?;
                }
                session.acknowledge()?;
            }
            Event::Done(_) => return Ok(()),
            Event::Failed { errno } => return Err(failed(errno)),
        }
    }
}

/// Returns the parts of CRIU that the request needs from the kernel.
fn features(options: &Options<'_>) -> Vec<Feature> {
    let mut features = Vec::new();
    features.extend((options.then == Then::PreDump).then_some(Feature::MemTrack));
    features.extend(options.common.lazy_pages.then_some(Feature::LazyPages));
    features
}

fn request(
    container: &Container,
    bundle: &Bundle,
    options: &Options<'_>,
    directories: &Directories,
) -> Result<CriuOptions> {
    let spec = &bundle.spec;
    let mut request = options.common.request(directories, LOG);
    request.signed(option::PID, container.pid());
    request.text(option::ROOT, container.rootfs().as_os_str().as_bytes());
    for (field, on) in [
        (option::LEAVE_RUNNING, options.then == Then::Run),
        (option::TCP_SKIP_IN_FLIGHT, options.tcp_skip_in_flight),
        (option::LINK_REMAP, options.link_remap),
        (option::TRACK_MEM, options.parent.is_some() || options.then == Then::PreDump),
    ] {
        request.switch(field, on);
    }
    if let Some(parent) = options.parent {
        request.text(option::PARENT_IMG, parent.as_os_str().as_bytes());
    }
    if let Some((address, port)) = options.page_server {
        request.page_server(address, port);
    }
    if let Some(config) = config_file(spec)? {
        request.text(option::CONFIG_FILE, config.as_os_str().as_bytes());
    }
    let freezer = match container.cgroup().hierarchy() {
        Hierarchy::V1 => container.cgroup().path_in("freezer"),
        Hierarchy::V2 => container.cgroup().path_in(""),
    };
    if let Some(freezer) = freezer {
        request.text(option::FREEZE_CGROUP, freezer.as_os_str().as_bytes());
    }
    for (word, key, path) in outer_namespaces(spec) {
        let inode = rustix::fs::stat(path).with_context(|| format!("stat {}", path.display()))?.st_ino;
        request.text(option::EXTERNAL, format!("{word}[{inode}]:{key}"));
    }
    if options.then != Then::PreDump {
        name_mounts(&mut request, container, bundle)?;
    }
    Ok(request)
}

/// Gives each mount from outside a name, under which a restore finds its source.
fn name_mounts(request: &mut CriuOptions, container: &Container, bundle: &Bundle) -> Result<()> {
    let root = container.init()?.directory()? + "/root";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root.as_str(), flags, Mode::empty()).with_context(|| format!("open {root}"))?;
    for mount in external::external(&bundle.spec, &bundle.dir, container.rootfs(), container.cgroup())? {
        // A path that has vanished is no mount point.
        if let Some((at, _)) = resolve(root.as_fd(), &mount.at)? {
            request.pair(option::EXT_MNT, at.as_os_str().as_bytes(), mount.at.as_os_str().as_bytes());
        }
    }
    let linux = bundle.spec.linux().as_ref();
    for path in linux.iter().flat_map(|linux| linux.masked_paths().iter().flatten()) {
        if let Some((at, FileType::CharacterDevice)) =
            resolve(root.as_fd(), &mount::clean_unless_dotdot(Path::new(path)))?
        {
            request.pair(option::EXT_MNT, at.as_os_str().as_bytes(), external::MASK);
        }
    }
    Ok(())
}

/// Returns the path in the container without symbolic links, and the type of its file. `None` if there is none.
fn resolve(root: BorrowedFd<'_>, at: &Path) -> Result<Option<(PathBuf, FileType)>> {
    let arena = Arena::default();
    let Ok(file) = path::open(root, arena.path(at, "mounts.destination")?, OFlags::PATH) else { return Ok(None) };
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let real = std::fs::read_link(&link).with_context(|| format!("readlink {link}"))?;
    Ok(Some((real, FileType::from_raw_mode(fstat(&file).context("fstat")?.st_mode))))
}
