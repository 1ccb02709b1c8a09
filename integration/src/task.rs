//! Containers through ctr, with the terms of containerd's API.

use crate::{
    command::Output,
    containerd::Containerd,
    image::BUSYBOX,
    session::Session,
    wait::{LONG, until},
};

/// Runs a container in the foreground with `--rm`. Returns its exit code and ctr's output. On a loaded machine ctr
/// loses the last output of a container: see [`run_logged`] and [`run_in_pipes`].
pub fn run(containerd: &Containerd, name: &str, flags: &[&str], args: &[&str]) -> Output {
    let id = containerd.id(name);
    containerd.ctr(words(containerd, &id, &["run", "--rm"], flags, args))
}

/// Runs a container in the foreground with `--rm` and its output in a file, which the shim writes. Returns ctr's
/// standard error and then the content of the file.
pub fn run_logged(containerd: &Containerd, name: &str, flags: &[&str], args: &[&str]) -> Output {
    let file = containerd.dir().join(format!("{name}.log"));
    let uri = format!("file://{}", file.display());
    let mut out = run(containerd, name, &[flags, &["--log-uri", &uri]].concat(), args);
    out.stderr += &std::fs::read_to_string(&file).unwrap_or_default();
    out
}

/// Runs a container in the foreground with `--rm`. Its input and output belong to the test.
pub fn run_in_pipes(containerd: &Containerd, name: &str, flags: &[&str], args: &[&str]) -> Session {
    let id = containerd.id(name);
    Session::start(containerd.ctr_command().args(words(containerd, &id, &["run", "--rm"], flags, args)))
}

/// Runs a container in the foreground on a terminal, with `--rm` and `-t`.
pub fn run_on_terminal(containerd: &Containerd, name: &str, args: &[&str]) -> Session {
    let id = containerd.id(name);
    Session::on_terminal(containerd.ctr_command().args(words(containerd, &id, &["run", "--rm", "-t"], &[], args)))
}

/// A container that runs in the background.
pub struct Task<'a> {
    /// The id of the container.
    pub id: String,
    containerd: &'a Containerd,
    execs: std::cell::Cell<u32>,
}

impl<'a> Task<'a> {
    /// Creates and starts a container of the busybox image.
    pub fn start(containerd: &'a Containerd, name: &str, flags: &[&str], args: &[&str]) -> Self {
        let id = containerd.id(name);
        containerd.ctr(words(containerd, &id, &["run", "--detach"], flags, args)).ok();
        Self { id, containerd, execs: 0.into() }
    }

    /// Runs a command in it, with an exec id of its own. Its output may be incomplete, as that of [`run`].
    pub fn exec(&self, args: &[&str]) -> Output {
        let name = self.exec_id();
        self.containerd.ctr(["task", "exec", "--exec-id", &name, &self.id].iter().chain(args))
    }

    /// Runs a command in it. Its input and output belong to the test.
    pub fn exec_in_pipes(&self, args: &[&str]) -> Session {
        let mut command = self.containerd.ctr_command();
        Session::start(command.args(["task", "exec", "--exec-id", &self.exec_id(), &self.id]).args(args))
    }

    /// Runs a command in it on a terminal.
    pub fn exec_on_terminal(&self, args: &[&str]) -> Session {
        let mut command = self.containerd.ctr_command();
        Session::on_terminal(command.args(["task", "exec", "-t", "--exec-id", &self.exec_id(), &self.id]).args(args))
    }

    /// Runs `ctr task VERB [FLAGS] ID`.
    pub fn verb(&self, verb: &str, flags: &[&str]) -> Output {
        self.containerd.ctr(["task", verb].iter().chain(flags).chain(&[self.id.as_str()]))
    }

    /// Returns the pid and the status (such as RUNNING) of `ctr task ls`, or `None` if the task is gone.
    pub fn find(&self) -> Option<(i32, String)> {
        let list = self.containerd.ctr(["task", "ls"]).ok();
        let words =
            list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words[0] == self.id)?;
        Some((words[1].parse().expect("a pid"), words[2].to_owned()))
    }

    /// Returns the pid of the container's first process.
    pub fn pid(&self) -> i32 {
        self.find().expect("the task is there").0
    }

    /// Waits until the task has this status.
    pub fn await_status(&self, status: &str) {
        until(&format!("{} to be {status}", self.id), LONG, || self.find().filter(|found| found.1 == status).map(drop));
    }

    /// Waits until the task has stopped, deletes it, and returns its exit code.
    pub fn reap(&self) -> i32 {
        self.await_status("STOPPED");
        let output = self.verb("delete", &[]);
        assert!(output.status.success(), "{output}");
        // ctr exits with 0 and reports another exit code of the task as a warning.
        let code = output.stderr.rsplit_once("non-zero exit code ").map(|(_, code)| code);
        code.map_or(0, |code| code.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().expect("an exit code"))
    }

    /// Removes the container, whose task is deleted already.
    pub fn remove(&self) {
        self.containerd.ctr(["container", "delete", &self.id]).ok();
    }

    /// Returns the path of the container's cgroup inside the hierarchies.
    pub fn cgroup(&self) -> String {
        format!("{}/{}", self.containerd.reservation.cgroup(), self.id)
    }

    fn exec_id(&self) -> String {
        self.execs.set(self.execs.get() + 1);
        format!("exec-{}", self.execs.get())
    }
}

fn words(containerd: &Containerd, id: &str, verb: &[&str], flags: &[&str], args: &[&str]) -> Vec<String> {
    containerd.reservation.expect_shim("default", id);
    let mut words: Vec<String> = verb.iter().map(ToString::to_string).collect();
    words.extend(containerd.ctr_runtime(id));
    words.extend(flags.iter().chain(&[BUSYBOX, id]).chain(args).map(ToString::to_string));
    words
}
