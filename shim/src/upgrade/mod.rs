//! A running server takes a new program, in the same process: its pid, its children, its connections and all descriptors
//! stay.
//!
//! ```text
//! old program   Upgrade ─> trust ─> seal ─> quiet: write the document ─> try the new program with it (--handover-check)
//!                                           quiet: write it again ─> execve(2) ──────────┐
//! new program   read, check all descriptors ──> from here on it is the server <──────────┘
//!                  └ not understood: execve(2) of the old program, which reads the same document and serves on
//! ```
//! *Quiet* is a moment at which no request but those that wait has been read without an answer, no change is in flight,
//! no thread works and no file is written: then `carry` can say all of the server. No request is read until such a moment
//! has come, at most [`HOLD`]; then the server goes on for a while and tries again. Descriptors, pipes and sockets hold
//! what is on its way meanwhile.
//!
//! Events are delivered first, since the connection to containerd is made anew. An event that containerd has not
//! acknowledged by then is carried.

pub mod admin;
pub mod client;
mod execute;
mod quiet;
pub mod resume;
mod trust;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_runtime::{Context, Error, Kind, Result, sealed::Program};
use berth_version::VERSION;
use tokio::sync::Mutex;

pub use self::execute::print_verdict;
use self::{execute::Executable, quiet::Quiet};
use crate::{
    args::Args,
    carry::{self, Document, Keeper, Known},
    error::is_shortage,
    inherit,
    link::Links,
    service::Service,
};

/// Takes new programs for one server. Clones belong to the same server.
#[derive(Clone, Debug)]
pub struct Upgrader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service,
    links: Arc<Links>,
    arguments: Vec<String>,
    /// The path of the program, which `start` passes as argv\[0\].
    program: PathBuf,
    /// There is one upgrade at a time.
    turn: Mutex<()>,
}

/// The outcome of an upgrade for which this program stays, or of a trial.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program is the one that runs.
    Unchanged,
    /// A program of this version can take over.
    Possible(String),
}

/// An error about the program that the caller named; a shortage in the shim is none.
fn unfit(e: Error) -> Error {
    if is_shortage(&e) { e } else { e.with_kind(Kind::InvalidArgument) }
}

impl Upgrader {
    /// Makes the upgrader of a server.
    pub fn new(service: Service, links: Arc<Links>, args: &Args, program: PathBuf) -> Self {
        let name = program.to_string_lossy().into_owned();
        let mut arguments = vec![name];
        for (flag, value) in [("-namespace", &args.namespace), ("-id", &args.id), ("-address", &args.address)] {
            arguments.extend([flag.to_owned(), value.clone()]);
        }
        arguments.extend(args.debug.then(|| "-debug".to_owned()));
        Self(Arc::new(Inner { service, links, arguments, program, turn: Mutex::default() }))
    }

    /// Waits for a moment at which the server could be handed over.
    ///
    /// # Errors
    /// There is none within 5 s; the message says why.
    pub async fn drain(&self) -> Result<()> {
        let Ok(_turn) = self.0.turn.try_lock() else { return Err(carry::busy("another upgrade runs")) };
        self.0.service.check_can_be_carried()?;
        Quiet::new(&self.0.service, &self.0.links)
            .find(|_| self.0.service.carry(&mut Keeper::default()).map(drop))
            .await
    }

    /// Executes the program at `path` in place of this one; an empty path names this one's own. With `check` it only tries
    /// whether that is possible. Returns only if this program stays.
    ///
    /// # Errors
    /// The program is not trusted, is none that can take over, or refuses; or the server is busy for longer than 5 s. It
    /// serves on then.
    pub async fn upgrade(&self, path: &Path, check: bool) -> Result<Outcome> {
        let Inner { service, links, program, turn, .. } = &*self.0;
        let Ok(_turn) = turn.try_lock() else { return Err(carry::busy("another upgrade runs")) };
        let path = if path.as_os_str().is_empty() { program } else { path };
        let what = || format!("new program {}", path.display());
        let file = trust::open(path).map_err(unfit).with_context(what)?;
        if trust::is_own(&file) && !check {
            return Ok(Outcome::Unchanged);
        }
        // Before the server is looked at: WaitSandbox is always in flight where there is a pod.
        service.check_can_be_carried()?;
        let new = Executable::new(Program::of(&file).with_context(what)?);
        drop(file);
        let quiet = Quiet::new(service, links);
        let memory = quiet.find(|paused_at| carry::seal(&self.document(paused_at)?.encode()?)).await?;
        let version = new.try_on(&memory, &service.pool().children).await.map_err(unfit).with_context(what)?;
        drop(memory);
        if check {
            return Ok(Outcome::Possible(version));
        }
        log::info!("handing over from version {VERSION} to {version} of {}", path.display());
        quiet
            .find(|paused_at| {
                let document = self.document(paused_at)?;
                let memory = carry::seal(&document.encode()?)?;
                Err::<(), _>(new.execute(&document, &memory))
            })
            .await
            .with_context(what)?;
        Ok(Outcome::Unchanged)
    }

    /// Writes the server down.
    fn document(&self, paused_at: u64) -> Result<Document> {
        let Inner { service, links, arguments, program: _, turn: _ } = &*self.0;
        let mut keeper = Keeper::default();
        let listener = keeper.keep(carry::borrow(inherit::LISTENER))?;
        let (connections, connection, stream) = links.carry(&mut keeper)?;
        let (containers, events) = service.carry(&mut keeper)?;
        let fds: Vec<Known> = keeper.all();
        Ok(Document {
            format: carry::FORMAT,
            min_reader: carry::FORMAT,
            writer: VERSION.to_owned(),
            arguments: arguments.clone(),
            listener,
            fds,
            trigger: carry::Trigger { connection, stream, paused_at },
            connections,
            events,
            containers,
        })
    }
}
