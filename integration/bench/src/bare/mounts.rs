//! Converts `mounts`, `maskedPaths` and `readonlyPaths` into steps on the new root. It uses mount(2), which takes one
//! call where the new mount API takes four.

use super::{
    cgroups,
    json::{Failure, c_string, list, word},
    step::Step,
};
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the steps of a config.json whose root is at `rootfs`. Targets in the root itself are made once, now. Targets
/// in a filesystem that is mounted on it are made each time.
///
/// # Errors
/// The floor does not know an option or a type, or a target cannot be made.
pub fn steps(config: &Value, rootfs: &Path, cgroup: &str, cgroup_namespace: bool) -> Result<Vec<Step>, Failure> {
    let mut plan = Plan { rootfs, steps: Vec::new(), mounted: Vec::new() };
    for mount in list(&config["mounts"]) {
        let source = word(&mount["source"]).unwrap_or("none");
        let target = word(&mount["destination"]).ok_or("mounts: no destination")?;
        let options = Options::parse(list(&mount["options"]).filter_map(word))?;
        match word(&mount["type"]).unwrap_or("bind") {
            "bind" => plan.bind(source, target, &options)?,
            "cgroup" | "cgroup2" => plan.cgroup(target, &options, cgroup, cgroup_namespace)?,
            kind @ ("proc" | "sysfs" | "mqueue" | "devpts" | "tmpfs") => {
                plan.file_system(kind, source, target, &options)?;
                if target == "/dev" {
                    plan.devices()?;
                }
            }
            other => return Err(format!("mounts: {target}: type {other:?} is not known here").into()),
        }
    }
    for path in list(&config["linux"]["readonlyPaths"]).filter_map(word) {
        plan.readonly(path)?;
    }
    let mut empty = None;
    for path in list(&config["linux"]["maskedPaths"]).filter_map(word) {
        plan.mask(path, &mut empty)?;
    }
    Ok(plan.steps)
}

struct Plan<'a> {
    rootfs: &'a Path,
    steps: Vec<Step>,
    /// The target, type and flags of each mount so far.
    mounted: Vec<(PathBuf, String, MountFlags)>,
}

impl Plan<'_> {
    fn bind(&mut self, source: &str, target: &str, options: &Options) -> Result<(), Failure> {
        let directory = fs::metadata(source).map_err(|e| format!("mounts: {source}: {e}"))?.is_dir();
        self.target(target, directory)?;
        self.steps.push(Step::Bind {
            source: c_string(source)?,
            target: relative(target)?,
            recursive: options.recursive,
        });
        // A bind mount inherits the flags of its source. Clearing them all would need a remount as well, but a source
        // on an ordinary filesystem has none.
        if !options.flags.is_empty() {
            self.steps.push(Step::Remount { target: relative(target)?, flags: options.flags });
        }
        if let Some(flags) = options.propagation {
            self.steps.push(Step::Change { target: relative(target)?, flags });
        }
        self.mounted.push((target.into(), "bind".into(), options.flags));
        Ok(())
    }

    fn file_system(&mut self, kind: &str, source: &str, target: &str, options: &Options) -> Result<(), Failure> {
        self.target(target, true)?;
        let data = if options.data.is_empty() { None } else { Some(c_string(&options.data.join(","))?) };
        let (source, kind_c, flags) = (c_string(source)?, c_string(kind)?, options.flags);
        self.steps.push(Step::Mount { source, target: relative(target)?, kind: kind_c, flags, data });
        self.mounted.push((target.into(), kind.into(), flags));
        Ok(())
    }

    /// Mounts the v2 hierarchy. On v1 it mounts a tmpfs and binds the container's own directory of each hierarchy.
    fn cgroup(&mut self, target: &str, options: &Options, cgroup: &str, namespace: bool) -> Result<(), Failure> {
        let hierarchies = cgroups::hierarchies()?;
        if hierarchies.iter().all(|hierarchy| hierarchy.unified) {
            return self.file_system("cgroup2", "cgroup", target, options);
        }
        if namespace {
            return Err("mounts: a cgroup namespace on v1 is not known here".into());
        }
        let plain = options.flags - MountFlags::RDONLY;
        let tmpfs = Options { flags: plain, data: vec!["mode=755".into()], propagation: None, recursive: false };
        self.file_system("tmpfs", "tmpfs", target, &tmpfs)?;
        for hierarchy in hierarchies.iter().filter(|hierarchy| !hierarchy.unified) {
            let name = hierarchy.root.file_name().ok_or("a cgroup hierarchy at /")?.to_string_lossy().into_owned();
            let place = format!("{target}/{name}");
            self.steps.push(Step::Directory(relative(&place)?));
            let source = c_string(&hierarchy.directory(cgroup).to_string_lossy())?;
            self.steps.push(Step::Bind { source, target: relative(&place)?, recursive: false });
            self.steps.push(Step::Remount { target: relative(&place)?, flags: options.flags });
        }
        self.steps.push(Step::Remount { target: relative(target)?, flags: options.flags });
        Ok(())
    }

    /// Makes the default nodes and links, as every runtime does.
    fn devices(&mut self) -> Result<(), Failure> {
        for (name, major, minor) in
            [("null", 1, 3), ("random", 1, 8), ("full", 1, 7), ("tty", 5, 0), ("zero", 1, 5), ("urandom", 1, 9)]
        {
            let device = rustix::fs::makedev(major, minor);
            self.steps.push(Step::Node { path: relative(&format!("/dev/{name}"))?, mode: 0o666, device });
        }
        let core = Path::new("/proc/kcore").exists().then_some(("core", "/proc/kcore"));
        let links = [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ];
        for (name, to) in links.into_iter().chain(core) {
            self.steps.push(Step::Link { to: c_string(to)?, path: relative(&format!("/dev/{name}"))? });
        }
        Ok(())
    }

    fn readonly(&mut self, path: &str) -> Result<(), Failure> {
        if !self.exists(path) {
            return Ok(());
        }
        let flags = self.around(path).map_or(MountFlags::empty(), |(_, _, flags)| *flags) | MountFlags::RDONLY;
        self.steps.push(Step::Bind { source: relative(path)?, target: relative(path)?, recursive: true });
        self.steps.push(Step::Remount { target: relative(path)?, flags });
        Ok(())
    }

    /// The host's null device masks a file. An empty tmpfs masks the first directory, and a bind mount of it the
    /// others.
    fn mask(&mut self, path: &str, empty: &mut Option<String>) -> Result<(), Failure> {
        if !self.exists(path) {
            return Ok(());
        }
        let directory = self.seen(path).is_dir();
        let source = match empty {
            _ if !directory => c_string("/dev/null")?,
            Some(first) => relative(first)?,
            None => {
                let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                let data = Some(c_string("nr_blocks=1,nr_inodes=1")?);
                let kind = c_string("tmpfs")?;
                self.steps.push(Step::Mount { source: c_string("none")?, target: relative(path)?, kind, flags, data });
                *empty = Some(path.to_owned());
                return Ok(());
            }
        };
        self.steps.push(Step::Bind { source, target: relative(path)?, recursive: false });
        if !directory {
            // The mount has no nodev, or the null device could not be opened.
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
            self.steps.push(Step::Remount { target: relative(path)?, flags });
        }
        Ok(())
    }

    /// Returns the mount that a path lies in: the last one whose target is above it.
    fn around(&self, path: &str) -> Option<&(PathBuf, String, MountFlags)> {
        self.mounted.iter().rev().find(|(target, ..)| Path::new(path).starts_with(target))
    }

    /// Returns the path at which a path of the container can be examined beforehand. /proc and /sys are the host's.
    fn seen(&self, path: &str) -> PathBuf {
        match self.around(path) {
            Some((_, kind, _)) if kind == "proc" || kind == "sysfs" => path.into(),
            _ => self.rootfs.join(path.trim_start_matches('/')),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.seen(path).exists()
    }

    fn target(&mut self, target: &str, directory: bool) -> Result<(), Failure> {
        let below = self.rootfs.join(target.trim_start_matches('/'));
        match self.around(target).map(|(_, kind, _)| kind.as_str()) {
            Some("tmpfs") if directory => self.steps.push(Step::Directory(relative(target)?)),
            Some("proc" | "sysfs") => {}
            Some(other) => return Err(format!("mounts: {target}: a target on {other} is not known here").into()),
            None if directory => fs::create_dir_all(below)?,
            None => {
                fs::create_dir_all(below.parent().unwrap_or(self.rootfs))?;
                fs::OpenOptions::new().create(true).append(true).open(below)?;
            }
        }
        Ok(())
    }
}

