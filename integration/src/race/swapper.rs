//! [`Swapper`]: a thread that replaces an entry of a directory again and again.

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    mount::{UnmountFlags, mount_bind, unmount},
    process::Uid,
    thread::set_thread_res_uid,
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// The way in which an entry is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The entry and a link change places (`RENAME_EXCHANGE`): there is always one of both.
    Exchange,
    /// The entry is moved away, and a link comes and goes before it is moved back.
    Relink,
    /// The entry is removed, a link comes and goes, and the entry is made anew.
    Remake,
    /// The target is bound over the entry and unmounted.
    Cover,
}

impl Swap {
    /// The ways that put a link in the entry's place.
    pub const LINKS: [Self; 3] = [Self::Exchange, Self::Relink, Self::Remake];

    /// Replaces the entry for a moment. The runtime may have made a file in any state of it, so each step may fail.
    fn once(self, entry: &Path, beside: &Path, target: &Path, directory: bool) {
        match self {
            Self::Exchange => {
                let _ = renameat_with(CWD, entry, CWD, beside, RenameFlags::EXCHANGE);
            }
            Self::Relink => {
                if fs::symlink_metadata(beside).is_err() {
                    let _ = fs::rename(entry, beside);
                }
                let _ = symlink(target, entry);
                let _ = fs::remove_file(entry);
                if fs::rename(beside, entry).is_err() {
                    remove(entry);
                }
            }
            Self::Remake => {
                remove(entry);
                let _ = symlink(target, entry);
                let _ = fs::remove_file(entry);
                let _ = if directory { fs::create_dir(entry) } else { fs::File::create_new(entry).map(drop) };
            }
            Self::Cover => {
                mount_bind(target, entry).unwrap();
                unmount(entry, UnmountFlags::DETACH).unwrap();
            }
        }
    }
}

/// A thread that runs until the swapper is dropped.
pub struct Swapper {
    end: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    /// Replaces `entry`, a file or a directory, by a link to `target`, or covers it with `target`.
    pub fn start(swap: Swap, entry: &Path, target: &Path) -> Self {
        Self::start_as(None, swap, entry, target)
    }

    /// The same as another user, who must be allowed to write to the directory of the entry.
    pub fn start_as(uid: Option<u32>, swap: Swap, entry: &Path, target: &Path) -> Self {
        let (entry, target) = (entry.to_owned(), target.to_owned());
        let name = entry.file_name().expect("the entry has a name").to_string_lossy().into_owned();
        // The other place of the entry or the link. Hidden, so that no mount target has this name.
        let beside = entry.with_file_name(format!(".beside-{name}"));
        let directory = entry.is_dir();
        Self::repeat(move |round| {
            if round == 0 {
                // The ids of this thread alone.
                uid.into_iter().map(Uid::from_raw).for_each(|uid| set_thread_res_uid(uid, uid, uid).unwrap());
                if swap == Swap::Exchange {
                    symlink(&target, &beside).unwrap();
                }
            }
            swap.once(&entry, &beside, &target, directory);
        })
    }

    /// Repeats `step`, which gets the number of the round.
    pub fn repeat(mut step: impl FnMut(u64) + Send + 'static) -> Self {
        let (end, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, counted) = (end.clone(), swaps.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                step(counted.fetch_add(1, Ordering::Relaxed));
            }
        });
        Self { end, swaps, thread: Some(thread) }
    }

    /// Returns the number of rounds so far.
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }
}

/// Removes a file, a link, or a directory with all that is in it; no link is followed.
fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the swapper failed");
    }
}
