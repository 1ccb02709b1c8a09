//! A D-Bus daemon with a fake systemd, which answers the calls of the systemd cgroup driver and does nothing. It serves
//! hosts without systemd, and faults that a real systemd rarely shows. It speaks a part of the protocol: little endian,
//! one unit, no file descriptors.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

const JOB: &str = "/org/freedesktop/systemd1/job/1";

/// The behaviour of the bus.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answers every call with success.
    Obeys,
    /// Accepts connections and never answers.
    Silent,
    /// Answers this call with an error of this text.
    Refuses(&'static str, &'static str),
    /// Reports that jobs have ended with this result.
    Ends(&'static str),
}

/// The bus. Dropping it closes the connections and removes the socket.
pub struct FakeBus {
    socket: PathBuf,
    over: Arc<AtomicBool>,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    manner: Mutex<Behaviour>,
    slice: String,
    calls: Mutex<Vec<String>>,
}

impl FakeBus {
    /// Listens on a socket in `dir`. The only unit is in `slice`.
    pub fn start(dir: &Path, slice: &str, manner: Behaviour) -> Self {
        let socket = dir.join("bus");
        let listener = UnixListener::bind(&socket).expect("listen");
        let state = Arc::new(State { manner: Mutex::new(manner), slice: slice.to_owned(), calls: Mutex::default() });
        let over = Arc::new(AtomicBool::new(false));
        let accepting = thread::spawn({
            let (state, over) = (state.clone(), over.clone());
            move || {
                for stream in listener.incoming().flatten() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let state = state.clone();
                    // The thread ends with its connection.
                    thread::spawn(move || serve(stream, &state));
                }
            }
        });
        Self { socket, over, state, accepting: Some(accepting) }
    }

    /// Returns the value of `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn address(&self) -> String {
        address(&self.socket)
    }

    /// Changes the behaviour, also on open connections.
    pub fn becomes(&self, manner: Behaviour) {
        *self.state.manner.lock().unwrap() = manner;
    }

    /// Returns the calls so far, in order, without those to the bus itself.
    pub fn calls(&self) -> Vec<String> {
        self.state.calls.lock().unwrap().clone()
    }
}

impl Drop for FakeBus {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(&self.socket));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
        std::fs::remove_file(&self.socket).ok();
    }
}

/// Returns the address of a bus at `socket`.
pub fn address(socket: &Path) -> String {
    format!("unix:path={}", socket.display())
}

/// Serves one connection to its end.
fn serve(mut stream: UnixStream, state: &State) {
    let silent = || matches!(*state.manner.lock().unwrap(), Behaviour::Silent);
    let mut inbox = Vec::new();
    let mut bytes = [0; 4096];
    let mut introduced = false;
    let mut begun = false;
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        inbox.extend(&bytes[..n]);
        if silent() {
            continue;
        }
        if !introduced && inbox.ends_with(b"\r\n") {
            introduced = true;
            inbox.clear();
            stream.write_all(b"OK 00112233445566778899aabbccddeeff\r\n").ok();
        }
        if introduced && !begun && inbox.starts_with(b"BEGIN\r\n") {
            begun = true;
            inbox.drain(..7);
        }
        while begun && let Some(call) = Call::take(&mut inbox) {
            for answer in react(&call, state) {
                stream.write_all(&answer).ok();
            }
        }
    }
}

fn react(call: &Call, state: &State) -> Vec<Vec<u8>> {
    let from_bus = ["Hello", "AddMatch", "RemoveMatch"].contains(&call.member.as_str());
    if !from_bus {
        state.calls.lock().unwrap().push(call.member.clone());
    }
    let manner = state.manner.lock().unwrap().clone();
    if let Behaviour::Refuses(member, text) = manner
        && member == call.member
    {
        return vec![call.refuse("org.freedesktop.DBus.Error.PropertyReadOnly", text)];
    }
    let result = if let Behaviour::Ends(result) = manner { result } else { "done" };
    let body = Body::default();
    match call.member.as_str() {
        "RemoveMatch" => vec![],
        "Hello" => vec![call.answer(&body.text("s", ":1.1"))],
        "GetUnit" => vec![call.answer(&body.text("o", "/org/freedesktop/systemd1/unit/u"))],
        "Get" if call.mentions("Version") => vec![call.answer(&body.variant("252.1"))],
        "Get" => vec![call.answer(&body.variant(&state.slice))],
        "StartTransientUnit" | "StopUnit" => {
            let removed = Body::default().number(1).text("o", JOB).text("s", &call.first_text()).text("s", result);
            vec![call.answer(&body.text("o", JOB)), job_removed(&removed)]
        }
        _ => vec![call.answer(&body)],
    }
}

