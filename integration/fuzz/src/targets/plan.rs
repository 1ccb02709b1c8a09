//! The plan of a payload. The oracle reads the rights of the process out of the document by itself: the plan loses none, adds
//! none, has the filter, and is no weaker for an exec than for an init.

use std::collections::BTreeSet;

use berth_init::plan::SeccompWhen;
use berth_runtime::{
    bundle::parse_process,
    fuzzing::plan_process,
    seccomp::{self, Filter},
};
use oci_spec::runtime::{Capabilities, Process};
use serde_json::json;

use crate::input::Input;

/// Profiles from the strictest to none.
fn profile(which: usize) -> Option<std::sync::Arc<Filter>> {
    let profile = match which {
        0 => return None,
        1 => {
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}]})
        }
        2 => json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_KILL"}]}),
        3 => json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a.sock",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
        _ => json!({"defaultAction": "SCMP_ACT_ALLOW"}),
    };
    Some(seccomp::compile(&serde_json::from_value(profile).unwrap()).unwrap())
}

/// The bits of a set, by the numbers of linux/capability.h.
fn mask(set: Option<&Capabilities>) -> u64 {
    const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
        NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE \
        SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL \
        SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";
    set.into_iter().flatten().fold(0, |mask, capability| {
        let name = serde_json::to_value(capability).unwrap();
        let name = name.as_str().unwrap().trim_start_matches("CAP_").to_owned();
        mask | 1 << NAMES.split_whitespace().position(|known| known == name).expect("a capability of Linux")
    })
}

fn masks(process: &Process) -> [u64; 5] {
    let Some(sets) = process.capabilities() else { return [0; 5] };
    let [bounding, effective, permitted, inheritable, ambient] =
        [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()]
            .map(|set| mask(set.as_ref()));
    [bounding, effective, permitted, inheritable, ambient & permitted & inheritable]
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let filter = profile(input.below(5));
    let Ok(process) = parse_process(input.rest()) else { return };
    let plans = [true, false].map(|is_init| plan_process(&process, filter.as_deref(), is_init));
    for (plan, is_init) in plans.iter().zip([true, false]) {
        let Ok(plan) = plan else { continue };
        assert_eq!(plan.ids, (process.user().uid(), process.user().gid()));
        assert_eq!(plan.capabilities, masks(&process));
        assert_eq!(plan.no_new_privs, process.no_new_privileges() == Some(true));
        assert_eq!(plan.umask, process.user().umask().or(Some(0o022)));
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.sort_unstable();
        assert_eq!(plan.groups, groups);
        assert_eq!(plan.rlimits, process.rlimits().as_ref().map_or(0, Vec::len));
        assert_eq!(plan.seccomp.map(|(len, _)| len), filter.as_ref().map(|filter| filter.instructions().len()));
        if let Some((_, when)) = plan.seccomp {
            assert!(!plan.no_new_privs || when != SeccompWhen::BeforeVisible);
            assert!(is_init || when != SeccompWhen::BeforeBarrier);
        }
        vectors(&process, plan);
    }
    let [init, exec] = plans;
    assert_eq!(init.is_ok(), exec.is_ok(), "{init:?} {exec:?}");
}

fn vectors(process: &Process, plan: &berth_runtime::fuzzing::PlainProcess) {
    let args = process.args().as_deref().unwrap_or_default();
    let ended = |len: usize, nulls: usize| [vec![false; len], vec![true; nulls]].concat();
    assert_eq!(plan.vectors.0, ended(args.len(), 1));
    let env = process.env().as_deref().unwrap_or_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let last = |wanted: &str| env.iter().rev().find(|variable| name(variable) == wanted);
    let names: BTreeSet<_> = env.iter().map(|variable| name(variable)).collect();
    let home = last("HOME").is_some_and(|home| home.len() > 5);
    assert_eq!(plan.find_home, !home);
    let count = names.iter().filter(|name| *name != "HOME" || home).count();
    assert_eq!(plan.vectors.1, ended(count, 2));
    let dirs: Vec<_> = match last("PATH") {
        Some(path) => path[5..].split(':').collect(),
        None => Vec::new(),
    };
    let naive: Vec<Vec<u8>> = match args[0].as_str() {
        "" => Vec::new(),
        name if name.contains('/') => vec![name.into()],
        name => dirs
            .iter()
            .map(|dir| if dir.is_empty() { "." } else { dir })
            .map(|dir| format!("{dir}{}{name}", if dir.ends_with('/') { "" } else { "/" }).into_bytes())
            .collect(),
    };
    assert_eq!(plan.executables, naive);
}
