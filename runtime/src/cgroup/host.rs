//! The cgroup hierarchies of the host and their mount points.
//!
//! They are looked up once and kept: cgroup mounts do not move while a shim lives. `/proc/self/cgroup` names the
//! hierarchies. The usual mount points are tried first, because `/proc/self/mountinfo` lists all mounts of the host and takes
//! milliseconds to read with some hundred pods. It is read only if a hierarchy is mounted elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{
    error::{Context, Error, Kind, Result},
    host::mountinfo::{self, Line},
};

/// The mount point of the hierarchies with all distributions, systemd and other runtimes.
const USUAL: &str = "/sys/fs/cgroup";

/// statfs(2) `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC`.
const CGROUP_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// The inode of the root directory of a hierarchy. A mount of a part of a hierarchy has another one.
const ROOT_INODE: u64 = 1;

/// The mounted cgroup hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    unified: bool,
    mounts: Vec<Mount>,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount point.
    pub point: PathBuf,
    /// The v1 controllers of the hierarchy, or its `name=…`; empty for the v2 hierarchy.
    pub controllers: Vec<String>,
    /// The directory of the hierarchy that is mounted there; `/` unless this is a container.
    pub root: PathBuf,
    /// The cgroup of this process, as a path from the root of the hierarchy.
    pub own: PathBuf,
}

impl Host {
    /// Whether all controllers are in the v2 hierarchy. False in hybrid mode.
    pub fn unified(&self) -> bool {
        self.unified
    }

    /// The hierarchies: on a unified host one, otherwise those of v1, and in hybrid mode that of v2 last.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The hierarchies at their usual mount points. `None` if one is not there, is not mounted from its root, or cannot be
    /// looked at: mountinfo then decides.
    fn usual(cgroup: &str) -> Option<Self> {
        let lines: Vec<(Vec<&str>, &str)> = cgroup.lines().filter_map(own_line).collect();
        let usual = Path::new(USUAL);
        let unified = is_root_of(usual, CGROUP2_MAGIC)?;
        let v2_point = if unified { usual.to_owned() } else { usual.join("unified") };
        let mut mounts = Vec::new();
        for (names, own) in lines.iter().filter(|(names, _)| !unified && !names.is_empty()) {
            let joined = names.join(",");
            let point = usual.join(joined.strip_prefix("name=").unwrap_or(&joined));
            mounts.push(Mount::whole(point, names, own));
        }
        if !mounts.iter().all(|m| is_root_of(&m.point, CGROUP_MAGIC) == Some(true)) || mounts.is_empty() != unified {
            return None;
        }
        // /proc/self/cgroup always names the v2 hierarchy. On a v1 host it counts only if it is mounted where systemd mounts
        // it, as with runc; on many such hosts it is not mounted.
        if unified || is_root_of(&v2_point, CGROUP2_MAGIC)? {
            let (_, own) = lines.iter().find(|(names, _)| names.is_empty())?;
            mounts.push(Mount::whole(v2_point, &[], own));
        }
        Some(Self { unified, mounts })
    }

    /// Reads the hierarchies from the two files. Pure, so that tests can pass text.
    ///
    /// # Errors
    /// No cgroup hierarchy is mounted.
    pub(super) fn parse(mountinfo: &[u8], cgroup: &str) -> Result<Self> {
        let entries: Vec<Entry> = mountinfo::lines(mountinfo).filter_map(Entry::of).collect();
        let owns: Vec<(Vec<&str>, &str)> = cgroup.lines().filter_map(own_line).collect();
        let v2_own = owns.iter().find(|(names, _)| names.is_empty()).map_or("/", |(_, path)| *path);

        // The last mount on a path hides earlier ones, so a cgroup2 over an older tmpfs with v1 mounts counts.
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

    /// Whether this is the v2 hierarchy, on a unified or a hybrid host.
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// The directory of the cgroup of this process.
    pub fn own_dir(&self) -> PathBuf {
        self.dir_of(&self.own)
    }

    /// The directory of the cgroup with this `path` in `/proc/<pid>/cgroup`. In a container without a cgroup namespace the
    /// path counts from the root of the host, but only a part of the hierarchy is mounted: that prefix is removed.
    pub(super) fn dir_of(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix("/")).unwrap_or(Path::new(""));
        self.point.join(below)
    }
}

/// The hierarchies of the host. They are looked up on the first call.
///
/// # Errors
/// No cgroup hierarchy is mounted.
pub fn host() -> Result<&'static Host> {
    static HOST: OnceLock<Host> = OnceLock::new();
    if let Some(host) = HOST.get() {
        return Ok(host);
    }
    let cgroup = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let host = match Host::usual(&cgroup) {
        Some(host) => host,
        None => Host::parse(&mountinfo::read()?, &cgroup)?,
    };
    Ok(HOST.get_or_init(|| host))
}