/// A call: its method and its body.
struct Call {
    serial: u32,
    member: String,
    body: Vec<u8>,
}

impl Call {
    /// Takes the first complete message of `inbox`.
    fn take(inbox: &mut Vec<u8>) -> Option<Self> {
        let number = |at: usize| {
            let bytes: [u8; 4] = inbox.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let (body, serial, fields) = (number(4)? as usize, number(8)?, number(12)? as usize);
        let start = (16 + fields).next_multiple_of(8);
        let message: Vec<u8> = (inbox.len() >= start + body).then(|| inbox.drain(..start + body).collect())?;
        let header = &message[16..16 + fields];
        // Header field 3 is the member, a string: its length, then the text.
        let at = (0..header.len()).step_by(8).find(|at| header[*at..].starts_with(&[3, 1, b's', 0])).expect("a member");
        let size = u32::from_le_bytes(header[at + 4..at + 8].try_into().expect("four bytes")) as usize;
        let member = String::from_utf8_lossy(&header[at + 8..at + 8 + size]).into_owned();
        Some(Self { serial, member, body: message[start..].to_vec() })
    }

    /// Returns whether the body has this word.
    fn mentions(&self, word: &str) -> bool {
        self.body.windows(word.len()).any(|w| w == word.as_bytes())
    }

    /// Returns the first argument.
    fn first_text(&self) -> String {
        let size = u32::from_le_bytes(self.body[..4].try_into().expect("a length")) as usize;
        String::from_utf8_lossy(&self.body[4..4 + size]).into_owned()
    }

    fn answer(&self, body: &Body) -> Vec<u8> {
        message(2, &[Field::Number(5, self.serial)], body)
    }

    fn refuse(&self, name: &str, text: &str) -> Vec<u8> {
        let fields = [Field::Text(4, "s", name), Field::Number(5, self.serial)];
        message(3, &fields, &Body::default().text("s", text))
    }
}

fn job_removed(body: &Body) -> Vec<u8> {
    let fields = [
        Field::Text(1, "o", "/org/freedesktop/systemd1"),
        Field::Text(2, "s", "org.freedesktop.systemd1.Manager"),
        Field::Text(3, "s", "JobRemoved"),
    ];
    message(4, &fields, body)
}

/// A header field: its code and value.
enum Field<'a> {
    Number(u8, u32),
    Text(u8, &'a str, &'a str),
}

/// The arguments of a message with their types.
#[derive(Default)]
struct Body {
    types: String,
    bytes: Vec<u8>,
}

impl Body {
    fn number(mut self, value: u32) -> Self {
        self.types.push('u');
        put_number(&mut self.bytes, value);
        self
    }

    /// Adds a string or an object path.
    fn text(mut self, kind: &str, value: &str) -> Self {
        self.types.push_str(kind);
        put_text(&mut self.bytes, value);
        self
    }

    fn variant(mut self, value: &str) -> Self {
        self.types.push('v');
        put_type(&mut self.bytes, "s");
        put_text(&mut self.bytes, value);
        self
    }
}

fn message(kind: u8, fields: &[Field<'_>], body: &Body) -> Vec<u8> {
    let mut out = vec![b'l', kind, 1, 1];
    put_number(&mut out, body.bytes.len().try_into().expect("a short body"));
    put_number(&mut out, 1);
    put_number(&mut out, 0);
    for field in fields {
        pad(&mut out, 8);
        match *field {
            Field::Number(code, value) => {
                out.push(code);
                put_type(&mut out, "u");
                put_number(&mut out, value);
            }
            Field::Text(code, kind, value) => {
                out.push(code);
                put_type(&mut out, kind);
                put_text(&mut out, value);
            }
        }
    }
    if !body.types.is_empty() {
        pad(&mut out, 8);
        out.push(8);
        put_type(&mut out, "g");
        put_type(&mut out, &body.types);
    }
    let size = u32::try_from(out.len() - 16).expect("a short header");
    out[12..16].copy_from_slice(&size.to_le_bytes());
    pad(&mut out, 8);
    out.extend(&body.bytes);
    out
}

fn put_number(out: &mut Vec<u8>, value: u32) {
    pad(out, 4);
    out.extend(value.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len().try_into().expect("a short text"));
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_type(out: &mut Vec<u8>, types: &str) {
    out.push(types.len().try_into().expect("a short signature"));
    out.extend(types.as_bytes());
    out.push(0);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}
