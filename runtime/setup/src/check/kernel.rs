//! The kernel's release, the calls that berth needs, and the newer features with their fallbacks.

use berth_runtime::kernel;

use super::Finding;

const AREA: &str = "kernel";

/// Features that no call shows: name, the first kernel, the loss without it. docs/kernel.md has all.
const FEATURES: [(&str, (u32, u32), &str); 4] = [
    ("idmapped overlay layers", (5, 19), "a pod with a user namespace needs a copy of its image with other owners"),
    ("MFD_EXEC", (6, 3), "the memory copy of berth is not marked executable"),
    ("detached mounts", (6, 15), "bind mounts of host paths come first in the container's mount table"),
    ("pidns= of procfs", (6, 17), "a helper mounts /proc of a joined pid namespace, and is visible there for a moment"),
];

/// The findings.
pub fn findings() -> Vec<Finding> {
    let release = kernel::release();
    let found = kernel::version(&release);
    let (major, minor) = kernel::FLOOR;
    let mut all = vec![match found {
        Some(version) if version < kernel::FLOOR => Finding::missing(AREA, "release", &release)
            .because(&format!("berth needs Linux {major}.{minor} or later"), "boot a newer kernel"),
        _ => Finding::ok(AREA, "release", format!("{release} ({major}.{minor} or later is needed)")),
    }];
    let [required, optional] = kernel::calls();
    let (there, missing): (Vec<_>, Vec<_>) = required.into_iter().partition(|call| call.present);
    let names: Vec<&str> = there.iter().map(|call| call.name).collect();
    all.push(Finding::ok(AREA, "system calls", names.join(" ")));
    all.extend(missing.iter().map(|call| {
        Finding::missing(AREA, call.name, format!("not there (Linux {} has it)", call.since)).because(
            "berth makes each container with this call",
            "boot a newer kernel, or allow the call in the seccomp filter around this process",
        )
    }));
    all.extend(optional.iter().map(|call| match call.present {
        true => Finding::ok(AREA, call.name, "there"),
        false => Finding::ok(AREA, call.name, format!("not there (Linux {} has it); berth has a fallback", call.since)),
    }));
    all.extend(FEATURES.iter().map(|(name, since, loss)| match found {
        Some(version) if version < *since => {
            Finding::ok(AREA, name, format!("not there (Linux {}.{} has it): {loss}", since.0, since.1))
        }
        _ => Finding::ok(AREA, name, "there"),
    }));
    all
}
