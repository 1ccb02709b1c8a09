//! strace(1), attached to a running process.

use crate::{
    command, procs,
    scratch::Scratch,
    wait::{LONG, until_true},
};
use rustix::process::Signal;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A strace that is attached to a process.
pub struct Joined {
    strace: Child,
    file: PathBuf,
    _work: Scratch,
}

impl Joined {
    /// Attaches to a process and its threads with these options of strace. The output has all calls from now on.
    pub fn to(pid: i32, options: &[&str]) -> Self {
        let work = Scratch::new("trace");
        let file = work.path().join("calls");
        let mut command = Command::new("strace");
        command.args(options).arg("-o").arg(&file).args(["-p", &pid.to_string()]);
        let strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("start strace");
        until_true("strace to join", LONG, || tracers(pid).iter().all(|tracer| *tracer != 0));
        Self { strace, file, _work: work }
    }

    /// Detaches from the process and returns the output of strace.
    pub fn leave(mut self) -> String {
        // SIGTERM makes strace detach. SIGINT would not: a shell ignores it for background jobs, and their children
        // inherit that.
        procs::kill(self.strace.id().cast_signed(), Signal::TERM);
        command::wait(&mut self.strace, LONG).expect("strace to leave");
        let text = fs::read(&self.file).unwrap_or_else(|e| panic!("{}: {e}", self.file.display()));
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Returns the tracer of each thread of a process (proc_pid_status(5)), 0 for none.
fn tracers(pid: i32) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    status.filter_map(|status| procs::field(&status, "TracerPid")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracer_of_each_thread_is_read() {
        assert!(!tracers(std::process::id().cast_signed()).is_empty());
    }
}
