//! The state of a container on disk: `<root>/<id>/state.json`, which is written atomically.
//!
//! Its pid is valid only together with the start time. Facts that change later are read from the kernel instead.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_init::defence::Defence;
use serde::{Deserialize, Serialize};

use crate::{
    Context, Error, Kind, Result,
    cgroup::Cgroup,
    container::inherited::Inherited,
    host::{caller, foreign_dir, proc},
    leaves::{
        hooks::LaterHooks,
        rdt::Group,
        scheduling::Settings as Scheduling,
        seccomp::{Filter, agent::Listener},
    },
    oci_state::OciState,
};

/// The format version that this build writes and reads.
const VERSION: u32 = 1;
/// Name of the state file in the state directory.
pub(crate) const FILE: &str = "state.json";
const FILTER: &str = "seccomp.bpf";

/// The status of a container (runtime.md, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The container is being created.
    Creating,
    /// init waits for start; the payload has not been executed.
    Created,
    /// The payload runs.
    Running,
    /// The freeze has begun. Only the shim reports this status.
    Pausing,
    /// The cgroup is frozen.
    Paused,
    /// The payload has exited.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The content of state.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The format version.
    pub version: u32,
    /// `ociVersion` of config.json.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// init's pid; 0 before the clone.
    pub pid: i32,
    /// init's start time in clock ticks since boot (proc_pid_stat(5)).
    pub start_time: u64,
    /// Id of the boot in which the container was created; empty in files of older builds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The root file system on the host.
    pub rootfs: PathBuf,
    /// Time of the creation: RFC 3339, UTC, with nanoseconds.
    pub created: String,
    /// The uid of the caller that created the container.
    pub owner: u32,
    /// `annotations` of config.json.
    pub annotations: HashMap<String, String>,
    /// The cgroup of the container's processes.
    pub cgroup: Cgroup,
    /// `CLONE_NEW*` flags of the namespaces that an exec joins.
    pub namespaces: u32,
    /// init is pid 1 of its own pid namespace, so the kernel kills all other processes when init exits.
    pub private_pid: bool,
    /// Device and inode of the program that init runs until start.
    pub runtime: (u64, u64),
    /// Settings that execs take over.
    pub process: Inherited,
    /// The container's resctrl group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<Group>,
    /// The hooks that run after create.
    #[serde(default, skip_serializing_if = "LaterHooks::is_empty")]
    pub hooks: LaterHooks,
}

impl State {
    /// Returns the OCI state for hooks and seccomp agents.
    pub fn oci_state(&self) -> OciState<'_> {
        let Self { oci_version, id, bundle, annotations, .. } = self;
        OciState { oci_version, id, bundle, annotations }
    }
}

/// An existing container: its state directory and the state read from there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    dir: PathBuf,
    state: State,
    /// The seccomp filter, if it is known without reading the file.
    #[serde(skip)]
    filter: Option<Arc<Filter>>,
}

