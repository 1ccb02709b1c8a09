//! A pod without a pause container: the shim itself holds its namespaces (`sandboxer = "shim"` in containerd).
//!
//! ```text
//! Created ──start──> Ready ──stop──> Stopped
//!    └───────────────────stop───────────^
//! ```
//!
//! `config` checks the request, `files` makes what lies in the bundle, `join` gives both to a container, `members` lists
//! the containers on the disk, `describe` tells containerd about the pod. The namespaces are made by the runtime. A pod
//! whose containers share a pid namespace has one process, its `init`.

pub mod config;
mod describe;
mod files;
mod init;
mod join;
pub mod members;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_proto::{
    sandbox::{SandboxStatusResponse, StartSandboxResponse},
    wkt::{Any, Timestamp},
};
use berth_runtime::{Error, Kind, Result, pod::Namespaces};
use oci_spec::runtime::Spec;
use tokio::sync::watch;

use self::{
    config::{PidNamespace, PodConfig},
    init::Init,
    join::{Offer, Shared},
};
use crate::{
    clock,
    error::precondition,
    mount::unmount_recursive,
    pool::Pool,
    reap::{self, Exit},
    stats,
};

/// The pod of this server, once CreateSandbox has come.
#[derive(Debug, Default)]
pub struct PodSlot(Mutex<Option<Arc<Pod>>>);

/// A pod.
#[derive(Debug)]
pub struct Pod {
    config: Arc<PodConfig>,
    /// Orders Start and Stop.
    op: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    started: Option<Timestamp>,
}

#[derive(Debug)]
enum Phase {
    Created,
    Ready(Arc<Held>),
    Stopped,
}

/// The namespaces and the init of a ready pod. A container that is being created holds them, too, until it has joined.
#[derive(Debug)]
pub struct Held {
    namespaces: Namespaces,
    init: Option<Init>,
    spec: Any,
}

impl PodSlot {
    /// Takes the pod of a CreateSandbox.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`]: the server has one.
    pub fn put(&self, config: PodConfig) -> Result<()> {
        let mut slot = self.lock();
        if let Some(pod) = &*slot {
            return Err(Error::new(Kind::AlreadyExists, format!("sandbox {:?} already exists", pod.config.id)));
        }
        let state = Mutex::new(State { phase: Phase::Created, started: None });
        let config = Arc::new(config);
        *slot =
            Some(Arc::new(Pod { config, op: tokio::sync::Mutex::default(), state, exit: watch::Sender::new(None) }));
        Ok(())
    }

    /// The pod, if there is one.
    pub fn get(&self) -> Option<Arc<Pod>> {
        self.lock().clone()
    }

