//! The side of the new program: it takes the server over, or gives it back.
//!
//! Nothing is changed before [`Resumed::commit`]: no byte is read from a socket, and no descriptor of the document has an
//! owner. An error until then executes the old program again, which reads the same document.

use std::{
    ffi::OsString,
    sync::atomic::{AtomicBool, Ordering},
};

use berth_proto::{
    Message,
    admin::{AdminMessage, UpgradeResponse},
    ttrpc::{self, Code, Response, proto::MESSAGE_TYPE_RESPONSE},
};
use berth_runtime::{Error, Result};
use berth_version::VERSION;

use super::{execute::replace, quiet::now};
use crate::{
    args::{
        Handover,
        handover::{FLAG, REFUSED},
    },
    carry::{self, Adopter, Document, Trigger},
};

static COMMITTED: AtomicBool = AtomicBool::new(false);

/// A server that was handed over and is not taken yet.
#[derive(Debug)]
pub struct Resumed {
    handover: Handover,
    document: Document,
    adopter: Adopter,
}

/// The answer to the call for the upgrade.
#[derive(Debug)]
pub struct Answer {
    from: String,
    trigger: Trigger,
    refused: Option<String>,
}

/// Finds the flags in a command line that may be wrong otherwise.
pub fn find(arguments: &[OsString]) -> Option<Handover> {
    let value = |flag: &str| {
        let at = arguments.iter().position(|word| word.to_str() == Some(flag))?;
        arguments.get(at + 1)?.to_str()
    };
    Handover::parse(value(FLAG)?, value(REFUSED).map(str::to_owned)).ok()
}

/// Reads the document and checks all descriptors. Changes nothing.
///
/// # Errors
/// The document is not understood, or a descriptor is not the one that was handed over.
pub fn read(handover: &Handover) -> Result<Resumed> {
    let document = Document::decode(&carry::read(carry::borrow(handover.document))?)?;
    let adopter = Adopter::check(&document.fds)?;
    Ok(Resumed { handover: handover.clone(), document, adopter })
}

/// Executes the old program again, if that is still possible. Returns the error that the caller exits with.
pub fn give_back(handover: &Handover, why: Error, arguments: &[OsString]) -> Error {
    let Some(old) = handover.old.filter(|_| !COMMITTED.load(Ordering::Relaxed)) else { return why };
    let known = read(handover).map(|resumed| (resumed.document.arguments, resumed.document.fds));
    // A document that is not understood has the command line of this process. Its descriptors are still inherited.
    let (line, fds) = known.unwrap_or_else(|_| (without_handover(arguments), Vec::new()));
    let words = [FLAG.to_owned(), format!("{}:", handover.document), REFUSED.to_owned(), why.to_string()];
    // The old program does not get a descriptor of itself: it would never close it.
    let _ = rustix::io::fcntl_setfd(carry::borrow(old), rustix::io::FdFlags::CLOEXEC);
    let failed = replace(carry::borrow(old), &line, &fds, &[carry::borrow(handover.document)], &words);
    why.context(format!("the old program cannot be executed again: {failed}"))
}

fn without_handover(arguments: &[OsString]) -> Vec<String> {
    let mut line: Vec<_> = std::env::args_os().take(1).chain(arguments.iter().cloned()).collect();
    if let Some(at) = line.iter().position(|word| word == FLAG) {
        line.drain(at..(at + 2).min(line.len()));
    }
    line.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

impl Resumed {
    /// From now on this program is the server.
    ///
    /// # Errors
    /// A descriptor is closed.
    pub fn commit(&self) -> Result<()> {
        self.adopter.close_on_exec()?;
        COMMITTED.store(true, Ordering::Relaxed);
        let Handover { document, old, refused: _ } = self.handover;
        carry::close(document);
        old.into_iter().for_each(carry::close);
        Ok(())
    }

    /// The answer to the caller, what to make again, and the descriptors for it.
    pub fn into_parts(self) -> (Answer, Document, Adopter) {
        let Self { handover, document, adopter } = self;
        let answer = Answer { from: document.writer.clone(), trigger: document.trigger, refused: handover.refused };
        (answer, document, adopter)
    }
}

impl Answer {
    /// The number of the connection, and the frame. It has the duration of the pause, so it is made last. It also tells the
    /// log.
    pub fn frame(&self) -> (usize, Vec<u8>) {
        let Trigger { connection, stream, paused_at } = self.trigger;
        let (pause, from) = (now().saturating_sub(paused_at), &self.from);
        let mut response = Response::new();
        match &self.refused {
            None => {
                log::info!("upgraded from version {from} to {VERSION}: no request was read for {pause} µs");
                let answer = UpgradeResponse { from: from.clone(), to: VERSION.into(), pause, ..Default::default() };
                response.set_status(ttrpc::get_status(Code::OK, ""));
                response.payload = answer.encode().unwrap_or_default();
            }
            Some(why) => {
                log::error!("the new program has given the containers back: {why}");
                let text = format!("the new program refused, version {VERSION} serves on: {why}");
                response.set_status(ttrpc::get_status(Code::FAILED_PRECONDITION, text));
            }
        }
        let payload = response.write_to_bytes().unwrap_or_default();
        let length = u32::try_from(payload.len()).unwrap_or_default();
        let header = [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[MESSAGE_TYPE_RESPONSE, 0]].concat();
        (connection, [header, payload].concat())
    }
}
