//! `unpack`: a bundle out of a saved image.
//!
//! A mark in the bundle says that the work goes on, and config.json comes last, so that no half tree is ever run. After
//! an error everything that was made is removed. After a crash the mark stays; the next `unpack` into the bundle finds it
//! unlocked, removes the half tree, and begins anew.

use std::{
    fs::{DirBuilder, File},
    io::{self, BufRead, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use berth_runtime::{Context, Error, Kind, Result, cgroup};
use nix::sys::signal::{SigSet, Signal};
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps},
    io::Errno,
};

use crate::{
    apply::{LeftOut, Options, Root, Tree, remove_tree},
    config::{self, Asked, Host, user::Accounts},
    ids::{self, Owners, Ranges},
    limits::Limits,
    sandbox,
    source::{self, Image, Platform, Store},
    stream::{Chunks, with_layer},
    tar,
};

const MARK: &str = ".berth-unpack";
const DRAFT: &str = ".berth-config.json";

/// The caller's request.
#[derive(Debug)]
pub struct Request {
    /// `PATH[:NAME]` or `PATH[@N]`.
    pub image: String,
    /// The directory of the bundle.
    pub bundle: PathBuf,
    /// The platform, where the image has several.
    pub platform: Platform,
    /// Bounds.
    pub limits: Limits,
    /// Device nodes are made.
    pub devices: bool,
    /// The container runs without privilege, also if the caller is root.
    pub rootless: bool,
    /// The mappings of the container's user namespace, as root asks for them.
    pub ranges: Option<Ranges>,
    /// config.json.
    pub config: Asked,
    /// No progress is shown.
    pub quiet: bool,
}

/// Makes the bundle, and returns warnings.
///
/// # Errors
/// The image is malformed, out of bounds, or differs from its digests; the bundle is taken; or a system call fails. Then
/// nothing is left of the bundle.
pub fn unpack(request: &Request) -> Result<Vec<String>> {
    let (path, choice) = source::split(&request.image)?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let identity = Identity::of(request, uid, gid)?;
    rustix::process::umask(Mode::empty());
    let bundle = Bundle::take(&request.bundle)?;
    let store = Store::open(path, bundle.fd.as_fd(), request.limits.bytes)
        .and_then(|store| source::choose(&store, &choice, &request.platform).map(|image| (store, image)));
    let (store, image) = store.with_context(|| format!("image {}", path.display()))?;
    let stop = stop_at_signals()?;
    // Landlock restricts this thread and the ones that it makes. The main thread stays free to remove the bundle's
    // directory out of the one above.
    let work = || {
        sandbox::enter(bundle.fd.as_fd(), store.directory())?;
        fill(&bundle, &image, request, &identity, &stop)
    };
    let left_out = std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the thread that unpacks has failed")))?;
    bundle.keep()?;
    Ok(warnings(left_out, &identity))
}

/// The owners of the tree, and the ids of config.json.
struct Identity {
    owners: Owners,
    host: Host,
    warning: Option<String>,
}

impl Identity {
    /// Decides about ids; as an ordinary user, enters a user namespace.
    fn of(request: &Request, uid: u32, gid: u32) -> Result<Self> {
        let unified = cgroup::usual_mount_is_v2();
        if uid == 0 {
            let owners = request.ranges.clone().map_or(Owners::AsInImage, Owners::Mapped);
            let rootless = request.rootless.then_some((uid, gid));
            return Ok(Self {
                owners,
                host: Host { unified, rootless, ranges: request.ranges.clone() },
                warning: None,
            });
        }
        if request.ranges.is_some() {
            return Err(Error::unsupported(
                "--uid-map and --gid-map are for root: an ordinary user has those of subuid(5)",
            ));
        }
        let ranges = ids::of_user(uid, gid)?;
        let rootless = Some((uid, gid));
        if ranges.uids.len() > 1 && ranges.gids.len() > 1 {
            ids::enter_namespace(&ranges)?;
            let host = Host { unified, rootless, ranges: Some(ranges) };
            return Ok(Self { owners: Owners::AsInImage, host, warning: None });
        }
        ids::enter_namespace(&Ranges::only(uid, gid))?;
        let warning =
            Some("all files belong to the one user that there is, since subuid(5) and subgid(5) give no more".into());
        Ok(Self { owners: Owners::Caller, host: Host { unified, rootless, ranges: None }, warning })
    }
}

