//! User namespaces: the switches that forbid them, a trial, idmapped mounts, and subordinate ids.

use std::{os::fd::AsFd, os::unix::fs::PermissionsExt, path::Path, process::Command};

use berth_runtime::{Ids, MountAccess, clone_mapped, user_namespace};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::{getgid, getuid},
    thread::UnshareFlags,
};

use super::{Caller, Finding, Status};
use crate::host::Host;

const AREA: &str = "user namespaces";
/// The word by which this program calls itself for the trial.
pub const TRIAL: &str = "try-user-namespace";

/// The findings.
pub fn findings(host: &Host, caller: Caller) -> Vec<Finding> {
    let mut all = vec![limit(host, caller)];
    all.extend(switches(host));
    if caller == Caller::User {
        all.push(trial());
        all.extend(subordinate(host));
    } else {
        all.push(idmap());
    }
    all
}

/// An ordinary user needs a user namespace for each container; root needs one for pods that ask for it.
fn severity(caller: Caller) -> Status {
    if caller == Caller::User { Status::Missing } else { Status::Warning }
}

fn limit(host: &Host, caller: Caller) -> Finding {
    match host.line("/proc/sys/user/max_user_namespaces").as_deref() {
        Some("0") => Finding::new(AREA, "max_user_namespaces", severity(caller), "0")
            .because("no process may make a user namespace", "sysctl -w user.max_user_namespaces=65536"),
        Some(number) => Finding::ok(AREA, "max_user_namespaces", number),
        None => Finding::new(AREA, "max_user_namespaces", severity(caller), "the kernel has no user namespaces")
            .because("no process may make a user namespace", "boot a kernel that is built with USER_NS"),
    }
}

/// The switches that distributions add. Root is not affected.
fn switches(host: &Host) -> Vec<Finding> {
    const WHY: &str = "an ordinary user cannot run containers";
    let switch = |name: &str, forbids: &str, todo: &str| {
        let value = host.line(format!("/proc/sys/kernel/{name}"))?;
        let finding = if value == forbids {
            Finding::warning(AREA, name, value).because(WHY, todo)
        } else {
            Finding::ok(AREA, name, value)
        };
        Some(finding)
    };
    let debian = switch("unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1");
    let ubuntu = switch(
        "apparmor_restrict_unprivileged_userns",
        "1",
        "apparmor_parser -r the profile apparmor/berth of berth's package, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    );
    debian.into_iter().chain(ubuntu).collect()
}

/// Makes a user namespace with a mount namespace in a child. AppArmor's restriction lets the namespace be made and takes
/// its capabilities away, so the child changes a mount in it.
fn trial() -> Finding {
    let tried = std::env::current_exe().and_then(|own| Command::new(own).arg(TRIAL).output());
    match tried {
        Ok(out) if out.status.success() => Finding::ok(AREA, "trial", "a user namespace was made"),
        Ok(out) => Finding::missing(AREA, "trial", String::from_utf8_lossy(&out.stderr).trim().to_owned())
            .because("each container of an ordinary user has a user namespace", "see the switches above"),
        Err(e) => Finding::warning(AREA, "trial", format!("not made: {e}")),
    }
}

/// The child of [`trial`]: returns the exit status.
#[allow(deprecated, reason = "rustix 1.1 marks unshare unsafe for CLONE_FILES alone")]
pub fn try_namespace() -> i32 {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let made =
        rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(|e| format!("unshare: {e}"));
    let mapped = made.and_then(|()| {
        let write = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("write {file}: {e}"))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {uid} 1"))?;
        write("gid_map", format!("0 {gid} 1"))
    });
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let changed = mapped.and_then(|()| mount_change("/", flags).map_err(|e| format!("change a mount: {e}")));
    match changed {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e}");
            1
        }
    }
}

/// Maps the ids of a copy of the mount of `/usr`, which is on the file system of most hosts' images.
fn idmap() -> Finding {
    const WHY: &str = "pods with hostUsers: false need idmapped mounts of volumes and images";
    let ids = Ids::parse("0 100000 1000", "0 100000 1000").unwrap_or_default();
    let users = match user_namespace::create(&ids) {
        Ok(users) => users,
        // A process in a chroot(2) may make none (user_namespaces(7)).
        Err(e) => return Finding::absent(AREA, "idmapped mounts", format!("not tried: {e}")),
    };
    let mapped = clone_mapped(Path::new("/usr/lib"), users.as_fd(), MountAccess::Unchanged);
    match mapped {
        Ok(_) => Finding::ok(AREA, "idmapped mounts", "the root file system has them"),
        Err(e) => Finding::warning(AREA, "idmapped mounts", e.to_string())
            .because(WHY, "keep images and volumes on ext4, xfs, btrfs or tmpfs, with Linux 5.19 or later"),
    }
}

fn subordinate(host: &Host) -> Vec<Finding> {
    const WHY: &str = "a container has only one id without them";
    let mut all = Vec::new();
    for program in ["newuidmap", "newgidmap"] {
        let place = host.program(program);
        let mode =
            place.as_ref().and_then(|place| std::fs::metadata(place).ok()).map_or(0, |data| data.permissions().mode());
        all.push(match place {
            Some(place) if mode & 0o6000 != 0 => Finding::ok(AREA, program, place.display().to_string()),
            Some(place) => Finding::ok(AREA, program, format!("{} (by file capabilities)", place.display())),
            None => Finding::warning(AREA, program, "not installed")
                .because(WHY, "install the package uidmap (shadow-utils)"),
        });
    }
    let uid = getuid().as_raw();
    let name = host.text("/etc/passwd").and_then(|text| user_name(&text, uid));
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = host.text(file).unwrap_or_default();
        let row = text.lines().find(|line| {
            let owner = line.split(':').next().unwrap_or_default();
            owner == uid.to_string() || Some(owner) == name.as_deref()
        });
        all.push(match row {
            Some(row) => Finding::ok(AREA, file, row),
            None => Finding::warning(AREA, file, "no range of this user")
                .because(WHY, "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"),
        });
    }
    all
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let mut rows = passwd.lines().map(|line| line.split(':'));
    rows.find_map(|mut row| {
        let name = row.next()?;
        (row.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_user_is_that_of_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\na:x:1000:1000::/home/a:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("a"));
        assert_eq!(user_name(passwd, 1), None);
    }

    #[test]
    fn switches_of_distributions_are_read_where_they_are() {
        let root = std::env::temp_dir().join(format!("berth-setup-switches-{}", std::process::id()));
        let host = Host::new(Some(&root));
        assert!(switches(&host).is_empty());
        std::fs::create_dir_all(root.join("proc/sys/kernel")).unwrap();
        std::fs::write(root.join("proc/sys/kernel/unprivileged_userns_clone"), "0\n").unwrap();
        let found = switches(&host);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!((found.len(), found[0].status), (1, Status::Warning));
        assert!(found[0].todo.contains("unprivileged_userns_clone=1"));
    }
}
