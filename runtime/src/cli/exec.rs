//! `exec`: one more process in a container.

use std::os::fd::AsFd;

use berth_runtime::{
    Error, Kind, Result,
    exec::{self, Execed},
    state::{Container, Status},
};

use super::{
    Failure, Globals, Outcome,
    args::{Command, Count, Flag, Parsed, Takes},
    console, exec_process,
    extra_fds::ExtraFds,
    signals::Signals,
    stdio::{Front, Streams},
    sys,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "exec",
    summary: "execute new process inside the container",
    operands: "<container-id> <command> [command options]  || -p process.json <container-id>

Where \"<container-id>\" is the name of the container and \"<command>\" what to
execute in it, unless the flag -p names a file that says it.

EXAMPLE:
       # berth exec <container-id> ps",
    about: "",
    flags: &[
        Flag::value(&["console-socket"], Takes::Text, "unix socket that gets the master of the process' terminal"),
        Flag::value(&["pidfd-socket"], Takes::Text, "unix socket that gets a pidfd of the process"),
        Flag::value(&["cwd"], Takes::Text, "working directory in the container"),
        Flag::value(&["env", "e"], Takes::Texts, "set an environment variable"),
        Flag::switch(&["tty", "t"], "allocate a pseudo-TTY"),
        Flag::value(&["user", "u"], Takes::Text, "UID (format: <uid>[:<gid>])"),
        Flag::value(&["additional-gids", "g"], Takes::Ints, "one more group id"),
        Flag::value(&["process", "p"], Takes::Text, "file with the process' description (process.json)"),
        Flag::switch(&["detach", "d"], "leave the process running and return"),
        Flag::value(&["pid-file"], Takes::Text, "file to write the process id to"),
        Flag::value(&["process-label"], Takes::Text, "label of the process, for SELinux"),
        Flag::value(&["apparmor"], Takes::Text, "AppArmor profile of the process"),
        Flag::switch(&["no-new-privs"], "the process can gain no privileges"),
        Flag::value(&["cap", "c"], Takes::Texts, "one more capability for the process"),
        Flag::value(&["preserve-fds"], Takes::Int, "pass this many more file descriptors on (beyond stdio)"),
        Flag::value(
            &["cgroup"],
            Takes::Texts,
            "run the process in an existing cgroup below the container's: [<controller>:]<cgroup>",
        ),
        Flag::switch(&["ignore-paused"], "execute even in a paused container"),
    ],
    count: Count::AtLeast(1),
    operands_last: true,
    run,
};

/// runc's exit status when it fails itself, rather than the process.
const FAILED: i32 = 255;

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    try_run(globals, parsed).map_err(|e| Failure { message: format!("exec failed: {e}"), status: FAILED })
}

fn try_run(globals: &Globals, parsed: &Parsed) -> Result<i32> {
    if parsed.is_set("cgroup") {
        return Err(Error::unsupported("--cgroup: not built yet"));
    }
    let container = super::container(globals, parsed)?;
    check_status(&container, parsed.on("ignore-paused"))?;
    let process = exec_process::find(container.bundle(), parsed)?;
    let detached = parsed.on("detach");
    let extra = ExtraFds::preserved(parsed)?;
    let pidfd_socket = parsed.text("pidfd-socket").map(console::connect).transpose()?;
    let terminal = process.terminal() == Some(true);
    let (front, stdio) = Front::prepare(globals.program, terminal, detached, parsed.text("console-socket"))?;
    let signals = if detached { None } else { Some(Signals::take()?) };
    let mut execed = exec::exec(
        &container,
        exec::Options {
            process: &process,
            stdio,
            pid_file: parsed.text("pid-file").map(std::path::Path::new),
            preserve_fds: extra.count,
            ignore_paused: parsed.on("ignore-paused"),
        },
    )?;
    let hand_out = |execed: &mut Execed| -> Result<Streams> {
        let streams = front.attach(execed.console.take())?;
        if let Some(socket) = &pidfd_socket {
            console::send_fd(socket, "setns", execed.pidfd.as_fd())?;
        }
        Ok(streams)
    };
    let streams = hand_out(&mut execed).inspect_err(|_| drop(sys::send_signal(execed.pidfd.as_fd(), libc::SIGKILL)))?;
    let Some(signals) = signals else { return Ok(0) };
    let status = signals.forward(execed.pid, execed.pidfd.as_fd(), &streams);
    streams.drain();
    status
}

fn check_status(container: &Container, ignore_paused: bool) -> Result<()> {
    let refusal = match container.status()? {
        Status::Stopped => "cannot exec in a stopped container",
        Status::Paused if !ignore_paused => "cannot exec in a paused container (use --ignore-paused to override)",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::FailedPrecondition, refusal))
}