/// Returns true if /sys/fs/cgroup is a v2 hierarchy, as on a host with cgroup v2 only.
pub fn usual_mount_is_v2() -> bool {
    has_magic(Path::new(USUAL), CGROUP2_MAGIC)
}

fn has_magic(point: &Path, magic: i64) -> bool {
    rustix::fs::statfs(point).is_ok_and(|fs| fs.f_type == magic)
}

/// Returns true if a file system of this type is mounted at `point` from its root. `None` if the kernel does not say.
fn is_root_of(point: &Path, magic: i64) -> Option<bool> {
    let root = || Ok(rustix::fs::statfs(point)?.f_type == magic && rustix::fs::lstat(point)?.st_ino == ROOT_INODE);
    match root() {
        Ok(root) => Some(root),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Some(false),
        Err(_) => None,
    }
}

/// The mount of a hierarchy, or a mount that hides some.
struct Entry<'a> {
    v2: bool,
    root: PathBuf,
    point: PathBuf,
    options: Vec<&'a str>,
}

impl<'a> Entry<'a> {
    /// Returns the entry of a line. `None` for a mount of another type, unless it is at the usual mount point, where it
    /// hides cgroup mounts.
    fn of(line: Line<'a>) -> Option<Self> {
        let (v2, v1, point) = (line.fstype == b"cgroup2", line.fstype == b"cgroup", line.point());
        if !v2 && !v1 && point != Path::new(USUAL) {
            return None;
        }
        let options = if v1 { str::from_utf8(line.options).ok()?.split(',').collect() } else { Vec::new() };
        Some(Self { v2, root: line.root(), point, options })
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

/// Parses a line `4:cpu,cpuacct:/path` (cgroups(7)): the controllers, which are empty for v2, and the path.
pub(super) fn own_line(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut parts = line.splitn(3, ':');
    let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
    Some((names.split(',').filter(|n| !n.is_empty()).collect(), path))
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
    fn hybrid_host_lists_v1_then_v2() {
        let host = Host::parse(HYBRID.as_bytes(), OWN).unwrap();
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
    fn usual_mount_points_agree_with_mountinfo() {
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mountinfo = mountinfo::read().unwrap();
        if let Some(host) = Host::usual(&cgroup) {
            assert_eq!(host, Host::parse(&mountinfo, &cgroup).unwrap());
        }
        // A hierarchy that is mounted elsewhere is searched in mountinfo, not left out.
        assert_eq!(Host::usual(&format!("77:berth-test:/\n{cgroup}")).filter(|host| !host.unified()), None);
        assert_eq!(Host::usual(""), None);
    }

    #[test]
    fn mount_point_that_cannot_be_looked_at_is_not_a_missing_one() {
        assert_eq!(is_root_of(Path::new("/proc/no-such"), CGROUP_MAGIC), Some(false));
        assert_eq!(is_root_of(Path::new("/proc"), CGROUP_MAGIC), Some(false));
        let unknown = "x".repeat(5000);
        assert_eq!(is_root_of(Path::new(&unknown), CGROUP_MAGIC), None);
    }

    #[test]
    fn a_cgroup2_over_v1_mounts_is_unified() {
        let text = format!("{HYBRID}99 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 none rw,nsdelegate\n");
        let host = Host::parse(text.as_bytes(), OWN).unwrap();
        assert!(host.unified());
        assert_eq!(host.mounts().len(), 1);
        assert_eq!(host.mounts()[0].own_dir(), Path::new("/sys/fs/cgroup/u"));
    }

    #[test]
    fn tmpfs_over_cgroup2_hides_it() {
        let text = "9 1 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n".to_owned() + HYBRID;
        assert!(!Host::parse(text.as_bytes(), OWN).unwrap().unified());
    }

    #[test]
    fn prefix_of_a_partial_mount_is_removed() {
        let text = "9 1 0:1 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let host = Host::parse(text.as_bytes(), "7:pids:/docker/abc/inner\n").unwrap();
        assert_eq!(host.mounts()[0].own_dir(), Path::new("/sys/fs/cgroup/pids/inner"));
    }

    #[test]
    fn host_without_cgroups_is_unsupported() {
        let e = Host::parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "0::/\n").unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unsupported, "no cgroup mount found in mountinfo"));
    }

    #[test]
    fn escaped_mount_point_is_decoded() {
        let text = b"8 1 0:37 / /\xff rw - tmpfs none rw\n9 1 0:38 / /run/my\\040cgroup rw - cgroup2 none rw\n";
        assert_eq!(Host::parse(text, "0::/\n").unwrap().mounts()[0].point, Path::new("/run/my cgroup"));
    }
}
