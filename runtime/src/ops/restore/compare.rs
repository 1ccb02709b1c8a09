//! Compares the rights of restored processes with config.json. Their images may be a stranger's.
//!
//! The kernel shows that a filter is loaded, but not which one: the filter itself comes from the images.

use std::{fs, ops::Not, path::Path};

use oci_spec::runtime::Spec;

use crate::{
    Context, Error, Kind, Result,
    host::proc::is_gone,
    id_maps::Ids,
    leaves::{caps, user},
};

const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

/// The rights that config.json allows.
pub struct Expected {
    /// The capabilities that any process may have.
    capabilities: u64,
    no_new_privileges: bool,
    /// A filter is loaded.
    filtered: bool,
    /// init's user on the host. `None` for root, who may become any user.
    uid: Option<u32>,
    /// The groups on the host, the first of which is init's own. `None` if a process may choose its groups.
    gids: Option<Vec<u32>>,
    /// The profile or context of a security module.
    label: Option<String>,
}

impl Expected {
    /// Reads the rights from config.json. `profile` replaces the label (`--lsm-profile`).
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a profile that is not `TYPE:NAME`.
    pub fn of(spec: &Spec, profile: Option<&str>) -> Result<Self> {
        let process = spec.process().as_ref();
        let sets = caps::plan(process.and_then(|process| process.capabilities().as_ref()));
        let user = process.map_or(0, |process| process.user().uid());
        let own =
            process.and_then(|process| process.apparmor_profile().as_deref().or(process.selinux_label().as_deref()));
        let label = match profile {
            Some(text) => {
                let wrong =
                    || Error::invalid(format!("--lsm-profile {text:?}: neither apparmor:NAME nor selinux:LABEL"));
                let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
                if !matches!(kind, "apparmor" | "selinux") || name.is_empty() {
                    return Err(wrong());
                }
                Some(name)
            }
            None => own.filter(|label| !label.is_empty() && *label != "unconfined"),
        };
        let uid = if user == 0 { None } else { Some(Ids::from_spec(spec)?.host_uid(user, "process.user.uid")?) };
        let capabilities = sets.bounding | sets.permitted | sets.inheritable;
        let keeps_groups = spec.annotations().as_ref().is_some_and(user::keeps_groups);
        Ok(Self {
            capabilities,
            gids: if capabilities & SETGID != 0 || keeps_groups { None } else { Some(groups(spec)?) },
            no_new_privileges: process.and_then(|process| process.no_new_privileges()) == Some(true),
            filtered: spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()),
            uid,
            label: label.map(str::to_owned),
        })
    }

    /// Compares all processes, of which `init` is one, thread by thread: the images have rights for each thread.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] with the right that config.json does not give.
    pub fn compare(&self, init: i32, all: &[i32]) -> Result<()> {
        self.compare_process(init, self.uid)?;
        // init's children may have any user that init could give them, or that a file with the set-user-ID bit gives.
        let uid = self.uid.filter(|_| self.no_new_privileges);
        all.iter().filter(|pid| **pid != init).try_for_each(|pid| self.compare_process(*pid, uid))
    }

    fn compare_process(&self, pid: i32, uid: Option<u32>) -> Result<()> {
        let tasks = format!("/proc/{pid}/task");
        let threads = match fs::read_dir(&tasks) {
            Err(e) if is_gone(&e) => return Ok(()),
            threads => threads.with_context(|| format!("read {tasks}"))?,
        };
        for thread in threads {
            let thread = thread.with_context(|| format!("read {tasks}"))?.path();
            let status = match fs::read_to_string(thread.join("status")) {
                Err(e) if is_gone(&e) => continue,
                status => status.with_context(|| format!("read {}", thread.display()))?,
            };
            if let Some(why) = self.weaker(&status, uid).or_else(|| self.other_label(&thread)) {
                let text = format!("the images give process {pid} more rights than config.json: {why}");
                return Err(Error::new(Kind::FailedPrecondition, text));
            }
        }
        Ok(())
    }

    /// Returns the right in /proc/PID/status that config.json does not give.
    fn weaker(&self, status: &str, uid: Option<u32>) -> Option<String> {
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            // A set that cannot be read counts as full.
            let more = u64::from_str_radix(field(set), 16).unwrap_or(u64::MAX) & !self.capabilities;
            if more != 0 {
                let names: Vec<_> = caps::names(more).collect();
                return Some(format!("{set} has {}", names.join(", ")));
            }
        }
        if self.no_new_privileges && field("NoNewPrivs") != "1" {
            return Some("no_new_privs is not set".to_owned());
        }
        if self.filtered && field("Seccomp") != "2" {
            return Some("no seccomp filter is loaded".to_owned());
        }
        // Real, effective, saved and file system uid. A program with the set-user-ID bit changes all but the first.
        let uids: Vec<&str> = field("Uid").split_ascii_whitespace().collect();
        let checked = if self.no_new_privileges { uids.len() } else { 1 };
        let other = uid.and_then(|uid| uids.iter().take(checked).find(|other| other.parse() != Ok(uid)));
        if let Some(other) = other.filter(|_| !self.may_change_user()) {
            return Some(format!("its user is {other}"));
        }
        let gids = self.gids.as_deref()?;
        // A program with the set-group-ID bit changes the first four, and no program the others.
        let first = field("Gid").split_ascii_whitespace().take(if self.no_new_privileges { 4 } else { 0 });
        let mut all = first.chain(field("Groups").split_ascii_whitespace());
        let other = all.find(|gid| gid.parse().is_ok_and(|gid| gids.contains(&gid)).not())?;
        Some(format!("its groups have {other}"))
    }

    /// Returns true if init may have become another user.
    fn may_change_user(&self) -> bool {
        self.capabilities & SETUID != 0
    }

    /// `thread` is its directory in /proc.
    fn other_label(&self, thread: &Path) -> Option<String> {
        let label = self.label.as_deref()?;
        let read = |file: &str| fs::read_to_string(thread.join("attr").join(file)).ok();
        let current = read("apparmor/current").filter(|text| !text.is_empty()).or_else(|| read("current"));
        let Some(current) = current else { return Some("its label cannot be read".to_owned()) };
        let name = current.trim_end_matches(['\0', '\n']);
        // AppArmor shows the mode behind the name.
        let bare = name.rsplit_once(" (").map_or(name, |(bare, _)| bare);
        (bare != label && name != label).then(|| format!("its label is {name:?}"))
    }
}

