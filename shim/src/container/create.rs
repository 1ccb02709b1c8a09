//! Create: from the request to an init that waits at the barrier. A failed Create undoes its steps, the last one first.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use berth_proto::{
    events::{TaskCreate, TaskIO},
    task::{CreateTaskRequest, Mount},
};
use berth_runtime::{
    Error, Result, Stdio,
    bundle::Bundle,
    cgroup::{Manager, Rootless},
    create::{self, Barrier, Checked, Created, Options},
};
use tokio::sync::{RwLock, Semaphore};

use super::{
    Container, EXEC_SLOTS,
    state::{NewProcess, State},
};
use crate::{
    bundle,
    context::ServerContext,
    error::create_failed,
    io::{self, Prepared, StdioOwner, uri::StdioRequest},
    mount,
    oom::Oom,
    options::TaskOptions,
    pod::Pod,
};

/// The file with init's pid, which moby and the action `delete` read.
const PID_FILE: &str = "init.pid";
/// The file with the path of the shim's binary, which a restarted containerd reads. containerd writes it for the first
/// container of a pod alone.
const SHIM_PATH_FILE: &str = "shim-binary-path";

/// A Create request that is parsed, and the container that it is for.
#[derive(Debug)]
pub struct NewContainer {
    container: Arc<Container>,
    request: CreateTaskRequest,
    options: TaskOptions,
    stdio: StdioRequest,
}

impl NewContainer {
    /// Parses the request. Nothing is made yet.
    ///
    /// # Errors
    /// The id, the bundle, the checkpoint or the options are invalid.
    pub fn parse(context: &Arc<ServerContext>, request: CreateTaskRequest) -> Result<Self> {
        berth_runtime::state::check_id(&request.id)?;
        if !request.checkpoint.is_empty() && !Path::new(&request.checkpoint).is_absolute() {
            return Err(Error::invalid(format!("checkpoint {:?} is not absolute", request.checkpoint)));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(Error::invalid(format!("bundle {:?} is not absolute", request.bundle)));
        }
        let options = TaskOptions::decode(request.options.as_ref())?;
        let stdio = StdioRequest {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let container = Arc::new(Container {
            id: request.id.clone(),
            root: options.state_root(&context.namespace),
            io_owner: (options.io_uid, options.io_gid),
            bundle,
            context: context.clone(),
            op_lock: RwLock::default(),
            exec_slots: Semaphore::new(EXEC_SLOTS),
            kills_in_flight: RwLock::default(),
            state: Mutex::new(State::new(&request.id, stdio.clone())),
            oom: Mutex::default(),
            restore: Mutex::default(),
        });
        Ok(Self { container, request, options, stdio })
    }

    /// The container, whose id the sandbox takes before [`create`](Self::create).
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Creates the container; returns init's pid. A container that Start restores has no init yet, and the pid is 0.
    ///
    /// # Errors
    /// The runtime's error. Nothing of the container is left then.
    pub async fn create(self) -> Result<u32> {
        let Self { container, request, options, stdio } = self;
        let result = match request.checkpoint.as_str() {
            "" => container.create(request, options, stdio).await,
            _ => container.create_from_images(request, options).await,
        };
        if result.is_err() {
            container.state().deleted();
        }
        result
    }
}

impl Container {
    async fn create(
        self: &Arc<Self>,
        request: CreateTaskRequest,
        options: TaskOptions,
        stdio: StdioRequest,
    ) -> Result<u32> {
        let _op = self.op_lock.write().await;
        let mut prepared =
            io::prepare(&stdio, &self.stdio_owner(""), &self.context.pool).await.map_err(create_failed)?;
        let spawning = self.context.pool.children.begin_spawn();
        let job = Job { stdio: prepared.take_child(), ..self.job(&request, options) };
        let created = self.context.pool.run(&spawning, move || job.run()).await.map_err(create_failed)?;
        let pid = created.container.pid();
        self.context.pool.children.register(&spawning, pid);
        drop(spawning);
        self.record(request, created, prepared).await
    }

    /// Records the container that the runtime has made, publishes the event and watches init.
    async fn record(self: &Arc<Self>, request: CreateTaskRequest, created: Created, prepared: Prepared) -> Result<u32> {
        let mounted = !request.rootfs.is_empty();
        let (new, handle, barrier) = match self.attach(created, prepared) {
            Ok(attached) => attached,
            Err(e) => {
                self.undo(mounted).await;
                return Err(create_failed(e));
            }
        };
        let (pid, pidfd) = (new.pid, new.pidfd.clone());
        self.transition(|state| {
            state.mounted = mounted;
            state.handle = Some(handle);
            state.created(new, barrier);
            Ok(vec![event(request, pid).into()])
        })?;
        self.watch_init(pidfd, pid);
        Ok(pid.cast_unsigned())
    }

