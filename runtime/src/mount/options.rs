//! Mount options, mount(8)'s words, sorted by who acts on them. Pure.

use crate::{Error, Result};

/// `MOUNT_ATTR_*`, mount_setattr(2).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// No set-user-ID.
    pub const NOSUID: u64 = 0x2;
    /// No devices.
    pub const NODEV: u64 = 0x4;
    /// No execution.
    pub const NOEXEC: u64 = 0x8;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// The three exclusive choices of access time; all zero is relatime.
    pub const ATIME: u64 = 0x70;
    /// No access times of directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Links are not followed (Linux 5.10).
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// What a bind mount takes over from its source unless any of it is named.
    pub const BIND: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
}

/// One mount's options.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `bind` is `Some(false)`, `rbind` is `Some(true)`.
    pub bind: Option<bool>,
    /// Attributes that were asked for.
    pub set: u64,
    /// Attributes whose absence was asked for.
    pub clear: u64,
    /// The same for the whole tree (`rro`).
    pub set_all: u64,
    /// See `set_all`.
    pub clear_all: u64,
    /// `idmap` is `Some(false)`, `ridmap` is `Some(true)`: the whole tree.
    pub idmap: Option<bool>,
    /// `MS_SHARED`…, with `MS_REC`.
    pub propagation: Vec<u64>,
    /// A tmpfs begins with what the image has at its place (`tmpcopyup`).
    pub copy_up: bool,
    /// What is mounted there already gets these options.
    pub remount: bool,
    /// A source that is a link is made anew at the target (`copy-symlink`, crun's).
    pub copy_symlink: bool,
    /// A source that is a link is bound itself (`src-nofollow`, crun's).
    pub link_itself: bool,
    /// A target that is a link is mounted on itself (`dest-nofollow`, crun's).
    pub on_link: bool,
    /// Words that the file system's superblock takes from every kind of file system.
    pub superblock: Vec<&'static str>,
    /// Everything else goes to the file system: `mode=755`.
    pub data: Vec<String>,
}

impl Options {
    /// Sorts options; later words override earlier ones.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] for those that contradict each other.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            options.take(word);
        }
        if options.copy_up && (options.bind.is_some() || options.remount) {
            return Err(Error::invalid("tmpcopyup: the mount is not a tmpfs, or not a new one"));
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) {
        match word {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "defaults" | "" => {}
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            "copy-symlink" => self.copy_symlink = true,
            "src-nofollow" => self.link_itself = true,
            "dest-nofollow" => self.on_link = true,
            _ => {
                if let Some((_, flags)) = PROPAGATION.iter().find(|(name, _)| *name == word) {
                    self.propagation.push(*flags);
                } else if let Some((_, known)) = SUPERBLOCK.iter().find(|(name, _)| *name == word) {
                    self.superblock.extend(*known);
                } else if let Some(&(_, set, clear)) = ATTRIBUTES.iter().find(|(name, ..)| *name == word) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                    match word {
                        "ro" => self.superblock.push("ro"),
                        "rw" => self.superblock.retain(|w| *w != "ro"),
                        _ => {}
                    }
                } else if let Some((set, clear)) = recursive(word) {
                    self.set_all = self.set_all & !clear | set;
                    self.clear_all = self.clear_all & !set | clear;
                } else {
                    self.data.push(word.to_owned());
                }
            }
        }
    }

    /// Takes the wish for a read-only mount out of them; whether it was there.
    pub fn take_readonly(&mut self) -> bool {
        let wished = (self.set | self.set_all) & attr::RDONLY != 0;
        self.set &= !attr::RDONLY;
        self.set_all &= !attr::RDONLY;
        self.superblock.retain(|word| *word != "ro");
        wished
    }

    /// The same as `MS_*` of mount(2), for a remount.
    pub fn classic(&self) -> u64 {
        const MAP: [(u64, u64); 7] = [
            (attr::RDONLY, libc::MS_RDONLY),
            (attr::NOSUID, libc::MS_NOSUID),
            (attr::NODEV, libc::MS_NODEV),
            (attr::NOEXEC, libc::MS_NOEXEC),
            (attr::NOATIME, libc::MS_NOATIME),
            (attr::STRICTATIME, libc::MS_STRICTATIME),
            (attr::NODIRATIME, libc::MS_NODIRATIME),
        ];
        /// Linux 5.10; not in the C library.
        const MS_NOSYMFOLLOW: u64 = 256;
        const MS_LAZYTIME: u64 = 1 << 25;
        let of_attributes = MAP.iter().filter(|(attr, _)| self.set & attr != 0).fold(0, |all, (_, ms)| all | ms);
        let links = if self.set & attr::NOSYMFOLLOW != 0 { MS_NOSYMFOLLOW } else { 0 };
        let bind = if self.bind.is_some() { libc::MS_BIND } else { 0 };
        let words = self.superblock.iter().fold(0, |all, word| {
            all | match *word {
                "sync" => libc::MS_SYNCHRONOUS,
                "dirsync" => libc::MS_DIRSYNC,
                "mand" => libc::MS_MANDLOCK,
                "lazytime" => MS_LAZYTIME,
                "iversion" => libc::MS_I_VERSION,
                _ => 0,
            }
        });
        of_attributes | links | bind | words
    }

    /// What to set and clear on a bind mount: naming any attribute names them all, but for the access time, as
    /// `mount --bind -o` does; naming none keeps the source's.
    pub fn bind_attributes(&self) -> (u64, u64) {
        if self.set | self.clear == 0 {
            return (0, 0);
        }
        // Only a word that chooses an access time does; `atime` and its like leave what the source has.
        let access_time = if self.chooses_atime() { attr::ATIME | attr::NODIRATIME & !self.set } else { 0 };
        (self.set, (attr::BIND & !self.set) | access_time)
    }

    /// A word is among them that says when access times are updated.
    pub fn chooses_atime(&self) -> bool {
        self.set & (attr::ATIME | attr::NODIRATIME) != 0 || self.clear & attr::ATIME == attr::ATIME
    }

    /// What to set and clear on it and all that is mounted below it.
    pub fn tree_attributes(&self) -> (u64, u64) {
        let atime = if (self.set_all | self.clear_all) & attr::ATIME != 0 { attr::ATIME } else { 0 };
        (self.set_all, self.clear_all & !self.set_all | atime)
    }
}

