//! User namespaces as file descriptors: creates one for a mapping, and reads the mapping of an existing one.
//!
//! The kernel shows and accepts mappings only in /proc/<pid>/uid_map of a process inside (user_namespaces(7)). A helper
//! process holds the namespace for as long as that takes.

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

/// Mappings and settings of an existing user namespace.
pub struct Description {
    /// The mappings, as this process's user namespace sees them.
    pub ids: Ids,
    /// The namespace allows setgroups(2).
    pub setgroups: bool,
}

/// Creates a user namespace with these mappings.
///
/// # Errors
/// As clone3(2), among them `ENOSPC` beyond user.max_user_namespaces. As [`write_maps`] for the mappings.
pub fn create(ids: &Ids) -> Result<OwnedFd> {
    let holder = Holder::new(kind::USER, None).context("create a user namespace")?;
    write_maps(holder.pid, ids)?;
    let path = format!("/proc/{}/ns/user", holder.pid);
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(|| path)
}

/// Reads the mappings of a user namespace.
///
/// # Errors
/// As setns(2): `EPERM` without the right to enter the namespace.
pub fn read(namespace: BorrowedFd<'_>) -> Result<Description> {
    Holder::new(0, Some(namespace)).context("enter the user namespace")?.describe()
}

/// Reads the mappings of this process's user namespace.
///
/// # Errors
/// /proc is not mounted.
pub fn own() -> Result<Description> {
    describe("self")
}

/// Reads the mappings of a process's user namespace.
///
/// # Errors
/// The process does not exist any more.
pub fn of_process(pid: i32) -> Result<Description> {
    describe(&pid.to_string())
}

/// Writes the mappings of a process in a new user namespace.
///
/// setgroups(2) stays allowed unless the caller is unprivileged and maps only its own gid: the kernel then requires
/// `deny` (user_namespaces(7)). An unprivileged caller may map only its own ids. For other ids newuidmap(1) and
/// newgidmap(1) write the maps, if subuid(5) and subgid(5) permit it.
///
/// # Errors
/// The kernel's or the program's error, with the name of the field.
pub fn write_maps(pid: i32, ids: &Ids) -> Result<()> {
    let user = caller::is_user();
    if user && ids.maps_only_gid(rustix::process::getegid().as_raw()) {
        fs::write(format!("/proc/{pid}/setgroups"), "deny").context("gidMappings: write setgroups")?;
    }
    for (file, tool, field, text) in
        [("uid_map", "newuidmap", "uidMappings", ids.uid_map()), ("gid_map", "newgidmap", "gidMappings", ids.gid_map())]
    {
        match fs::write(format!("/proc/{pid}/{file}"), &text) {
            Err(e) if user && e.raw_os_error() == Some(libc::EPERM) => {
                run_mapping_tool(tool, pid, &text).context(field)?
            }
            written => written.with_context(|| format!("{field}: write {file}"))?,
        }
    }
    Ok(())
}

/// Runs newuidmap(1) or newgidmap(1), which may map ids that the caller may not.
fn run_mapping_tool(tool: &'static str, pid: i32, map: &str) -> Result<()> {
    let args: Vec<_> =
        std::iter::once(pid.to_string()).chain(map.split_ascii_whitespace().map(str::to_owned)).collect();
    let out = program::run(tool, &args).map_err(|e| match e.kind() {
        Kind::NotFound => Error::unsupported(format!(
            "{tool}: mapping tool not present; an unprivileged caller needs it to map ids other than its own"
        )),
        _ => e,
    })?;
    if out.status == Some(0) {
        return Ok(());
    }
    Err(Error::new(Kind::FailedPrecondition, format!("{tool}: {}", out.stderr.trim())))
}

fn describe(process: &str) -> Result<Description> {
    let read = |file: &str| {
        let path = format!("/proc/{process}/{file}");
        fs::read_to_string(&path).with_context(|| path)
    };
    let ids = Ids::parse(&read("uid_map")?, &read("gid_map")?);
    let ids =
        ids.ok_or_else(|| Error::new(Kind::Internal, format!("cannot parse /proc/{process}/uid_map or gid_map")))?;
    Ok(Description { ids, setgroups: read("setgroups")?.trim_end() != "deny" })
}

/// Longest time that the helper process may take to enter the namespace. Entering takes a few system calls.
const ENTER_TIMEOUT: Duration = Duration::from_secs(30);

/// A helper process in a user namespace. Dropping the holder kills and reaps the process.
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
        // The owner of a joined namespace may stop the process that enters it, so the wait has a limit.
        set_socket_timeout(&self.channel, Timeout::Recv, Some(ENTER_TIMEOUT))?;
        let mut buffer = [0u8; LEN];
        let len = loop {
            match rustix::net::recv(&self.channel, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(Error::new(Kind::Internal, "the process that holds a user namespace does not answer"));
                }
                other => break other?.0,
            }
        };
        match Message::decode(buffer.get(..len).unwrap_or_default()) {
            Some(Message::InUserNamespace) => Ok(()),
            Some(Message::Failure(failure)) => Err(Error::from_errno(failure.errno)),
            _ => Err(Error::new(Kind::Internal, "the process that holds a user namespace exited early")),
        }
    }

    fn describe(&self) -> Result<Description> {
        describe(&self.pid.to_string())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        sys::kill_and_reap(self.pidfd.as_fd());
    }
}
