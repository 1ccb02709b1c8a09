//! The agent inside the machine: it takes one command after the other from the port, which is its standard input, runs
//! it, sends its output while it runs, and its exit status at the end.

use super::wire::{Command, Kind, PULSE, receive, send};
use crate::command::shell_code;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, ChildStdin, ExitCode, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

/// The time in which the rest of a program's output may arrive after its end, if another process still holds the pipe.
const REST: Duration = Duration::from_secs(5);

/// Serves until the port is closed.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("agent: {e}");
            ExitCode::FAILURE
        }
    }
}

type Port = Arc<Mutex<File>>;

/// The receivers of the port's frames while a program runs.
struct Running {
    group: Option<Pid>,
    input: Option<SyncSender<Vec<u8>>>,
}

fn serve() -> io::Result<()> {
    let mut asks = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let answers: Port = Arc::new(Mutex::new(asks.try_clone()?));
    let mut running = None;
    while let Some(frame) = receive(&mut asks)? {
        match (frame.kind, &mut running) {
            (Kind::Run, _) => running = start(&frame.data, &answers),
            (Kind::Input, Some(Running { input: Some(input), .. })) => {
                // A program that has closed its input takes no more of it.
                input.send(frame.data).ok();
            }
            (Kind::EndOfInput, Some(running)) => running.input = None,
            (Kind::Kill, Some(Running { group: Some(group), .. })) => {
                kill_process_group(*group, Signal::KILL).ok();
            }
            // The frame came too late, for a program that has ended.
            _ => {}
        }
    }
    Ok(())
}

fn start(data: &[u8], answers: &Port) -> Option<Running> {
    let Some(command) = Command::decode(data) else {
        tell(answers, Kind::Failed, b"no command");
        return None;
    };
    let program = command.args.first().map(String::as_str).unwrap_or_default();
    let spawned = std::process::Command::new(program)
        .args(command.args.get(1..).unwrap_or_default())
        .envs(&command.env)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            tell(answers, Kind::Failed, format!("{program}: {e}").as_bytes());
            return None;
        }
    };
    let (input, chunks) = sync_channel(16);
    let (ended, ends) = channel();
    if let Some(stdin) = child.stdin.take() {
        thread::spawn(move || feed(stdin, &chunks));
    }
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, Kind::Output, answers, &ended);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, Kind::Errors, answers, &ended);
    }
    let group = Some(Pid::from_child(&child));
    let (over, ending) = channel();
    let port = Arc::clone(answers);
    thread::spawn(move || pulse(&ending, &port));
    let answers = Arc::clone(answers);
    thread::spawn(move || finish(child, &ends, over, &answers));
    Some(Running { group, input: Some(input) })
}

fn feed(mut stdin: ChildStdin, chunks: &Receiver<Vec<u8>>) {
    while let Ok(chunk) = chunks.recv() {
        if stdin.write_all(&chunk).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn forward(mut from: impl Read + Send + 'static, kind: Kind, answers: &Port, ended: &Sender<()>) {
    let (answers, ended) = (Arc::clone(answers), ended.clone());
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            tell(&answers, kind, buffer.get(..n).unwrap_or_default());
        }
        ended.send(()).ok();
    });
}

/// Sends a frame in intervals until the other end of `ending` is dropped.
fn pulse(ending: &Receiver<()>, answers: &Port) {
    while ending.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
        tell(answers, Kind::Alive, b"");
    }
}

fn finish(mut child: Child, ends: &Receiver<()>, over: Sender<()>, answers: &Port) {
    let code = child.wait().map_or(255, shell_code);
    for _stream in 0..2 {
        ends.recv_timeout(REST).ok();
    }
    drop(over);
    tell(answers, Kind::Exit, code.to_string().as_bytes());
}

fn tell(answers: &Port, kind: Kind, data: &[u8]) {
    if let Ok(mut port) = answers.lock() {
        // A failed send means a closed port. The main thread finds that out by itself.
        send(&mut *port, kind, data).ok();
    }
}