/// Unpacks all layers and writes config.json.
fn fill(bundle: &Bundle, image: &Image, request: &Request, identity: &Identity, stop: &AtomicBool) -> Result<LeftOut> {
    let rootfs = bundle.make_rootfs(&identity.owners)?;
    let root = rustix::io::dup(&rootfs).context("duplicate a descriptor")?;
    let options = Options { owners: identity.owners.clone(), devices: request.devices };
    let mut tree = Tree::new(rootfs, options, request.limits.entries, stop)?;
    let mut budget = request.limits.bytes;
    let mut progress = Progress::new(image.layers.len(), request.quiet);
    for layer in &image.layers {
        progress.layer += 1;
        let apply = |chunks: &mut Chunks| {
            let mut reader = tar::Reader::new(Counted { inner: chunks, progress: &mut progress });
            tree.apply(&mut reader)
        };
        with_layer(layer, &mut budget, apply).with_context(|| format!("layer {}", layer.name))?;
    }
    progress.clear();
    let accounts = Accounts::read(&Root::new(root)?)?;
    let text = config::make(&image.config, &accounts, &request.config, &identity.host)?;
    bundle.write_config(&text)?;
    Ok(tree.left_out())
}

fn warnings(left_out: LeftOut, identity: &Identity) -> Vec<String> {
    let mut warnings: Vec<_> = identity.warning.iter().cloned().collect();
    if left_out.devices > 0 {
        warnings.push(format!("{} device nodes are left out (--devices makes them)", left_out.devices));
    }
    if left_out.xattrs > 0 {
        warnings.push(format!("{} extended attributes are left out", left_out.xattrs));
    }
    warnings
}

/// A flag that SIGHUP, SIGINT and SIGTERM set, so that the half tree is removed when one of them ends the work.
fn stop_at_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().context("block signals")?;
    let flag = stop.clone();
    std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || {
            while signals.wait().is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        })
        .context("start a thread")?;
    Ok(stop)
}

/// A bundle at which work goes on. Dropped without [`Bundle::keep`], it is empty again, and gone if it was made here.
struct Bundle {
    path: PathBuf,
    fd: OwnedFd,
    /// The mark, locked.
    _mark: OwnedFd,
    made: bool,
    kept: bool,
}

