//! Sends the listener of a seccomp filter to the seccomp agent (`SCMP_ACT_NOTIFY`).
//!
//! The child has the listener fd once its filter is loaded. From then on it may make only calls that a profile must not
//! notify about. So it only reports the fd's number, and the runtime fetches the fd with pidfd_getfd(2) and sends it
//! with the container process state (config-linux.md, "The Container Process State").

use std::{
    collections::HashMap,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, connect, sendmsg,
    socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Kind, OCI_VERSION, Result, host::unix_address::Address, oci_state::OciState, sys};

/// Longest time that an agent may take to accept the connection or to read the message.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The agent's socket, and the metadata that the agent gets with each listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
}

impl Listener {
    /// Returns the listener of a profile. `None` if no action of the profile notifies.
    pub fn from_profile(profile: Option<&LinuxSeccomp>) -> Option<Self> {
        let profile = profile.filter(|p| notifies(p))?;
        let path = profile.listener_path().clone()?;
        Some(Self { path, metadata: profile.listener_metadata().clone().filter(|m| !m.is_empty()) })
    }
}

fn notifies(profile: &LinuxSeccomp) -> bool {
    profile.syscalls().iter().flatten().any(|entry| entry.action() == LinuxSeccompAction::ScmpActNotify)
}

/// Checks `listenerPath` and `listenerMetadata` of a profile.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name of the field.
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

/// Takes fd `number` of the process `pid` behind `pidfd`, and sends it to the agent. The message holds the container's
/// state with `status` and the pid of its `init`.
///
/// # Errors
/// As pidfd_getfd(2), connect(2) and sendmsg(2). [`Kind::Internal`] if the agent does not read the message within 30 s.
pub fn send(
    listener: &Listener,
    (state, status, init): (OciState<'_>, &str, i32),
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
    let OciState { oci_version, id, bundle, annotations } = state;
    let message = ContainerProcessState {
        oci_version: OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: listener.metadata.as_deref(),
        state: State { oci_version, id, status, pid: init, bundle, annotations },
    };
    let json = serde_json::to_vec(&message).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let fd = sys::take_fd(pidfd, number).context("linux.seccomp: take the listener")?;
    deliver(&listener.path, &json, fd.as_fd(), SEND_TIMEOUT).map_err(|e| {
        let e = if e.errno() == Some(libc::EAGAIN) {
            Error::new(Kind::Internal, format!("the agent reads nothing within {} s", SEND_TIMEOUT.as_secs()))
        } else {
            e
        };
        e.context(format!("linux.seccomp.listenerPath: cannot send seccomp fd to {}", listener.path.display()))
    })
}

/// Sends `json` with `fd` to the socket at `path`.
///
/// # Errors
/// `EAGAIN` if connect(2) or sendmsg(2) take longer than `timeout` (socket(7), `SO_SNDTIMEO`).
fn deliver(path: &Path, json: &[u8], fd: BorrowedFd<'_>, timeout: Duration) -> Result<()> {
    let connected = || -> rustix::io::Result<UnixStream> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
        connect(&socket, Address::new(path)?.socket())?;
        Ok(socket.into())
    };
    let socket = connected().context("failed to connect with seccomp agent specified in the seccomp profile")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(&socket, &[IoSlice::new(json)], &mut control, SendFlags::NOSIGNAL)?;
    // The fd goes with the first byte. The rest of a long message follows it.
    Ok(std::io::Write::write_all(&mut &socket, json.get(sent..).unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SocketAddrUnix, bind, listen};
    use serde_json::{Value, json};

    #[test]
    fn agent_that_does_not_accept_or_read_times_out() {
        let path = std::env::temp_dir().join(format!("berth-agent-{}", std::process::id()));
        let agent = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&agent, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&agent, 0).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let send = |json: &[u8]| deliver(&path, json, null.as_fd(), Duration::from_millis(20));
        // The first connection fits in the backlog of the socket. A later one finds it full and waits.
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
    fn notifying_profile_needs_an_absolute_listener_path() {
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
        assert_eq!(
            Listener::from_profile(Some(&good)),
            Some(Listener { path: "/a".into(), metadata: Some("m".into()) })
        );
        assert_eq!(Listener::from_profile(Some(&profile(json!([]), json!("/a"), Value::Null))), None);
    }
}
