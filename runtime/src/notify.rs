//! Seccomp notifications: the container process state, with the listener's fd, to whoever answers for the kernel.
//!
//! The child has the listener once its filter is loaded, and may then make no call but those that a profile must not
//! notify of; so it only says the number, and the runtime takes the fd (config-linux.md, "The Container Process State").

use std::{
    collections::HashMap,
    io::IoSlice,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Kind, Result, hooks::Told, spec::OCI_VERSION, sys};

/// Where the listener goes, and what is said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
}

impl Listener {
    /// Of a config.json; `None` without an action that notifies.
    pub fn of(profile: Option<&LinuxSeccomp>) -> Option<Self> {
        let profile = profile.filter(|p| notifies(p))?;
        let path = profile.listener_path().clone()?;
        Some(Self { path, metadata: profile.listener_metadata().clone().filter(|m| !m.is_empty()) })
    }
}

fn notifies(profile: &LinuxSeccomp) -> bool {
    profile.syscalls().iter().flatten().any(|entry| entry.action() == LinuxSeccompAction::ScmpActNotify)
}

/// What is wrong with the listener of a profile.
///
/// # Errors
/// Names the field.
pub fn check(profile: &LinuxSeccomp) -> Result<()> {
    let path = profile.listener_path().as_deref().filter(|p| !p.as_os_str().is_empty());
    let bad = |field: &str, why: &str| Err(Error::invalid(format!("linux.seccomp.{field}: {why}")));
    match path {
        None if notifies(profile) => bad("listenerPath", "seccomp listenerPath is not set, and an action notifies"),
        None if profile.listener_metadata().as_ref().is_some_and(|m| !m.is_empty()) => {
            bad("listenerMetadata", "there is no listenerPath to send it to")
        }
        Some(path) if !path.is_absolute() => bad("listenerPath", "must be absolute"),
        _ => Ok(()),
    }
}

/// Takes the fd `number` of the process `pid` behind `pidfd` and sends it to the agent, with what is `told` of the
/// container: its `status` and the pid of its `init`.
///
/// # Errors
/// The fd cannot be had (pidfd_getfd(2)), or nobody takes it.
pub fn send(
    listener: &Listener,
    (told, status, init): (Told<'_>, &str, i32),
    (pid, pidfd, number): (i32, BorrowedFd<'_>, i32),
) -> Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct State<'s> {
        oci_version: &'s str,
        id: &'s str,
        status: &'s str,
        pid: i32,
        bundle: &'s Path,
        #[serde(skip_serializing_if = "HashMap::is_empty")]
        annotations: &'s HashMap<String, String>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ContainerProcessState<'s> {
        oci_version: &'s str,
        fds: [&'s str; 1],
        pid: i32,
        #[serde(skip_serializing_if = "Option::is_none")]
        metadata: Option<&'s str>,
        state: State<'s>,
    }
    let Told { oci_version, id, bundle, annotations } = told;
    let message = ContainerProcessState {
        oci_version: OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: listener.metadata.as_deref(),
        state: State { oci_version, id, status, pid: init, bundle, annotations },
    };
    let json = serde_json::to_vec(&message).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let fd = sys::take_fd(pidfd, number).context("linux.seccomp: take the listener")?;
    let what = || format!("linux.seccomp.listenerPath: cannot send seccomp fd to {}", listener.path.display());
    let socket = UnixStream::connect(&listener.path)
        .context("failed to connect with seccomp agent specified in the seccomp profile")
        .with_context(what)?;
    let rights = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&json)], &control, MsgFlags::MSG_NOSIGNAL, None)
        .with_context(what)?;
    // The fd went with the first byte; what did not fit follows it.
    std::io::Write::write_all(&mut &socket, json.get(sent..).unwrap_or_default()).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_listener_is_where_it_is_needed() {
        let notify = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
        let profile = |syscalls: Value, path: Value, metadata: Value| -> LinuxSeccomp {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls,
                "listenerPath": path, "listenerMetadata": metadata});
            serde_json::from_value(profile).unwrap()
        };
        for (profile, says) in [
            (
                profile(notify.clone(), Value::Null, Value::Null),
                "linux.seccomp.listenerPath: seccomp listenerPath is not",
            ),
            (profile(notify.clone(), json!("relative"), Value::Null), "linux.seccomp.listenerPath: must be absolute"),
            (profile(json!([]), Value::Null, json!("m")), "linux.seccomp.listenerMetadata: there is no"),
        ] {
            assert!(check(&profile).unwrap_err().to_string().starts_with(says), "{says}");
        }
        let good = profile(notify, json!("/a"), json!("m"));
        check(&good).unwrap();
        assert_eq!(Listener::of(Some(&good)), Some(Listener { path: "/a".into(), metadata: Some("m".into()) }));
        assert_eq!(Listener::of(Some(&profile(json!([]), json!("/a"), Value::Null))), None);
    }
}
