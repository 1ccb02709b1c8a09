//! `exec`: runs a further process in a container.

mod process;

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
};

use berth_runtime::{
    Error, Kind, Result,
    exec::{self, Execed},
    send_signal,
    state::{Container, Status},
};

use super::{NOT_EXECUTED, load};
use crate::{
    Failure, Globals, Outcome,
    args::{Binding, Command, Count, Order, Program, Usage, non_empty, path},
    console,
    extra_fds::ExtraFds,
    signals::Signals,
    stdio::{Attachment, HostStdio, Proxies, Request},
};

/// The arguments of `exec`.
#[derive(Debug, Default)]
pub struct ExecArgs {
    id: String,
    command: Vec<String>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    cwd: Option<String>,
    env: Vec<String>,
    tty: bool,
    user: Option<String>,
    additional_gids: Vec<i64>,
    process: Option<PathBuf>,
    detach: bool,
    pid_file: Option<PathBuf>,
    process_label: Option<String>,
    apparmor: Option<String>,
    /// `None` keeps the setting of config.json.
    no_new_privs: Option<bool>,
    cap: Vec<String>,
    preserve_fds: i64,
    cgroup: Vec<String>,
    ignore_paused: bool,
}

/// The command.
pub static COMMAND: Command<ExecArgs> = Command {
    usage: Usage {
        name: "exec",
        summary: "run a further process in a container",
        operands: "<container-id> [<command> [argument...]]

The process takes its settings from config.json, except those that flags
change. With -p, a file describes the process and no command is given.

EXAMPLE:
       # berth exec -t web sh",
        count: Count::AtLeast(1),
        order: Order::FlagsFirst,
        program: Program::Sealed,
        ..Usage::DEFAULT
    },
    flags: &[
        Binding::text(
            &["console-socket"],
            "send the master of the process's terminal to this Unix socket",
            |args, text| args.console_socket = path(text),
        ),
        Binding::text(&["pidfd-socket"], "send a pidfd of the process to this Unix socket", |args, text| {
            args.pidfd_socket = path(text);
        }),
        Binding::text(&["cwd"], "directory that the process starts in", |args, text| args.cwd = non_empty(text)),
        Binding::texts(&["env", "e"], "variable NAME=value for the environment", |args, text| args.env.push(text)),
        Binding::switch(&["tty", "t"], "give the process a terminal", |args, on| args.tty = on),
        Binding::text(&["user", "u"], "numeric user of the process, and its group: <uid>[:<gid>]", |args, text| {
            args.user = non_empty(text);
        }),
        Binding::ints(&["additional-gids", "g"], "supplementary group of the process", |args, gid| {
            args.additional_gids.push(gid);
        }),
        Binding::text(&["process", "p"], "JSON file that describes the process as config.json does", |args, text| {
            args.process = path(text);
        }),
        Binding::switch(&["detach", "d"], "return as soon as the process runs", |args, on| args.detach = on),
        Binding::text(&["pid-file"], "write the pid of the process to this file", |args, text| {
            args.pid_file = path(text);
        }),
        Binding::text(&["process-label"], "SELinux label of the process", |args, text| {
            args.process_label = non_empty(text);
        }),
        Binding::text(&["apparmor"], "AppArmor profile of the process", |args, text| args.apparmor = non_empty(text)),
        Binding::switch(&["no-new-privs"], "no execve of the process can raise its privileges", |args, on| {
            args.no_new_privs = Some(on);
        }),
        Binding::texts(&["cap", "c"], "capability to give to the process", |args, text| args.cap.push(text)),
        Binding::int(&["preserve-fds"], "number of file descriptors to hand over besides stdio", |args, number| {
            args.preserve_fds = number;
        }),
        Binding::texts(
            &["cgroup"],
            "existing cgroup below the container's for the process: [<controller>:]<cgroup>",
            |args, text| args.cgroup.push(text),
        ),
        Binding::switch(&["ignore-paused"], "accept a container that is paused", |args, on| args.ignore_paused = on),
    ],
    operands: |args, operands| {
        args.id = operands.one();
        args.command = operands.rest();
    },
    run,
};

/// runc's exit status for a failure of `exec` itself.
const FAILED: i32 = 255;

fn run(globals: &Globals, args: ExecArgs) -> Outcome {
    try_run(globals, &args).map_err(|e| Failure { message: format!("exec failed: {e}"), status: FAILED })
}

