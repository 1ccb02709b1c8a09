//! The action `start`: it finds or makes the server of the container's group and prints the server's address.
//!
//! This process applies all inherited settings (cgroup, OOM score, scheduling cookie) to itself before it spawns the
//! server. So the server has them from its first instruction, and a setting that fails leaves no process behind. This
//! process also binds the listener and passes it on, so containerd can connect before the server has run.

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

/// The maximal number of bytes that are read from standard input. containerd's runc shim has the same limit.
const MAX_INPUT: u64 = 10 << 20;
/// The highest oom_score_adj (proc_pid_oom_score_adj(5)).
const OOM_MAX: i32 = 1000;

/// Runs the action in the bundle, which is the working directory.
///
/// # Errors
/// The input is malformed, a system call failed, or the reply cannot be written. No server and no socket is left then.
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
    if let Claim::Bound(listener) = socket::claim(&path)? {
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

/// The socket and the server that `start` has made. Dropping it removes them, unless containerd has got the address.
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
        // The caller reports the first error, so these are ignored. The server is an unreaped child, so no other
        // process has its pid.
        if let Some(server) = self.server {
            let _ = nix::sys::signal::kill(server, Signal::SIGKILL);
        }
        let _ = std::fs::remove_file(self.socket);
    }
}

/// Applies the settings that the server inherits to this process.
fn apply_inherited_settings(request: &StartRequest) -> Result<()> {
    if let Some(cgroup) = &request.options.shim_cgroup {
        shim_cgroup::join(cgroup)?;
    }
    // As containerd's shims do: when memory is short, the kernel kills a shim before containerd.
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if let Err(e) = raise_oom_score(parent) {
        // This is no reason to fail: without CAP_SYS_RESOURCE a process cannot write even its own value again.
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

/// Runs this program as the server. The listener is descriptor 3, and descriptors 0 to 2 are /dev/null: containerd
/// reads the pipes of this process until their last holder is gone. The server has a process group of its own.
fn spawn_server(args: &Args, request: &StartRequest, group: &str, listener: &OwnedFd) -> Result<Pid> {
    let exe = own_executable();
    // The server makes containers, so it runs from a file that containers cannot write to.
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
    environment.push(c_string(inherit::tunables(std::env::var_os("GLIBC_TUNABLES")))?);
    if let Some(address) = &request.ttrpc_address {
        environment.push(c_string(format!("TTRPC_ADDRESS={address}").into())?);
    }

    inherit::set_cloexec()?;
    let spawned = (|| {
        let mut files = PosixSpawnFileActions::init()?;
        files.add_open(0, c"/dev/null", OFlag::O_RDWR, Mode::empty())?;
        files.add_dup2(0, 1)?;
        files.add_dup2(0, 2)?;
        // Here dup2 of a descriptor onto itself clears close-on-exec, as POSIX requires of posix_spawn (glibc 2.29).
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

/// The path of this program; its link in /proc if the file was replaced meanwhile.
fn own_executable() -> PathBuf {
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
    fn a_failed_start_leaves_no_socket() {
        let scratch = crate::testing::Scratch::new();
        let path = scratch.path().join("s/socket");
        let Claim::Bound(_listener) = socket::claim(&path).unwrap() else { panic!("served") };
        drop(StartGuard { socket: &path, server: None });
        assert!(!path.exists());
        let Claim::Bound(_listener) = socket::claim(&path).unwrap() else { panic!("served") };
        StartGuard { socket: &path, server: None }.commit();
        assert!(path.exists());
    }

    #[test]
    fn the_path_of_the_executable_exists() {
        assert!(own_executable().exists());
    }
}
