//! Keeps a machine while a command runs on the host, and runs in the machine the programs of the command's
//! [`runner`](super::runner)s, one after the other. If a machine hangs or panics, its console is printed and a new
//! machine replaces it. The program that was in it has failed, and the next ones run.

use super::{
    Result, fault,
    guest::{End, Stream},
    image::Image,
    machine::Machine,
    runner::SOCKET,
    wire::{self, Kind},
};
use crate::{
    command::shell_code,
    scratch::Scratch,
    tools::{built_dir, workspace},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// The directory of the workspace's programs in the machine.
const PROGRAMS: &str = "/opt/berth/bin";
/// The directory that stands for the workspace in the machine: it has only the files of `deploy/`.
const WORKSPACE: &str = "/opt/berth/workspace";
/// The directory of the test programs, one at a time.
const TESTS: &str = "/opt/berth/tests";
/// The directory in which tests leave logs of failures.
const LOGS: &str = "/run/berth-logs";

/// The bound of one test program: under emulation it takes some minutes on an idle host.
const LIMIT: Duration = Duration::from_secs(2400);

/// A machine in use.
pub struct Lane {
    image: Image,
    logs: PathBuf,
    machine: Machine,
}

impl Lane {
    /// Starts the machine of this name with the workspace's programs in it. Logs of failures go below `logs`.
    ///
    /// # Errors
    /// There is no such machine, or it does not come up in several attempts.
    pub fn open(name: &str, logs: &Path) -> Result<Self> {
        let image = Image::get(name)?;
        // The logs of an earlier run are removed.
        fs::remove_dir_all(logs).ok();
        let machine = furnished(&image, logs)?;
        Ok(Self { image, logs: logs.to_owned(), machine })
    }

    /// Returns the machine.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Runs `command` on the host and returns its exit status as a shell has it.
    ///
    /// # Errors
    /// The command cannot be started, or no machine comes up to replace a broken one.
    pub fn run(mut self, command: &[String]) -> Result<i32> {
        let begun = Instant::now();
        let scratch = Scratch::new("vm");
        let socket = scratch.path().join("lane");
        let listener = UnixListener::bind(&socket).map_err(fault("listen for runners"))?;
        let Some((program, args)) = command.split_first() else {
            return Err("no command to run".to_owned());
        };
        let child = Command::new(program).args(args).env(SOCKET, &socket).spawn();
        let mut child = child.map_err(fault(&format!("start {program}")))?;
        let served = self.serve(&listener, &mut child);
        if served.is_err() {
            child.kill().ok();
        }
        let status = child.wait().map_err(fault("wait for the command"))?;
        served?;
        let (took, spent) = (begun.elapsed().as_secs_f64(), self.machine.spent().as_secs_f64());
        self.machine.off();
        let code = shell_code(status);
        eprintln!("vm: {}: exit status {code} after {took:.0} s ({spent:.0} s of processor)", self.image.name);
        Ok(code)
    }

    fn serve(&mut self, listener: &UnixListener, child: &mut Child) -> Result<()> {
        let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(|e| format!("pidfd: {e}"))?;
        loop {
            let mut fds =
                [PollFd::new(listener, PollFlags::IN), PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(|e| format!("poll: {e}"))?;
            let [asked, over] = fds.map(|fd| !fd.revents().is_empty());
            if asked {
                let (client, _) = listener.accept().map_err(fault("accept a runner"))?;
                self.answer(client)?;
            } else if over {
                return Ok(());
            }
        }
    }

    /// Runs one program for a runner and reports every fault to it.
    fn answer(&mut self, mut client: UnixStream) -> Result<()> {
        let Ok(Some(frame)) = wire::receive(&mut client) else { return Ok(()) };
        let Some(command) = wire::Command::decode(&frame.data) else { return Ok(()) };
        let name = program_name(&command);
        let mut before = self.machine.spent();
        let mut end = self.execute(command.clone(), &mut client);
        if end.is_err() && self.machine.console_end().contains(PATCHING_FAULT) {
            eprintln!("vm: {}: the emulated kernel failed while it patched itself: {name} once more", self.image.name);
            self.keep_logs(&name, false);
            self.machine = furnished(&self.image, &self.logs)?;
            before = self.machine.spent();
            end = self.execute(command, &mut client);
        }
        let spent = self.machine.spent().saturating_sub(before);
        eprintln!("vm: {}: {name}: {:.0} s of processor", self.image.name, spent.as_secs_f64());
        let (kind, text) = match &end {
            Ok(End::Exit(code)) => (Kind::Exit, code.to_string()),
            Ok(End::Failed(reason)) => (Kind::Failed, reason.clone()),
            Err(reason) => (Kind::Failed, format!("{reason}\n{}", self.machine.console_end())),
        };
        if end != Ok(End::Exit(0)) {
            self.keep_logs(&name, end.is_ok());
        }
        if end.is_err() {
            // The log lines come before the answer, on which the runner prints and ends.
            wire::send(&mut client, kind, text.as_bytes()).ok();
            eprintln!("vm: {}: a new machine takes over", self.image.name);
            self.machine = furnished(&self.image, &self.logs)?;
            return Ok(());
        }
        // A runner that is gone was interrupted, and so was its command.
        wire::send(&mut client, kind, text.as_bytes()).ok();
        Ok(())
    }

    fn execute(&mut self, mut command: wire::Command, client: &mut UnixStream) -> Result<End> {
        if let Some(program) = command.args.first_mut().filter(|program| Path::new(program).is_absolute()) {
            let content = fs::read(&*program).map_err(fault(&format!("read {program}")))?;
            let there = format!("{TESTS}/{}", program_name_of(program));
            self.machine.guest.push(&[(there.clone(), 0o755, content)])?;
            *program = there;
        }
        let env = [
            ("BERTH_TOOLS", "/opt/berth/tools.env"),
            ("BERTH_BIN_DIR", PROGRAMS),
            ("BERTH_WORKSPACE", WORKSPACE),
            ("BERTH_LOGS", LOGS),
        ];
        command.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.machine.guest.run(&command, LIMIT, |stream, bytes| {
            let kind = if stream == Stream::Output { Kind::Output } else { Kind::Errors };
            wire::send(client, kind, bytes)
        })
    }

    /// Keeps what may explain a failure: the console and, if the machine answers, its journal and the tests' own logs.
    fn keep_logs(&mut self, name: &str, answers: bool) {
        let dir = self.logs.join(name);
        let kept = fs::create_dir_all(&dir).map_err(fault("make a directory for logs")).and_then(|()| {
            fs::copy(self.logs.join("console"), dir.join("console")).map_err(fault("copy the console"))?;
            if answers {
                let journal =
                    self.machine.guest.ok(&["journalctl", "--boot", "--no-pager", "--output=short-monotonic"])?;
                fs::write(dir.join("journal"), journal).map_err(fault("write the journal"))?;
                self.machine.guest.pull(LOGS, &dir.join("tests"))?;
            }
            Ok(())
        });
        match kept {
            Ok(()) => eprintln!("vm: {}: logs are in {}", self.image.name, dir.display()),
            Err(e) => eprintln!("vm: {}: no logs of {name}: {e}", self.image.name),
        }
    }
}

/// The kernel's message when it executed an instruction that it was just patching (a static key). Emulation with
/// several threads causes that once in some hours. No program in the machine can cause it.
const PATCHING_FAULT: &str = "Oops: int3";

/// Returns a booted machine with all files that the tests need.
fn furnished(image: &Image, logs: &Path) -> Result<Machine> {
    let mut machine = Machine::up(image, logs)?;
    let mut files = Vec::new();
    for name in
        ["berth", "berth-image", "berth-setup", "containerd-shim-berth-v2", "berth-weak", "berth-probe", "berth-pause"]
    {
        let path = built_dir().join(name);
        let content = fs::read(&path).map_err(fault(&format!("read {}", path.display())))?;
        files.push((format!("{PROGRAMS}/{name}"), 0o755, content));
    }
    for path in ["deploy/containerd/config-v2.toml", "deploy/containerd/config-v3.toml", "deploy/kubernetes/node"] {
        let content = fs::read(workspace().join(path)).map_err(fault(&format!("read {path}")))?;
        files.push((format!("{WORKSPACE}/{path}"), 0o755, content));
    }
    machine.guest.ok(&["mkdir", "-p", LOGS])?;
    machine.guest.push(&files)?;
    Ok(machine)
}

fn program_name(command: &wire::Command) -> String {
    program_name_of(command.args.first().map(String::as_str).unwrap_or_default())
}

/// Returns the name of a test program without the hash that cargo appends.
fn program_name_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let hash = |end: &str| end.len() == 16 && end.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.rsplit_once('-').filter(|(_, end)| hash(end)).map_or(name, |(start, _)| start).to_owned()
}

#[cfg(test)]
mod tests {
    use super::program_name_of;

    #[test]
    fn program_name_has_no_hash_of_cargo() {
        assert_eq!(program_name_of("/t/deps/cri_pod-0123456789abcdef"), "cri_pod");
        assert_eq!(program_name_of("/bin/a-b"), "a-b");
    }
}
