//! `delete`: clean up after a server that is gone. containerd calls it whenever it loses the connection to a shim: after
//! a crash or a failed start, but also after every orderly end. So it must find its way without help from anybody, be
//! quick (containerd gives it 5 s), and do nothing where nothing is left. Where something of the container is left it
//! fails, and the record and the bundle stay: containerd calls it again when it is started the next time.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use berth_proto::{Message, MessageField, task::DeleteResponse};
use berth_runtime::{Context, Error, Kind, Result};

use crate::{args::Args, bundle, clock, mount, options::TaskOptions, socket};

/// What containerd reports as the exit of a container that was cleaned up: 128 + SIGKILL.
const EXIT_STATUS: u32 = 137;
/// How long processes may take to end. The cgroup takes half a second more at the most, and a rootfs that is busy one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Cleans up and prints a `DeleteResponse`. What fails on the way is told on standard error, which containerd logs;
/// the rest is cleaned all the same.
///
/// # Errors
/// A process of the container lives, or something of it cannot be removed; the bundle cannot be told; nobody reads the
/// answer.
pub fn run(args: &Args) -> Result<()> {
    let bundle = bundle_directory(args)?;
    let (pid, container, outcomes) = clean(args, &bundle);
    for e in outcomes.into_iter().filter_map(Result::err) {
        report(args, &e);
    }
    container.with_context(|| format!("clean up {}", args.id))?;
    let answer = DeleteResponse {
        pid: pid.unwrap_or_default(),
        exit_status: EXIT_STATUS,
        exited_at: MessageField::some(clock::timestamp()),
        ..DeleteResponse::default()
    };
    let bytes = answer.write_to_bytes().map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("write the answer")
}

/// Tells of what went wrong. Nobody may be there to read it, or its disk may be full: the clean-up goes on.
fn report(args: &Args, e: &Error) {
    let _ = writeln!(std::io::stderr(), "clean up {}: {e}", args.id);
}

/// Every step whatever became of the one before: processes, cgroup and state; then the rootfs that they kept busy; then
/// the socket of a server that was killed.
fn clean(args: &Args, bundle: &Path) -> (Option<u32>, Result<()>, [Result<()>; 2]) {
    let options = TaskOptions::load(bundle).unwrap_or_else(|e| {
        report(args, &e.context("the usual state root is taken"));
        TaskOptions::default()
    });
    let noted = init_pid(bundle);
    let root = options.state_root(&args.namespace);
    let (pid, container) = match berth_runtime::delete::cleanup(&root, &args.id, PATIENCE) {
        Ok(pid) => (noted.or(pid.and_then(|pid| u32::try_from(pid).ok())), Ok(())),
        Err(e) => (noted, Err(e)),
    };
    let rootfs = mount::unmount_recursive(&bundle.join("rootfs"));
    let socket = bundle::socket(bundle).map_or(Ok(()), |path| socket::remove_dead(&path));
    (pid, container, [rootfs, socket])
}

/// The bundle: as said, else the directory of that id beside the one we run in, which is a bundle itself.
fn bundle_directory(args: &Args) -> Result<PathBuf> {
    if let Some(bundle) = &args.bundle {
        return Ok(bundle.clone());
    }
    let here = std::env::current_dir().context("find the bundle: working directory")?;
    Ok(here.parent().unwrap_or(Path::new("/")).join(&args.id))
}

/// The pid that `Create` noted; moby matches the exit by it.
fn init_pid(bundle: &Path) -> Option<u32> {
    std::fs::read_to_string(bundle.join("init.pid")).ok()?.trim().parse().ok()
}
