//! A D-Bus connection: to a bus, or directly to systemd if there is no bus.
//!
//! ```text
//! connect -> AUTH EXTERNAL <uid> -> OK -> BEGIN -> Hello (bus only) -> call … call -> cached
//! ```
//!
//! The socket is non-blocking. Every step, from connect(2) on, waits with poll(2) until the deadline of the caller.
//! [`super::manager`] makes the calls.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{
    message::{Kind, Message},
    value::Value,
};
use crate::error::Error;

/// The maximal length of an answer to AUTH in bytes; the limit of the specification.
const LINE: usize = 16 * 1024;

/// The pause before a listener with a full backlog is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// The reason why a call has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The other side refused.
    Refused {
        /// `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// A message for people.
        text: String,
    },
    /// The deadline passed.
    Late,
    /// The connection is broken.
    Lost(Error),
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Self::Lost(e.into())
    }
}

/// A connection.
pub(super) struct Bus {
    socket: OwnedFd,
    /// The peer is systemd itself, not a bus.
    direct: bool,
    serial: u32,
    inbox: Vec<u8>,
    signals: Vec<Message>,
}

impl Bus {
    /// Connects to the socket at `address` as user `uid`. `direct` says that the peer is no bus.
    ///
    /// # Errors
    /// The peer refuses the connection or does not answer in time.
    pub(super) fn connect(address: &SocketAddrUnix, direct: bool, uid: u32, until: Instant) -> Result<Self, Failure> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        loop {
            match net::connect(&socket, address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // The backlog is full (unix(7)); poll(2) does not report when there is room.
                Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(AGAIN),
                Err(Errno::AGAIN) => return Err(Failure::Late),
                Err(e) => return Err(e.into()),
            }
        }
        Self::begin(socket, direct, uid, until)
    }

    /// Authenticates on a connected non-blocking socket.
    ///
    /// # Errors
    /// The peer refuses or does not answer in time.
    pub(super) fn begin(socket: OwnedFd, direct: bool, uid: u32, until: Instant) -> Result<Self, Failure> {
        let mut bus = Self { socket, direct, serial: 0, inbox: Vec::new(), signals: Vec::new() };
        let uid = uid.to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        bus.send_bytes(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes(), until)?;
        let line = bus.line(until)?;
        if !line.starts_with("OK ") {
            return Err(Failure::Lost(Error::new(
                crate::Kind::Internal,
                format!("D-Bus authentication refused: {}", line.trim()),
            )));
        }
        bus.send_bytes(b"BEGIN\r\n", until)?;
        if !direct {
            bus.call_bus("Hello", vec![], until)?;
        }
        Ok(bus)
    }

    /// Whether the peer is no bus. Without a bus, match rules do not exist and all signals arrive.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Calls a method of the bus itself.
    ///
    /// # Errors
    /// As [`Bus::call`].
    pub(super) fn call_bus(&mut self, member: &str, body: Vec<Value>, until: Instant) -> Result<Vec<Value>, Failure> {
        const NAME: &str = "org.freedesktop.DBus";
        self.call(Message::call(NAME, "/org/freedesktop/DBus", NAME, member, body), until)
    }

    /// Sends a call and waits for its answer. Keeps signals that arrive meanwhile for [`Bus::signal`].
    ///
    /// # Errors
    /// An error reply; a passed deadline; a broken connection.
    pub(super) fn call(&mut self, call: Message, until: Instant) -> Result<Vec<Value>, Failure> {
        let serial = self.send(call, until)?;
        loop {
            let message = self.receive(until)?;
            match message.kind {
                Kind::Signal => self.signals.push(message),
                Kind::Return if message.answers == Some(serial) => return Ok(message.body),
                Kind::Error if message.answers == Some(serial) => {
                    let text = match message.body.into_iter().next() {
                        Some(Value::Text(text)) => text,
                        _ => String::new(),
                    };
                    return Err(Failure::Refused { name: message.error.unwrap_or_default(), text });
                }
                _ => {}
            }
        }
    }

    /// Sends a call without waiting for an answer.
    ///
    /// # Errors
    /// A passed deadline; a broken connection.
    pub(super) fn send_no_reply(&mut self, call: Message, until: Instant) -> Result<(), Failure> {
        self.send(Message { no_reply: true, ..call }, until).map(|_| ())
    }

    /// Returns the next signal, and waits for it if necessary.
    ///
    /// # Errors
    /// A passed deadline; a broken connection.
    pub(super) fn signal(&mut self, until: Instant) -> Result<Message, Failure> {
        if !self.signals.is_empty() {
            return Ok(self.signals.remove(0));
        }
        loop {
            let message = self.receive(until)?;
            if message.kind == Kind::Signal {
                return Ok(message);
            }
        }
    }

    /// Discards all received messages and returns whether the connection still works.
    pub(super) fn is_alive(&mut self) -> bool {
        self.signals = Vec::new();
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return false,
            }
        }
        loop {
            match self.take() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn send(&mut self, message: Message, until: Instant) -> Result<u32, Failure> {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        let serial = self.serial;
        self.send_bytes(&Message { serial, ..message }.encode(), until)?;
        Ok(serial)
    }

    fn send_bytes(&mut self, mut bytes: &[u8], until: Instant) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, until)?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> Result<Message, Failure> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            if !self.fill()? {
                self.wait(PollFlags::IN, until)?;
            }
        }
    }

    /// Reads a line of the authentication.
    fn line(&mut self, until: Instant) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.inbox.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.inbox.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.inbox.len() > LINE {
                return Err(foreign("a line without an end"));
            }
            if !self.fill()? {
                self.wait(PollFlags::IN, until)?;
            }
        }
    }

    /// Takes the first complete message out of the inbox.
    fn take(&mut self) -> Result<Option<Message>, Failure> {
        let Some(size) = Message::size(&self.inbox).map_err(foreign)? else { return Ok(None) };
        let Some(bytes) = self.inbox.get(..size) else { return Ok(None) };
        let message = Message::decode(bytes).map_err(foreign)?;
        self.inbox.drain(..size);
        if self.inbox.is_empty() {
            // Frees the memory: a cached connection lives long.
            self.inbox = Vec::new();
        }
        Ok(Some(message))
    }

    /// Reads into the inbox without waiting. Returns false if there was nothing to read.
    fn fill(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0_u8; 4096];
        loop {
            match net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(Errno::CONNRESET.into()),
                Ok((n, _)) => {
                    self.inbox.extend(bytes.get(..n).unwrap_or_default());
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn wait(&self, what: PollFlags, until: Instant) -> Result<(), Failure> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Late);
            }
            let left = Timespec::try_from(left).map_err(|_| Failure::Late)?;
            match poll(&mut [PollFd::new(&self.socket, what)], Some(&left)) {
                Ok(0) => return Err(Failure::Late),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn foreign(what: &str) -> Failure {
    Failure::Lost(Error::new(crate::Kind::Internal, format!("D-Bus: the other side sent {what}")))
}
