//! The parts that a dump and a restore share: their options, the checks of CRIU, and the words of its failures.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::{
    Context, Error, Kind, Result, cgroup,
    criu::{
        Images, Options as CriuOptions, Session, Verb, Version, find::trusted, log as criu_log, option, session::number,
    },
    host::caller,
    namespace::{kind, listed, path_to_join},
};

/// The oldest CRIU that knows external pid namespaces and all notifications.
const OLDEST: Version = Version(31500);
/// The level that shows the reason of a failure, and progress.
const LOG_LEVEL: u32 = 4;
/// The annotation with the path of a configuration file of CRIU, and the file without the annotation; both are runc's.
const CONFIG_ANNOTATION: &str = "org.criu.config";
const CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// The way in which CRIU treats cgroups (`--manage-cgroups-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Nothing. The runtime makes the cgroup and its limits.
    Ignore,
    /// Restore cgroups that do not exist.
    Soft,
    /// Restore them all.
    Full,
    /// Restore them all, and fail if one exists.
    Strict,
}

impl CgroupsMode {
    /// Reads the value of the flag.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] in runc's words.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "ignore" => Ok(Self::Ignore),
            "soft" => Ok(Self::Soft),
            "full" => Ok(Self::Full),
            "strict" => Ok(Self::Strict),
            _ => Err(Error::invalid(format!("invalid manage-cgroups-mode value: {word:?}"))),
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Ignore => 0,
            Self::Soft => 3,
            Self::Full => 4,
            Self::Strict => 5,
        }
    }
}

/// The options that a dump and a restore share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Common<'a> {
    /// `--work-path`: the directory of CRIU's log. By default it is that of the images.
    pub work: Option<&'a Path>,
    /// `--tcp-established`
    pub tcp_established: bool,
    /// `--ext-unix-sk`
    pub ext_unix_sockets: bool,
    /// `--shell-job`
    pub shell_job: bool,
    /// `--file-locks`
    pub file_locks: bool,
    /// `--auto-dedup`
    pub auto_dedup: bool,
    /// `--lazy-pages`
    pub lazy_pages: bool,
    /// `--manage-cgroups-mode`
    pub cgroups: Option<CgroupsMode>,
}

impl Common<'_> {
    /// Returns the mode for cgroups. With a cgroup v2 hierarchy the default is to ignore them: CRIU mounts the
    /// hierarchy, and so takes the options `nsdelegate` and `memory_recursiveprot` from the host's own mount.
    pub fn cgroups_mode(&self) -> CgroupsMode {
        let v2 = || cgroup::host().is_ok_and(|host| host.mounts().iter().any(cgroup::Mount::is_v2));
        self.cgroups.unwrap_or_else(|| if v2() { CgroupsMode::Ignore } else { CgroupsMode::Soft })
    }

    /// Returns the way to lock the network of the processes, unless it is CRIU's default. The lock keeps the peers of open
    /// connections from noticing the dump, and a dump that allows no open connection needs none.
    fn network_lock(&self) -> Option<u32> {
        match IPTABLES.iter().any(|path| Path::new(path).exists()) {
            true => None,
            false => Some(if self.tcp_established { LOCK_BY_NFTABLES } else { NO_LOCK }),
        }
    }

    /// Returns the part of a request that is the same for a dump and a restore.
    pub fn request(&self, directories: &Directories, log: &str) -> CriuOptions {
        let mut request = CriuOptions::default();
        request.signed(option::IMAGES_DIR_FD, number(directories.images.as_fd()));
        if let Some(work) = &directories.work {
            request.signed(option::WORK_DIR_FD, number(work.as_fd()));
        }
        request.number(option::LOG_LEVEL, LOG_LEVEL);
        request.text(option::LOG_FILE, log);
        for (field, on) in [
            (option::NOTIFY_SCRIPTS, true),
            (option::ORPHAN_PTS_MASTER, true),
            (option::TCP_ESTABLISHED, self.tcp_established),
            (option::EXT_UNIX_SK, self.ext_unix_sockets),
            (option::SHELL_JOB, self.shell_job),
            (option::FILE_LOCKS, self.file_locks),
            (option::AUTO_DEDUP, self.auto_dedup),
            (option::LAZY_PAGES, self.lazy_pages),
        ] {
            request.switch(field, on);
        }
        request.number(option::MANAGE_CGROUPS_MODE, self.cgroups_mode().number());
        if let Some(lock) = self.network_lock() {
            request.number(option::NETWORK_LOCK, lock);
        }
        // Neither berth nor runc manages the devices of a network namespace, so CRIU leaves it empty.
        request.number(option::EMPTY_NS, kind::NETWORK);
        request
    }
}