/// The recursive form is the plain word with `r` before it, acting on the whole tree by mount_setattr(2).
fn recursive(word: &str) -> Option<(u64, u64)> {
    let plain = word.strip_prefix('r')?;
    ATTRIBUTES.iter().find(|(name, ..)| *name == plain).map(|&(_, set, clear)| (set, clear))
}

/// Every word that is understood here, sorted; all others are the file system's.
pub fn known() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")]);
    let others = PROPAGATION.iter().map(|(name, _)| *name).chain(SUPERBLOCK.iter().map(|(name, _)| *name));
    let others = others.chain(["bind", "rbind", "idmap", "ridmap", "defaults"]).chain(OWN);
    let mut words: Vec<_> = attributes.chain(others.map(str::to_owned)).collect();
    words.sort_unstable();
    words
}

/// Words that the runtime itself acts on.
const OWN: [&str; 5] = ["copy-symlink", "dest-nofollow", "remount", "src-nofollow", "tmpcopyup"];

/// Word, attributes set, attributes cleared.
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

/// Words of the superblock; those that only undo a default say nothing to a new one, and the calls that make it
/// (fsopen(2)) are silent anyhow.
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
    fn known_words_are_those_that_are_not_the_file_systems() {
        let words = known();
        assert!(words.is_sorted_by(|a, b| a < b), "{words:?}");
        for word in &words {
            assert!(parse(&[word]).data.is_empty(), "{word}");
        }
        for (word, there) in [("rro", true), ("rbind", true), ("sync", true), ("tmpcopyup", true), ("idmap", true)] {
            assert_eq!(words.iter().any(|known| known == word), there, "{word}");
        }
    }

    fn parse(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_go_where_they_act() {
        let o = parse(&["nosuid", "strictatime", "mode=755", "size=65536k", "ro"]);
        assert_eq!(o.set, attr::NOSUID | attr::STRICTATIME | attr::RDONLY);
        assert_eq!(o.data, ["mode=755", "size=65536k"]);
        assert_eq!(o.superblock, ["ro"]);
        assert_eq!(parse(&["rbind", "rprivate"]).bind, Some(true));
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(true));
        assert_eq!(parse(&["bind", "rslave"]).propagation, [libc::MS_SLAVE | libc::MS_REC]);
    }

    #[test]
    fn later_words_win() {
        assert_eq!(parse(&["ro", "rw"]).set, 0);
        assert!(parse(&["ro", "rw"]).superblock.is_empty());
        assert_eq!(parse(&["noatime", "strictatime"]).set, attr::STRICTATIME);
    }

    #[test]
    fn the_last_of_the_idmap_words_counts() {
        assert_eq!(parse(&["bind"]).idmap, None);
        assert_eq!(parse(&["rbind", "idmap"]).idmap, Some(false));
        assert_eq!(parse(&["idmap", "ridmap"]).idmap, Some(true));
        assert_eq!(parse(&["ridmap", "idmap"]).idmap, Some(false));
    }

    #[test]
    fn recursive_words_reach_the_tree() {
        let o = parse(&["rbind", "rro"]);
        assert_eq!((o.set, o.set_all), (0, attr::RDONLY));
        // `relatime` begins with r and is not the recursive form of anything.
        assert_eq!(parse(&["relatime"]).clear, attr::ATIME);
    }

    #[test]
    fn a_bind_mount_that_names_an_attribute_names_them_all() {
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
    fn contradictions_are_refused() {
        for words in [["tmpcopyup", "bind"], ["remount", "tmpcopyup"], ["rbind", "tmpcopyup"]] {
            let error = Options::parse(&words.map(str::to_owned)).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::InvalidArgument);
        }
    }
}
