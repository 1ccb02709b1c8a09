//! The cgroup hierarchies, their controllers, and the part of them that a user may write.

use std::path::{Path, PathBuf};

use berth_runtime::mountinfo;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{Caller, Finding};
use crate::host::Host;

const AREA: &str = "cgroups";
/// The controllers of the limits of a pod.
const WANTED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The cgroup mounts of a host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    /// Where cgroup2 is mounted.
    v2: Option<PathBuf>,
    /// cgroup2 is mounted with `nsdelegate`.
    nsdelegate: bool,
    /// The controllers of v1 mounts.
    v1: Vec<String>,
}

/// The findings.
pub fn findings(host: &Host, caller: Caller) -> Vec<Finding> {
    let layout = layout(host.text("/proc/self/mountinfo").unwrap_or_default().as_bytes());
    let mut all = vec![mounts(&layout)];
    let mut there: Vec<String> =
        layout.v1.iter().map(|name| if name == "blkio" { "io".into() } else { name.clone() }).collect();
    if let Some(v2) = &layout.v2 {
        let listed = host.line(v2.join("cgroup.controllers")).unwrap_or_default();
        there.extend(listed.split_whitespace().map(ToOwned::to_owned));
    }
    let (has, lacks): (Vec<&str>, Vec<&str>) =
        WANTED.into_iter().partition(|name| there.iter().any(|known| known == name));
    all.push(if lacks.is_empty() {
        Finding::ok(AREA, "controllers", has.join(" "))
    } else {
        Finding::warning(AREA, "controllers", format!("{} without {}", has.join(" "), lacks.join(" "))).because(
            "a limit of a controller that is not there is an error",
            "boot with the controllers (cgroup_enable=memory where memory is off)",
        )
    });
    all.push(systemd(host));
    if caller == Caller::User {
        all.push(delegation(host, &layout));
    }
    all
}

fn layout(table: &[u8]) -> Layout {
    let mut layout = Layout::default();
    for line in mountinfo::lines(table) {
        let options = str::from_utf8(line.options).unwrap_or_default();
        match line.fstype {
            b"cgroup2" if layout.v2.is_none() => {
                layout.v2 = Some(line.point());
                layout.nsdelegate = options.split(',').any(|option| option == "nsdelegate");
            }
            b"cgroup" => layout.v1.extend(
                options
                    .split(',')
                    .filter(|o| !matches!(*o, "rw" | "ro" | "xattr") && !o.contains('='))
                    .map(ToOwned::to_owned),
            ),
            _ => {}
        }
    }
    layout.v1.sort_unstable();
    layout.v1.dedup();
    layout
}

fn mounts(layout: &Layout) -> Finding {
    match (&layout.v2, layout.v1.is_empty()) {
        (Some(v2), true) if layout.nsdelegate => {
            Finding::ok(AREA, "layout", format!("v2 at {}, nsdelegate", v2.display()))
        }
        (Some(v2), true) => Finding::warning(AREA, "layout", format!("v2 at {}, without nsdelegate", v2.display()))
            .because(
                "a container with a writable cgroup could change its own limits",
                "mount -o remount,nsdelegate the cgroup2 file system, as systemd does",
            ),
        (v2, false) => {
            let words = if v2.is_some() { "v1 and v2 (hybrid)" } else { "v1" };
            Finding::warning(AREA, "layout", format!("{words}: {}", layout.v1.join(" "))).because(
                "kubelet 1.36 refuses such a host unless failCgroupV1 is false, and a user has no limits there",
                "boot with systemd.unified_cgroup_hierarchy=1",
            )
        }
        (None, true) => Finding::missing(AREA, "layout", "no cgroup file system").because(
            "limits, pause, kill and the statistics of containers need one",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn systemd(host: &Host) -> Finding {
    if !host.has("/run/systemd/system") {
        return Finding::absent(AREA, "systemd", "does not run: the systemd cgroup driver is not available");
    }
    let version = host.output("systemctl", "--version").unwrap_or_default();
    let version = version.lines().next().unwrap_or("version unknown").to_owned();
    if host.has("/run/systemd/private") || host.has("/run/dbus/system_bus_socket") {
        Finding::ok(AREA, "systemd", version)
    } else {
        Finding::warning(AREA, "systemd", version)
            .because("the systemd cgroup driver has no socket to ask systemd on", "start dbus.socket")
    }
}

/// The caller's own cgroup is one that the user may write, with controllers.
fn delegation(host: &Host, layout: &Layout) -> Finding {
    const WHY: &str = "a limit in config.json is an error without such a cgroup";
    let Some(v2) = &layout.v2 else {
        return Finding::warning(AREA, "delegation", "none on v1").because(WHY, "boot with cgroup v2");
    };
    let own = host.text("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let parent = Path::new(own).parent().unwrap_or(Path::new(""));
    let dir = v2.join(parent);
    let writable = accessat(CWD, host.path(dir.join("cgroup.procs")), Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    if !writable {
        return Finding::warning(AREA, "delegation", format!("{} belongs to another user", dir.display()))
            .because(WHY, "start the command with systemd-run --user --scope, or use --systemd-cgroup");
    }
    let listed = host.line(dir.join("cgroup.controllers")).unwrap_or_default();
    let found = format!("{}: {listed}", dir.display());
    if ["memory", "pids"].iter().all(|name| listed.split(' ').any(|known| known == *name)) {
        Finding::ok(AREA, "delegation", found)
    } else {
        Finding::warning(AREA, "delegation", found)
            .because(WHY, "delegate the controllers: Delegate=cpu cpuset io memory pids in a drop-in of user@.service")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_cgroups_are_told_apart() {
        let v2 = "29 23 0:26 / /sys/fs/my\\040cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let v1 = "30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n";
        let pure = layout(v2.as_bytes());
        assert_eq!(pure, Layout { v2: Some("/sys/fs/my cgroup".into()), nsdelegate: true, v1: vec![] });
        assert_eq!(layout(v1.as_bytes()).v1, ["memory"]);
        let verdicts = [pure, layout(v1.as_bytes()), layout(format!("{v1}{v2}").as_bytes()), layout(b"")]
            .map(|layout| mounts(&layout).status);
        use super::super::Status::{Missing, Ok, Warning};
        assert_eq!(verdicts, [Ok, Warning, Warning, Missing]);
    }
}
