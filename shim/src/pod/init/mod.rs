//! The init of a pod whose containers share a pid namespace. It is pid 1 there, reaps orphans, and ends with the pod.
//!
//! The runtime makes it like any container, so it goes through the same checks and is removed by the same `delete`. But
//! its root is an empty read-only tmpfs with one small [`program`], and it has no descriptor, no capability and a filter
//! for the few calls that it makes: containers see it as `/proc/1`.

mod program;
mod sys;

use std::{
    fs,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    sync::Arc,
};

use berth_runtime::{
    Context, Error, Kind, Result, Stdio,
    bundle::Bundle,
    cgroup::{Manager, Rootless},
    create::{self, Barrier, Options},
    pod::Namespaces,
    state::Container,
};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::config::PodConfig;
use crate::mount::unmount_recursive;

/// The user of the process, as of the pause image; root of the user namespace if that has no such user.
const USER: u32 = 65535;
/// The score of a pause container: other processes of the pod are killed first when memory is short.
const OOM_SCORE: &str = "-998";
/// The calls of the program, and the execve(2) that begins it.
const CALLS: [&str; 6] = ["close_range", "execve", "exit_group", "rt_sigprocmask", "rt_sigtimedwait", "wait4"];

/// The running init.
#[derive(Debug)]
pub struct Init {
    container: Container,
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: Arc<OwnedFd>,
    /// The pid namespace.
    pub pids: OwnedFd,
}

impl Init {
    /// Makes the init in the namespaces of the pod and waits for its execve(2). `state_root` is the runtime's.
    ///
    /// # Errors
    /// The runtime's error. No process and no mount is left then.
    pub fn start(config: &PodConfig, namespaces: &Namespaces, state_root: &Path) -> Result<Self> {
        let rootfs = config.bundle.join("rootfs");
        let started = make_root(&rootfs).and_then(|()| Self::run(config, namespaces, state_root));
        if started.is_err()
            && let Err(e) = unmount_recursive(&rootfs)
        {
            log::warn!("undo the init of sandbox {}: {e}", config.id);
        }
        started.context("make the pod's init")
    }

    fn run(config: &PodConfig, namespaces: &Namespaces, state_root: &Path) -> Result<Self> {
        let json = serde_json::to_vec(&specification(config, namespaces));
        let json = json.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        let options = Options {
            root: state_root,
            id: &config.id,
            stdio: Stdio::Null,
            barrier: Barrier::Inherited,
            pid_file: None,
            no_pivot: false,
            no_new_keyring: true,
            sd_notify: false,
            preserve_fds: 0,
            abort: None,
            cgroup_manager: Manager::Cgroupfs,
            rootless: Rootless::Auto,
        };
        let (warnings, checked) = create::check(Bundle::from_json(config.bundle.clone(), &json)?, options);
        warnings.iter().for_each(|warning| log::warn!("sandbox {}: {warning}", config.id));
        let created = create::create(checked?)?;
        let pid = created.container.pid();
        let started = berth_runtime::start::start(&created.container, created.barrier).and_then(|()| {
            // Without CAP_SYS_RESOURCE the score stays that of the shim.
            let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE);
            Ok(fs::File::open(format!("/proc/{pid}/ns/pid")).context("open the pid namespace")?.into())
        });
        match started {
            Ok(pids) => Ok(Self { container: created.container, pid, pidfd: Arc::new(created.pidfd), pids }),
            Err(e) => {
                let ended = end(&created.container, &created.pidfd);
                Err(ended.err().map_or(e, |also| also.context("undo the start")))
            }
        }
    }

    /// As [`Init::end`], for an init whose exit nobody watches.
    ///
    /// # Errors
    /// As [`Init::end`].
    pub fn end_and_reap(self) -> Result<()> {
        end(&self.container, &self.pidfd)
    }

    /// Kills the init, with it the kernel kills all processes of the pid namespace, and removes its cgroup and record.
    ///
    /// # Errors
    /// A process outlives SIGKILL, or a part cannot be removed.
    pub fn end(&self) -> Result<()> {
        match berth_runtime::delete::force_delete(&self.container) {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            ended => ended,
        }
    }
}

