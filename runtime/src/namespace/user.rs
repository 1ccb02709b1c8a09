//! User namespaces as fds: one made for a mapping, and the mapping of one that is there.
//!
//! The kernel tells and takes the mapping only by /proc/<pid>/uid_map of a process inside (user_namespaces(7)); such a
//! process lives for as long as that takes.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use berth_init::wire::{LEN, Message};
use rustix::{
    fs::{Mode, OFlags},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    Context, Error, Kind, Result,
    host::{caller, program},
    id_maps::Ids,
    namespace::kind,
    sys,
};

/// What a user namespace that is there is like.
pub struct Found {
    /// Its mappings, as this process' user namespace sees them.
    pub ids: Ids,
    /// setgroups(2) is allowed in it.
    pub setgroups: bool,
}

/// Makes a user namespace with these mappings.
///
/// # Errors
/// As clone3(2), among them `ENOSPC` beyond user.max_user_namespaces, and what the kernel says to the mappings.
pub fn make(ids: &Ids) -> Result<OwnedFd> {
    let holder = Holder::new(kind::USER, None).context("make a user namespace")?;
    write_maps(holder.pid, ids)?;
    let path = format!("/proc/{}/ns/user", holder.pid);
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(|| path)
}

/// Asks a user namespace what it is like.
///
/// # Errors
/// As setns(2): `EPERM` without the right to enter it.
pub fn read(namespace: BorrowedFd<'_>) -> Result<Found> {
    Holder::new(0, Some(namespace)).context("enter the user namespace")?.found()
}

/// The user namespace of this process.
///
/// # Errors
/// /proc is not there.
pub fn own() -> Result<Found> {
    found("self")
}

/// The user namespace of a process.
///
/// # Errors
/// It is gone.
pub fn of_process(pid: i32) -> Result<Found> {
    found(&pid.to_string())
}

/// Writes the mappings of a process that has a new user namespace. setgroups(2) stays allowed, unless the writer is an
/// ordinary user: he may map his own ids alone, and his gid only with setgroups(2) denied (user_namespaces(7)). Any others
/// newuidmap(1) and newgidmap(1) map for him, if the host says that they are his (subuid(5)).
///
/// # Errors
/// What the kernel or the program says, by field.
pub fn write_maps(pid: i32, ids: &Ids) -> Result<()> {
    let user = caller::is_user();
    if user && ids.maps_only_gid(rustix::process::getegid().as_raw()) {
        fs::write(format!("/proc/{pid}/setgroups"), "deny").context("gidMappings: write setgroups")?;
    }
    for (file, tool, field, text) in
        [("uid_map", "newuidmap", "uidMappings", ids.uid_map()), ("gid_map", "newgidmap", "gidMappings", ids.gid_map())]
    {
        match fs::write(format!("/proc/{pid}/{file}"), &text) {
            Err(e) if user && e.raw_os_error() == Some(libc::EPERM) => have_mapped(tool, pid, &text).context(field)?,
            written => written.with_context(|| format!("{field}: write {file}"))?,
        }
    }
    Ok(())
}

/// Runs a program that may map ids which the caller may not.
fn have_mapped(tool: &'static str, pid: i32, map: &str) -> Result<()> {
    let args: Vec<_> =
        std::iter::once(pid.to_string()).chain(map.split_ascii_whitespace().map(str::to_owned)).collect();
    let out = program::run(tool, &args).map_err(|e| match e.kind() {
        Kind::NotFound => {
            Error::unsupported(format!("{tool}: mapping tool not present, without which a user maps no id but the own"))
        }
        _ => e,
    })?;
    if out.status == Some(0) {
        return Ok(());
    }
    Err(Error::new(Kind::FailedPrecondition, format!("{tool}: {}", out.stderr.trim())))
}

fn found(process: &str) -> Result<Found> {
    let read = |file: &str| {
        let path = format!("/proc/{process}/{file}");
        fs::read_to_string(&path).with_context(|| path)
    };
    let ids = Ids::parse(&read("uid_map")?, &read("gid_map")?);
    let ids = ids.ok_or_else(|| Error::new(Kind::Internal, format!("/proc/{process}/uid_map is not understood")))?;
    Ok(Found { ids, setgroups: read("setgroups")?.trim_end() != "deny" })
}

/// How long a process may take to enter a user namespace, which costs it a few system calls.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process in a user namespace. Dropped, it is killed and reaped.
struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    channel: OwnedFd,
}

impl Holder {
    fn new(flags: u32, join: Option<BorrowedFd<'_>>) -> Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (pid, pidfd) = sys::clone_and_hold(flags, theirs.as_fd(), join)?;
        drop(theirs);
        let holder = Self { pid, pidfd, channel: ours };
        holder.wait()?;
        Ok(holder)
    }

    fn wait(&self) -> Result<()> {
        // The owner of a namespace that is joined may stop the process that enters it.
        set_socket_timeout(&self.channel, Timeout::Recv, Some(PATIENCE))?;
        let mut buffer = [0u8; LEN];
        let len = loop {
            match rustix::net::recv(&self.channel, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(Error::new(Kind::Internal, "a process that holds a user namespace does not answer"));
                }
                other => break other?.0,
            }
        };
        match Message::decode(buffer.get(..len).unwrap_or_default()) {
            Some(Message::InUserNamespace) => Ok(()),
            Some(Message::Failure(failure)) => Err(Error::from_errno(failure.errno)),
            _ => Err(Error::new(Kind::Internal, "a process ended before its time")),
        }
    }

    fn found(&self) -> Result<Found> {
        found(&self.pid.to_string())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        sys::kill_and_reap(self.pidfd.as_fd());
    }
}
