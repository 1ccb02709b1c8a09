//! Converts a bundle into the [`Recipe`]: every decision that can be taken once, before the first container is timed.
//!
//! It knows the fields that containerd's CRI and `runc spec` write, and refuses all others: a floor that left out a
//! field would be too low.

use super::{
    cgroups,
    json::{Failure, c_string, known, list, strings, word},
    mounts,
    step::Step,
    sys::{Namespace, Pointers},
};
use berth_runtime::seccomp::{self, Filter};
use rustix::{
    process::{Resource, Rlimit as Limit},
    thread::Gid,
};
use serde_json::Value;
use std::{ffi::CString, fs::File, os::fd::OwnedFd, path::Path};

/// A container with every decision taken.
pub struct Recipe {
    /// The root filesystem, as an absolute path.
    pub rootfs: CString,
    /// Whether its mount is read-only.
    pub readonly: bool,
    /// The steps on the root before it is entered.
    pub steps: Vec<Step>,
    /// The `CLONE_NEW*` flags of the clone.
    pub new_namespaces: u32,
    /// The namespaces to join, open.
    pub joins: Vec<(OwnedFd, Namespace)>,
    /// Whether a cgroup namespace is made after the process entered its cgroup.
    pub cgroup_namespace: bool,
    /// The `CLONE_NEW*` flags of the namespaces that an exec joins, without the pid namespace.
    pub own_namespaces: u32,
    /// The kernel parameters: the file below /proc/sys and the value.
    pub sysctls: Vec<(CString, Vec<u8>)>,
    /// The host name, for a UTS namespace of its own.
    pub hostname: Option<Vec<u8>>,
    /// The name of the session keyring.
    pub keyring: CString,
    /// The limits as cgroup files with their values.
    pub limits: Vec<cgroups::Write>,
    /// The payload.
    pub process: Process,
}

/// The payload and its identity.
pub struct Process {
    /// The program, as an absolute path inside the root.
    pub executable: CString,
    /// The arguments for execve(2).
    pub args: Pointers,
    /// The environment for execve(2).
    pub env: Pointers,
    /// The working directory.
    pub cwd: CString,
    /// The uid.
    pub uid: u32,
    /// The gid.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<Gid>,
    /// The resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The numbers of the capabilities that are dropped from the bounding set.
    pub drop_bounding: Vec<u64>,
    /// The effective set, as a mask.
    pub effective: u64,
    /// The permitted set, as a mask.
    pub permitted: u64,
    /// Whether no_new_privs is set.
    pub no_new_privs: bool,
    /// The value for oom_score_adj.
    pub oom_score_adj: Option<Vec<u8>>,
    /// The compiled filter.
    pub filter: Option<std::sync::Arc<Filter>>,
}

/// One resource limit.
pub struct Rlimit {
    /// The resource.
    pub resource: Resource,
    /// The soft and the hard limit.
    pub limit: Limit,
}

impl Recipe {
    /// Reads the bundle's config.json. `cgroup` is the container's path below the root of every hierarchy.
    ///
    /// # Errors
    /// The file cannot be read, or a field is missing or unknown to the floor.
    pub fn read(bundle: &Path, cgroup: &str) -> Result<Self, Failure> {
        let file = bundle.join("config.json");
        let text = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let config: Value = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        let linux = &config["linux"];
        known(&config, &["ociVersion", "process", "root", "hostname", "mounts", "annotations", "linux"])?;
        known(linux, LINUX)?;
        let rootfs = bundle.join(word(&config["root"]["path"]).ok_or("root.path: must be a path")?).canonicalize()?;
        let mut recipe = Self {
            readonly: config["root"]["readonly"] == true,
            steps: Vec::new(),
            new_namespaces: 0,
            joins: Vec::new(),
            cgroup_namespace: false,
            own_namespaces: 0,
            sysctls: Vec::new(),
            hostname: None,
            keyring: c"_ses.bare".to_owned(),
            limits: cgroups::limits(&linux["resources"])?,
            process: process(&config["process"], &linux["seccomp"])?,
            rootfs: c_string(&rootfs.to_string_lossy())?,
        };
        for namespace in list(&linux["namespaces"]) {
            recipe.namespace(namespace)?;
        }
        if recipe.new_namespaces & Namespace::Mount.flag() == 0 {
            return Err("linux.namespaces: a mount namespace of its own is needed".into());
        }
        for (key, value) in linux["sysctl"].as_object().into_iter().flatten() {
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            recipe.sysctls.push((c_string(&path)?, word(value).unwrap_or_default().into()));
        }
        if let Some(name) = word(&config["hostname"]).filter(|name| !name.is_empty()) {
            recipe.hostname = Some(name.into());
        }
        recipe.steps = mounts::steps(&config, &rootfs, cgroup, recipe.cgroup_namespace)?;
        Ok(recipe)
    }