impl Bundle {
    /// Makes the directory, or takes one of the caller's that has neither a config.json nor a rootfs. Its mode becomes
    /// 0700, because the tree may have set-user-ID programs, and other users must not reach it (CVE-2021-41103).
    fn take(path: &Path) -> Result<Self> {
        let named = || format!("bundle {}", path.display());
        let made = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e).with_context(named),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).with_context(named)?;
        if rustix::fs::fstat(&fd).with_context(named)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Error::invalid("the directory belongs to another user")).with_context(named);
        }
        let taken = Self::mark(fd.as_fd()).and_then(|(mark, is_new)| {
            Self::check(fd.as_fd(), is_new)?;
            rustix::fs::fchmod(&fd, Mode::RWXU).context("set the mode")?;
            Ok(mark)
        });
        match taken {
            Ok(mark) => Ok(Self { path: path.to_owned(), fd, _mark: mark, made, kept: false }),
            Err(e) => {
                if made {
                    let _ = std::fs::remove_dir(path);
                }
                Err(e).with_context(named)
            }
        }
    }

    /// Makes or takes over the mark and locks it; the flag says whether it is new.
    fn mark(bundle: BorrowedFd<'_>) -> Result<(OwnedFd, bool)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(bundle, MARK, flags, Mode::RUSR | Mode::WUSR);
        let (mark, is_new) = match open(flags | OFlags::EXCL) {
            Err(Errno::EXIST) => (open(flags).context("open the mark")?, false),
            mark => (mark.context("make the mark")?, true),
        };
        match rustix::fs::flock(&mark, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::new(Kind::AlreadyExists, "another unpack is at work in it")),
            Err(e) => return Err(e).context("lock the mark"),
        }
        if rustix::fs::fstat(&mark)?.st_nlink == 0 {
            return Err(Error::new(Kind::AlreadyExists, "another unpack has just been at work in it"));
        }
        Ok((mark, is_new))
    }

    /// Refuses a bundle that is taken. What a crash has left beside an old mark is removed.
    fn check(bundle: BorrowedFd<'_>, is_new: bool) -> Result<()> {
        let has = |name: &str| rustix::fs::statat(bundle, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let refused = if has("config.json") {
            Some("config.json")
        } else if is_new && has("rootfs") {
            Some("rootfs")
        } else {
            None
        };
        if let Some(name) = refused {
            if is_new {
                rustix::fs::unlinkat(bundle, MARK, AtFlags::empty()).context("remove the mark")?;
            }
            return Err(Error::new(Kind::AlreadyExists, format!("{name} is there already")));
        }
        remove_tree(bundle, b"rootfs").context("remove what an earlier unpack left")?;
        remove_tree(bundle, DRAFT.as_bytes()).context("remove what an earlier unpack left")
    }

    fn make_rootfs(&self, owners: &Owners) -> Result<OwnedFd> {
        let name = "rootfs";
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)).context("make rootfs")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let rootfs = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).context("open rootfs")?;
        if let Some((uid, gid)) = owners.of(0, 0)? {
            rustix::fs::fchown(&rootfs, Some(uid), Some(gid)).context("set the owner of rootfs")?;
        }
        rustix::fs::fchmod(&rootfs, Mode::from_raw_mode(0o755)).context("set the mode of rootfs")?;
        // Layers without an entry for the root leave it at the epoch, so that the same image makes the same tree.
        let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::fs::futimens(&rootfs, &Timestamps { last_access: epoch, last_modification: epoch })
            .context("set the times of rootfs")?;
        Ok(rootfs)
    }

    /// Writes config.json under another name and gives it its own, which is the bundle's completion.
    fn write_config(&self, text: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.fd, DRAFT, flags, Mode::from_raw_mode(0o644)).context("make config.json")?;
        File::from(file).write_all(text).context("write config.json")?;
        rustix::fs::renameat_with(&self.fd, DRAFT, &self.fd, "config.json", RenameFlags::NOREPLACE)
            .context("make config.json")
    }

    /// Leaves the finished bundle to its owner.
    fn keep(mut self) -> Result<()> {
        self.kept = true;
        rustix::fs::unlinkat(&self.fd, MARK, AtFlags::empty()).context("remove the mark")
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The mark goes last: as long as it is there, the next unpack removes what this one could not.
        let removed =
            remove_tree(self.fd.as_fd(), b"rootfs").and_then(|()| remove_tree(self.fd.as_fd(), DRAFT.as_bytes()));
        if removed.is_ok() {
            let _ = rustix::fs::unlinkat(&self.fd, MARK, AtFlags::empty());
        }
        if self.made {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// The line on a terminal that says how far the work is.
struct Progress {
    layers: usize,
    layer: usize,
    bytes: u64,
    shown: Option<Instant>,
    is_on: bool,
}

impl Progress {
    fn new(layers: usize, quiet: bool) -> Self {
        Self { layers, layer: 0, bytes: 0, shown: None, is_on: !quiet && io::stderr().is_terminal() }
    }

    fn add(&mut self, count: usize) {
        self.bytes = self.bytes.saturating_add(count as u64);
        if self.is_on && self.shown.is_none_or(|shown| shown.elapsed() > Duration::from_millis(100)) {
            self.shown = Some(Instant::now());
            let _ = write!(io::stderr(), "\rlayer {} of {}, {} MiB\x1b[K", self.layer, self.layers, self.bytes >> 20);
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The stream of a layer, counted.
struct Counted<'a> {
    inner: &'a mut Chunks,
    progress: &'a mut Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.add(count);
        Ok(count)
    }
}

impl BufRead for Counted<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.progress.add(count);
    }
}

impl tar::Skip for Counted<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        self.inner.skip(count)
    }
}
