//! Mount options of mount(8), sorted by the part of the runtime or kernel that acts on them. The code does no I/O.

use crate::{Error, Result};

/// `MOUNT_ATTR_*` of mount_setattr(2).
pub mod attr {
    /// The mount is read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-ID and set-group-ID bits and file capabilities have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Files cannot be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// Mask of the three exclusive choices of access time; all bits zero is relatime.
    pub const ATIME: u64 = 0x70;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed (Linux 5.10).
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// A bind mount takes these over from its source, unless its options name one of them.
    pub const BIND: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
}

/// Whether an operation on a mount includes the mounts below it (`AT_RECURSIVE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submounts {
    /// The mount alone.
    Exclude,
    /// The mount and all mounts below it.
    Include,
}

impl Submounts {
    /// True for [`Submounts::Include`].
    pub fn included(self) -> bool {
        self == Self::Include
    }
}

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `bind` or `rbind`.
    pub bind: Option<Submounts>,
    /// `MOUNT_ATTR_*` that the options set.
    pub set: u64,
    /// `MOUNT_ATTR_*` that the options clear.
    pub clear: u64,
    /// `MOUNT_ATTR_*` that the options set on the mount and all mounts below it (`rro`).
    pub set_recursive: u64,
    /// `MOUNT_ATTR_*` that the options clear on the mount and all mounts below it.
    pub clear_recursive: u64,
    /// `idmap` or `ridmap`.
    pub idmap: Option<Submounts>,
    /// `MS_SHARED` and the like, with or without `MS_REC`, in the order of the options.
    pub propagation: Vec<u64>,
    /// `tmpcopyup`: the new tmpfs gets a copy of the directory that it covers.
    pub copy_up: bool,
    /// `remount`: the options apply to the mount that is already at the target.
    pub remount: bool,
    /// `copy-symlink` of crun: if the source is a symbolic link, the target becomes the same link.
    pub copy_symlink: bool,
    /// `src-nofollow` of crun: if the source is a symbolic link, the link itself is bound.
    pub source_nofollow: bool,
    /// `dest-nofollow` of crun: if the target is a symbolic link, the link itself is mounted on.
    pub target_nofollow: bool,
    /// Superblock options, which every kind of file system takes: `sync`.
    pub superblock: Vec<&'static str>,
    /// All other options, for the file system: `mode=755`.
    pub data: Vec<String>,
}

