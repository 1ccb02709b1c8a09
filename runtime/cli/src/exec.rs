//! `exec`: one more process in a container.

use std::{os::fd::AsFd, path::PathBuf};

use berth_runtime::{
    Error, Kind, Result,
    exec::{self, Execed},
    state::{Container, Status},
};

use super::{
    Failure, Globals, NOT_EXECUTED, Outcome,
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
    let container = super::container(globals, parsed)?;
    check_status(&container, parsed.on("ignore-paused"))?;
    let process = exec_process::find(container.bundle(), parsed)?;
    let cgroup = match sub_cgroups(&parsed.texts("cgroup").collect::<Vec<_>>())? {
        subs if subs.is_empty() => None,
        subs => Some(container.cgroup().nested(&subs)?),
    };
    let detached = parsed.on("detach");
    let extra = ExtraFds::preserved(parsed)?;
    let pidfd_socket = parsed.text("pidfd-socket").map(console::connect).transpose()?;
    let terminal = process.terminal() == Some(true);
    let (front, stdio) = Front::prepare(globals.program, terminal, detached, parsed.text("console-socket"))?;
    let signals = if detached { None } else { Some(Signals::take()?) };
    let made = exec::exec(
        &container,
        exec::Options {
            process: &process,
            stdio,
            pid_file: parsed.text("pid-file").map(std::path::Path::new),
            preserve_fds: extra.count,
            abort: None,
            ignore_paused: parsed.on("ignore-paused"),
            cgroup: cgroup.as_ref(),
        },
    );
    let mut execed = match made {
        Err(e) if e.kind() == Kind::NotExecuted && matches!(front, Front::Pipes(..)) => {
            front.attach(None)?.drain();
            return Ok(NOT_EXECUTED);
        }
        made => made?,
    };
    let hand_out = |execed: &mut Execed| -> Result<Streams> {
        let streams = front.attach(execed.console.take())?;
        if let Some(socket) = &pidfd_socket {
            console::send_fd(socket, "setns", execed.pidfd.as_fd())?;
        }
        Ok(streams)
    };
    let streams = hand_out(&mut execed).inspect_err(|_| drop(sys::send_signal(execed.pidfd.as_fd(), libc::SIGKILL)))?;
    let Some(signals) = signals else { return Ok(0) };
    let status = signals.forward((execed.pid, execed.pidfd.as_fd()), &streams, None);
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

/// Reads `path`, alone and for all controllers, or any number of `controller[,controller…]:path`.
fn sub_cgroups(flags: &[&str]) -> Result<Vec<(Option<String>, PathBuf)>> {
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
    fn sub_cgroups_are_for_all_controllers_or_for_each() {
        let some = |c: &str, p: &str| (Some(c.to_owned()), PathBuf::from(p));
        assert_eq!(sub_cgroups(&[]).unwrap(), []);
        assert_eq!(sub_cgroups(&["a"]).unwrap(), [(None, PathBuf::from("a"))]);
        assert_eq!(
            sub_cgroups(&["cpu,cpuacct:x", "memory:"]).unwrap(),
            [some("cpu", "x"), some("cpuacct", "x"), some("memory", "")]
        );
        for (flags, says) in [
            (["a", "b"], "invalid --cgroup argument: a (missing <controller>: prefix)"),
            (["cpu:a", ":b"], "invalid --cgroup argument: :b (empty <controller> prefix)"),
            (["cpu:a", "cpu:b"], "invalid --cgroup argument(s): controller cpu specified multiple times"),
        ] {
            assert_eq!(sub_cgroups(&flags).unwrap_err().to_string(), says);
        }
    }
}