fn end(container: &Container, pidfd: &OwnedFd) -> Result<()> {
    let removed = berth_runtime::delete::force_delete(container);
    berth_runtime::events::reap(pidfd.as_fd())?;
    removed
}

/// Mounts the root: a tmpfs with the program, which nobody may read or write, and an empty directory for `/dev`, without
/// which the runtime would make devices.
fn make_root(rootfs: &Path) -> Result<()> {
    let what = || format!("make {}", rootfs.display());
    match fs::create_dir(rootfs) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e).with_context(what)?,
        _ => {}
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("pod-init"), rootfs, Some("tmpfs"), flags, Some("mode=755,size=64k,nr_inodes=8")).with_context(what)?;
    fs::create_dir(rootfs.join("dev")).with_context(what)?;
    // A program that its user may not read is not dumpable, and in a user namespace its memory is out of the reach of that
    // namespace's root (execve(2), `BINPRM_FLAGS_ENFORCE_NONDUMP`).
    let file = fs::File::options().write(true).create_new(true).mode(0o111).open(rootfs.join("pause"));
    file.and_then(|mut file| file.write_all(&program::bytes())).with_context(what)?;
    mount(None::<&str>, rootfs, None::<&str>, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
        .with_context(what)
}

/// The config.json of the init.
fn specification(config: &PodConfig, namespaces: &Namespaces) -> Value {
    let joined = [
        ("network", &namespaces.network),
        ("ipc", &namespaces.ipc),
        ("uts", &namespaces.uts),
        ("user", &namespaces.user),
    ];
    let joined = joined.into_iter().filter_map(|(kind, fd)| {
        let fd = fd.as_ref()?;
        Some(json!({"type": kind, "path": format!("/proc/self/fd/{}", fd.as_raw_fd())}))
    });
    let own = [json!({"type": "pid"}), json!({"type": "mount"})];
    let mapped =
        config.users.as_ref().is_none_or(|ids| ids.host_uid(USER, "").is_ok() && ids.host_gid(USER, "").is_ok());
    let user = if mapped { USER } else { 0 };
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "user": {"uid": user, "gid": user},
            "args": ["/pause"],
            "env": [],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {},
        },
        "mounts": [{
            "destination": "/dev",
            "type": "bind",
            "source": config.bundle.join("rootfs/dev"),
            "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
        }],
        "linux": {
            "namespaces": own.into_iter().chain(joined).collect::<Vec<_>>(),
            "resources": {"cpu": {"shares": 2}},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": CALLS, "action": "SCMP_ACT_ALLOW"}],
            },
            "cgroupsPath": cgroups_path(config),
        },
    })
}

/// The cgroup of the init, below the pod's, as containerd names that of a pause container.
fn cgroups_path(config: &PodConfig) -> Option<String> {
    match config.cri.linux.cgroup_parent.as_str() {
        "" => None,
        slice if !slice.contains('/') && slice.ends_with(".slice") => {
            Some(format!("{slice}:cri-containerd:{}", config.id))
        }
        parent => Some(format!("{}/{}", parent.trim_end_matches('/'), config.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_proto::{pod_config::PodSandboxConfig, sandbox::CreateSandboxRequest};

    #[test]
    fn the_cgroup_of_a_pods_init_is_below_the_pods() {
        let request = CreateSandboxRequest { sandbox_id: "p".into(), bundle_path: "/b".into(), ..Default::default() };
        let mut config = PodConfig::parse(request).unwrap();
        for (parent, path) in [
            ("", None),
            ("/kubepods/pod1/", Some("/kubepods/pod1/p")),
            ("kubepods-pod1.slice", Some("kubepods-pod1.slice:cri-containerd:p")),
        ] {
            config.cri = PodSandboxConfig::default();
            config.cri.linux.cgroup_parent = parent.to_owned();
            assert_eq!(cgroups_path(&config).as_deref(), path);
        }
    }
}