fn try_run(globals: &Globals, args: &ExecArgs) -> Result<i32> {
    let container = load(globals, &args.id)?;
    check_status(&container, args)?;
    let process = process::find(container.bundle(), args)?;
    let cgroup = match sub_cgroups(&args.cgroup)? {
        subs if subs.is_empty() => None,
        subs => Some(container.cgroup().nested(&subs)?),
    };
    let attachment = if args.detach { Attachment::Detached } else { Attachment::Foreground };
    let extra = ExtraFds::preserved(args.preserve_fds)?;
    let pidfd_socket = args.pidfd_socket.as_deref().map(console::connect).transpose()?;
    let (host, stdio) = HostStdio::prepare(&Request {
        program: globals.program,
        terminal: process.terminal() == Some(true),
        attachment,
        console_socket: args.console_socket.as_deref(),
    })?;
    let signals = match attachment {
        Attachment::Detached => None,
        Attachment::Foreground => Some(Signals::take()?),
    };
    let result = exec::exec(
        &container,
        exec::Options {
            process: &process,
            stdio,
            pid_file: args.pid_file.as_deref(),
            preserve_fds: extra.count,
            abort: None,
            ignore_paused: args.ignore_paused,
            cgroup: cgroup.as_ref(),
        },
    );
    let mut execed = match result {
        // The error text is in the pipe of stderr.
        Err(e) if e.kind() == Kind::NotExecuted && matches!(host, HostStdio::Pipes(..)) => {
            host.connect(None)?.drain();
            return Ok(NOT_EXECUTED);
        }
        result => result?,
    };
    let proxies = hand_over(&mut execed, host, pidfd_socket.as_ref())
        .inspect_err(|_| drop(send_signal(execed.pidfd.as_fd(), libc::SIGKILL)))?;
    let Some(signals) = signals else { return Ok(0) };
    let status = signals.forward((execed.pid, execed.pidfd.as_fd()), &proxies, None);
    proxies.drain();
    status
}

fn hand_over(execed: &mut Execed, host: HostStdio, pidfd_socket: Option<&UnixStream>) -> Result<Proxies> {
    let proxies = host.connect(execed.console.take())?;
    if let Some(socket) = pidfd_socket {
        console::send_fd(socket, "setns", execed.pidfd.as_fd())?;
    }
    Ok(proxies)
}

fn check_status(container: &Container, args: &ExecArgs) -> Result<()> {
    let refusal = match container.status()? {
        Status::Stopped => "cannot exec in a stopped container",
        Status::Paused if !args.ignore_paused => "cannot exec in a paused container (use --ignore-paused to override)",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::FailedPrecondition, refusal))
}

/// Reads the values of `--cgroup`: one `path` for all controllers, or any number of `controller[,controller…]:path`.
fn sub_cgroups(flags: &[String]) -> Result<Vec<(Option<String>, PathBuf)>> {
    let mut subs: Vec<(Option<String>, PathBuf)> = Vec::new();
    for flag in flags {
        let Some((controllers, path)) = flag.split_once(':') else {
            if flags.len() > 1 {
                let text = format!("invalid --cgroup argument: {flag} (missing <controller>: prefix)");
                return Err(Error::invalid(text));
            }
            return Ok(vec![(None, PathBuf::from(flag))]);
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                let text = format!("invalid --cgroup argument: {flag} (empty <controller> prefix)");
                return Err(Error::invalid(text));
            }
            if subs.iter().any(|(other, _)| other.as_deref() == Some(controller)) {
                let text = format!("invalid --cgroup argument(s): controller {controller} specified multiple times");
                return Err(Error::invalid(text));
            }
            subs.push((Some(controller.to_owned()), PathBuf::from(path)));
        }
    }
    Ok(subs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_cgroup_is_for_all_controllers_or_for_each() {
        let read = |flags: &[&str]| sub_cgroups(&flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>());
        let some = |c: &str, p: &str| (Some(c.to_owned()), PathBuf::from(p));
        assert_eq!(read(&[]).unwrap(), []);
        assert_eq!(read(&["a"]).unwrap(), [(None, PathBuf::from("a"))]);
        assert_eq!(
            read(&["cpu,cpuacct:x", "memory:"]).unwrap(),
            [some("cpu", "x"), some("cpuacct", "x"), some("memory", "")]
        );
        for (flags, error) in [
            (["a", "b"], "invalid --cgroup argument: a (missing <controller>: prefix)"),
            (["cpu:a", ":b"], "invalid --cgroup argument: :b (empty <controller> prefix)"),
            (["cpu:a", "cpu:b"], "invalid --cgroup argument(s): controller cpu specified multiple times"),
        ] {
            assert_eq!(read(&flags).unwrap_err().to_string(), error);
        }
    }
}