    fn namespace(&mut self, namespace: &Value) -> Result<(), Failure> {
        let kind = word(&namespace["type"]).and_then(Namespace::of_name);
        let kind = kind.ok_or_else(|| format!("linux.namespaces: {namespace} is not known here"))?;
        let path = word(&namespace["path"]).filter(|path| !path.is_empty());
        match (path, kind) {
            (Some(path), Namespace::Network | Namespace::Ipc | Namespace::Uts | Namespace::Cgroup) => {
                let file = File::open(path).map_err(|e| format!("linux.namespaces: {path}: {e}"))?;
                self.joins.push((file.into(), kind));
            }
            (Some(_), Namespace::Pid | Namespace::Mount) => {
                return Err(format!("linux.namespaces: {namespace}: joined, which is not known here").into());
            }
            (None, Namespace::Cgroup) => self.cgroup_namespace = true,
            (None, kind) => self.new_namespaces |= kind.flag(),
        }
        if kind != Namespace::Pid {
            self.own_namespaces |= kind.flag();
        }
        Ok(())
    }
}

/// The known members of `linux`.
const LINUX: &[&str] = &["sysctl", "resources", "cgroupsPath", "namespaces", "seccomp", "maskedPaths", "readonlyPaths"];

fn process(process: &Value, profile: &Value) -> Result<Process, Failure> {
    let known_fields =
        ["terminal", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj"];
    known(process, &known_fields)?;
    if process["terminal"] == true {
        return Err("process.terminal: not known here".into());
    }
    let user = &process["user"];
    let id = |value: &Value| u32::try_from(value.as_u64().unwrap_or_default());
    let sets = &process["capabilities"];
    for set in ["ambient", "inheritable"] {
        if list(&sets[set]).next().is_some() {
            return Err(format!("process.capabilities.{set}: not known here").into());
        }
    }
    let (bounding, effective) = (mask(&sets["bounding"])?, mask(&sets["effective"])?);
    let args = strings(&process["args"])?;
    let executable = args.first().cloned().filter(|path| path.to_bytes().starts_with(b"/"));
    let filter = match profile {
        Value::Null => None,
        profile => Some(seccomp::compile(&serde_json::from_value(profile.clone())?)?),
    };
    Ok(Process {
        executable: executable.ok_or("process.args: the program must be an absolute path")?,
        args: Pointers::new(args),
        env: Pointers::new(strings(&process["env"])?),
        cwd: c_string(word(&process["cwd"]).unwrap_or("/"))?,
        uid: id(&user["uid"])?,
        gid: id(&user["gid"])?,
        groups: list(&user["additionalGids"]).map(|gid| Ok(Gid::from_raw(id(gid)?))).collect::<Result<_, Failure>>()?,
        rlimits: list(&process["rlimits"]).map(rlimit).collect::<Result<_, Failure>>()?,
        drop_bounding: (0..=last_capability()?).filter(|n| bounding & (1 << n) == 0).collect(),
        effective,
        permitted: mask(&sets["permitted"])?,
        no_new_privs: process["noNewPrivileges"] == true,
        oom_score_adj: process["oomScoreAdj"].as_i64().map(|score| score.to_string().into_bytes()),
        filter,
    })
}

fn rlimit(limit: &Value) -> Result<Rlimit, Failure> {
    let resource = match word(&limit["type"]) {
        Some("RLIMIT_NOFILE") => Resource::Nofile,
        Some("RLIMIT_CORE") => Resource::Core,
        Some("RLIMIT_NPROC") => Resource::Nproc,
        _ => return Err(format!("process.rlimits: {limit} is not known here").into()),
    };
    Ok(Rlimit { resource, limit: Limit { current: limit["soft"].as_u64(), maximum: limit["hard"].as_u64() } })
}

/// The names of capabilities by number, capabilities(7).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

fn mask(set: &Value) -> Result<u64, Failure> {
    list(set).try_fold(0, |mask, name| {
        let short = word(name).and_then(|name| name.strip_prefix("CAP_"));
        let number = CAPABILITIES.iter().position(|known| Some(*known) == short);
        Ok(mask | 1 << number.ok_or_else(|| format!("process.capabilities: {name} is not known here"))?)
    })
}

/// Returns the highest capability of this kernel.
fn last_capability() -> Result<u64, Failure> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capability_names_become_their_bits() {
        assert_eq!(
            mask(&json!(["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"])).unwrap(),
            1 | 1 << 21 | 1 << 40
        );
        mask(&json!(["CAP_WHAT"])).unwrap_err();
        mask(&json!(["CHOWN"])).unwrap_err();
    }

    #[test]
    fn bare_refuses_unknown_process_fields() {
        let plain = || berth_integration::bundle::default_config()["process"].clone();
        process(&plain(), &Value::Null).unwrap();
        for (field, value) in [("terminal", json!(true)), ("scheduler", json!({})), ("apparmorProfile", json!("x"))] {
            let mut with = plain();
            with[field] = value;
            assert!(process(&with, &Value::Null).is_err(), "{field}");
        }
    }
}
