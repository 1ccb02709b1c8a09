//! The requests of a connection that have no answer yet.

use std::{collections::BTreeMap, time::Instant};

use berth_proto::{
    Message, TASK_V2, TASK_V3, admin,
    protobuf::{CodedInputStream, rt::WireType},
    ttrpc::{
        Request,
        proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE},
    },
};

/// The reads that may wait for days, by service and method. They change nothing, so they can be served again.
const WAITS: [(&str, &str); 2] = [(TASK_V2, "Wait"), (TASK_V3, "Wait")];
/// The call that asks for an upgrade. The next program answers it.
pub const UPGRADE: (&str, &str) = (admin::SERVICE, "Upgrade");
/// The call that waits until no other one is in flight.
const DRAIN: (&str, &str) = (admin::SERVICE, "Drain");

/// A request without an answer.
#[derive(Debug)]
pub enum Call {
    /// It waits and changes nothing: its frame, and the time of its arrival.
    Waits(Vec<u8>, Instant),
    /// It asks for an upgrade.
    Upgrade,
    /// It waits until no other one is in flight. No upgrade runs beside it.
    Drain,
    /// Any other one, by its service and method.
    Other(String),
}

/// The requests of a connection, by ttrpc stream, and the position in the answers.
#[derive(Debug, Default)]
pub struct Calls {
    open: BTreeMap<u32, Call>,
    header: ([u8; MESSAGE_HEADER_LENGTH], usize),
    /// The bytes of the answer's payload that are not written yet, and the stream that it ends.
    payload: (usize, Option<u32>),
}

/// The length of the payload, the stream and the type in a header.
pub fn parse(header: [u8; MESSAGE_HEADER_LENGTH]) -> (usize, u32, u8) {
    let [a, b, c, d, e, f, g, h, kind, _] = header;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    (length, u32::from_be_bytes([e, f, g, h]), kind)
}

impl Calls {
    /// A whole frame has come.
    pub fn begin(&mut self, frame: &[u8]) {
        let Some((header, payload)) = frame.split_first_chunk() else { return };
        let (_, stream, kind) = parse(*header);
        if kind != MESSAGE_TYPE_REQUEST {
            return;
        }
        let (service, method) = name(payload);
        let call = match (&*service, &*method) {
            called if WAITS.contains(&called) => Call::Waits(frame.to_vec(), Instant::now()),
            UPGRADE => Call::Upgrade,
            DRAIN => Call::Drain,
            _ => Call::Other(format!("{service}/{method}")),
        };
        self.open.insert(stream, call);
    }

    /// A frame has begun that is too large to keep.
    pub fn begin_oversized(&mut self, stream: u32) {
        self.open.insert(stream, Call::Other("an oversized request".into()));
    }

    /// The server has written bytes of answers.
    pub fn written(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (left, stream) = &mut self.payload;
            if *left > 0 {
                let part = bytes.len().min(*left);
                *left -= part;
                bytes = bytes.get(part..).unwrap_or_default();
                if *left > 0 {
                    return;
                }
                let ended = stream.take();
                self.end(ended);
                continue;
            }
            let (header, have) = &mut self.header;
            let part = bytes.len().min(MESSAGE_HEADER_LENGTH - *have);
            for (to, from) in header.iter_mut().skip(*have).zip(bytes) {
                *to = *from;
            }
            *have += part;
            bytes = bytes.get(part..).unwrap_or_default();
            if *have < MESSAGE_HEADER_LENGTH {
                return;
            }
            *have = 0;
            let (length, stream, kind) = parse(*header);
            let stream = (kind == MESSAGE_TYPE_RESPONSE).then_some(stream);
            if length == 0 {
                self.end(stream);
            } else {
                self.payload = (length, stream);
            }
        }
    }

    fn end(&mut self, stream: Option<u32>) {
        if let Some(stream) = stream {
            self.open.remove(&stream);
        }
    }

    /// A request that will be answered soon, in words; or an answer that is written in part.
    pub fn in_flight(&self) -> Option<String> {
        if self.payload.0 > 0 || self.header.1 > 0 {
            return Some("an answer is being written".into());
        }
        self.open.values().find_map(|call| match call {
            Call::Other(name) => Some(format!("{name} has no answer yet")),
            Call::Waits(..) | Call::Upgrade | Call::Drain => None,
        })
    }

    /// The streams of the calls for an upgrade.
    pub fn upgrades(&self) -> impl Iterator<Item = u32> {
        self.open.iter().filter(|(_, call)| matches!(call, Call::Upgrade)).map(|(&stream, _)| stream)
    }

    /// The frames of the requests that wait, with what is left of their time.
    pub fn waiting(&self) -> Vec<Vec<u8>> {
        let frame = |call: &Call| match call {
            Call::Waits(frame, since) => Some(with_time_left(frame, *since)),
            Call::Upgrade | Call::Drain | Call::Other(_) => None,
        };
        self.open.values().filter_map(frame).collect()
    }
}

/// The service and the method of an encoded [`Request`]: its fields 1 and 2.
fn name(payload: &[u8]) -> (String, String) {
    let mut input = CodedInputStream::from_bytes(payload);
    let (mut service, mut method) = (String::new(), String::new());
    while let Ok(Some(tag)) = input.read_raw_tag_or_eof() {
        let read = match (tag >> 3, WireType::new(tag & 7)) {
            (1, Some(WireType::LengthDelimited)) => input.read_string().map(|text| service = text),
            (2, Some(WireType::LengthDelimited)) => input.read_string().map(|text| method = text),
            (_, Some(wire)) => input.skip_field(wire),
            (_, None) => break,
        };
        if read.is_err() || !service.is_empty() && !method.is_empty() {
            break;
        }
    }
    (service, method)
}

/// The frame with the rest of its time limit.
fn with_time_left(frame: &[u8], since: Instant) -> Vec<u8> {
    let parts = frame.split_first_chunk::<MESSAGE_HEADER_LENGTH>();
    let request = parts.and_then(|(header, payload)| Some((header, Request::parse_from_bytes(payload).ok()?)));
    let Some((header, mut request)) = request.filter(|(_, request)| request.timeout_nano > 0) else {
        return frame.to_vec();
    };
    let gone = i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX);
    request.timeout_nano = request.timeout_nano.saturating_sub(gone).max(1);
    let payload = request.write_to_bytes().unwrap_or_default();
    let [_, _, _, _, rest @ ..] = *header;
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[..], &rest, &payload].concat()
}
