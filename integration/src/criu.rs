//! Calls of checkpoint and restore with the tool CRIU.

use crate::{
    bundle::Bundle,
    executable,
    runtime::{Call, Output, Runtime, is_runc},
    tools,
    wait::{LONG, until},
};
use std::{fs, path::PathBuf};

/// Makes a call see CRIU: berth by its variable, runc by PATH. A CRIU of runc also finds an iptables that does nothing:
/// it locks the network by that, and berth does not need it.
pub fn with_criu<'r>(runtime: &Runtime, call: Call<'r>) -> Call<'r> {
    let criu = tools::tool("CRIU");
    let call = call.env("BERTH_CRIU", &criu.to_string_lossy());
    if !is_runc() {
        return call;
    }
    let bin = runtime.work().join("bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["iptables-restore", "ip6tables-restore"] {
        if !bin.join(name).exists() {
            executable::write(&bin.join(name), "#!/bin/sh\nexec cat > /dev/null\n", 0o755);
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    call.env("PATH", &format!("{}:{}:{path}", bin.display(), criu.parent().unwrap().display()))
}

/// Gives a call /dev/null as all its streams: CRIU dumps no file of the host for runc.
pub fn without_streams(call: Call<'_>) -> Call<'_> {
    call.through(&["/bin/sh", "-c", "exec \"$@\" >/dev/null 2>&1", "sh"])
}

/// Returns a directory for images.
pub fn images(runtime: &Runtime) -> PathBuf {
    runtime.work().join("images")
}

/// Prepares `checkpoint ID` to [`images`]. CRIU is told to ignore cgroups, because it otherwise changes options of the
/// host's cgroup v2 mount.
pub fn checkpoint<'r>(runtime: &'r Runtime, id: &str) -> Call<'r> {
    let images = images(runtime);
    let call = runtime.call(&["checkpoint", "--image-path", &images.to_string_lossy(), id]);
    with_criu(runtime, call.with(&["--manage-cgroups-mode", "ignore"]))
}

/// Prepares `restore ID` from [`images`].
pub fn restore<'r>(runtime: &'r Runtime, id: &str, bundle: &Bundle) -> Call<'r> {
    let images = images(runtime);
    let call = runtime.on("restore", id, bundle).with(&["--image-path", &images.to_string_lossy()]);
    with_criu(runtime, call.with(&["--manage-cgroups-mode", "ignore"]))
}

/// Restores a container in the background.
pub fn restore_detached(runtime: &Runtime, id: &str, bundle: &Bundle) -> Output {
    let log = runtime.work().join("restore-log");
    let _ = fs::remove_file(&log);
    let call = restore(runtime, id, bundle).with(&["-d"]).global(&["--log", &log.to_string_lossy()]);
    let mut out = without_streams(call).wait();
    out.stderr += &fs::read_to_string(&log).unwrap_or_default();
    out
}

/// The count of a container whose process is `probe go-on /dev/shm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The time of the process's birth.
    pub birth: String,
    /// The number that it has reached.
    pub number: u64,
}

/// Reads the count of a container, once it is at least `least`, from its file and from its shared mapping.
#[track_caller]
pub fn count(runtime: &Runtime, id: &str, least: u64) -> Count {
    let dir = PathBuf::from(format!("/proc/{}/root/dev/shm", runtime.pid(id)));
    until("the container to count", LONG, || {
        let text = fs::read_to_string(dir.join("count")).ok()?;
        let (birth, number) = text.trim().split_once(' ')?;
        let mapped = fs::read(dir.join("map")).ok()?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))?;
        let number = number.parse().ok().filter(|number| *number >= least && mapped >= least)?;
        Some(Count { birth: birth.to_owned(), number })
    })
}
