//! Which cgroup hierarchies this machine has and where they are mounted.
//!
//! Looked up once and kept: cgroup mounts do not move while a shim lives. `/proc/self/cgroup` names the hierarchies; where
//! they are is tried at the usual places, since `/proc/self/mountinfo` is as long as the node has mounts, milliseconds
//! with some hundred pods on it. Only when something is unusual is it read.
//! What is done inside a hierarchy is left to the siblings.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::error::{Context, Error, Kind, Result};

/// Where distributions, systemd and every runtime expect the hierarchies.
const USUAL: &str = "/sys/fs/cgroup";

/// statfs(2) `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC`.
const CGROUP_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// The inode of a hierarchy's root directory; a mount that shows only a part of one has another.
const ROOT_INODE: u64 = 1;

/// The cgroup world of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    unified: bool,
    mounts: Vec<Mount>,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The v1 controllers of it, or its `name=…`; empty for the v2 hierarchy.
    pub controllers: Vec<String>,
    /// Which directory of the hierarchy is mounted there: `/` unless this is a container.
    pub root: PathBuf,
    /// The cgroup of this process in it, as a path from the hierarchy's root.
    pub own: PathBuf,
}

impl Host {
    /// True when there is one hierarchy for everything (cgroup v2); false with v1 hierarchies, hybrid included.
    pub fn unified(&self) -> bool {
        self.unified
    }

    /// The hierarchies. On a unified host exactly one; else the v1 ones, and in hybrid mode the v2 one last.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The hierarchies at their usual places, each mounted whole; `None` when one is not.
    fn usual(cgroup: &str) -> Option<Self> {
        let lines: Vec<(Vec<&str>, &str)> = cgroup.lines().filter_map(own_line).collect();
        let usual = Path::new(USUAL);
        let unified = is_root_of(usual, CGROUP2_MAGIC);
        let v2_point = if unified { usual.to_owned() } else { usual.join("unified") };
        let mut mounts = Vec::new();
        for (names, own) in lines.iter().filter(|(names, _)| !unified && !names.is_empty()) {
            let joined = names.join(",");
            let point = usual.join(joined.strip_prefix("name=").unwrap_or(&joined));
            mounts.push(Mount::whole(point, names, own));
        }
        if !mounts.iter().all(|m| is_root_of(&m.point, CGROUP_MAGIC)) || mounts.is_empty() != unified {
            return None;
        }
        // The kernel names a v2 hierarchy always. Beside v1 ones it counts only where systemd mounts it, as for runc; on
        // many such machines nobody has.
        if unified || is_root_of(&v2_point, CGROUP2_MAGIC) {
            let (_, own) = lines.iter().find(|(names, _)| names.is_empty())?;
            mounts.push(Mount::whole(v2_point, &[], own));
        }
        Some(Self { unified, mounts })
    }

    /// What the two files say; pure, so that it is tested on texts.
    fn parse(mountinfo: &str, cgroup: &str) -> Result<Self> {
        let entries: Vec<Entry> = mountinfo.lines().filter_map(Entry::parse).collect();
        let owns: Vec<(Vec<&str>, &str)> = cgroup.lines().filter_map(own_line).collect();
        let v2_own = owns.iter().find(|(names, _)| names.is_empty()).map_or("/", |(_, path)| *path);

        // The last mount on a place is the one that shows, so a cgroup2 over an older tmpfs of v1 mounts wins.
        let top = entries.iter().rfind(|e| e.point == Path::new(USUAL));
        let v1_possible = !top.is_some_and(|e| e.v2);
        let mut mounts: Vec<Mount> = Vec::new();
        for (names, own) in owns.iter().filter(|(names, _)| v1_possible && !names.is_empty()) {
            let has = |e: &&Entry| !e.v2 && names.iter().all(|n| e.options.contains(n));
            let usual = entries.iter().filter(has).find(|e| e.point.starts_with(USUAL));
            if let Some(e) = usual.or_else(|| entries.iter().find(has)) {
                mounts.push(e.mount(names, own));
            }
        }
        let unified = mounts.is_empty();
        let v2 = match top.filter(|e| e.v2) {
            Some(e) => Some(e),
            None if unified => entries.iter().find(|e| e.v2),
            None => entries.iter().find(|e| e.v2 && e.point.starts_with(USUAL)),
        };
        mounts.extend(v2.map(|e| e.mount(&[], v2_own)));
        if mounts.is_empty() {
            return Err(Error::new(Kind::Unsupported, "no cgroup mount found in mountinfo"));
        }
        Ok(Self { unified, mounts })
    }
}

impl Mount {
    fn whole(point: PathBuf, names: &[&str], own: &str) -> Self {
        let controllers = names.iter().map(|n| (*n).to_owned()).collect();
        Self { point, controllers, root: "/".into(), own: own.into() }
    }

    /// True for the v2 hierarchy, alone or beside v1 ones.
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// The directory of this process's cgroup.
    pub fn own_dir(&self) -> PathBuf {
        self.dir_of(&self.own)
    }

