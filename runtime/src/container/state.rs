//! What outlives the process that made a container: `<root>/<id>/state.json`, written whole or not at all.
//!
//! A pid in it is trusted only together with its start time; everything else that changes is asked of the kernel.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Context, Error, Kind, Result,
    cgroup::Cgroup,
    container::inherited::Inherited,
    host::{caller, foreign_dir, proc},
    leaves::{
        hooks::Later,
        rdt::Group,
        scheduling::Inherited as Scheduling,
        seccomp::{Filter, agent::Listener},
    },
    oci_state::OciState,
};

/// The format that this build writes and reads.
const VERSION: u32 = 1;
/// The record.
pub(crate) const FILE: &str = "state.json";
const FILTER: &str = "seccomp.bpf";

/// runtime.md, "State".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; the payload has not been executed.
    Created,
    /// The payload runs.
    Running,
    /// About to be frozen; only a shim shows it.
    Pausing,
    /// Frozen.
    Paused,
    /// The payload is gone.
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

/// state.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Format of this file.
    pub version: u32,
    /// Of config.json.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// init's pid; 0 until there is one.
    pub pid: i32,
    /// init's start time, clock ticks since boot (proc_pid_stat(5)).
    pub start_time: u64,
    /// The boot in which it was made; unknown in records of older builds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// Who made it.
    pub owner: u32,
    /// Of config.json.
    pub annotations: HashMap<String, String>,
    /// Where its processes are.
    pub cgroup: Cgroup,
    /// `CLONE_NEW*` of the namespaces that an exec joins.
    pub namespaces: u32,
    /// init is process 1 of a pid namespace of its own: when it goes, the kernel ends all the others.
    pub private_pid: bool,
    /// Device and inode of the program that init runs until it is started.
    pub runtime: (u64, u64),
    /// What execs take over.
    pub process: Inherited,
    /// The group of resctrl that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<Group>,
    /// Hooks that are still to come.
    #[serde(default, skip_serializing_if = "Later::is_empty")]
    pub hooks: Later,
}

impl State {
    /// What hooks and seccomp's agents are told.
    pub fn oci_state(&self) -> OciState<'_> {
        let Self { oci_version, id, bundle, annotations, .. } = self;
        OciState { oci_version, id, bundle, annotations }
    }
}

/// A container on record.
#[derive(Clone, Debug)]
pub struct Container {
    dir: PathBuf,
    state: State,
    /// The filter, as far as it is known without reading the file.
    filter: Option<Arc<Filter>>,
}

impl Container {
    /// Reads `<root>/<id>/state.json`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] "container does not exist"; a truncated or foreign file is named.
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