/// Returns the groups of the payload on the host.
fn groups(spec: &Spec) -> Result<Vec<u32>> {
    let ids = Ids::from_spec(spec)?;
    let user = spec.process().as_ref().map(oci_spec::runtime::Process::user);
    let own = user.map_or(0, oci_spec::runtime::User::gid);
    let more = user.and_then(|user| user.additional_gids().as_ref()).into_iter().flatten().copied();
    std::iter::once(own).chain(more).map(|gid| ids.host_gid(gid, "process.user.gid")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nGroups:\t7 100 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000020\n\
                          CapEff:\t0000000000000020\nCapBnd:\t0000000000000020\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    fn expected() -> Expected {
        Expected {
            capabilities: 0x20,
            no_new_privileges: true,
            filtered: true,
            uid: Some(1000),
            gids: Some(vec![100, 7]),
            label: None,
        }
    }

    #[test]
    fn each_right_that_config_json_does_not_give_is_found() {
        assert_eq!(expected().weaker(STATUS, Some(1000)), None);
        for (from, to, says) in [
            ("CapBnd:\t0000000000000020", "CapBnd:\t0000000000200020", "CapBnd has CAP_SYS_ADMIN"),
            ("CapEff:\t0000000000000020", "CapEff:\t", "CapEff has "),
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000000001", "CapInh has CAP_CHOWN"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "no_new_privs is not set"),
            ("Seccomp:\t2", "Seccomp:\t0", "no seccomp filter is loaded"),
            ("Uid:\t1000\t1000", "Uid:\t0\t1000", "its user is 0"),
            ("Uid:\t1000\t1000", "Uid:\t1000\t0", "its user is 0"),
            ("Gid:\t100\t100", "Gid:\t100\t0", "its groups have 0"),
            ("Groups:\t7 100", "Groups:\t7 6", "its groups have 6"),
        ] {
            let found = expected().weaker(&STATUS.replace(from, to), Some(1000)).unwrap_or_default();
            assert!(found.starts_with(says), "{to}: {found}");
        }
    }
}
