//! The server: one process for all containers of a pod, with one thread while it is idle.
//!
//! [`start`](crate::start) runs it with the listener as descriptor 3 and the bundle as working directory. It runs until
//! containerd's `Shutdown`, SIGTERM or SIGINT, or until it has had no container for a while. [`Service`] answers the
//! calls; this module is the process around it.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use berth_proto::{
    sandbox::create_sandbox,
    task_services,
    ttrpc::asynchronous::{Server, transport::Listener},
};
use berth_runtime::{Context, Error, Kind, Result, open_files};
use berth_version::VERSION;

use crate::{
    args::Args,
    context::{ServerContext, ShutdownHandle},
    fd_reserve, frames, inherit,
    link::{Links, Stream},
    listener::PeerCheckedListener,
    log::{self, Stderr},
    pod::PodSlot,
    pod_service::PodService,
    publish::Publisher,
    service::Service,
    signals::{self, Signal, Signals},
    socket::{self, SocketId},
    trim,
    upgrade::{
        Upgrader, admin,
        resume::{self, Resumed},
    },
};

/// The number of epoll(7) events that one call fetches (12 bytes each).
const EVENTS_PER_POLL: usize = 128;
/// The time that the exit waits for events to be delivered. containerd waits 3 s for a shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(2500);
/// The number of times that the exit yields to other tasks, so that the answer of `Shutdown` is written. The answer
/// passes through two tasks, which are ready by then, and a socket with room.
const EXIT_YIELDS: usize = 16;

/// Serves until a request to stop.
///
/// # Errors
/// Descriptor 3 is no listener, or the process cannot be set up. A running server ends by request alone.
pub fn run(args: &Args) -> Result<()> {
    let origin = match &args.handover {
        None => Origin::Start(inherit::take_listener()?),
        Some(handover) => Origin::Handover(Box::new(resume::read(handover)?)),
    };
    inherit::keep_tunables();
    trim::limit_arenas();
    // Each container and exec holds descriptors for its whole life.
    open_files::raise_own();
    fd_reserve::fill();
    // The kernel has named the process after the descriptor that it was executed from.
    rustix::thread::set_name(c"containerd-shim").context("set the process' name")?;
    match origin {
        Origin::Start(_) => log::init(Path::new("."), args.log_level(), Stderr::ToLog),
        Origin::Handover(_) => log::resume(args.log_level()),
    }
    signals::block()?;
    // Orphans of the containers become children of the shim, which sees their exits and reaps them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become subreaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_io_events_per_tick(EVENTS_PER_POLL)
        .build()
        .context("make the runtime")?;
    let outcome = runtime.block_on(serve(args, origin));
    if let Err(e) = &outcome {
        ::log::error!("{e}");
    }
    // A thread that hangs in a system call must not delay the exit.
    runtime.shutdown_background();
    outcome
}

/// The origin of a server.
enum Origin {
    /// `start` has made it; its listener.
    Start(OwnedFd),
    /// Another program of this process has handed it over.
    Handover(Box<Resumed>),
}

