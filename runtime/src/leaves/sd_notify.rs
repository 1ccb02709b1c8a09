//! The directory in which a container finds the notification socket of its service manager (sd_notify(3)).
//!
//! It lies in the container's state directory and is bound read-only at `/run/notify`, as in runc. The command that
//! starts the container creates the socket in it, and forwards the container's messages.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

use oci_spec::runtime::{MountBuilder, Spec};

use crate::{Context, Error, Kind, Result};

/// Name of the directory in the state directory.
pub const DIR: &str = "notify";
/// Name of the socket in the directory.
pub const SOCKET: &str = "notify.sock";
/// Path of the directory in the container.
const CONTAINER_DIR: &str = "/run/notify";

/// Adds the mount of `<state>/notify` and the variable `NOTIFY_SOCKET` to a config.json.
///
/// # Errors
/// None for any config.json.
pub fn add_to_spec(spec: &mut Spec, state: &Path) -> Result<()> {
    let mount = MountBuilder::default()
        .destination(CONTAINER_DIR)
        .typ("bind")
        .source(state.join(DIR))
        .options(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned))
        .build()
        .map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("NOTIFY_SOCKET={CONTAINER_DIR}/{SOCKET}"));
        process.set_env(Some(env));
    }
    Ok(())
}

/// Creates the directory with mode 0755, so that all users of the container can reach the socket.
///
/// # Errors
/// As mkdir(2).
pub fn make_dir(state: &Path) -> Result<()> {
    let dir = state.join(DIR);
    let make = || -> std::io::Result<()> {
        DirBuilder::new().mode(0o755).create(&dir)?;
        // mkdir(2) has applied the umask.
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    };
    make().with_context(|| format!("mkdir {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &str) -> Spec {
        let json = format!(
            r#"{{"ociVersion":"1.3.0","process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"env":["A=1"]}},
                "linux":{{"namespaces":{namespaces}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn notify_mount_and_variable_are_added_last() {
        let mut spec = spec(r#"[{"type":"mount"}]"#);
        add_to_spec(&mut spec, Path::new("/state/c1")).unwrap();
        let mount = spec.mounts().as_ref().unwrap().last().unwrap().clone();
        assert_eq!(mount.destination(), Path::new("/run/notify"));
        assert_eq!(mount.source().as_deref(), Some(Path::new("/state/c1/notify")));
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env, ["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
    }
}
