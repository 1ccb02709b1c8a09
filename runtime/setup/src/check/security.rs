//! seccomp and the Linux security modules.

use super::Finding;
use crate::host::Host;

const AREA: &str = "security";

/// The findings.
pub fn findings(host: &Host) -> Vec<Finding> {
    vec![seccomp(host), modules(host), apparmor(host), selinux(host)]
}

fn seccomp(host: &Host) -> Finding {
    match host.line("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split(' ').any(|action| action == "user_notif") => {
            Finding::ok(AREA, "seccomp", actions)
        }
        Some(actions) => Finding::warning(AREA, "seccomp", actions)
            .because("SCMP_ACT_NOTIFY is an error", "boot a kernel with SECCOMP_FILTER and Linux 5.0 or later"),
        None => Finding::missing(AREA, "seccomp", "the kernel has no filters").because(
            "each engine gives a filter to its containers, which is an error then",
            "boot a kernel that is built with SECCOMP_FILTER",
        ),
    }
}

fn modules(host: &Host) -> Finding {
    match host.line("/sys/kernel/security/lsm") {
        Some(list) => Finding::ok(AREA, "modules", list),
        None => Finding::absent(AREA, "modules", "securityfs is not mounted or not readable"),
    }
}

fn apparmor(host: &Host) -> Finding {
    match host.line("/sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") => Finding::ok(AREA, "AppArmor", "enabled"),
        _ => Finding::absent(AREA, "AppArmor", "not enabled: apparmorProfile in config.json is an error"),
    }
}

fn selinux(host: &Host) -> Finding {
    match host.line("/sys/fs/selinux/enforce").as_deref() {
        Some("1") => Finding::ok(AREA, "SELinux", "enforcing"),
        Some(_) => Finding::ok(AREA, "SELinux", "permissive"),
        None => Finding::absent(AREA, "SELinux", "not enabled: selinuxLabel in config.json is an error"),
    }
}
