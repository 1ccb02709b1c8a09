//! The action `delete`: it cleans up after a server that is gone. containerd runs it whenever it loses the connection
//! to a shim: after a crash, after a failed start, and after each orderly end. So it must work without the server, end
//! within the 5 s that containerd gives it, and do nothing where nothing is left. If a part of the container cannot be
//! removed, it fails and leaves the record and the bundle, and containerd runs it again at its next start.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use berth_proto::{Message, MessageField, task::DeleteResponse};
use berth_runtime::{Context, Error, Kind, Result};

use crate::{args::Args, bundle, clock, mount, options::TaskOptions, pod, socket};

/// The exit status that containerd reports for a container that was cleaned up: 128 + SIGKILL.
const EXIT_STATUS: u32 = 137;
/// The time that processes have to die. The cgroup takes at most half a second more, a busy rootfs one second.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Cleans up and prints a `DeleteResponse`. A failed step is reported on standard error, which containerd logs, and the
/// other steps still run.
///
/// # Errors
/// A process of the container is alive, or a part of the container cannot be removed; the bundle cannot be found; the
/// answer cannot be written.
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

/// Reports an error. A failed write does not stop the clean-up: the reader may be gone or its disk full.
fn report(args: &Args, e: &Error) {
    let _ = writeln!(std::io::stderr(), "clean up {}: {e}", args.id);
}

/// Runs all steps, whatever fails: the containers of a pod, whose bundles lie elsewhere; then processes, cgroup and state;
/// then the rootfs, which the processes kept busy, and the pod's files; then the socket of a killed server.
fn clean(args: &Args, bundle: &Path) -> (Option<u32>, Result<()>, [Result<()>; 2]) {
    let until = Instant::now() + CLEANUP_TIMEOUT;
    let members = pod::members::list(bundle).and_then(|members| clean_members(args, bundle, members, until));
    let noted = init_pid(bundle);
    let (pid, container) = match end(args, &args.id, bundle, until) {
        Ok(pid) => (noted.or(pid.and_then(|pid| u32::try_from(pid).ok())), Ok(())),
        Err(e) => (noted, Err(e)),
    };
    let files = pod::clear(bundle);
    let socket = bundle::socket(bundle).map_or(Ok(()), |path| socket::remove_dead(&path));
    (pid, Error::all(members.err().into_iter().chain(container.err())), [files, socket])
}

/// Ends the containers of a pod whose server is gone. containerd does that itself only for a server that answered
/// `start` with version 2, and in no order. All are killed before one is waited for: containerd gives this program a few
/// seconds, and a process that does not end must not keep the others alive.
fn clean_members(args: &Args, pod: &Path, members: Vec<(String, PathBuf)>, until: Instant) -> Result<()> {
    if !members.is_empty() {
        let own = (args.id.clone(), pod.to_owned());
        members.iter().chain([&own]).for_each(|(id, bundle)| drop(end(args, id, bundle, Instant::now())));
    }
    let mut errors = Vec::new();
    for (id, bundle) in members {
        let ended = end(args, &id, &bundle, until).map(drop);
        let unmounted = mount::unmount_recursive(&bundle.join("rootfs"));
        let unlisted = if ended.is_ok() && unmounted.is_ok() { pod::members::remove(pod, &id) } else { Ok(()) };
        errors.extend(
            [ended, unmounted, unlisted]
                .into_iter()
                .filter_map(Result::err)
                .map(|e| e.context(format!("container {id}"))),
        );
    }
    Error::all(errors)
}

/// Kills and removes one container; returns its init's pid if it is known.
fn end(args: &Args, id: &str, bundle: &Path, until: Instant) -> Result<Option<i32>> {
    let options = TaskOptions::load(bundle).unwrap_or_else(|e| {
        report(args, &e.context("the default state root is used"));
        TaskOptions::default()
    });
    berth_runtime::delete::cleanup(
        &options.state_root(&args.namespace),
        id,
        until.saturating_duration_since(Instant::now()),
    )
}

/// The bundle: `-bundle`, else the directory named by the id beside the working directory, which is a bundle itself.
fn bundle_directory(args: &Args) -> Result<PathBuf> {
    if let Some(bundle) = &args.bundle {
        return Ok(bundle.clone());
    }
    let here = std::env::current_dir().context("find the bundle: working directory")?;
    Ok(here.parent().unwrap_or(Path::new("/")).join(&args.id))
}

/// The pid that Create wrote. moby matches the exit event by it.
fn init_pid(bundle: &Path) -> Option<u32> {
    std::fs::read_to_string(bundle.join("init.pid")).ok()?.trim().parse().ok()
}
