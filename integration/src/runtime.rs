//! [`Runtime`]: an OCI runtime as a command line, berth's or runc's, with a state directory and a cgroup of its own.
//!
//! Every call has a bound. Dropping a runtime deletes its containers and fails the test if state, mounts, cgroups or
//! processes of them are still on the host.

use crate::{
    bundle::Bundle,
    cgroup, executable,
    leak::{self, Marks},
    procs,
    scratch::Scratch,
    tools,
    wait::LONG,
};
use berth_init::defence::Defence;
use rustix::{event, process};
use serde_json::Value;
use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::{
            fs::chown,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub use crate::output::Output;

/// The bound of a call by default.
const LIMIT: Duration = LONG;

/// Returns whether the tests run on runc, which tests the tests.
pub fn is_runc() -> bool {
    std::env::var("RUNTIME").is_ok_and(|r| r == "runc")
}

/// The command line of a runtime.
pub struct Runtime {
    program: PathBuf,
    work: Scratch,
    cgroup: String,
    mark: String,
    pub(crate) before: Vec<String>,
    calls: AtomicU32,
    bundles: Mutex<Vec<Arc<Scratch>>>,
    published_faults: bool,
    weak: Option<u64>,
}

impl Runtime {
    /// Makes the runtime that the environment asks for. `name` appears in the names of its directories and cgroups.
    pub fn new(name: &str) -> Self {
        let program = if is_runc() { tools::tool("RUNC").to_owned() } else { tools::built("berth") };
        Self::of(program, name)
    }

    /// Makes the runtime that the environment asks for, copied to a place that an unprivileged user can reach. All its
    /// calls run with this uid and gid and in these groups, with a state directory of the user's own.
    pub fn of_user(name: &str, uid: u32, groups: &str) -> Self {
        let mut runtime = Self::new(name).with_a_copy();
        chown(runtime.root(), Some(uid), Some(uid)).unwrap();
        let user = [format!("--reuid={uid}"), format!("--regid={uid}"), format!("--groups={groups}")];
        runtime.before = [&["setpriv".to_owned()], user.as_slice()].concat();
        runtime
    }

    /// Uses a copy of the program in the test's own directory.
    pub fn with_a_copy(mut self) -> Self {
        let program = self.work.path().join(self.program.file_name().unwrap());
        executable::copy(&self.program, &program);
        self.program = program;
        self
    }

    /// Returns the words that make a call the user's, for [`Runtime::of_user`].
    pub fn as_user(&self) -> &[String] {
        &self.before
    }

    /// Makes the runtime that berth is compared with: the runc of the tools, or else the machine's.
    pub fn peer(name: &str) -> Self {
        Self::of(tools::tool("RUNC").to_owned(), name)
    }

    /// Makes Debian's old runc with its published faults, the positive control of security tests.
    pub fn faulty(name: &str) -> Self {
        let mut runtime = Self::of(tools::tool("RUNC_DEBIAN").to_owned(), name);
        runtime.published_faults = true;
        runtime
    }

    /// Makes a berth without these defences, the positive control of a test that shows them.
    pub fn weakened(name: &str, without: &[Defence]) -> Self {
        let mut runtime = Self::of(tools::built("berth-weak"), name);
        runtime.weak = Some(without.iter().fold(0, |mask, defence| mask | defence.bit()));
        runtime
    }

    fn of(program: PathBuf, name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        reset_signal_actions();
        let cgroup = format!("berth-test-{}-{}", procs::name(), NEXT.fetch_add(1, Ordering::Relaxed));
        let work = Scratch::new(name);
        fs::create_dir(work.path().join("state")).unwrap();
        let mark = format!("BERTH_TEST_MARK={cgroup}");
        Self {
            program,
            work,
            cgroup,
            mark,
            before: vec![],
            calls: AtomicU32::new(0),
            bundles: Mutex::default(),
            published_faults: false,
            weak: None,
        }
    }

    /// Returns the path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the state directory (`--root`).
    pub fn root(&self) -> PathBuf {
        self.work.path().join("state")
    }

    /// Returns a directory for the test's own files.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// Returns the cgroup path of a container.
    pub fn cgroup(&self, id: &str) -> String {
        format!("/{}/{id}", self.cgroup)
    }

    /// Returns whether the kernel reports a container as frozen.
    pub fn frozen(&self, id: &str) -> bool {
        cgroup::frozen(&self.cgroup(id))
    }

    /// Prepares a call: `call(&["state", "c1"])`.
    pub fn call<'a>(&'a self, words: &[&str]) -> Call<'a> {
        let words = words.iter().map(|w| (*w).to_owned()).collect();
        Call {
            runtime: self,
            global: vec![],
            words,
            stdin: None,
            limit: LIMIT,
            dir: None,
            env: vec![],
            leak: vec![],
            before: self.before.clone(),
        }
    }

    /// Makes a call and waits for its end.
    pub fn cmd(&self, words: &[&str]) -> Output {
        self.call(words).wait()
    }

    /// Calls `run ID` in the foreground and waits for its end.
    pub fn run(&self, id: &str, bundle: &Bundle) -> Output {
        self.on("run", id, bundle).wait()
    }

    /// Calls `create ID`.
    pub fn create(&self, id: &str, bundle: &Bundle) -> Output {
        self.on("create", id, bundle).wait()
    }

    /// Calls `create ID` and `start ID`, which must both succeed. [`Runtime::stdout_of`] has the container's output.
    #[track_caller]
    pub fn start(&self, id: &str, bundle: &Bundle) {
        self.create(id, bundle).ok();
        self.cmd(&["start", id]).ok();
    }

    /// Prepares `create` or `run` of a bundle and writes its config.json.
    pub fn on<'a>(&'a self, verb: &str, id: &str, bundle: &Bundle) -> Call<'a> {
        bundle.save(&self.cgroup(id));
        self.bundles.lock().unwrap().push(bundle.keep());
        self.call(&[verb, "--bundle", &bundle.path().to_string_lossy(), id])
    }

    /// Calls `exec ID WORDS`.
    pub fn exec(&self, id: &str, words: &[&str]) -> Output {
        self.cmd(&[&["exec", id], words].concat())
    }

    /// Returns the answer of `state ID`.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        let out = self.cmd(&["state", id]).ok();
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("state {id}: {e}: {}", out.stdout))
    }

    /// Returns the host pid of a container's init.
    #[track_caller]
    pub fn pid(&self, id: &str) -> u32 {
        u32::try_from(self.state(id)["pid"].as_u64().expect("a pid")).unwrap()
    }

    /// Waits until `state` reports this status.
    #[track_caller]
    pub fn until(&self, id: &str, status: &str) {
        wait_until(|| self.state(id)["status"] == status, || format!("{id} never {status}: {}", self.state(id)));
    }

    /// Returns the standard output of a call so far, with the output of a container after `create` has returned.
    pub fn stdout_of(&self, call: u32) -> String {
        fs::read_to_string(self.work.path().join(format!("out-{call}"))).unwrap_or_default()
    }

    /// Returns the number of calls so far, which is the number of the next call.
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the standard output of all calls so far, concatenated.
    pub fn all_stdout(&self) -> String {
        (0..self.calls()).map(|n| self.stdout_of(n)).collect()
    }

    /// Returns the ids that have state.
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root()).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Returns what the containers left behind, after a short wait for processes that are ending. It is empty if
    /// nothing is left.
    pub fn residue(&self) -> Vec<String> {
        leak::wait_until_gone(|| self.residue_now())
    }

    /// Returns what the containers left behind at this moment.
    pub fn residue_now(&self) -> Vec<String> {
        let bundles = self.bundles.lock().unwrap();
        let dirs: Vec<&Path> = bundles.iter().map(|b| b.path()).chain([self.work.path()]).collect();
        let states = self.ids().into_iter().map(|id| format!("state {id}"));
        self.marks(&dirs).traces().into_iter().chain(states).collect()
    }

    fn marks<'a>(&'a self, dirs: &'a [&'a Path]) -> Marks<'a> {
        Marks { cgroup: &self.cgroup, variable: Some(&self.mark), dirs }
    }

    /// Kills what the containers left behind, and removes it.
    pub fn clear(&self) {
        self.marks(&[self.work.path()]).clear();
        for id in self.ids() {
            let _ = fs::remove_dir_all(self.root().join(id));
        }
    }

    /// Fails the test if anything is left behind.
    #[track_caller]
    pub fn assert_clean(&self, after: &str) {
        let residue = self.residue();
        assert!(residue.is_empty(), "{after} left behind: {residue:#?}");
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for id in self.ids() {
            self.cmd(&["delete", "--force", &id]);
        }
        let residue = self.residue();
        self.marks(&[self.work.path()]).clear();
        if !residue.is_empty() && !self.published_faults && !std::thread::panicking() {
            panic!("left behind: {residue:#?}");
        }
    }
}

