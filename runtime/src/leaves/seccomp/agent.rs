//! Seccomp notifications: the container process state, with the listener's fd, to whoever answers for the kernel.
//!
//! The child has the listener once its filter is loaded, and may then make no call but those that a profile must not
//! notify of; so it only says the number, and the runtime takes the fd (config-linux.md, "The Container Process State").

use std::{
    collections::HashMap,
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Kind, OCI_VERSION, Result, host::unix_address::Address, oci_state::OciState, sys};

/// How long an agent may leave a connection, or what is sent on it, alone.
const PATIENCE: Duration = Duration::from_secs(30);

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
    (told, status, init): (OciState<'_>, &str, i32),
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
    let OciState { oci_version, id, bundle, annotations } = told;
    let message = ContainerProcessState {
        oci_version: OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: listener.metadata.as_deref(),
        state: State { oci_version, id, status, pid: init, bundle, annotations },
    };
    let json = serde_json::to_vec(&message).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let fd = sys::take_fd(pidfd, number).context("linux.seccomp: take the listener")?;
    deliver(&listener.path, &json, fd.as_fd(), PATIENCE).map_err(|e| {
        let e = if e.errno() == Some(libc::EAGAIN) {
            Error::new(Kind::Internal, format!("the agent takes nothing within {} s", PATIENCE.as_secs()))
        } else {
            e
        };
        e.context(format!("linux.seccomp.listenerPath: cannot send seccomp fd to {}", listener.path.display()))
    })
}

/// Sends `json` with `fd` to whoever listens at `path`.
///
/// # Errors
/// `EAGAIN` when he does not accept, or read, for longer than `patience` (socket(7), `SO_SNDTIMEO`).
fn deliver(path: &Path, json: &[u8], fd: BorrowedFd<'_>, patience: Duration) -> Result<()> {
    let connected = || -> rustix::io::Result<UnixStream> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        connect(&socket, Address::of(path)?.socket())?;
        Ok(socket.into())
    };
    let socket = connected().context("failed to connect with seccomp agent specified in the seccomp profile")?;
    let rights = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(json)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    // The fd went with the first byte; what did not fit follows it.
    Ok(std::io::Write::write_all(&mut &socket, json.get(sent..).unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SocketAddrUnix, bind, listen};
    use serde_json::{Value, json};

    #[test]
    fn an_agent_that_does_not_listen_is_not_waited_for_for_ever() {
        let path = std::env::temp_dir().join(format!("berth-agent-{}", std::process::id()));
        let agent = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&agent, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&agent, 0).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let send = |json: &[u8]| deliver(&path, json, null.as_fd(), Duration::from_millis(20));
        // It fits into the socket; the next one finds the queue full, and this one has nobody to read it.
        let never_accepted = std::iter::repeat_with(|| send(b"{}")).take(3).find_map(Result::err).unwrap();
        assert_eq!(never_accepted.errno(), Some(libc::EAGAIN), "{never_accepted}");
        let agent = std::os::unix::net::UnixListener::from(agent);
        let accepted: Vec<_> = (0..2)
            .map_while(|_| {
                agent.set_nonblocking(true).unwrap();
                agent.accept().ok()
            })
            .collect();
        assert!(!accepted.is_empty());
        let never_read = send(&vec![b' '; 16 << 20]).unwrap_err();
        assert_eq!(never_read.errno(), Some(libc::EAGAIN), "{never_read}");
        std::fs::remove_file(&path).unwrap();
    }

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
