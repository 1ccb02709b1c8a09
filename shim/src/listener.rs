//! The listener as a stream of connections. It admits only peers with the uid of the shim. The socket's mode does the
//! same, but not for a descriptor that was passed on, or after a chmod of the socket and its directory.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream as Connections;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

use crate::{
    fd_reserve,
    frames::FrameFilter,
    link::{Links, Stream},
};

/// The pause after a failed accept. A shortage of descriptors or memory does not pass at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The maximal number of connections. containerd has one for its calls, and a few more while it restarts. Each may hold a
/// frame of 4 MiB that is not complete.
const MAX_CONNECTIONS: usize = 512;

/// An admitted connection. It holds one of the [`MAX_CONNECTIONS`] places until it is closed.
pub type Connection = FrameFilter<Stream, OwnedSemaphorePermit>;

/// The admitted connections. The stream never ends.
pub struct PeerCheckedListener {
    listener: UnixListener,
    links: Arc<Links>,
    /// Connections that another program has accepted.
    adopted: Vec<Stream>,
    places: Arc<Semaphore>,
    uid: u32,
    backoff: Option<Pin<Box<Sleep>>>,
}

impl PeerCheckedListener {
    /// Takes a listening socket, and connections that another program has accepted from it.
    ///
    /// # Errors
    /// The event loop cannot watch the socket.
    pub fn new(listener: OwnedFd, links: Arc<Links>, adopted: Vec<Stream>) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let (places, uid) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), rustix::process::geteuid().as_raw());
        Ok(Self { listener, links, adopted, places, uid, backoff: None })
    }

    /// Returns a place for the peer, or `None` if it is refused.
    fn admit(&self, peer: &UnixStream) -> Option<OwnedSemaphorePermit> {
        match peer.peer_cred() {
            Ok(credentials) if credentials.uid() == self.uid => {
                let place = self.places.clone().try_acquire_owned();
                place.inspect_err(|_| log::warn!("refused a connection: {MAX_CONNECTIONS} are open")).ok()
            }
            Ok(other) => {
                log::warn!("refused a connection of uid {} (pid {:?})", other.uid(), other.pid());
                None
            }
            Err(e) => {
                log::warn!("refused a connection of unknown uid: {e}");
                None
            }
        }
    }
}

impl Connections for PeerCheckedListener {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(adopted) = self.adopted.pop()
                && let Some(place) = self.admit(adopted.socket())
            {
                return Poll::Ready(Some(Ok(FrameFilter::new(adopted, place))));
            }
            ready!(self.links.poll_released(context));
            if let Some(backoff) = &mut self.backoff {
                ready!(backoff.as_mut().poll(context));
                self.backoff = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((peer, _)) => {
                    if let Some(place) = self.admit(&peer) {
                        return Poll::Ready(Some(Ok(FrameFilter::new(self.links.add(peer), place))));
                    }
                }
                // A restarted containerd must be able to connect to a shim without free descriptors.
                Err(e) if e.raw_os_error() == Some(libc::EMFILE) && fd_reserve::release_one() => {}
                Err(e) => {
                    log::error!("accept: {e}");
                    self.backoff = Some(Box::pin(sleep(ACCEPT_BACKOFF)));
                }
            }
        }
    }
}