/// A call that is being prepared.
pub struct Call<'a> {
    runtime: &'a Runtime,
    global: Vec<String>,
    words: Vec<String>,
    stdin: Option<Stdio>,
    limit: Duration,
    dir: Option<PathBuf>,
    env: Vec<(String, String)>,
    leak: Vec<(i32, OwnedFd)>,
    before: Vec<String>,
}

impl Call<'_> {
    /// Runs the runtime through another program with these first words.
    pub fn through(mut self, before: &[&str]) -> Self {
        self.before.extend(before.iter().map(|w| (*w).to_owned()));
        self
    }

    /// Runs the call through another program with these first words, as root: before the words that make it a user's
    /// call.
    pub fn as_root_through(mut self, before: &[&str]) -> Self {
        self.before.splice(0..0, before.iter().map(|w| (*w).to_owned()));
        self
    }

    /// Adds options right after the verb.
    pub fn with(mut self, options: &[&str]) -> Self {
        self.words.splice(1..1, options.iter().map(|o| (*o).to_owned()));
        self
    }

    /// Adds global options, before the verb.
    pub fn global(mut self, options: &[&str]) -> Self {
        self.global.extend(options.iter().map(|o| (*o).to_owned()));
        self
    }

    /// Sets standard input. The default is /dev/null.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Adds a variable to the environment of the runtime itself.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Passes `fd` to the runtime under this number.
    pub fn leak(mut self, number: i32, fd: impl Into<OwnedFd>) -> Self {
        self.leak.push((number, fd.into()));
        self
    }

    /// Sets another bound than the default.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes the call and waits for its end.
    pub fn wait(self) -> Output {
        self.spawn().wait()
    }

    /// Makes the call without waiting.
    pub fn spawn(self) -> Running {
        let runtime = self.runtime;
        let number = runtime.calls.fetch_add(1, Ordering::Relaxed);
        let file = |what: &str| {
            let path = runtime.work.path().join(format!("{what}-{number}"));
            File::options().create(true).append(true).read(true).open(path).unwrap()
        };
        let mut command = match self.before.split_first() {
            None => Command::new(&runtime.program),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(&runtime.program);
                command
            }
        };
        command.arg("--root").arg(runtime.root()).args(&self.global).args(&self.words);
        command.stdin(self.stdin.unwrap_or_else(Stdio::null)).stdout(file("out")).stderr(file("err"));
        let (name, value) = runtime.mark.split_once('=').unwrap();
        command.env(name, value).envs(self.env).envs(runtime.weak.map(|mask| ("BERTH_WEAK", mask.to_string())));
        command.current_dir(self.dir.as_deref().unwrap_or(runtime.work.path()));
        inherit(&mut command, self.leak);
        let words = self.words.join(" ");
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", runtime.program.display()));
        Running { work: runtime.work.path().to_owned(), child, words, number, limit: self.limit }
    }
}