impl Options {
    /// Sorts options. Later options override earlier ones.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] for options that contradict each other.
    pub fn parse(list: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for option in list {
            options.add(option);
        }
        if options.copy_up && (options.bind.is_some() || options.remount) {
            return Err(Error::invalid("tmpcopyup: the mount is not a tmpfs, or not a new one"));
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(Submounts::Exclude)),
            "rbind" => self.bind = Some(Submounts::Include),
            "defaults" | "" => {}
            "idmap" => self.idmap = Some(Submounts::Exclude),
            "ridmap" => self.idmap = Some(Submounts::Include),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            "copy-symlink" => self.copy_symlink = true,
            "src-nofollow" => self.source_nofollow = true,
            "dest-nofollow" => self.target_nofollow = true,
            _ => {
                if let Some((_, flags)) = PROPAGATION.iter().find(|(name, _)| *name == option) {
                    self.propagation.push(*flags);
                } else if let Some((_, known)) = SUPERBLOCK.iter().find(|(name, _)| *name == option) {
                    self.superblock.extend(*known);
                } else if let Some(&(_, set, clear)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                    match option {
                        "ro" => self.superblock.push("ro"),
                        "rw" => self.superblock.retain(|w| *w != "ro"),
                        _ => {}
                    }
                } else if let Some((set, clear)) = recursive(option) {
                    self.set_recursive = self.set_recursive & !clear | set;
                    self.clear_recursive = self.clear_recursive & !set | clear;
                } else {
                    self.data.push(option.to_owned());
                }
            }
        }
    }

    /// Removes all read-only options. Returns true if there were any.
    pub fn take_readonly(&mut self) -> bool {
        let wished = (self.set | self.set_recursive) & attr::RDONLY != 0;
        self.set &= !attr::RDONLY;
        self.set_recursive &= !attr::RDONLY;
        self.superblock.retain(|option| *option != "ro");
        wished
    }

    /// Returns `MS_*` flags of mount(2) with the same meaning, for a remount.
    pub fn ms_flags(&self) -> u64 {
        const MAP: [(u64, u64); 7] = [
            (attr::RDONLY, libc::MS_RDONLY),
            (attr::NOSUID, libc::MS_NOSUID),
            (attr::NODEV, libc::MS_NODEV),
            (attr::NOEXEC, libc::MS_NOEXEC),
            (attr::NOATIME, libc::MS_NOATIME),
            (attr::STRICTATIME, libc::MS_STRICTATIME),
            (attr::NODIRATIME, libc::MS_NODIRATIME),
        ];
        /// Since Linux 5.10; the C library lacks it.
        const MS_NOSYMFOLLOW: u64 = 256;
        const MS_LAZYTIME: u64 = 1 << 25;
        let of_attributes = MAP.iter().filter(|(attr, _)| self.set & attr != 0).fold(0, |all, (_, ms)| all | ms);
        let links = if self.set & attr::NOSYMFOLLOW != 0 { MS_NOSYMFOLLOW } else { 0 };
        let bind = if self.bind.is_some() { libc::MS_BIND } else { 0 };
        let superblock = self.superblock.iter().fold(0, |all, option| {
            all | match *option {
                "sync" => libc::MS_SYNCHRONOUS,
                "dirsync" => libc::MS_DIRSYNC,
                "mand" => libc::MS_MANDLOCK,
                "lazytime" => MS_LAZYTIME,
                "iversion" => libc::MS_I_VERSION,
                _ => 0,
            }
        });
        of_attributes | links | bind | superblock
    }

    /// Returns the `MOUNT_ATTR_*` to set and to clear on a bind mount.
    ///
    /// With no attribute named, the source's attributes stay. With any attribute named, all others are cleared, as
    /// `mount --bind -o` does; only the access time needs an option of its own.
    pub fn bind_attributes(&self) -> (u64, u64) {
        if self.set | self.clear == 0 {
            return (0, 0);
        }
        // `atime` and the like choose no access time, so the source's stays.
        let access_time = if self.chooses_atime() { attr::ATIME | attr::NODIRATIME & !self.set } else { 0 };
        (self.set, (attr::BIND & !self.set) | access_time)
    }

    /// Returns true if an option chooses when access times are updated.
    pub fn chooses_atime(&self) -> bool {
        self.set & (attr::ATIME | attr::NODIRATIME) != 0 || self.clear & attr::ATIME == attr::ATIME
    }

    /// Returns the `MOUNT_ATTR_*` to set and to clear on the mount and all mounts below it.
    pub fn recursive_attributes(&self) -> (u64, u64) {
        let atime = if (self.set_recursive | self.clear_recursive) & attr::ATIME != 0 { attr::ATIME } else { 0 };
        (self.set_recursive, self.clear_recursive & !self.set_recursive | atime)
    }
}

/// Parses a recursive option, which is a plain option with `r` before it (runc's `rro`).
fn recursive(option: &str) -> Option<(u64, u64)> {
    let plain = option.strip_prefix('r')?;
    ATTRIBUTES.iter().find(|(name, ..)| *name == plain).map(|&(_, set, clear)| (set, clear))
}

/// Returns all options that [`Options`] understands, sorted. A file system gets all others.
pub fn known() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")]);
    let others = PROPAGATION.iter().map(|(name, _)| *name).chain(SUPERBLOCK.iter().map(|(name, _)| *name));
    let others = others.chain(["bind", "rbind", "idmap", "ridmap", "defaults"]).chain(OWN);
    let mut list: Vec<_> = attributes.chain(others.map(str::to_owned)).collect();
    list.sort_unstable();
    list
}

/// Options that only the runtime acts on.
const OWN: [&str; 5] = ["copy-symlink", "dest-nofollow", "remount", "src-nofollow", "tmpcopyup"];

/// Option, attributes that it sets, attributes that it clears.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("noatime", attr::NOATIME, attr::STRICTATIME),
    ("atime", 0, attr::NOATIME),
    ("strictatime", attr::STRICTATIME, attr::NOATIME),
    ("nostrictatime", 0, attr::STRICTATIME),
    ("relatime", 0, attr::ATIME),
    ("norelatime", 0, 0),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

