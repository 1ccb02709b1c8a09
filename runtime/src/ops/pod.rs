//! The namespaces of a pod that no process holds.
//!
//! The kernel keeps a namespace while a descriptor refers to it. A vfork child enters the pod's user and network
//! namespace, makes the ipc and uts namespaces, writes the host name and the kernel parameters, opens the new namespaces
//! and exits: it shares the descriptors with its parent. A thread cannot do that, because setns(2) into a user namespace
//! is refused to a process with several threads.

use std::{
    collections::HashMap,
    ffi::CStr,
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use berth_init::{plan::Sysctl, sys as init};
use oci_spec::runtime::LinuxNamespaceType as Type;

use crate::{
    Context, Error, Result,
    arena::Arena,
    id_maps::Ids,
    leaves::sysctl,
    namespace::{
        self,
        enter::{PreEntry, UsernsHelper},
        kind, user,
    },
    sys,
};

/// Longest host name in bytes, without the NUL (uname(2)).
const NAME_MAX: usize = 64;

/// The namespaces that a pod has of its own. The others are the host's.
#[derive(Debug)]
pub struct Request<'a> {
    /// The file of the network namespace.
    pub network: Option<&'a Path>,
    /// A new ipc namespace.
    pub ipc: bool,
    /// A new uts namespace with this host name.
    pub hostname: Option<&'a str>,
    /// A user namespace with these mappings: the one that owns the network namespace, else a new one.
    pub users: Option<&'a Ids>,
    /// Kernel parameters of these namespaces, as in `linux.sysctl`.
    pub sysctls: &'a HashMap<String, String>,
}

/// The namespaces of a pod.
#[derive(Debug)]
pub struct Namespaces {
    /// The network namespace.
    pub network: Option<OwnedFd>,
    /// The ipc namespace.
    pub ipc: Option<OwnedFd>,
    /// The uts namespace.
    pub uts: Option<OwnedFd>,
    /// The user namespace, which owns the ipc and the uts namespace.
    pub user: Option<OwnedFd>,
}

/// Checks what can be checked before anything is made.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] for a host name that is too long, incomplete mappings, and a kernel parameter that
/// is malformed or belongs to a namespace of the host.
pub fn check(request: &Request<'_>) -> Result<()> {
    if request.hostname.is_some_and(|name| name.len() > NAME_MAX) {
        return Err(Error::invalid(format!("hostname: longer than {NAME_MAX} bytes")));
    }
    request.users.map_or(Ok(()), Ids::check_complete)?;
    sysctl::check(request.sysctls, |kind| is_private(request, kind))
}

/// Makes the namespaces.
///
/// # Errors
/// As [`check`]; [`crate::Kind::InvalidArgument`] for a path that is no network namespace, or whose user namespace has
/// other mappings; the kernel's errors. Nothing is left then.
pub fn make(request: &Request<'_>) -> Result<Namespaces> {
    check(request)?;
    let arena = Arena::default();
    let sysctls = sysctl::plan(&arena, request.sysctls, |kind| is_private(request, kind))?;
    let (of_network, others): (Vec<_>, Vec<_>) = sysctls.into_iter().partition(is_of_network);
    let network = request.network.map(|path| {
        namespace::open(path, kind::NETWORK).with_context(|| format!("network namespace {}", path.display()))
    });
    let network = network.transpose()?;
    let (user, owns_network) = users(request, network.as_ref())?;
    if let Some(network) = network.as_ref().filter(|_| !of_network.is_empty()) {
        inside(user.as_ref().filter(|_| owns_network), || {
            init::setns(network.as_fd(), kind::NETWORK).context("join the network namespace")?;
            write_all(&of_network)
        })?;
    }
    let made = [(request.ipc, kind::IPC), (request.hostname.is_some(), kind::UTS)];
    let flags = made.iter().filter(|(wanted, _)| *wanted).fold(0, |flags, (_, kind)| flags | kind);
    let (ipc, uts) = match flags {
        0 => (None, None),
        _ => inside(user.as_ref(), || {
            init::unshare(flags).context("make the pod's namespaces")?;
            if let Some(name) = request.hostname {
                rustix::system::sethostname(name.as_bytes()).context("set the host name")?;
            }
            write_all(&others)?;
            Ok((open_own(request.ipc, "ipc")?, open_own(request.hostname.is_some(), "uts")?))
        })?,
    };
    Ok(Namespaces { network, ipc, uts, user })
}