/// A running call.
pub struct Running {
    work: PathBuf,
    child: Child,
    words: String,
    /// The number of the call, for [`Runtime::stdout_of`].
    pub number: u32,
    limit: Duration,
}

impl Running {
    /// Returns the pid of the runtime itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the call. After the bound it kills the runtime and fails the test.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let pid = process::Pid::from_child(&self.child);
        let pidfd = process::pidfd_open(pid, process::PidfdFlags::empty()).unwrap();
        let mut fds = [event::PollFd::new(&pidfd, event::PollFlags::IN)];
        let limit =
            event::Timespec { tv_sec: self.limit.as_secs().cast_signed(), tv_nsec: self.limit.subsec_nanos().into() };
        let ready = rustix::io::retry_on_intr(|| event::poll(&mut fds, Some(&limit))).unwrap();
        if ready == 0 {
            self.child.kill().unwrap();
        }
        let status = self.child.wait().unwrap();
        let text = |what: &str| {
            let bytes = fs::read(self.work.join(format!("{what}-{}", self.number))).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let out =
            Output { words: self.words, code, dumped: status.core_dumped(), stdout: text("out"), stderr: text("err") };
        assert!(ready > 0, "not done after {:?}: {out:#?}", self.limit);
        out
    }
}

/// Waits for a condition, at most [`LONG`].
#[track_caller]
pub fn wait_until(condition: impl Fn() -> bool, otherwise: impl FnOnce() -> String) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "{}", otherwise());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until init runs the probe: runc's start returns before init's execve, and an unprivileged user cannot enter a
/// process that is not dumpable.
pub fn until_executed(runtime: &Runtime, id: &str) {
    let pid = runtime.pid(id);
    wait_until(|| procs::words_of(pid, "comm") == "probe", || format!("{id} runs {}", procs::words_of(pid, "comm")));
}

/// Resets signal actions that the shell or nohup(1) ignored. A shell ignores SIGINT and SIGQUIT for background jobs,
/// nohup ignores SIGHUP, and the container's process would inherit that.
#[allow(unsafe_code)]
pub(crate) fn reset_signal_actions() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action is no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[allow(unsafe_code)]
fn inherit(command: &mut Command, fds: Vec<(i32, OwnedFd)>) {
    use std::os::fd::AsRawFd;
    if fds.is_empty() {
        return;
    }
    // Above all numbers that are asked for, so that no copy replaces another one's original.
    let above = fds.iter().map(|(number, _)| number + 1).max().unwrap_or_default();
    let copy = |(number, fd): (i32, OwnedFd)| (number, rustix::io::fcntl_dupfd_cloexec(fd, above).unwrap());
    let fds: Vec<_> = fds.into_iter().map(copy).collect();
    // SAFETY: between fork and exec only dup2 is called, which is async-signal-safe; the descriptors live in the closure.
    unsafe {
        command.pre_exec(move || {
            for (number, fd) in &fds {
                if libc::dup2(fd.as_raw_fd(), *number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
