//! [`Ground`]: the directories of a race, and the files of the host that no runtime may touch.

use super::{Swap, Swapper};
use crate::{executable, host_files::HostFiles};
use rustix::{
    fs::inotify,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use std::{
    fs,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::chown},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A race needs a CPU for the swapper and one for the runtime, so the races of a program come one after the other.
static ONE: Mutex<()> = Mutex::new(());

/// A volume that a container and the swapper share, and the host's files.
pub struct Ground {
    /// The volume.
    pub volume: PathBuf,
    /// The files that a link leads to. No runtime has a reason to open, read or change them.
    pub host: HostFiles,
    dir: PathBuf,
    fingerprint: String,
    watch: OwnedFd,
    _one: MutexGuard<'static, ()>,
}

impl Ground {
    /// Makes `dir` and the directories below it, in memory: the disk would slow the swapper down.
    pub fn new(dir: &Path) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let volume = dir.join("volume");
        fs::create_dir_all(dir).unwrap();
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), c"mode=755").unwrap();
        fs::create_dir(&volume).unwrap();
        let host = HostFiles::new(dir);
        executable::write(&host.path().join("program"), "#!/bin/sh\ntouch \"$0.ran\"\n", 0o755);
        let fingerprint = host.fingerprint();
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        let ground = Self { volume, host, dir: dir.to_owned(), fingerprint, watch, _one: one };
        ground.watch(ground.host.path());
        ground
    }

    /// Starts a swapper of `entry` whose link leads to `to`, a path below the host's files: by an absolute path, or by
    /// one of many `..`.
    pub fn swap(&self, swap: Swap, relative: bool, entry: &Path, to: &str) -> Swapper {
        let target = self.host.path().join(to);
        let target = match target.strip_prefix("/") {
            Ok(inside) if relative => Path::new(&"../".repeat(20)).join(inside),
            _ => target,
        };
        Swapper::start(swap, entry, &target)
    }

    /// Starts a swapper that is the user `uid`, to whom the volume is given.
    pub fn swap_as(&self, uid: u32, swap: Swap, entry: &Path, to: &str) -> Swapper {
        for path in [self.volume.as_path(), entry] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        Swapper::start_as(Some(uid), swap, entry, &self.host.path().join(to))
    }

    /// Returns how the host's files have been touched since the last call: opened, read, changed, or mounted on.
    pub fn touched(&self) -> Vec<String> {
        let mut found = self.events();
        if self.host.fingerprint() != self.fingerprint {
            found.push(self.host.listing());
        }
        // The fingerprint has read the files.
        self.events();
        let mounts = crate::mounts::of_process(std::process::id());
        let below = mounts.iter().filter(|m| Path::new(&m.point).starts_with(self.host.path()));
        found.extend(below.map(|mount| format!("mount on {}", mount.point)));
        found
    }

    fn watch(&self, dir: &Path) {
        let all = inotify::WatchFlags::ALL_EVENTS - inotify::WatchFlags::CLOSE;
        inotify::add_watch(&self.watch, dir, all).unwrap();
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).for_each(|path| self.watch(&path));
        self.events();
    }

    fn events(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        let mut found = vec![];
        // EAGAIN: there are no more.
        while let Ok(event) = reader.next() {
            found.push(format!("{:?} {:?}", event.events(), event.file_name()));
        }
        found
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
    }
}
