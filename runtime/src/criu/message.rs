//! CRIU's requests and answers: the numbers of their fields.

use super::proto::{Value, Writer, fields};
use crate::Result;

/// The work that a request asks for (`criu_req_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Write the processes to files.
    Dump,
    /// Make the processes from files.
    Restore,
    /// Write only the memory, and let the processes run.
    PreDump,
    /// The same in one request, since CRIU 3.16.
    SinglePreDump,
}

impl Verb {
    /// Returns the number in a request.
    fn number(self) -> u64 {
        match self {
            Self::Dump => 1,
            Self::Restore => 2,
            Self::PreDump => 4,
            Self::SinglePreDump => 13,
        }
    }

    /// Returns the name in errors, which is runc's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump | Self::SinglePreDump => "PRE_DUMP",
        }
    }
}

/// The types that are no work.
const NOTIFY: u64 = 6;
const FEATURE_CHECK: u64 = 9;
const VERSION: u64 = 10;

/// The fields of the options (`criu_opts`).
pub mod option {
    pub const IMAGES_DIR_FD: u32 = 1;
    pub const PID: u32 = 2;
    pub const LEAVE_RUNNING: u32 = 3;
    pub const EXT_UNIX_SK: u32 = 4;
    pub const TCP_ESTABLISHED: u32 = 5;
    pub const EVASIVE_DEVICES: u32 = 6;
    pub const SHELL_JOB: u32 = 7;
    pub const FILE_LOCKS: u32 = 8;
    pub const LOG_LEVEL: u32 = 9;
    pub const LOG_FILE: u32 = 10;
    pub const PAGE_SERVER: u32 = 11;
    pub const NOTIFY_SCRIPTS: u32 = 12;
    pub const ROOT: u32 = 13;
    pub const PARENT_IMG: u32 = 14;
    pub const TRACK_MEM: u32 = 15;
    pub const AUTO_DEDUP: u32 = 16;
    pub const WORK_DIR_FD: u32 = 17;
    pub const LINK_REMAP: u32 = 18;
    pub const EXT_MNT: u32 = 23;
    pub const CG_ROOT: u32 = 25;
    pub const RST_SIBLING: u32 = 26;
    pub const INHERIT_FD: u32 = 27;
    pub const MANAGE_CGROUPS_MODE: u32 = 34;
    pub const EXTERNAL: u32 = 37;
    pub const EMPTY_NS: u32 = 38;
    pub const JOIN_NS: u32 = 39;
    pub const FREEZE_CGROUP: u32 = 44;
    pub const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub const LAZY_PAGES: u32 = 48;
    pub const ORPHAN_PTS_MASTER: u32 = 50;
    pub const CONFIG_FILE: u32 = 51;
    pub const LSM_PROFILE: u32 = 53;
    pub const LSM_MOUNT_CONTEXT: u32 = 63;
    pub const NETWORK_LOCK: u32 = 64;
}

/// The options of a request.
#[derive(Debug, Default)]
pub struct Options(Writer);

impl Options {
    /// Switches a field on, if `on` says so.
    pub fn switch(&mut self, field: u32, on: bool) {
        if on {
            self.0.number(field, 1);
        }
    }

    /// Sets a number.
    pub fn number(&mut self, field: u32, value: impl Into<u64>) {
        self.0.number(field, value.into());
    }

    /// Sets the number of a descriptor or of a process.
    pub fn signed(&mut self, field: u32, value: i32) {
        self.0.signed(field, value);
    }

    /// Sets a text, or adds one to a repeated field.
    pub fn text(&mut self, field: u32, value: impl AsRef<[u8]>) {
        self.0.bytes(field, value.as_ref());
    }

    /// Adds a pair of texts, such as a mount point and its source.
    pub fn pair(&mut self, field: u32, first: impl AsRef<[u8]>, second: impl AsRef<[u8]>) {
        let mut pair = Writer::default();
        pair.bytes(1, first.as_ref());
        pair.bytes(2, second.as_ref());
        self.0.message(field, &pair);
    }

    /// Adds a text with the number of a descriptor in the process of CRIU.
    pub fn inherit(&mut self, key: impl AsRef<[u8]>, number: i32) {
        let mut pair = Writer::default();
        pair.bytes(1, key.as_ref());
        pair.signed(2, number);
        self.0.message(option::INHERIT_FD, &pair);
    }

    /// Sets the address of the page server.
    pub fn page_server(&mut self, address: &str, port: u16) {
        let mut server = Writer::default();
        server.bytes(1, address.as_bytes());
        server.number(2, u64::from(port));
        self.0.message(option::PAGE_SERVER, &server);
    }
}

/// Returns the request to do something.
pub fn request(verb: Verb, options: &Options) -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, verb.number());
    request.message(2, &options.0);
    request.as_bytes().to_vec()
}

/// Returns the reply to a notification. Without success CRIU gives up.
pub fn acknowledgement() -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, NOTIFY);
    request.number(3, 1);
    request.as_bytes().to_vec()
}

/// Returns the question for the version. The process stays for more requests (`keep_open`).
pub fn version_request() -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, VERSION);
    request.number(4, 1);
    request.as_bytes().to_vec()
}