const PROPAGATION: [(&str, u64); 8] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("unbindable", libc::MS_UNBINDABLE),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];

/// Option, flags of fsopen(2) for it. Options that undo a default need no flag for a new superblock. `silent` and
/// `loud` need none, because fsopen(2) logs nothing.
const SUPERBLOCK: [(&str, &[&str]); 12] = [
    ("sync", &["sync"]),
    ("async", &[]),
    ("dirsync", &["dirsync"]),
    ("lazytime", &["lazytime"]),
    ("nolazytime", &[]),
    ("mand", &["mand"]),
    ("nomand", &[]),
    ("iversion", &["iversion"]),
    ("noiversion", &[]),
    ("silent", &[]),
    ("loud", &[]),
    ("acl", &["acl"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_known_mount_option_goes_to_the_file_system() {
        let list = known();
        assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        for option in &list {
            assert!(parse(&[option]).data.is_empty(), "{option}");
        }
        for (option, there) in [("rro", true), ("rbind", true), ("sync", true), ("tmpcopyup", true), ("idmap", true)] {
            assert_eq!(list.iter().any(|known| known == option), there, "{option}");
        }
    }

    fn parse(list: &[&str]) -> Options {
        Options::parse(&list.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn mount_options_are_sorted_by_their_kind() {
        let o = parse(&["nosuid", "strictatime", "mode=755", "size=65536k", "ro"]);
        assert_eq!(o.set, attr::NOSUID | attr::STRICTATIME | attr::RDONLY);
        assert_eq!(o.data, ["mode=755", "size=65536k"]);
        assert_eq!(o.superblock, ["ro"]);
        assert_eq!(parse(&["rbind", "rprivate"]).bind, Some(Submounts::Include));
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(Submounts::Include));
        assert_eq!(parse(&["bind", "rslave"]).propagation, [libc::MS_SLAVE | libc::MS_REC]);
    }

    #[test]
    fn later_mount_options_override_earlier_ones() {
        assert_eq!(parse(&["ro", "rw"]).set, 0);
        assert!(parse(&["ro", "rw"]).superblock.is_empty());
        assert_eq!(parse(&["noatime", "strictatime"]).set, attr::STRICTATIME);
    }

    #[test]
    fn last_idmap_option_decides_about_submounts() {
        assert_eq!(parse(&["bind"]).idmap, None);
        assert_eq!(parse(&["rbind", "idmap"]).idmap, Some(Submounts::Exclude));
        assert_eq!(parse(&["idmap", "ridmap"]).idmap, Some(Submounts::Include));
        assert_eq!(parse(&["ridmap", "idmap"]).idmap, Some(Submounts::Exclude));
    }

    #[test]
    fn recursive_options_set_attributes_of_the_tree() {
        let o = parse(&["rbind", "rro"]);
        assert_eq!((o.set, o.set_recursive), (0, attr::RDONLY));
        // `relatime` begins with r but is no recursive form.
        assert_eq!(parse(&["relatime"]).clear, attr::ATIME);
    }

    #[test]
    fn bind_mount_that_names_one_attribute_clears_the_others() {
        assert_eq!(parse(&["bind"]).bind_attributes(), (0, 0));
        let (set, clear) = parse(&["bind", "ro", "nosuid"]).bind_attributes();
        assert_eq!(set, attr::RDONLY | attr::NOSUID);
        assert_eq!(clear, attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW);
        assert_eq!(parse(&["bind", "rw"]).bind_attributes(), (0, attr::BIND));
        assert_eq!(
            parse(&["bind", "noatime"]).bind_attributes(),
            (attr::NOATIME, attr::BIND | attr::ATIME | attr::NODIRATIME)
        );
        assert_eq!(parse(&["bind", "atime", "diratime"]).bind_attributes(), (0, attr::BIND));
    }

    #[test]
    fn contradicting_mount_options_are_refused() {
        for list in [["tmpcopyup", "bind"], ["remount", "tmpcopyup"], ["rbind", "tmpcopyup"]] {
            let error = Options::parse(&list.map(str::to_owned)).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::InvalidArgument);
        }
    }
}