    /// Connects the stdio of a new init, and begins to watch its memory. With an error init is killed.
    pub(super) fn attach(
        self: &Arc<Self>,
        created: Created,
        prepared: Prepared,
    ) -> Result<(NewProcess, Arc<berth_runtime::state::Container>, Option<OwnedFd>)> {
        let Created { container, pidfd, barrier, console } = created;
        let (pid, pidfd, handle) = (container.pid(), Arc::new(pidfd), Arc::new(container));
        let io = match prepared.attach(console) {
            Ok(io) => io,
            Err(e) => {
                self.kill_and_reap(pidfd, pid);
                return Err(e);
            }
        };
        // The watch begins before Start: the first action of init may use too much memory.
        match berth_runtime::events::oom_watch(&handle) {
            Ok(watch) => *self.oom() = Oom::watch(&self.id, watch, &self.context.publisher),
            Err(e) => log::warn!("container {}: OOM events: {e}", self.id),
        }
        Ok((NewProcess { pid, pidfd, io }, handle, barrier))
    }

    /// The job of making this container, with no stdio.
    pub(super) fn job(&self, request: &CreateTaskRequest, options: TaskOptions) -> Job {
        Job {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            root: self.root.clone(),
            exe: self.context.exe.clone(),
            mounts: request.rootfs.clone(),
            terminal: request.terminal,
            stdio: Stdio::Null,
            options,
            pod: self.context.pod.get(),
        }
    }

    /// The owner of a process's stdio: its id for a logging program, the uid and gid for pipes.
    pub(super) fn stdio_owner(&self, exec: &str) -> StdioOwner {
        let id = if exec.is_empty() { &self.id } else { exec };
        StdioOwner { id: id.to_owned(), namespace: self.context.namespace.clone(), owner: self.io_owner }
    }

    pub(super) async fn undo(&self, mounted: bool) {
        let (root, id, rootfs) = (self.root.clone(), self.id.clone(), self.rootfs());
        let undone = self.context.pool.run_urgent(move || {
            berth_runtime::delete::cleanup(&root, &id, berth_runtime::delete::EXIT_TIMEOUT)?;
            if mounted { mount::unmount_recursive(&rootfs) } else { Ok(()) }
        });
        if let Err(e) = undone.await {
            log::error!("undo create of {}: {e}", self.id);
        }
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        rootfs(&self.bundle)
    }
}

/// The blocking part of Create, for a thread of the pool.
#[derive(Debug)]
pub(super) struct Job {
    id: String,
    /// The bundle directory.
    pub bundle: PathBuf,
    root: PathBuf,
    exe: PathBuf,
    mounts: Vec<Mount>,
    terminal: bool,
    /// The descriptors of the process.
    pub stdio: Stdio,
    /// The options of the request.
    pub options: TaskOptions,
    /// The pod that the container joins.
    pod: Option<Arc<Pod>>,
}

impl Job {
    fn run(self) -> Result<Created> {
        let mounted = self.prepare()?;
        let rootfs = rootfs(&self.bundle);
        let created = self.make(create::create);
        if created.is_err()
            && mounted
            && let Err(e) = mount::unmount_recursive(&rootfs)
        {
            log::warn!("undo rootfs mounts: {e}");
        }
        created
    }

    /// Writes the files of the bundle, and mounts the rootfs of the request. Returns true if it has mounts.
    pub(super) fn prepare(&self) -> Result<bool> {
        self.options.save(&self.bundle)?;
        bundle::write(&self.bundle, SHIM_PATH_FILE, self.exe.as_os_str().as_encoded_bytes())?;
        let mounted = !self.mounts.is_empty();
        if mounted {
            mount::mount_all(&rootfs(&self.bundle), &self.mounts)?;
        }
        Ok(mounted)
    }

    /// Makes the container by an operation of the runtime.
    pub(super) fn make(self, operation: impl FnOnce(Checked<'_>) -> Result<Created>) -> Result<Created> {
        let mut bundle = Bundle::load(&self.bundle)?;
        bundle.set_terminal(self.terminal);
        // The pod's namespaces stay open until the container has joined them.
        let _held = self.pod.as_ref().map(|pod| pod.admit(&self.id, &self.bundle, &mut bundle.spec)).transpose()?;
        let warn = |warnings: &[String]| {
            warnings.iter().for_each(|warning| log::warn!("container {}: {warning}", self.id));
        };
        warn(&bundle.warnings);
        let pid_file = self.bundle.join(PID_FILE);
        let options = Options {
            root: &self.root,
            id: &self.id,
            stdio: self.stdio,
            barrier: Barrier::Inherited,
            pid_file: Some(&pid_file),
            no_pivot: self.options.no_pivot_root,
            no_new_keyring: self.options.no_new_keyring,
            sd_notify: false,
            preserve_fds: 0,
            abort: None,
            cgroup_manager: if self.options.systemd_cgroup == Some(true) {
                Manager::Systemd
            } else {
                Manager::Cgroupfs
            },
            rootless: Rootless::Auto,
        };
        let (warnings, checked) = create::check(bundle, options);
        warn(&warnings);
        operation(checked?)
    }
}

fn rootfs(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}

pub(super) fn event(request: CreateTaskRequest, pid: i32) -> TaskCreate {
    let io = TaskIO {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
        ..Default::default()
    };
    TaskCreate {
        container_id: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: Some(io).into(),
        checkpoint: request.checkpoint,
        pid: pid.cast_unsigned(),
        ..Default::default()
    }
}
