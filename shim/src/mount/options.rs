//! The options of a rootfs mount, in the words of fstab(5): flags for mount(2) and data for the file system.
//!
//! The translation is pure; `mount/mod.rs` applies it.

use berth_runtime::{Error, Result};
use nix::mount::MsFlags;

/// The parsed options of one mount.
#[derive(Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// All flags except propagation.
    pub flags: MsFlags,
    /// MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE, with MS_REC if recursive. Empty without such an option.
    pub propagation: MsFlags,
    /// The options that are no flags, in order, for the file system.
    pub data: Vec<String>,
    /// The mappings of uids and of gids: `container:host:size,…`.
    pub ids: [Option<String>; 2],
    /// The source is a file, to be attached to a loop device.
    pub loop_device: bool,
    /// The loop device bypasses the page cache of its file (LO_FLAGS_DIRECT_IO).
    pub direct_io: bool,
}

impl MountOptions {
    /// Parses the words in order. A later word overrides an earlier one.
    ///
    /// # Errors
    /// A word begins with `X-containerd.`. containerd's mount manager resolves such words, so one that arrives here
    /// shows a bug or a version skew.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self {
            flags: MsFlags::empty(),
            propagation: MsFlags::empty(),
            data: Vec::new(),
            ids: [None, None],
            loop_device: false,
            direct_io: false,
        };
        for word in words {
            options.add(word)?;
        }
        Ok(options)
    }

    /// The file system's options as the data of mount(2).
    pub fn joined(&self) -> String {
        self.data.join(",")
    }

    fn add(&mut self, word: &str) -> Result<()> {
        if let Some((set, flag)) = flag(word) {
            self.flags.set(flag, set);
        } else if let Some(propagation) = propagation(word) {
            self.propagation = propagation;
        } else if word == "loop" {
            self.loop_device = true;
        } else if word == "direct-io" {
            self.direct_io = true;
        } else if word.starts_with("X-containerd.") {
            return Err(Error::invalid(format!("option {word:?} is for containerd's mount manager")));
        } else if let Some(map) = word.strip_prefix("uidmap=") {
            self.ids[0] = Some(map.to_owned());
        } else if let Some(map) = word.strip_prefix("gidmap=") {
            self.ids[1] = Some(map.to_owned());
        } else if word != "defaults" && !word.is_empty() {
            self.data.push(word.to_owned());
        }
        Ok(())
    }
}

/// The flag of a word, and whether the word sets or clears it.
fn flag(word: &str) -> Option<(bool, MsFlags)> {
    Some(match word {
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "atime" => (false, MsFlags::MS_NOATIME),
        "bind" => (true, MsFlags::MS_BIND),
        "dev" => (false, MsFlags::MS_NODEV),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "lazytime" => (true, MsFlags::MS_LAZYTIME),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "nodev" => (true, MsFlags::MS_NODEV),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "nolazytime" => (false, MsFlags::MS_LAZYTIME),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "rbind" => (true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "silent" => (true, MsFlags::MS_SILENT),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "suid" => (false, MsFlags::MS_NOSUID),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MsFlags> {
    let (recursive, kind) = match word.strip_prefix('r') {
        Some(kind) => (MsFlags::MS_REC, kind),
        None => (MsFlags::empty(), word),
    };
    let kind = match kind {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<MountOptions> {
        MountOptions::parse(&words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn containerds_overlay_options_are_data() {
        let o = parse(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]).unwrap();
        assert_eq!(o.flags, MsFlags::empty());
        assert_eq!(o.joined(), "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b");
    }

    #[test]
    fn containerds_bind_options_are_flags() {
        let o = parse(&["rbind", "ro"]).unwrap();
        assert_eq!(o.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        assert!(o.data.is_empty());
    }

    #[test]
    fn later_option_words_override_earlier_ones() {
        let o = parse(&["ro", "nosuid", "rw", "suid", "noexec", "defaults", ""]).unwrap();
        assert_eq!(o.flags, MsFlags::MS_NOEXEC);
        assert_eq!(parse(&["private", "rslave"]).unwrap().propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
    }

    #[test]
    fn propagation_is_separate_from_the_flags() {
        let o = parse(&["bind", "runbindable"]).unwrap();
        assert_eq!((o.flags, o.propagation), (MsFlags::MS_BIND, MsFlags::MS_UNBINDABLE | MsFlags::MS_REC));
        assert_eq!(parse(&["ro"]).unwrap().propagation, MsFlags::empty());
    }

    #[test]
    fn loop_options_are_not_data() {
        let o = parse(&["loop", "direct-io", "ro"]).unwrap();
        assert!(o.loop_device && o.direct_io);
        assert!(o.data.is_empty());
    }

    #[test]
    fn containerds_own_option_words_are_refused() {
        let word = "X-containerd.mkdir.path=/x";
        assert!(parse(&[word]).unwrap_err().to_string().contains(word), "{word}");
    }

    #[test]
    fn id_mappings_are_not_data() {
        let o = parse(&["uidmap=0:1000:1", "gidmap=0:2000:1,1:3000:1", "lowerdir=/a"]).unwrap();
        assert_eq!(o.ids, [Some("0:1000:1".to_owned()), Some("0:2000:1,1:3000:1".to_owned())]);
        assert_eq!(o.joined(), "lowerdir=/a");
    }
}