impl Container {
    /// Reads `<root>/<id>/state.json`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] "container does not exist". [`Kind::Internal`] with the path for a truncated file or another
    /// format.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let dir = root.join(id);
        let path = dir.join(FILE);
        let json = fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::new(Kind::NotFound, "container does not exist")
            }
            _ => Error::from(e).context(format!("read {}", path.display())),
        })?;
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let bad = |e: serde_json::Error| Error::new(Kind::Internal, format!("{}: {e}", path.display()));
        let version = serde_json::from_slice::<Version>(&json).map_err(bad)?.version;
        if version != VERSION {
            let text = format!("{}: version {version} of the state is not understood, only {VERSION}", path.display());
            return Err(Error::new(Kind::Internal, text));
        }
        Ok(Self { state: serde_json::from_slice(&json).map_err(bad)?, dir, filter: None })
    }

    /// Reads as much as possible of a file that [`Container::load`] refuses.
    ///
    /// Returns the whole state if a newer format has only added members. Returns `None` if the file names no living
    /// process.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] if the file cannot be parsed, but names a living process.
    pub(crate) fn salvage(root: &Path, id: &str) -> Result<Option<Self>> {
        let dir = root.join(id);
        let json = match fs::read(dir.join(FILE)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("read {}", dir.join(FILE).display()))?,
        };
        if let Ok(state) = serde_json::from_slice::<State>(&json) {
            return Ok(Some(Self { dir, state, filter: None }));
        }
        #[derive(Deserialize)]
        struct Named {
            pid: i32,
            start_time: u64,
            #[serde(default)]
            boot: String,
        }
        let lives = |stat: &proc::Stat, named: &Named| {
            proc::is_this_boot(&named.boot) && stat.start_time == named.start_time && !stat.ended()
        };
        let Ok(named) = serde_json::from_slice::<Named>(&json) else { return Ok(None) };
        match proc::stat(named.pid)?.filter(|stat| lives(stat, &named)) {
            Some(_) => {
                let pid = named.pid;
                let text = format!("{} is not understood, and its process {pid} runs", dir.join(FILE).display());
                Err(Error::new(Kind::FailedPrecondition, text))
            }
            None => Ok(None),
        }
    }

    /// Returns the container's id.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// Returns init's pid; 0 while the container is being created.
    pub fn pid(&self) -> i32 {
        self.state.pid
    }

    /// Returns the bundle directory.
    pub fn bundle(&self) -> &Path {
        &self.state.bundle
    }

    /// Returns the root file system on the host.
    pub fn rootfs(&self) -> &Path {
        &self.state.rootfs
    }

    /// Returns `annotations` of config.json.
    pub fn annotations(&self) -> &HashMap<String, String> {
        &self.state.annotations
    }

    /// Returns the time of the creation: RFC 3339, UTC, with nanoseconds.
    pub fn created(&self) -> &str {
        &self.state.created
    }

    /// Returns `ociVersion` of config.json.
    pub fn oci_version(&self) -> &str {
        &self.state.oci_version
    }

    /// Returns the uid of the caller that created the container.
    pub fn owner_uid(&self) -> u32 {
        self.state.owner
    }

    /// Returns the cgroup of the container's processes.
    pub fn cgroup(&self) -> &Cgroup {
        &self.state.cgroup
    }

    /// Returns true if the container has its own pid namespace. Otherwise only the cgroup tells which processes belong
    /// to it, and they outlive init unless they are killed.
    pub fn private_pid_namespace(&self) -> bool {
        self.state.private_pid
    }

    /// Returns the whole state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the state directory, `<root>/<id>`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the seccomp filter that execs load, if there is one.
    ///
    /// # Errors
    /// As [`Filter::from_bytes`], with the path, for a file that has been changed.
    pub fn filter(&self) -> Result<Option<Arc<Filter>>> {
        if let Some(known) = &self.filter {
            return Ok(Some(known.clone()));
        }
        let path = self.dir.join(FILTER);
        match fs::read(&path) {
            Ok(bytes) => {
                Filter::from_bytes(&bytes).map(|f| Some(Arc::new(f))).with_context(|| path.display().to_string())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from(e).context(format!("read {}", path.display()))),
        }
    }
}

/// The state directory of a container that is being created. Dropping this removes the directory.
pub struct Draft {
    dir: PathBuf,
    kept: bool,
}