async fn serve(args: &Args, origin: Origin) -> Result<()> {
    let signals = Signals::new()?;
    let shutdown = ShutdownHandle::default();
    let publisher = Publisher::new(&ttrpc_address(args), &args.namespace);
    // `start` passes the path as argv[0]. /proc/self/exe would name the sealed mount that the server runs from.
    let exe = std::env::args_os().next().map_or_else(|| "/proc/self/exe".into(), PathBuf::from);
    let service = Service::new(ServerContext {
        namespace: args.namespace.clone(),
        id: args.id.clone(),
        publisher: publisher.clone(),
        shutdown: shutdown.clone(),
        pool: Arc::default(),
        pod: PodSlot::default(),
        exe: exe.clone(),
    });
    let links = Arc::default();
    let (listener, adopted) = match origin {
        Origin::Start(listener) => (listener, Vec::new()),
        Origin::Handover(resumed) => take_over(*resumed, &service, &links).context("take the server over")?,
    };
    let own = OwnSocket::of(&listener);
    let upgrader = Upgrader::new(service.clone(), links.clone(), args, exe);
    let listener = PeerCheckedListener::new(listener, links, adopted).context("watch the listener")?;
    let mut server = Server::new()
        .add_listener(Listener::new(listener))
        .register_service(admin::service(&upgrader))
        .register_service(task_services(Arc::new(service.clone())))
        .register_service(create_sandbox(Arc::new(PodService::new(service.group()))))
        .register_service(frames::service());
    server.start().await.map_err(|e| Error::new(Kind::Internal, e.to_string()).context("serve"))?;
    ::log::debug!("serving group {} of namespace {}", args.id, args.namespace);

    let idle = service.wait_idle_shutdown();
    tokio::pin!(idle);
    let trim = service.trim_when_idle();
    tokio::pin!(trim);
    loop {
        tokio::select! {
            signal = signals.next() => match signal? {
                Signal::Child => service.sweep(),
                Signal::Dump => dump(args, &publisher, &service.dump()),
                Signal::Stop => {
                    ::log::info!("stopping on a signal");
                    break;
                }
            },
            () = shutdown.requested() => break,
            never = &mut trim => match never {},
            () = &mut idle => {
                ::log::info!("no container for a while: stopping");
                break;
            }
        }
    }
    // The order matters: first no client finds the socket any more, then the events are delivered, then the last answer
    // is written.
    if let Some(socket) = own {
        fd_reserve::with_spare_fds(|| socket.remove());
    }
    if !publisher.flush(FLUSH_TIMEOUT).await {
        ::log::error!("exiting with {} events undelivered", publisher.pending());
    }
    for _ in 0..EXIT_YIELDS {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Makes the parts of a server again that another program has handed over; returns the listener and the connections.
fn take_over(resumed: Resumed, service: &Service, links: &Arc<Links>) -> Result<(OwnedFd, Vec<Stream>)> {
    resumed.commit()?;
    let (answer, document, mut adopter) = resumed.into_parts();
    let listener = adopter.take(document.listener)?;
    service.publisher().adopt(document.events);
    service.adopt(document.containers, &mut adopter)?;
    let streams = links.adopt(document.connections, &mut adopter, answer.frame())?;
    // Orphans may have exited between the two programs.
    service.sweep();
    service.pool().idle_trim.poke();
    Ok((listener, streams))
}

/// The file of the server's own socket.
struct OwnSocket {
    path: PathBuf,
    socket_id: SocketId,
}

impl OwnSocket {
    fn of(listener: &OwnedFd) -> Option<Self> {
        let address = std::os::unix::net::UnixListener::from(listener.try_clone().ok()?).local_addr().ok()?;
        let path = address.as_pathname()?.to_owned();
        socket::socket_id(&path).map(|socket_id| Self { path, socket_id })
    }

    fn remove(&self) {
        if let Err(e) = socket::remove_own(&self.path, self.socket_id) {
            ::log::error!("{e}");
        }
    }
}

/// The address for events: the environment variable, else containerd's name for its second socket.
fn ttrpc_address(args: &Args) -> String {
    let said = std::env::var("TTRPC_ADDRESS").ok().filter(|address| !address.is_empty());
    said.unwrap_or_else(|| if args.address.is_empty() { String::new() } else { format!("{}.ttrpc", args.address) })
}

fn dump(args: &Args, publisher: &Publisher, state: &str) {
    let count = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
    let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
    let (pid, pending) = (std::process::id(), publisher.pending());
    ::log::info!("dump: berth {VERSION} pid {pid} group {} namespace {}", args.id, args.namespace);
    ::log::info!("dump: {threads} threads, {descriptors} descriptors, {pending} events undelivered");
    for line in state.lines() {
        ::log::info!("dump: {line}");
    }
}