    /// What can be known from a record that [`Container::load`] refuses: all, where the format has only grown; `None` where
    /// it says of no process that lives.
    ///
    /// # Errors
    /// It is not understood, and names a process that lives.
    pub(crate) fn salvage(root: &Path, id: &str) -> Result<Option<Self>> {
        let dir = root.join(id);
        let json = fs::read(dir.join(FILE)).unwrap_or_default();
        if let Ok(state) = serde_json::from_slice::<State>(&json) {
            return Ok(Some(Self { dir, state, filter: None }));
        }
        #[derive(Deserialize)]
        struct Named {
            pid: i32,
            start_time: u64,
        }
        let lives = |named: &Named| {
            proc::stat(named.pid).is_some_and(|stat| stat.start_time == named.start_time && !stat.ended())
        };
        match serde_json::from_slice::<Named>(&json).ok().filter(lives) {
            Some(Named { pid, .. }) => {
                let text = format!("{} is not understood, and its process {pid} runs", dir.join(FILE).display());
                Err(Error::new(Kind::FailedPrecondition, text))
            }
            None => Ok(None),
        }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// init's pid; 0 while it is being created.
    pub fn pid(&self) -> i32 {
        self.state.pid
    }

    /// The bundle directory.
    pub fn bundle(&self) -> &Path {
        &self.state.bundle
    }

    /// The root file system.
    pub fn rootfs(&self) -> &Path {
        &self.state.rootfs
    }

    /// Of config.json.
    pub fn annotations(&self) -> &HashMap<String, String> {
        &self.state.annotations
    }

    /// When it was made: RFC 3339, UTC, ns.
    pub fn created(&self) -> &str {
        &self.state.created
    }

    /// The version of config.json.
    pub fn oci_version(&self) -> &str {
        &self.state.oci_version
    }

    /// The uid that made it.
    pub fn owner_uid(&self) -> u32 {
        self.state.owner
    }

    /// Where its processes are.
    pub fn cgroup(&self) -> &Cgroup {
        &self.state.cgroup
    }

    /// False when the container shares the pid namespace of the host or of another container: then nothing but its
    /// cgroup says which processes are its own, and they outlive init unless they are killed.
    pub fn private_pid_namespace(&self) -> bool {
        self.state.private_pid
    }

    /// The whole record.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// `<root>/<id>`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The filter that execs load, if there is one.
    ///
    /// # Errors
    /// A file that is not as it was written.
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

/// A state directory that is being filled; dropped, it is removed again.
pub struct Draft {
    dir: PathBuf,
    kept: bool,
}

impl Draft {
    /// Takes the id by making `<root>/<id>`: one of two that try wins.
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
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => Ok(Self { dir, kept: false }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::AlreadyExists, "container with given ID already exists"))
            }
            Err(e) => Err(Error::from(e).context(format!("mkdir {}", dir.display()))),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes state.json, whole or not at all.
    pub fn write(&self, state: &State) -> Result<()> {
        let json = serde_json::to_vec(state).map_err(|e| Error::new(Kind::Internal, format!("state.json: {e}")))?;
        write_whole(&self.dir, FILE, &json)
    }

    /// Writes the filter for execs.
    pub fn write_filter(&self, filter: &Filter) -> Result<()> {
        write_whole(&self.dir, FILTER, &filter.to_bytes())
    }

    /// The container is there.
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

/// The record of a new container, before it has a process.
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
        private_pid: spec
            .linux()
            .iter()
            .flat_map(|l| l.namespaces().iter().flatten())
            .any(|n| n.typ() == oci_spec::runtime::LinuxNamespaceType::Pid && n.path().is_none()),
        runtime: (runtime.dev(), runtime.ino()),
        process: Inherited {
            program: process.and_then(|p| p.args().as_ref()?.first().cloned()).unwrap_or_default(),
            capabilities: [caps.bounding, caps.effective, caps.permitted, caps.inheritable, caps.ambient],
            umask: process.and_then(|p| p.user().umask()),
            oom_score_adj: process.and_then(|p| p.oom_score_adj()),
            apparmor: text(process.map(|p| p.apparmor_profile())),
            selinux: text(process.map(|p| p.selinux_label())),
            keyring: false,
            listener: Listener::of(spec.linux().as_ref().and_then(|l| l.seccomp().as_ref())),
            scheduling: Scheduling::of(spec),
        },
        rdt: None,
        hooks: Later::of(spec),
    })
}

/// All containers below a state root, by id; those that cannot be read come as their error.
///
/// # Errors
/// When the root is there and cannot be read.
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
    // One that was deleted meanwhile is simply not there.
    Ok(loaded.filter(|c| !matches!(c, Err(e) if e.kind() == Kind::NotFound)).collect())
}

/// runc's rule for ids, and a bound: the id is a directory's name.
///
/// # Errors
/// [`Kind::InvalidArgument`] naming the id.
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

/// Writes a file of the state directory.
fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    foreign_dir::write_whole(&path, bytes, 0o600).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "web-1", "x_y.z+1", &"a".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", "a b", "ä", &"a".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_draft_takes_the_id_and_gives_it_back() {
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
    fn foreign_state_is_a_clear_error() {
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
