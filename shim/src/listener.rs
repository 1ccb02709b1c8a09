//! The listener as a stream of connections, admitting processes of our own user only. The socket's mode says the same;
//! the check holds also for a descriptor that was passed on, and in a directory that somebody opened up.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};

use crate::{frames::Frames, reserve};

/// How long to rest after a failed accept: out of descriptors or memory, which trying again at once would not mend.
const REST: Duration = Duration::from_millis(100);

/// Accepted and admitted connections, without end.
pub struct Admitted {
    listener: UnixListener,
    uid: u32,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Admitted {
    /// Takes over a listening socket.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn new(listener: OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, uid: rustix::process::geteuid().as_raw(), rest: None })
    }

    fn admits(&self, peer: &UnixStream) -> bool {
        match peer.peer_cred() {
            Ok(credentials) if credentials.uid() == self.uid => true,
            Ok(other) => {
                log::warn!("refused a connection of uid {} (pid {:?})", other.uid(), other.pid());
                false
            }
            Err(e) => {
                log::warn!("refused a connection: its user is unknown: {e}");
                false
            }
        }
    }
}

impl Stream for Admitted {
    type Item = io::Result<Frames<UnixStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(context));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((peer, _)) if self.admits(&peer) => return Poll::Ready(Some(Ok(Frames::new(peer)))),
                Ok(_) => {}
                // A containerd that was restarted must find us again.
                Err(e) if e.raw_os_error() == Some(libc::EMFILE) && reserve::give_one() => {}
                Err(e) => {
                    log::error!("accept: {e}");
                    self.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}
