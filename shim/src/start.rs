//! `start`: find the server of the container's group, or make it, and tell containerd its address.
//!
//! Everything that the server inherits (cgroup, OOM score, scheduling cookie) this process takes on itself before the
//! spawn: the server has it from its first instruction, and a setting that fails leaves nothing to be killed. The
//! listener is bound here and passed on, so containerd can connect before the server has run at all, and there is
//! nothing to wait for.

use std::{
    ffi::{CString, OsString},
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Result, sealed::Program};
use nix::{
    fcntl::OFlag,
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{
        signal::{SigSet, Signal},
        stat::Mode,
    },
    unistd::Pid,
};
use rustix::thread::CoreSchedulingScope;

use crate::{
    args::Args,
    bootstrap::{AnswerForm, StartRequest},
    bundle, inherit,
    log::{self, Stderr},
    shim_cgroup,
    socket::{self, Claim},
};

/// More than this on standard input is not read (bytes); containerd's own shim draws the line here, too.
const MAX_INPUT: u64 = 10 << 20;
/// The highest oom_score_adj (proc(5)).
const OOM_MAX: i32 = 1000;

/// Runs the action in the bundle, which is the working directory.
///
/// # Errors
/// Bad input, a system call that failed, or a reply that nobody reads; no server and no socket is left then.
pub fn run(args: &Args) -> Result<()> {
    let bundle = Path::new(".");
    log::init(bundle, args.log_level(), Stderr::Keep);
    berth_runtime::kernel::check()?;
    let mut input = Vec::new();
    std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input).context("read standard input")?;
    // containerd 1.7 and newer set the variable, always to 2.
    let reads_json = std::env::var_os("MAX_SHIM_VERSION").is_some();
    let form = if reads_json { AnswerForm::Json } else { AnswerForm::Address };
    let request = StartRequest::decode(&input, args, form)?;
    let group = bundle::group(bundle, &args.id)?;
    let directory = request.socket_dir.as_deref().unwrap_or(Path::new(socket::DIRECTORY));
    let path = socket::path(directory, &args.address, &args.namespace, &group)?;
    let address = format!("unix://{}", path.display());

    let mut guard = None;
    if let Claim::Ours(listener) = socket::claim(&path)? {
        let server = guard.insert(StartGuard { socket: &path, server: None });
        apply_inherited_settings(&request)?;
        server.server = Some(spawn_server(args, &request, &group, &listener)?);
    }
    bundle::write_address(bundle, &address)?;
    write_reply(&request.form.answer(&address)?)?;
    if let Some(guard) = guard {
        guard.commit();
    }
    Ok(())
}

/// What `start` guard: taken back when it is dropped, unless containerd was told of it.
struct StartGuard<'a> {
    socket: &'a Path,
    server: Option<Pid>,
}

impl StartGuard<'_> {
    fn commit(self) {
        std::mem::forget(self);
    }
}

impl Drop for StartGuard<'_> {
    fn drop(&mut self) {
        // Errors have nowhere to go: the one that brought us here is reported. The server is our child and not reaped,
        // so its pid is nobody else's.
        if let Some(server) = self.server {
            let _ = nix::sys::signal::kill(server, Signal::SIGKILL);
        }
        let _ = std::fs::remove_file(self.socket);
    }
}

/// Takes on what the server is to inherit.
fn apply_inherited_settings(request: &StartRequest) -> Result<()> {
    if let Some(cgroup) = &request.options.shim_cgroup {
        shim_cgroup::join(cgroup)?;
    }
    // What containerd and its shims share: when memory is short a shim goes before containerd.
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if let Err(e) = raise_oom_score(parent) {
        // not worth a pod: a container without CAP_SYS_RESOURCE may not even restate its own score
        ::log::warn!("set oom_score_adj: {e}");
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        let own = rustix::process::getpid();
        rustix::thread::create_core_scheduling_cookie(own, CoreSchedulingScope::ProcessGroup)
            .context("SCHED_CORE: create core scheduling cookie")?;
    }
    Ok(())
}

fn raise_oom_score(parent: i32) -> Result<()> {
    let score = std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj"))?;
    let score: i32 = score.trim().parse().map_err(|e| Error::invalid(format!("{score:?}: {e}")))?;
    Ok(std::fs::write("/proc/self/oom_score_adj", (score + 1).min(OOM_MAX).to_string())?)
}

