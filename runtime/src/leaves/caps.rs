//! Capabilities: turns names into masks, and masks into names for warnings. The code does no I/O.

use berth_init::{defence::Defence, plan::Capabilities as Masks};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// All capabilities by number (capabilities(7), Linux 5.9).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Returns the five masks. A missing object, or a missing set, gives empty masks: the strict choice.
pub fn plan(capabilities: Option<&LinuxCapabilities>) -> Masks {
    let Some(sets) = capabilities else { return Masks::default() };
    let absent = if Defence::AbsentSets.stands() { 0 } else { sets.bounding().as_ref().map_or(0, mask_of) };
    let mask = |set: &Option<Capabilities>| set.as_ref().map_or(absent, mask_of);
    let masks = Masks {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    };
    // The kernel permits an ambient capability only if it is permitted and inheritable (capabilities(7)).
    Masks { ambient: masks.ambient & masks.permitted & masks.inheritable, ..masks }
}

fn mask_of(set: &Capabilities) -> u64 {
    ALL.iter().zip(0u32..).filter(|(cap, _)| set.contains(cap)).fold(0, |mask, (_, bit)| mask | 1 << bit)
}

/// Returns runc's warning for each requested ambient capability that is not permitted and inheritable.
pub fn warnings(capabilities: Option<&LinuxCapabilities>) -> Vec<String> {
    let planned = plan(capabilities).ambient;
    let asked = capabilities.and_then(|sets| sets.ambient().as_ref()).map_or(0, mask_of);
    names(asked & !planned)
        .map(|name| format!("can't raise ambient capability {name}: operation not permitted"))
        .collect()
}

/// Returns the name of each bit of a mask, such as `CAP_CHOWN`.
pub fn names(mask: u64) -> impl Iterator<Item = String> {
    ALL.iter().zip(0u32..).filter(move |(_, bit)| mask & 1 << bit != 0).map(|(cap, _)| {
        let name = cap.to_string();
        if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    #[test]
    fn capability_bits_are_the_kernels_numbers() {
        assert_eq!(mask_of(&[Capability::Chown].into()), 1);
        assert_eq!(mask_of(&[Capability::SysAdmin].into()), 1 << 21);
        assert_eq!(mask_of(&[Capability::CheckpointRestore].into()), 1 << 40);
        assert_eq!(names(1 | 1 << 21).collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
    }

    #[test]
    fn missing_capabilities_give_empty_masks() {
        assert!(plan(None) == Masks::default());
    }

    #[test]
    fn ambient_capability_must_be_permitted_and_inheritable() {
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding([Capability::Kill])
            .effective([Capability::Kill])
            .permitted([Capability::Kill])
            .inheritable([Capability::Chown])
            .ambient([Capability::Kill])
            .build()
            .unwrap();
        assert_eq!(plan(Some(&sets)).ambient, 0);
        assert_eq!(warnings(Some(&sets)), ["can't raise ambient capability CAP_KILL: operation not permitted"]);
    }
}