fn is_private(request: &Request<'_>, kind: Type) -> bool {
    match kind {
        Type::Network => request.network.is_some(),
        Type::Ipc => request.ipc,
        Type::Uts => request.hostname.is_some(),
        Type::User => request.users.is_some(),
        _ => false,
    }
}

fn is_of_network(sysctl: &Sysctl<'_>) -> bool {
    sysctl.path.to_bytes().starts_with(b"/proc/sys/net/")
}

/// The pod's user namespace, and whether it owns the network namespace. Only its root may then change that.
fn users(request: &Request<'_>, network: Option<&OwnedFd>) -> Result<(Option<OwnedFd>, bool)> {
    let Some(ids) = request.users else { return Ok((None, false)) };
    if let Some(network) = network {
        let owner = sys::owner_of_namespace(network).context("find the owner of the network namespace")?;
        if !namespace::is_own(&owner, "user")? {
            let found = user::read(owner.as_fd()).context("read the user namespace of the network namespace")?;
            if !found.ids.same_as(ids) {
                return Err(Error::invalid(
                    "the network namespace belongs to a user namespace with other mappings than the pod",
                ));
            }
            return Ok((Some(owner), true));
        }
    }
    Ok((Some(user::create(ids).context("make the pod's user namespace")?), false))
}

/// Runs `work` in a vfork child, as root of the user namespace if there is one.
fn inside<T>(users: Option<&OwnedFd>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match users {
        None => sys::run_in_vfork_child(work)?,
        Some(users) => {
            let users = users.try_clone().context("dup the user namespace")?;
            UsernsHelper::for_container(users).run_in_userns(&PreEntry::default(), work)
        }
    }
}

/// Writes kernel parameters. The kernel looks up their files by the namespaces of the process that opens them.
fn write_all(sysctls: &[Sysctl<'_>]) -> Result<()> {
    sysctls.iter().try_for_each(|sysctl| {
        fs::write(path(sysctl.path), sysctl.value)
            .with_context(|| format!("linux.sysctl: write {}", sysctl.path.to_string_lossy()))
    })
}

fn path(text: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(text.to_bytes()))
}

/// Opens a namespace of this process, which may open its own files although it is not dumpable.
fn open_own(wanted: bool, name: &str) -> Result<Option<OwnedFd>> {
    let file = || File::open(format!("/proc/self/ns/{name}")).with_context(|| format!("open the {name} namespace"));
    wanted.then(|| file().map(OwnedFd::from)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(sysctls: &'a HashMap<String, String>, hostname: Option<&'a str>) -> Request<'a> {
        Request { network: None, ipc: false, hostname, users: None, sysctls }
    }

    #[test]
    fn a_pod_without_namespaces_of_its_own_gets_none() {
        let made = make(&request(&HashMap::new(), None)).unwrap();
        assert!(made.network.is_none() && made.ipc.is_none() && made.uts.is_none() && made.user.is_none());
    }

    #[test]
    fn a_kernel_parameter_of_the_host_is_refused_for_a_pod() {
        for (key, says) in [
            ("net.core.somaxconn", "not allowed in host network namespace"),
            ("kernel.shmmax", "hosts ipc namespace"),
            ("vm.swappiness", "not in a separate kernel namespace"),
        ] {
            let sysctls = HashMap::from([(key.to_owned(), "1".to_owned())]);
            let error = check(&request(&sysctls, Some("pod"))).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_host_name_of_65_bytes_is_refused_for_a_pod() {
        let name = "x".repeat(65);
        assert!(check(&request(&HashMap::new(), Some(&name))).is_err());
        assert!(check(&request(&HashMap::new(), Some(&name[1..]))).is_ok());
    }
}
