//! The freezer: stop every process of a cgroup where it stands, and let it go on.
//!
//! v1: `freezer.state`, which can hang in FREEZING while processes keep appearing; v2: `cgroup.freeze`, whose outcome is
//! told by `cgroup.events` (kernel documentation, admin-guide/cgroup-v1/freezer-subsystem and cgroup-v2).

use std::{
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::dir::{Dir, gone, read_to_end, retry};
use crate::error::{Context, Error, Kind, Result};

/// How often a v1 freeze is asked for before it is given up, as runc found to do.
const TRIES: u32 = 1000;

/// How long a v2 freeze may take: a process in an uninterruptible wait does not stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// v1: freezes, and comes back when all is frozen. On failure it is thawed again: half frozen is worse.
pub(super) fn freeze_v1(dir: &Dir) -> Result<()> {
    let done = try_freeze_v1(dir);
    if done.is_err() {
        let _ = thaw_v1(dir);
    }
    done.context("freeze")
}

fn try_freeze_v1(dir: &Dir) -> Result<()> {
    for n in 0..TRIES {
        if n % 50 == 49 {
            // Processes that appear meanwhile keep it in FREEZING; letting all go and starting anew helps.
            thaw_v1(dir)?;
            thread::sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN")?;
        if n % 25 == 24 {
            thread::sleep(Duration::from_micros(10));
        }
        match dir.read("freezer.state")?.trim() {
            "FROZEN" => return Ok(()),
            "FREEZING" => {}
            other => return Err(Error::new(Kind::Internal, format!("unexpected state {other} while freezing"))),
        }
    }
    Err(Error::new(Kind::Internal, "unable to freeze"))
}

/// v1: lets all go on.
pub(super) fn thaw_v1(dir: &Dir) -> Result<()> {
    dir.write("freezer.state", "THAWED").context("thaw")
}

/// v2: freezes, and comes back when all is frozen. On failure it is thawed again.
pub(super) fn freeze_v2(dir: &Dir) -> Result<()> {
    let done = dir.write("cgroup.freeze", "1").and_then(|()| wait_frozen(dir));
    if done.is_err() {
        let _ = thaw_v2(dir);
    }
    done.context("freeze")
}

/// v2: lets all go on.
pub(super) fn thaw_v2(dir: &Dir) -> Result<()> {
    dir.write("cgroup.freeze", "0").context("thaw")
}

/// Whether a freeze of this very cgroup (not of one above it) was asked for. A cgroup without a freezer, or one that is
/// gone, is not frozen.
pub(super) fn wants_frozen(dir: &Dir) -> Result<bool> {
    for file in ["cgroup.freeze", "freezer.self_freezing"] {
        if let Some(text) = dir.read_if_there(file)? {
            return Ok(text.trim() == "1");
        }
    }
    Ok(false)
}

/// `cgroup.events` says POLLPRI when it changes, so this waits without turning around.
fn wait_frozen(dir: &Dir) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let file = dir.reader("cgroup.events")?;
    loop {
        let mut text = Vec::new();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).context("read cgroup.events")?;
        read_to_end(file.as_fd(), &mut text).context("read cgroup.events")?;
        if text.split(|b| *b == b'\n').any(|line| line == b"frozen 1") {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("unable to freeze: timeout of {} s reached", PATIENCE.as_secs());
            return Err(Error::new(Kind::Internal, text));
        }
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        retry(|| rustix::event::poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&left)))
            .context("wait for cgroup.events")?;
    }
}

/// Whether `dir` is frozen by a freeze of its own that is complete; one that is on its way is waited for.
pub(super) fn is_frozen(dir: &Dir) -> Result<bool> {
    for _ in 0..TRIES {
        if !wants_frozen(dir)? {
            return Ok(false);
        }
        let done = match dir.read("freezer.state") {
            Ok(state) => state.trim() == "FROZEN",
            Err(e) if gone(&e) => match dir.read_if_there("cgroup.events")? {
                Some(events) => events.lines().any(|l| l == "frozen 1"),
                None => return Ok(false),
            },
            Err(e) => return Err(e),
        };
        if done {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(Error::new(Kind::Internal, format!("{}: freezing does not come to an end", dir.path().display())))
}
