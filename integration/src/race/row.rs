//! [`Row`]: one kind of path, used by a container while its entry is swapped.

use super::{Ground, Swap, rounds};
use crate::{
    bundle::Bundle,
    executable, mounts,
    runtime::{Output, Runtime, is_runc},
    scratch::Scratch,
    tools,
    wait::LONG,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// The content of all files of the host ([`crate::host_files`]).
pub const TEXT: &str = "untouched";

/// The entry that is swapped.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// A directory of the volume, which is mounted at /v. It has the directory `sub` with a file, and the probe as
    /// `program`.
    VolumeDirectory,
    /// A file of the volume.
    VolumeFile,
    /// A directory of the root filesystem.
    RootDirectory(&'static str),
    /// A file of the root filesystem.
    RootFile(&'static str),
}

impl Entry {
    /// Makes the entry, and returns its path on the host.
    fn make(self, ground: &Ground, bundle: &Bundle) -> PathBuf {
        let (path, directory) = match self {
            Self::VolumeDirectory => (ground.volume.join("entry"), true),
            Self::VolumeFile => (ground.volume.join("entry"), false),
            Self::RootDirectory(path) => (bundle.rootfs().join(path), true),
            Self::RootFile(path) => (bundle.rootfs().join(path), false),
        };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if directory {
            fs::create_dir_all(path.join("sub")).unwrap();
            fs::write(path.join("sub/file"), "the container's").unwrap();
            executable::copy(&tools::built("berth-probe"), &path.join("program"));
        } else {
            fs::write(&path, "the container's").unwrap();
        }
        path
    }
}

/// One kind of path. The bundle has the volume at /v, and its process reports `mountinfo` and more.
pub struct Row {
    /// The name in messages.
    pub name: &'static str,
    /// The entry that is swapped, once it is made.
    pub entry: Entry,
    /// The part of the host's files that the link leads to.
    pub to: &'static str,
    /// The further words of the process's report.
    pub report: &'static [&'static str],
    /// Adds the uses of the entry: dozens where they can be repeated, as each one is a chance for the race.
    pub set: fn(Bundle) -> Bundle,
    /// Returns what is wrong with a container that was made.
    pub fault: fn(&Value) -> Option<String>,
    /// Acts on the entry by its name after a check, as no runtime may. Returns true when it has reached the host's files
    /// in a way that [`Ground::touched`] does not show.
    pub naive: fn(&Path) -> bool,
}

/// The results of the runs of a row.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// The number of containers that were made.
    pub made: usize,
    /// The number of containers that were refused.
    pub refused: usize,
    /// The number of swaps meanwhile.
    pub swaps: u64,
    /// The faults.
    pub faults: Vec<String>,
}

/// Runs containers of the row under each swap, and stops at the first fault.
pub fn outcomes(runtime: &Runtime, row: &Row) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for swap in Swap::LINKS {
        for relative in [false, true] {
            let dir = runtime.work().join(format!("{swap:?}-{relative}"));
            let ground = Ground::new(&dir);
            let bundle = bundle(row, &ground);
            let entry = row.entry.make(&ground, &bundle);
            let swapper = ground.swap(swap, relative, &entry, row.to);
            let mut out = vec![runtime.run("c1", &bundle)];
            let again = |_| runtime.cmd(&["run", "--bundle", bundle.path().to_str().unwrap(), "c1"]);
            out.extend((1..rounds()).map(again));
            outcomes.swaps += swapper.swaps();
            drop(swapper);
            let about = format!("{}, {swap:?}{}", row.name, if relative { ", relative" } else { "" });
            for out in &out {
                *if out.code == 0 { &mut outcomes.made } else { &mut outcomes.refused } += 1;
                outcomes.faults.extend(fault(row, out).map(|fault| format!("{about}: {fault}: {out:#?}")));
            }
            outcomes.faults.extend(ground.touched().iter().map(|touch| format!("{about}: {touch}")));
            if !outcomes.faults.is_empty() {
                return outcomes;
            }
        }
    }
    outcomes.faults.extend(runtime.residue().iter().map(|left| format!("{}: left behind {left}", row.name)));
    outcomes
}

fn bundle(row: &Row, ground: &Ground) -> Bundle {
    let words = [&["report", "mountinfo"], row.report].concat();
    let bundle = Bundle::probe(&words).mount("/v", "bind", ground.volume.to_str().unwrap(), &["bind"]);
    (row.set)(bundle)
}

fn fault(row: &Row, out: &Output) -> Option<String> {
    if out.stdout.contains(TEXT) {
        return Some("the container sees a file of the host".into());
    }
    match out.code {
        0 => {
            let report = out.json();
            // Without /proc at this moment there is no table.
            let table = report["mountinfo"].is_array().then(|| mounts::reported(&report));
            mounts_stay_inside(&table.unwrap_or_default()).or_else(|| (row.fault)(&report))
        }
        1 | 255 if !out.stderr.is_empty() => None,
        // runc's own words about a mount that it could not verify have no status of their own.
        _ if is_runc() => None,
        code => Some(format!("exit status {code}")),
    }
}

/// Returns a mount that shows the host's files in the container.
pub fn mounts_stay_inside(mounts: &[mounts::Mount]) -> Option<String> {
    mounts.iter().find(|mount| mount.root.contains("host_files")).map(|mount| format!("{mount:?}"))
}

/// Fails the test unless the swap leads the naive program of the row to the host's files.
#[track_caller]
pub fn is_caught(row: &Row, swap: Swap) {
    let scratch = Scratch::new("caught");
    let ground = Ground::new(&scratch.path().join("ground"));
    let bundle = bundle(row, &ground);
    let entry = row.entry.make(&ground, &bundle);
    let _swapper = ground.swap(swap, false, &entry, row.to);
    let end = Instant::now() + LONG;
    while !(row.naive)(&entry) && ground.touched().is_empty() {
        assert!(Instant::now() < end, "{}, {swap:?}: never", row.name);
    }
}