    /// The pod with this id.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: there is none, or it has another id.
    pub fn find(&self, id: &str) -> Result<Arc<Pod>> {
        let found = self.get().filter(|pod| pod.config.id == id);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("sandbox {id:?} does not exist")))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Pod>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    /// Answers StartSandbox: makes the namespaces, the files, and the init if the pod has one. `state_root` is the
    /// runtime's.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] for a pod that was started before. A part cannot be made: nothing is left then, and
    /// the call can be repeated.
    pub async fn start(self: &Arc<Self>, pool: &Arc<Pool>, state_root: PathBuf) -> Result<StartSandboxResponse> {
        let _op = self.op.lock().await;
        match self.state().phase {
            Phase::Created => {}
            Phase::Ready(_) => return Err(precondition(format!("sandbox {:?} was started before", self.config.id))),
            Phase::Stopped => return Err(precondition(format!("sandbox {:?} was stopped", self.config.id))),
        }
        let (config, spawning) = (self.config.clone(), pool.children.begin_spawn());
        let held = Arc::new(pool.run(&spawning, move || Held::make(&config, &state_root)).await?);
        if let Some(init) = &held.init {
            pool.children.register(&spawning, init.pid);
            self.watch(init, pool);
        }
        let (spec, pid, started) = (held.spec.clone(), held.pid(), clock::timestamp());
        let mut state = self.state();
        state.started = Some(started.clone());
        state.phase = Phase::Ready(held);
        Ok(StartSandboxResponse {
            pid,
            created_at: Some(started).into(),
            spec: Some(spec).into(),
            ..Default::default()
        })
    }

    /// Stops the pod when its init has exited.
    fn watch(self: &Arc<Self>, init: &Init, pool: &Arc<Pool>) {
        let (pod, pool, pid, pidfd) = (self.clone(), pool.clone(), init.pid, init.pidfd.clone());
        tokio::spawn(async move {
            let exit = reap::wait_exit(&pidfd).await;
            pool.children.unregister(pid);
            if let Err(e) = pod.end(&pool, exit).await {
                log::error!("sandbox {}: {e}", pod.config.id);
            }
        });
    }

    /// Answers StopSandbox: kills the init, lets go of the namespaces and removes the files. A repeated call removes what
    /// is left.
    ///
    /// # Errors
    /// A process outlives SIGKILL, or a file cannot be removed. The pod is stopped then.
    pub async fn stop(&self, pool: &Pool) -> Result<()> {
        self.end(pool, Exit::now(0)).await
    }

    async fn end(&self, pool: &Pool, exit: Exit) -> Result<()> {
        let _op = self.op.lock().await;
        let phase = std::mem::replace(&mut self.state().phase, Phase::Stopped);
        let config = self.config.clone();
        let cleared = pool.run_urgent(move || {
            let ended = match &phase {
                Phase::Ready(held) => held.init.as_ref().map_or(Ok(()), Init::end),
                Phase::Created | Phase::Stopped => Ok(()),
            };
            Error::all([ended, clear(&config.bundle)].into_iter().filter_map(Result::err))
        });
        let cleared = cleared.await;
        self.exit.send_if_modified(|known| known.is_none() && known.replace(exit).is_none());
        cleared
    }

    /// Waits until the pod is stopped.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let known = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        known.unwrap_or_else(Exit::unknown)
    }

    /// Answers SandboxStatus. `first` is the pid of the init of a running container, if there is one.
    ///
    /// # Errors
    /// The verbose part cannot be encoded.
    pub fn status(&self, verbose: bool, first: Option<u32>) -> Result<SandboxStatusResponse> {
        let state = self.state();
        let held = match &state.phase {
            Phase::Ready(held) => Some(held),
            Phase::Created | Phase::Stopped => None,
        };
        let pid = held.map_or(0, |held| held.pid());
        let mut answer = SandboxStatusResponse {
            sandbox_id: self.config.id.clone(),
            pid,
            state: if held.is_some() { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.to_owned(),
            created_at: state.started.clone().into(),
            exited_at: self.exit.borrow().map(Into::into).into(),
            ..Default::default()
        };
        if verbose {
            let shown = if pid == 0 { first.unwrap_or(0) } else { pid };
            let spec = held.map(|held| held.spec.value.as_slice());
            answer.info.insert("info".to_owned(), describe::info(&self.config, shown, spec)?);
        }
        Ok(answer)
    }

    /// Answers SandboxMetrics: the counters of the cgroup above those of the containers.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: the pod has no such cgroup.
    pub fn metrics(&self) -> Result<Any> {
        match self.config.cri.linux.cgroup_parent.as_str() {
            "" => Err(Error::new(Kind::NotFound, format!("sandbox {:?} has no cgroup_parent", self.config.id))),
            parent => stats::pod_metrics(parent),
        }
    }

    /// Lists a container on the disk, and changes its config.json. The container can join as long as the result lives.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`]: the pod is not ready. As [`Offer::apply`].
    pub fn admit(&self, id: &str, bundle: &Path, spec: &mut Spec) -> Result<Arc<Held>> {
        let held = match &self.state().phase {
            Phase::Ready(held) => held.clone(),
            Phase::Created | Phase::Stopped => {
                return Err(precondition(format!("sandbox {:?} is not ready", self.config.id)));
            }
        };
        held.offer(&self.config).apply(spec)?;
        members::add(&self.config.bundle, id, bundle)?;
        Ok(held)
    }

    /// Removes a container from the list.
    pub fn dismiss(&self, id: &str) {
        if let Err(e) = members::remove(&self.config.bundle, id) {
            log::warn!("{e}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Makes all of it, or nothing.
    fn make(config: &PodConfig, state_root: &Path) -> Result<Self> {
        let made = Self::make_parts(config, state_root);
        if made.is_err()
            && let Err(e) = clear(&config.bundle)
        {
            log::warn!("undo the start of sandbox {}: {e}", config.id);
        }
        made
    }

    fn make_parts(config: &PodConfig, state_root: &Path) -> Result<Self> {
        let namespaces = berth_runtime::pod::make(&config.namespaces())?;
        files::make(config)?;
        let init = match config.pid {
            PidNamespace::Pod => Some(Init::start(config, &namespaces, state_root)?),
            PidNamespace::Container | PidNamespace::Host => None,
        };
        let described = (|| {
            let pids = init.as_ref().map(|init| &init.pids);
            let named = [
                ("ipc", namespaces.ipc.as_ref()),
                ("uts", namespaces.uts.as_ref()),
                ("user", namespaces.user.as_ref()),
                ("pid", pids),
            ];
            let named: Vec<_> = named.into_iter().filter_map(|(name, fd)| Some((name, fd?))).collect();
            let paths = files::pin(&config.bundle, &named)?;
            let pins: Vec<_> = named.iter().map(|(name, _)| *name).zip(paths).collect();
            describe::spec(config, &pins)
        })();
        match described {
            Ok(spec) => Ok(Self { namespaces, init, spec }),
            Err(e) => {
                let ended = init.map_or(Ok(()), |init| init.end_and_reap());
                Err(ended.err().map_or(e, |also| also.context("undo the start")))
            }
        }
    }

    /// The pid that containerd is told: that of the init, else none.
    fn pid(&self) -> u32 {
        self.init.as_ref().map_or(0, |init| init.pid.cast_unsigned())
    }

    fn offer<'a>(&'a self, config: &'a PodConfig) -> Offer<'a> {
        let Namespaces { network, ipc, uts, user } = &self.namespaces;
        Offer {
            id: &config.id,
            pid: self.pid(),
            bundle: &config.bundle,
            shm: config.own_ipc,
            network: Shared::or_host(network.as_ref()),
            ipc: Shared::or_host(ipc.as_ref()),
            uts: Shared::or_host(uts.as_ref()),
            user: Shared::or_host(user.as_ref()),
            pids: Shared::pids(config.pid, self.init.as_ref().map(|init| &init.pids)),
        }
    }
}

/// Unmounts and removes all files of a pod in its bundle. It is no error if some or all do not exist.
///
/// # Errors
/// All mounts and files that cannot be removed; the others are removed.
pub fn clear(bundle: &Path) -> Result<()> {
    let root = unmount_recursive(&bundle.join("rootfs"));
    Error::all([root, files::clear(bundle)].into_iter().filter_map(Result::err))
}