    /// The directory of the cgroup that `/proc/<pid>/cgroup` calls `path`. In a container without a cgroup namespace that
    /// counts from the host's root while the mount shows only a part, so the part is taken off.
    pub(super) fn dir_of(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix("/")).unwrap_or(Path::new(""));
        self.point.join(below)
    }
}

/// The hierarchies of this machine, read on the first call.
pub fn host() -> Result<&'static Host> {
    static HOST: OnceLock<Host> = OnceLock::new();
    if let Some(host) = HOST.get() {
        return Ok(host);
    }
    let cgroup = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let host = match Host::usual(&cgroup) {
        Some(host) => host,
        None => {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
            Host::parse(&mountinfo, &cgroup)?
        }
    };
    Ok(HOST.get_or_init(|| host))
}

/// Whether a file system of this kind is mounted at `point`, from its root on.
fn is_root_of(point: &Path, magic: i64) -> bool {
    rustix::fs::statfs(point).is_ok_and(|fs| fs.f_type == magic)
        && rustix::fs::lstat(point).is_ok_and(|stat| stat.st_ino == ROOT_INODE)
}

/// What of a mountinfo line matters here.
struct Entry<'a> {
    v2: bool,
    root: PathBuf,
    point: PathBuf,
    options: Vec<&'a str>,
}

impl<'a> Entry<'a> {
    /// `36 35 98:0 /root /point opts [tags…] - fstype source superopts` (proc_pid_mountinfo(5)); None for other mounts
    /// except one that lies on the usual place, which can hide cgroup mounts.
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (fstype, _source) = (right.next()?, right.next()?);
        let v2 = fstype == "cgroup2";
        if !v2 && fstype != "cgroup" && point != USUAL {
            return None;
        }
        let options = if fstype == "cgroup" { right.next()?.split(',').collect() } else { Vec::new() };
        Some(Self { v2, root: unescape(root).into(), point: unescape(point).into(), options })
    }

    fn mount(&self, names: &[&str], own: &str) -> Mount {
        Mount {
            point: self.point.clone(),
            controllers: names.iter().map(|n| (*n).to_owned()).collect(),
            root: self.root.clone(),
            own: own.into(),
        }
    }
}

/// `4:cpu,cpuacct:/path` (cgroups(7)): the names, none for v2, and the path.
pub(super) fn own_line(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut parts = line.splitn(3, ':');
    let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
    Some((names.split(',').filter(|n| !n.is_empty()).collect(), path))
}

/// Undoes the kernel's `\040`-like escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |t, (escape, plain)| t.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
90 31 0:29 /x /var/lib/other rw,relatime - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 1 8:1 / /mnt/a\\040b rw - ext4 /dev/sda1 rw
";
    const OWN: &str = "7:pids:/\n6:freezer:/\n2:cpu,cpuacct:/a/b\n1:name=systemd:/s\n0::/u\n";

    #[test]
    fn hybrid_lists_v1_then_v2() {
        let host = Host::parse(HYBRID, OWN).unwrap();
        assert!(!host.unified());
        let rows: Vec<_> = host.mounts().iter().map(|m| (m.controllers.join(","), m.own_dir())).collect();
        let want = [
            ("freezer", "/sys/fs/cgroup/freezer/"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a/b"),
            ("name=systemd", "/sys/fs/cgroup/systemd/s"),
            ("", "/sys/fs/cgroup/unified/u"),
        ];
        assert_eq!(rows, want.map(|(c, p)| (c.to_owned(), PathBuf::from(p))));
    }

    #[test]
    fn the_usual_places_say_what_mountinfo_says() {
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        if let Some(host) = Host::usual(&cgroup) {
            assert_eq!(host, Host::parse(&mountinfo, &cgroup).unwrap());
        }
        // A hierarchy that is at no usual place is looked for, not left out.
        assert_eq!(Host::usual(&format!("77:berth-test:/\n{cgroup}")).filter(|host| !host.unified()), None);
        assert_eq!(Host::usual(""), None);
    }

    #[test]
    fn a_cgroup2_over_v1_mounts_is_unified() {
        let text = format!("{HYBRID}99 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 none rw,nsdelegate\n");
        let host = Host::parse(&text, OWN).unwrap();
        assert!(host.unified());
        assert_eq!(host.mounts().len(), 1);
        assert_eq!(host.mounts()[0].own_dir(), Path::new("/sys/fs/cgroup/u"));
    }

    #[test]
    fn a_tmpfs_over_cgroup2_hides_it() {
        let text = "9 1 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n".to_owned() + HYBRID;
        assert!(!Host::parse(&text, OWN).unwrap().unified());
    }

    #[test]
    fn in_a_container_the_mounted_part_is_taken_off() {
        let text = "9 1 0:1 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let host = Host::parse(text, "7:pids:/docker/abc/inner\n").unwrap();
        assert_eq!(host.mounts()[0].own_dir(), Path::new("/sys/fs/cgroup/pids/inner"));
    }

    #[test]
    fn none_at_all_is_said() {
        let e = Host::parse("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "0::/\n").unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unsupported, "no cgroup mount found in mountinfo"));
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