/// Runs ourselves again as the server: the listener as descriptor 3, /dev/null as the standard three (the pipes of this
/// process belong to containerd, which reads them until the last holder is gone), a process group of its own.
fn spawn_server(args: &Args, request: &StartRequest, group: &str, listener: &OwnedFd) -> Result<Pid> {
    let exe = executable();
    // the server makes containers, so it runs from a file that they cannot write to
    let sealed = Program::new()?;
    let mut line = vec!["-namespace", &args.namespace, "-id", group, "-address", &args.address];
    if request.debug {
        line.push("-debug");
    }
    let mut argv = vec![c_string(exe.clone().into_os_string())?];
    for word in line {
        argv.push(c_string(word.into())?);
    }
    let mut environment = Vec::new();
    for (key, mut value) in std::env::vars_os() {
        if key == "TTRPC_ADDRESS" && request.ttrpc_address.is_some() || key == "GLIBC_TUNABLES" {
            continue;
        }
        let mut pair = key;
        pair.push("=");
        pair.push(std::mem::take(&mut value));
        environment.push(c_string(pair)?);
    }
    environment.push(c_string(tunables(std::env::var_os("GLIBC_TUNABLES")))?);
    if let Some(address) = &request.ttrpc_address {
        environment.push(c_string(format!("TTRPC_ADDRESS={address}").into())?);
    }

    inherit::set_cloexec()?;
    let spawned = (|| {
        let mut files = PosixSpawnFileActions::init()?;
        files.add_open(0, c"/dev/null", OFlag::O_RDWR, Mode::empty())?;
        files.add_dup2(0, 1)?;
        files.add_dup2(0, 2)?;
        // a dup2 onto itself clears close-on-exec here, as POSIX wants of posix_spawn (glibc 2.29)
        files.add_dup2(listener.as_raw_fd(), inherit::LISTENER)?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        posix_spawn(sealed.path().as_path(), &files, &attributes, &argv, &environment)
    })();
    spawned.with_context(|| format!("run {}", exe.display()))
}

/// What the C library is not to keep in the server (the tunables of glibc 2.26 and 2.34, which it reads at its start):
/// - the stacks of threads that ended, and with them every page that they touched: 400 kB after 10,000 execs. Threads
///   of the server come and go with the load; their stacks go with them;
/// - freed memory in a list for each thread and size. The main thread's are never emptied (74 kB after 3,000 execs), and
///   each block in them keeps the page around it from being given back.
fn tunables(given: Option<OsString>) -> OsString {
    let mut text = OsString::from("GLIBC_TUNABLES=glibc.pthread.stack_cache_size=0:glibc.malloc.tcache_count=0");
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        text.push(":");
        text.push(given);
    }
    text
}

/// Our own file; by its magic link when the file was replaced meanwhile.
fn executable() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into())
}

fn c_string(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).map_err(|e| Error::invalid(format!("argument or environment: {e}")))
}

fn write_reply(answer: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(answer).and_then(|()| stdout.flush()).context("write the reply")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_back_start_leaves_no_socket() {
        let scratch = crate::testing::Scratch::new();
        let path = scratch.path().join("s/socket");
        let Claim::Ours(_listener) = socket::claim(&path).unwrap() else { panic!("served") };
        drop(StartGuard { socket: &path, server: None });
        assert!(!path.exists());
        let Claim::Ours(_listener) = socket::claim(&path).unwrap() else { panic!("served") };
        StartGuard { socket: &path, server: None }.commit();
        assert!(path.exists());
    }

    #[test]
    fn what_the_node_tunes_comes_after_ours() {
        assert_eq!(tunables(None), "GLIBC_TUNABLES=glibc.pthread.stack_cache_size=0:glibc.malloc.tcache_count=0");
        let both = tunables(Some("glibc.malloc.check=1".into()));
        assert_eq!(
            both,
            "GLIBC_TUNABLES=glibc.pthread.stack_cache_size=0:glibc.malloc.tcache_count=0:glibc.malloc.check=1"
        );
    }

    #[test]
    fn the_executable_is_there() {
        assert!(executable().exists());
    }
}