impl Draft {
    /// Reserves the id by creating `<root>/<id>`. Of two concurrent callers one succeeds.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] "container with given ID already exists".
    pub fn new(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("mkdir {}", root.display()))?;
        let dir = root.join(id);
        let mode = if Defence::PrivateState.stands() { 0o700 } else { 0o777 };
        match DirBuilder::new().mode(mode).create(&dir) {
            Ok(()) => Ok(Self { dir, kept: false }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::AlreadyExists, "container with given ID already exists"))
            }
            Err(e) => Err(Error::from(e).context(format!("mkdir {}", dir.display()))),
        }
    }

    /// Returns the path of the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes state.json atomically.
    pub fn write(&self, state: &State) -> Result<()> {
        let json = serde_json::to_vec(state).map_err(|e| Error::new(Kind::Internal, format!("state.json: {e}")))?;
        write_whole(&self.dir, FILE, &json)
    }

    /// Writes the seccomp filter for execs.
    pub fn write_filter(&self, filter: &Filter) -> Result<()> {
        write_whole(&self.dir, FILTER, &filter.to_bytes())
    }

    /// Keeps the directory and returns the created container.
    pub fn keep(mut self, state: State, filter: Option<Arc<Filter>>) -> Container {
        self.kept = true;
        Container { dir: self.dir.clone(), state, filter }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Returns true if config.json gives the container a pid namespace of its own, with whose init all processes end.
pub fn has_private_pid(spec: &oci_spec::runtime::Spec) -> bool {
    crate::namespace::listed(spec)
        .any(|namespace| namespace.typ() == oci_spec::runtime::LinuxNamespaceType::Pid && namespace.path().is_none())
}

/// Returns the state of a new container before its clone.
pub fn record(
    id: &str,
    spec: &oci_spec::runtime::Spec,
    bundle: &Path,
    rootfs: &Path,
    cgroup: &Cgroup,
) -> Result<State> {
    let runtime = fs::metadata("/proc/self/exe").context("stat /proc/self/exe")?;
    let process = spec.process().as_ref();
    let caps = crate::leaves::caps::plan(process.and_then(|p| p.capabilities().as_ref()));
    let text = |t: Option<&Option<String>>| t.cloned().flatten().filter(|t| !t.is_empty());
    Ok(State {
        version: VERSION,
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        pid: 0,
        start_time: 0,
        boot: proc::boot_id().to_owned(),
        bundle: bundle.to_owned(),
        rootfs: rootfs.to_owned(),
        created: crate::host::time::now_rfc3339(),
        owner: caller::uid(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        cgroup: cgroup.clone(),
        namespaces: 0,
        private_pid: has_private_pid(spec),
        runtime: (runtime.dev(), runtime.ino()),
        process: Inherited {
            program: process.and_then(|p| p.args().as_ref()?.first().cloned()).unwrap_or_default(),
            capabilities: [caps.bounding, caps.effective, caps.permitted, caps.inheritable, caps.ambient],
            umask: process.and_then(|p| p.user().umask()),
            oom_score_adj: process.and_then(|p| p.oom_score_adj()),
            apparmor: text(process.map(|p| p.apparmor_profile())),
            selinux: text(process.map(|p| p.selinux_label())),
            keyring: false,
            listener: Listener::from_profile(spec.linux().as_ref().and_then(|l| l.seccomp().as_ref())),
            scheduling: Scheduling::from_spec(spec),
        },
        rdt: None,
        hooks: LaterHooks::of(spec),
    })
}

/// Returns all containers below a state root, sorted by id. A state that cannot be read is returned as its error.
///
/// # Errors
/// The root exists and cannot be read.
pub fn list(root: &Path) -> Result<Vec<Result<Container>>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::from(e).context(format!("read {}", root.display()))),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", root.display()))?;
        if entry.file_type().is_ok_and(|t| t.is_dir())
            && let Ok(id) = entry.file_name().into_string()
        {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    let loaded = ids.iter().map(|id| Container::load(root, id).with_context(|| format!("load container {id}")));
    // A container that has been deleted meanwhile is left out.
    Ok(loaded.filter(|c| !matches!(c, Err(e) if e.kind() == Kind::NotFound)).collect())
}

/// Checks an id by runc's rule. It must also fit in a file name of 255 bytes.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the id.
pub fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() {
        return Err(Error::invalid("container id cannot be empty"));
    }
    if id == "." || id == ".." || !id.chars().all(allowed) {
        return Err(Error::invalid(format!("invalid container ID format: {id:?}")));
    }
    if id.len() > 255 {
        return Err(Error::invalid(format!("container id {id:?} is too long, 255 bytes at most")));
    }
    Ok(())
}

/// Writes a file of the state directory atomically.
fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    foreign_dir::write_whole(&path, bytes, 0o600).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        for good in ["a", "web-1", "x_y.z+1", &"a".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", "a b", "ä", &"a".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn draft_reserves_the_id_until_it_is_dropped() {
        let root = std::env::temp_dir().join(format!("berth-state-{}", std::process::id()));
        let draft = Draft::new(&root, "c").unwrap();
        assert_eq!(Draft::new(&root, "c").err().unwrap().kind(), Kind::AlreadyExists);
        assert_eq!(fs::metadata(draft.dir()).unwrap().mode() & 0o777, 0o700);
        drop(draft);
        assert!(!root.join("c").exists());
        assert_eq!(Container::load(&root, "c").unwrap_err().to_string(), "container does not exist");
        fs::remove_dir(&root).unwrap();
    }

    #[test]
    fn state_of_another_format_is_an_error() {
        let root = std::env::temp_dir().join(format!("berth-state2-{}", std::process::id()));
        let draft = Draft::new(&root, "c").unwrap();
        for (text, says) in
            [("", "EOF"), ("{\"version\":1", "EOF"), ("{\"version\":99}", "version 99"), ("[]", "state.json")]
        {
            fs::write(draft.dir().join(FILE), text).unwrap();
            let error = Container::load(&root, "c").unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert_eq!(error.kind(), Kind::Internal);
        }
        assert_eq!(list(&root).unwrap().len(), 1);
        drop(draft);
        fs::remove_dir(&root).unwrap();
    }
}