/// A part of CRIU that depends on the kernel (`criu_features`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Tracking of changed memory.
    MemTrack,
    /// Pages that are fetched when a process needs them.
    LazyPages,
}

impl Feature {
    fn field(self) -> u32 {
        match self {
            Self::MemTrack => 1,
            Self::LazyPages => 2,
        }
    }
}

/// Returns the question for features.
pub fn feature_request(wanted: &[Feature]) -> Vec<u8> {
    let mut features = Writer::default();
    wanted.iter().for_each(|feature| features.number(feature.field(), 1));
    let mut request = Writer::default();
    request.number(1, FEATURE_CHECK);
    request.number(4, 1);
    request.message(5, &features);
    request.as_bytes().to_vec()
}

/// A message of CRIU (`criu_resp`).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    kind: u64,
    /// The request is done.
    pub success: bool,
    /// The pid of the process that was restored.
    pub pid: i32,
    /// The name of a notification.
    pub script: String,
    /// The pid that a notification is about.
    pub about: i32,
    /// An errno, if CRIU knows one.
    pub errno: i32,
    /// Major, minor, sublevel; and whether it is a build from git.
    pub version: ([u32; 3], bool),
    features: [bool; 2],
}

impl Response {
    /// Reads a message.
    ///
    /// # Errors
    /// [`crate::Kind::Internal`] for bytes that are no message.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut response = Self::default();
        for (field, value) in fields(bytes)? {
            match field {
                1 => response.kind = value.number(),
                2 => response.success = value.number() != 0,
                4 => response.pid = first(value, 1)?.map_or(0, Value::signed),
                5 => {
                    response.script = first(value, 1)?.map_or_else(String::new, Value::text);
                    response.about = first(value, 2)?.map_or(0, Value::signed);
                }
                7 => response.errno = value.signed(),
                8 => {
                    response.features = [1, 2].map(|n| first(value, n).ok().flatten().is_some_and(|v| v.number() != 0))
                }
                10 => {
                    let part = |n| Ok::<_, crate::Error>(first(value, n)?.map_or(0, |v| v.signed().unsigned_abs()));
                    response.version = ([part(1)?, part(2)?, part(4)?], first(value, 3)?.is_some());
                }
                _ => {}
            }
        }
        Ok(response)
    }

    /// Returns true for a notification, which waits for an [`acknowledgement`].
    pub fn is_notification(&self) -> bool {
        self.kind == NOTIFY
    }

    /// Returns true if CRIU has the feature on this kernel.
    pub fn has(&self, feature: Feature) -> bool {
        let [memory, lazy] = self.features;
        match feature {
            Feature::MemTrack => memory,
            Feature::LazyPages => lazy,
        }
    }
}

/// Returns a field of a message within a message.
fn first(value: Value<'_>, field: u32) -> Result<Option<Value<'_>>> {
    Ok(fields(value.bytes())?.into_iter().find_map(|(number, value)| (number == field).then_some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 1, 2, ... of a message, from pairs of tag and content.
    fn bytes(parts: &[(u32, &[u8])], numbers: &[(u32, i32)]) -> Vec<u8> {
        let mut message = Writer::default();
        numbers.iter().for_each(|(field, value)| message.signed(*field, *value));
        parts.iter().for_each(|(field, value)| message.bytes(*field, value));
        message.as_bytes().to_vec()
    }

    #[test]
    fn answers_of_criu_are_read_by_their_numbers() {
        let notify = bytes(&[(1, b"post-restore")], &[(2, 77)]);
        let read = Response::parse(&bytes(&[(5, &notify)], &[(1, 6), (2, 1)])).unwrap();
        assert!(read.is_notification() && read.success);
        assert_eq!((read.script.as_str(), read.about), ("post-restore", 77));
        let read = Response::parse(&bytes(&[(9, b"why")], &[(1, 1), (2, 0), (7, -52)])).unwrap();
        assert_eq!((read.success, read.errno), (false, -52));
        let version = bytes(&[(3, b"v4.1-7")], &[(1, 4), (2, 1), (4, 1)]);
        assert_eq!(Response::parse(&bytes(&[(10, &version)], &[(1, 10)])).unwrap().version, ([4, 1, 1], true));
        let features = bytes(&[], &[(2, 1)]);
        let read = Response::parse(&bytes(&[(8, &features)], &[(1, 9)])).unwrap();
        assert!(read.has(Feature::LazyPages) && !read.has(Feature::MemTrack));
        let restored = bytes(&[], &[(1, 4242)]);
        assert_eq!(Response::parse(&bytes(&[(4, &restored)], &[(1, 2), (2, 1)])).unwrap().pid, 4242);
    }

    #[test]
    fn options_are_written_only_if_they_are_on() {
        let mut options = Options::default();
        options.switch(option::LEAVE_RUNNING, false);
        options.switch(option::SHELL_JOB, true);
        options.inherit("pipe:[7]", 1);
        assert_eq!(
            request(Verb::Dump, &options),
            [8, 1, 18, 17, 56, 1, 218, 1, 12, 10, 8, b'p', b'i', b'p', b'e', b':', b'[', b'7', b']', 16, 1]
        );
    }
}
