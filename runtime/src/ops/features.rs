//! The features structure of the runtime specification (features.md, 1.3.0). The command `features` prints it, and the
//! shim returns it to containerd.
//!
//! It lists only what berth implements. A field that berth parses and then refuses is not a feature.

use serde_json::{Map, Value, json};

use crate::{
    OCI_VERSION, cgroup,
    leaves::{
        caps, hooks, mount,
        scheduling::{MEMORY_FLAGS, MEMORY_MODES},
        seccomp, user,
    },
};

/// The actions of seccomp rules.
const SECCOMP_ACTIONS: &str = "\
    SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_LOG SCMP_ACT_NOTIFY SCMP_ACT_TRACE SCMP_ACT_TRAP";

/// The comparisons of seccomp rules.
const SECCOMP_OPERATORS: &str = "\
    SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_LE SCMP_CMP_LT SCMP_CMP_MASKED_EQ \
    SCMP_CMP_NE";

/// The flags of seccomp(2) that a profile may contain.
const SECCOMP_FLAGS: &str = "\
    SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_LOG \
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";

/// The version of the program that asks, among the annotations of the structure.
const VERSION: &str = "berth.version";

/// The commit that the program is built from, beside it.
const COMMIT: &str = "berth.commit";

/// Returns the features structure of a program of this version and commit.
pub fn features(version: &str, commit: Option<&str>) -> Value {
    let versions = [(VERSION, Some(version)), (COMMIT, commit)];
    let annotations: Map<String, Value> =
        versions.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": hooks::KINDS,
        "mountOptions": mount::known_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": caps::names(u64::MAX).collect::<Vec<_>>(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": words(SECCOMP_ACTIONS),
                "operators": words(SECCOMP_OPERATORS),
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": words(SECCOMP_FLAGS),
                "supportedFlags": words(SECCOMP_FLAGS),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": words(MEMORY_MODES), "flags": words(MEMORY_FLAGS) },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": [
            "org.systemd.property.", seccomp::bpf_annotation::ANNOTATION, cgroup::SUBGROUP_ANNOTATION, cgroup::DELEGATE_ANNOTATION, user::KEEP_GROUPS,
        ],
    })
}

fn words(list: &str) -> Vec<&str> {
    list.split(' ').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_parse_as_the_structure_of_the_spec() {
        let features: oci_spec::runtime::Features = serde_json::from_value(features("1.2.3", Some("abc"))).unwrap();
        assert_eq!(features.oci_version_max(), OCI_VERSION);
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
        assert_eq!(linux.cgroup().as_ref().unwrap().systemd(), &Some(true));
        assert_eq!(features.hooks().as_ref().unwrap().len(), 6);
        let annotations = features.annotations().as_ref().unwrap();
        assert_eq!((annotations[VERSION].as_str(), annotations[COMMIT].as_str()), ("1.2.3", "abc"));
    }

    #[test]
    fn lists_of_features_are_sorted_and_unique() {
        for list in [SECCOMP_ACTIONS, SECCOMP_OPERATORS, MEMORY_MODES, MEMORY_FLAGS] {
            assert!(words(list).is_sorted_by(|a, b| a < b));
        }
    }
}