/// The program by which CRIU locks a network by default, and where it is.
const IPTABLES: [&str; 2] = ["/usr/sbin/iptables-restore", "/sbin/iptables-restore"];
/// Locks a network by nf_tables, without a program.
const LOCK_BY_NFTABLES: u32 = 2;
/// Does not lock a network.
const NO_LOCK: u32 = 3;

/// The opened directories of a request.
pub struct Directories {
    /// The images.
    pub images: Images,
    /// CRIU's log, if it is not beside the images.
    pub work: Option<Images>,
}

impl Directories {
    /// Returns the failure of CRIU, with the last error in its log.
    pub fn explain(&self, error: Error, verb: Verb, log: &str) -> Error {
        let dir = self.work.as_ref().unwrap_or(&self.images);
        let path = dir.path().join(log);
        let reason = criu_log::first_error(dir.as_fd(), log).map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = format!("criu failed: type {} {error}{reason}; log file: {}", verb.name(), path.display());
        Error::new(error.kind(), text)
    }
}

/// Returns the error for CRIU's own answer. The log has the reason.
pub fn failed(errno: i32) -> Error {
    Error::new(Kind::Internal, format!("errno {errno}"))
}

/// Refuses a caller that is not root.
///
/// # Errors
/// [`Kind::Unsupported`].
pub fn refuse_user() -> Result<()> {
    if caller::is_user() || caller::in_user_namespace() {
        return Err(Error::unsupported("checkpoint and restore need root, because CRIU does"));
    }
    Ok(())
}

/// Asks CRIU for its version.
///
/// # Errors
/// [`Kind::Unsupported`] for one that is too old.
pub fn check_version(session: &mut Session) -> Result<Version> {
    let version = session.version().context("CRIU version check failed")?;
    if version < OLDEST {
        let text = format!("CRIU version {} must be {} or higher", version.0, OLDEST.0);
        return Err(Error::unsupported(text));
    }
    Ok(version)
}

/// Returns the configuration file of CRIU that the annotations ask for. It can override every option of a request, and
/// name programs to execute.
///
/// # Errors
/// [`Kind::InvalidArgument`] if another user than root could have written the file that the annotation names.
pub fn config_file(spec: &Spec) -> Result<Option<PathBuf>> {
    let named = spec.annotations().as_ref().and_then(|all| all.get(CONFIG_ANNOTATION));
    match named.map(String::as_str) {
        Some("") => Ok(None),
        Some(path) => {
            trusted(Path::new(path)).map(Some).with_context(|| format!("annotations.{CONFIG_ANNOTATION}: {path}"))
        }
        None => Ok(trusted(Path::new(CONFIG_FILE)).ok()),
    }
}

/// Checks the namespaces that are to be left empty. The network always is, and CRIU knows no other.
///
/// # Errors
/// [`Kind::InvalidArgument`] in runc's words.
pub fn check_empty_namespaces(names: &[String]) -> Result<()> {
    match names.iter().find(|name| *name != "network") {
        Some(other) => Err(Error::invalid(format!("namespace {other:?} is not supported"))),
        None => Ok(()),
    }
}

/// Returns the network and pid namespaces that config.json gives by path, each with CRIU's word and key.
pub fn outer_namespaces(spec: &Spec) -> impl Iterator<Item = (&'static str, &'static str, &Path)> {
    listed(spec).filter_map(|namespace| match namespace.typ() {
        LinuxNamespaceType::Network => Some(("net", "extRootNetNS", path_to_join(namespace)?)),
        LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS", path_to_join(namespace)?)),
        _ => None,
    })
}
