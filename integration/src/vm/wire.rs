//! The frames between the lane, the agent in the machine and the runner: a kind, a length, and that many bytes.
//!
//! ```text
//! asks:    Run{Command} Input* EndOfInput            answers: (Output | Errors | Alive)* (Exit | Failed)
//!          Kill (at any time between)
//! ```

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Error, ErrorKind, Read, Result, Write},
    time::Duration,
};

/// The longest frame, in bytes. A longer one is an error.
pub const LONGEST: usize = 1 << 20;

/// The interval in which the agent reports that it is alive while a program runs.
pub const PULSE: Duration = Duration::from_secs(5);

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Starts the [`Command`] in its data.
    Run,
    /// Bytes for the standard input of the program.
    Input,
    /// The end of the standard input.
    EndOfInput,
    /// Kills the process group of the program.
    Kill,
    /// Bytes of the standard output.
    Output,
    /// Bytes of the standard error.
    Errors,
    /// The program still runs: the agent sends it every [`PULSE`].
    Alive,
    /// The program has ended: the exit status as a shell has it, in decimal digits.
    Exit,
    /// The program could not be run, for the reason in the data.
    Failed,
}

const KINDS: [Kind; 9] = [
    Kind::Run,
    Kind::Input,
    Kind::EndOfInput,
    Kind::Kill,
    Kind::Output,
    Kind::Errors,
    Kind::Alive,
    Kind::Exit,
    Kind::Failed,
];

/// A frame.
#[derive(Debug)]
pub struct Frame {
    /// Its kind.
    pub kind: Kind,
    /// Its bytes, at most [`LONGEST`].
    pub data: Vec<u8>,
}

/// Sends a frame.
///
/// # Errors
/// Those of writing.
pub fn send(to: &mut impl Write, kind: Kind, data: &[u8]) -> Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    let number = KINDS.iter().position(|k| *k == kind).and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX);
    let mut bytes = Vec::with_capacity(5 + data.len());
    bytes.push(number);
    bytes.extend(length.to_le_bytes());
    bytes.extend(data);
    to.write_all(&bytes)
}

/// Reads a frame. Returns `None` at the end of the stream.
///
/// # Errors
/// Those of reading, an end within a frame, and a malformed frame.
pub fn receive(from: &mut impl Read) -> Result<Option<Frame>> {
    let mut head = [0; 5];
    let begun = loop {
        match from.read(&mut head) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if begun == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[begun..])?;
    let [kind, length @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    let (Some(kind), true) = (KINDS.get(usize::from(kind)), length <= LONGEST) else {
        return Err(Error::new(ErrorKind::InvalidData, format!("no frame: {head:?}")));
    };
    let mut data = vec![0; length];
    from.read_exact(&mut data)?;
    Ok(Some(Frame { kind: *kind, data }))
}

/// A program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables that the environment has in addition to the agent's own.
    pub env: BTreeMap<String, String>,
}

impl Command {
    /// Makes a command of these words.
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        Self { args: args.into_iter().map(Into::into).collect(), env: BTreeMap::new() }
    }

    /// Encodes the command for a frame.
    pub fn encode(&self) -> Vec<u8> {
        json!({"args": self.args, "env": self.env}).to_string().into_bytes()
    }

    /// Decodes a command. Returns `None` for malformed data.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(data).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let args = value["args"].as_array()?.iter().map(text).collect::<Option<Vec<_>>>()?;
        let env = value["env"].as_object()?.iter().map(|(name, value)| Some((name.clone(), text(value)?)));
        Some(Self { args, env: env.collect::<Option<_>>()? }).filter(|command| !command.args.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_round_trip() {
        let mut bytes = Vec::new();
        send(&mut bytes, Kind::Output, b"abc").unwrap();
        send(&mut bytes, Kind::Exit, b"").unwrap();
        let mut from = bytes.as_slice();
        let frame = receive(&mut from).unwrap().unwrap();
        assert_eq!((frame.kind, frame.data.as_slice()), (Kind::Output, &b"abc"[..]));
        assert_eq!(receive(&mut from).unwrap().unwrap().kind, Kind::Exit);
        assert!(receive(&mut from).unwrap().is_none());
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [&[9, 0, 0, 0, 0][..], &[0, 0, 0, 0, 255], &[0, 1], &[4, 2, 0, 0, 0, 7]] {
            receive(&mut &*bytes).unwrap_err();
        }
    }

    #[test]
    fn command_survives_a_round_trip() {
        let mut command = Command::new(["/bin/sh", "-c", "a b"]);
        command.env.insert("A".into(), "é".into());
        assert_eq!(Command::decode(&command.encode()), Some(command));
        assert_eq!(Command::decode(b"{\"args\":[],\"env\":{}}"), None);
    }
}
