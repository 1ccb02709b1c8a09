//! Directories for targets that need files, and pictures of whole trees.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory of its own, in memory where the machine has such a place. Dropping it removes it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // libFuzzer ends the process without destructors, so its caller names a directory, and removes it.
        let given = std::env::var_os("BERTH_FUZZ_SCRATCH").map(PathBuf::from);
        let memory = || Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir());
        let base = given.or_else(memory).unwrap_or_else(std::env::temp_dir);
        let name = format!("berth-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = base.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes all that is in it.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Directory,
    /// Content.
    File(Vec<u8>),
    /// Target.
    Link(PathBuf),
    Special,
}

/// All entries below a directory, by their paths from there.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Item> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<PathBuf, Item>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let item = if kind.is_dir() {
                walk(root, &path, into);
                Item::Directory
            } else if kind.is_symlink() {
                Item::Link(fs::read_link(&path).unwrap())
            } else if kind.is_file() {
                Item::File(fs::read(&path).unwrap())
            } else {
                Item::Special
            };
            into.insert(path.strip_prefix(root).unwrap().to_owned(), item);
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

/// A place that nothing may touch: a directory with a file and a link, and its picture, with modes, owners, times and inodes.
pub struct Decoy {
    path: PathBuf,
    picture: Vec<(PathBuf, [i64; 8])>,
    content: BTreeMap<PathBuf, Item>,
}

impl Decoy {
    pub fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("a")).unwrap();
        fs::write(path.join("a/b"), "host").unwrap();
        fs::write(path.join("b"), "host").unwrap();
        std::os::unix::fs::symlink("b", path.join("c")).unwrap();
        let (picture, content) = (Self::picture(&path), tree(&path));
        Self { path, picture, content }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn picture(path: &Path) -> Vec<(PathBuf, [i64; 8])> {
        let all = std::iter::once(PathBuf::new()).chain(tree(path).into_keys());
        all.map(|name| {
            let meta = fs::symlink_metadata(path.join(&name)).unwrap();
            let numbers = [u64::from(meta.mode()), meta.ino(), meta.nlink(), meta.size()].map(u64::cast_signed);
            let [mode, ino, links, size] = numbers;
            let owner = i64::from(meta.uid()) << 32 | i64::from(meta.gid());
            (name, [mode, ino, links, size, owner, meta.mtime(), meta.ctime(), meta.ctime_nsec()])
        })
        .collect()
    }

    #[track_caller]
    pub fn check(&self) {
        assert_eq!(tree(&self.path), self.content, "the content outside has changed");
        assert_eq!(Self::picture(&self.path), self.picture, "attributes outside have changed");
    }
}

/// Calls `act` with an empty root and the decoy beside it. Afterwards nothing outside of the root has changed. Each thread
/// keeps one directory for all of its calls.
pub fn with_root(act: impl FnOnce(&Path, &Decoy)) {
    thread_local! {
        static PLACE: RefCell<Option<(Scratch, Decoy)>> = const { RefCell::new(None) };
    }
    PLACE.with_borrow_mut(|place| {
        let (scratch, decoy) = place.get_or_insert_with(|| {
            let scratch = Scratch::new();
            let decoy = Decoy::new(scratch.path().join("decoy"));
            (scratch, decoy)
        });
        let root = scratch.path().join("root");
        fs::create_dir(&root).unwrap();
        act(&root, decoy);
        fs::remove_dir_all(&root).unwrap();
        decoy.check();
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["decoy"], "outside of the root");
    });
}