fn relative(path: &str) -> Result<std::ffi::CString, Failure> {
    c_string(path.trim_matches('/'))
}

/// The parsed options of a mount.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    recursive: bool,
    data: Vec<String>,
}

impl Options {
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let mut options = Self { flags: MountFlags::empty(), propagation: None, recursive: false, data: Vec::new() };
        for word in words {
            let all = MountPropagationFlags::REC;
            match word {
                "ro" => options.flags |= MountFlags::RDONLY,
                "nosuid" => options.flags |= MountFlags::NOSUID,
                "nodev" => options.flags |= MountFlags::NODEV,
                "noexec" => options.flags |= MountFlags::NOEXEC,
                "relatime" => options.flags |= MountFlags::RELATIME,
                "strictatime" => options.flags |= MountFlags::STRICTATIME,
                "rw" => {}
                "bind" => options.recursive = false,
                "rbind" => options.recursive = true,
                "private" => options.propagation = Some(MountPropagationFlags::PRIVATE),
                "rprivate" => options.propagation = Some(MountPropagationFlags::PRIVATE | all),
                "slave" => options.propagation = Some(MountPropagationFlags::DOWNSTREAM),
                "rslave" => options.propagation = Some(MountPropagationFlags::DOWNSTREAM | all),
                data if data == "newinstance" || data.contains('=') => options.data.push(data.to_owned()),
                other => return Err(format!("mounts: option {other:?} is not known here").into()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_sorted_into_flags_and_data() {
        let words = ["rbind", "rprivate", "ro", "nosuid", "mode=755", "size=64k"];
        let options = Options::parse(words.into_iter()).unwrap();
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(options.propagation, Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
        assert!(options.recursive);
        assert_eq!(options.data, ["mode=755", "size=64k"]);
        Options::parse(["tmpcopyup"].into_iter()).unwrap_err();
    }

    #[test]
    fn mount_targets_in_the_root_are_made_once() {
        let scratch = berth_integration::scratch::Scratch::new("mounts");
        let config = berth_integration::bundle::default_config();
        let steps = steps(&config, scratch.path(), "none/bare", false).unwrap();
        let nodes = steps.iter().filter(|step| matches!(step, Step::Node { .. })).count();
        assert_eq!(nodes, 6);
        assert!(steps.contains(&Step::Directory(c"dev/pts".into())), "a target on a tmpfs is made each time");
        assert!(scratch.path().join("proc").is_dir(), "one in the root is made once");
        let readonly = Step::Bind { source: c"proc/sys".into(), target: c"proc/sys".into(), recursive: true };
        assert!(steps.contains(&readonly));
    }
}
