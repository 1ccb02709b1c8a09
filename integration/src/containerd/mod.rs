//! [`Containerd`]: a private containerd with its clients, from its start until its last trace is removed.

mod config;
mod version;

pub use config::Node;
pub use version::{Form, Runtime, Version};

use crate::{
    command::{Output, run, wait},
    image, leak, procs,
    reservation::Reservation,
    tools::{built, built_dir, find, tool},
    wait::{LONG, until, until_true},
};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

/// The bound of one command of ctr or crictl.
const COMMAND: Duration = LONG;

/// A running containerd with all its files and processes. Dropping it ends and removes them. When a test fails, the end
/// of the log is printed, and the whole log is kept in the directory that `BERTH_LOGS` names.
pub struct Containerd {
    /// The runtime of the containers.
    pub runtime: Runtime,
    /// The generation of containerd.
    pub version: Version,
    /// The reserved names and the directory.
    pub reservation: Reservation,
    before: Mutex<Option<BTreeSet<String>>>,
    daemon: Mutex<Option<Child>>,
}

impl Containerd {
    /// Starts a containerd, waits until it answers, and imports the images.
    pub fn start(version: Version, form: Form) -> Self {
        Self::start_with(version, Runtime::under_test(form))
    }

    /// Like [`Containerd::start`] with a given runtime instead of that of the environment.
    pub fn start_with(version: Version, runtime: Runtime) -> Self {
        Self::start_configured(version, runtime, Node::Plain)
    }

    /// Like [`Containerd::start`], with the systemd cgroup driver.
    pub fn start_under_systemd(version: Version, form: Form) -> Self {
        Self::start_configured(version, Runtime::under_test(form), Node::Systemd)
    }

    /// Like [`Containerd::start`], with an SELinux label for each pod.
    pub fn start_under_selinux(version: Version, form: Form) -> Self {
        Self::start_configured(version, Runtime::under_test(form), Node::Selinux)
    }

    fn start_configured(version: Version, runtime: Runtime, node: Node) -> Self {
        crate::runtime::reset_signal_actions();
        if matches!(runtime, Runtime::Berth(_)) {
            built(runtime.shim());
        }
        let reservation = Reservation::take();
        config::write(&reservation, version, node);
        fs::write(reservation.dir().join("pause.tar"), image::pause()).expect("write an image");
        fs::write(reservation.dir().join("busybox.tar"), image::busybox()).expect("write an image");
        let this = Self { runtime, version, reservation, before: Mutex::default(), daemon: Mutex::default() };
        this.launch();
        for image in ["pause.tar", "busybox.tar"] {
            this.ctr_in("k8s.io", ["images", "import", &*this.dir().join(image).to_string_lossy()]).ok();
        }
        for name in [image::PAUSE, image::BUSYBOX] {
            // The CRI service learns of an import by an event.
            until_true(name, LONG, || this.crictl(["inspecti", "-q", name]).status.success());
        }
        this
    }

    /// Returns the directory of this containerd.
    pub fn dir(&self) -> &Path {
        self.reservation.dir()
    }

    /// Starts the daemon, also again after it ended, and waits until it answers.
    pub fn launch(&self) {
        let mut daemon = self.daemon.lock().expect("lock");
        assert!(daemon.is_none(), "containerd runs already");
        let log =
            File::options().create(true).append(true).open(self.dir().join("containerd.log")).expect("open the log");
        // berth's programs come first in PATH, then the Go shim of the same generation, then the machine's programs.
        let ours = built_dir();
        let theirs = find(self.of_version("SHIM_RUNC_1", "SHIM_RUNC_2")).and_then(Path::parent).unwrap_or(&ours);
        let path = format!("{}:{}:{}", ours.display(), theirs.display(), system_path());
        let mut command = Command::new(tool(self.of_version("CONTAINERD_1", "CONTAINERD_2")));
        command.arg("--config").arg(self.dir().join("config.toml")).env("PATH", path);
        // The variables of the tests for systemd and OpenTelemetry must not reach containerd.
        command.env_remove("NOTIFY_SOCKET").current_dir(self.dir()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = daemon.insert(command.spawn().expect("start containerd"));
        until("containerd to answer", LONG, || {
            let ended = child.try_wait().expect("look at containerd");
            assert!(ended.is_none(), "containerd ended at once: {}", self.log_tail());
            self.dir().join("c.sock").exists().then_some(())
        });
        until_true("the CRI service to be ready", LONG, || {
            let info = self.crictl(["info"]);
            info.status.success() && serde_json::from_str(&info.stdout).is_ok_and(|info| ready(&info))
        });
    }

    /// Ends the daemon with SIGKILL, as a crash does. Containers and shims stay.
    pub fn kill(&self) {
        let mut daemon = self.daemon.lock().expect("lock").take().expect("containerd runs");
        daemon.kill().and_then(|()| daemon.wait()).expect("kill containerd");
    }

    /// Ends the daemon with SIGTERM, as a service manager does. Containers and shims stay.
    pub fn stop(&self) {
        let mut daemon = self.daemon.lock().expect("lock").take().expect("containerd runs");
        procs::kill(daemon.id().cast_signed(), Signal::TERM);
        wait(&mut daemon, LONG).expect("containerd to end on SIGTERM");
    }

    /// Returns the pid of the daemon.
    pub fn pid(&self) -> i32 {
        self.daemon.lock().expect("lock").as_ref().expect("containerd runs").id().cast_signed()
    }

    /// Returns a crictl command for this containerd. The caller adds arguments.
    pub fn crictl_command(&self) -> Command {
        let mut command = Command::new(tool("CRICTL"));
        command.arg("--config").arg(self.dir().join("crictl.yaml"));
        command
    }

    /// Runs crictl.
    pub fn crictl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        run(self.crictl_command().args(args), COMMAND)
    }

    /// Returns a ctr command for this containerd in the namespace `default`. The caller adds arguments.
    pub fn ctr_command(&self) -> Command {
        self.ctr_command_in("default")
    }

    /// Runs ctr in the namespace `default`.
    pub fn ctr<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        self.ctr_in("default", args)
    }

    /// Runs ctr in the namespace `namespace`. Lines about deprecated configuration are removed from its output.
    pub fn ctr_in<A: AsRef<OsStr>>(&self, namespace: &str, args: impl IntoIterator<Item = A>) -> Output {
        let mut output = run(self.ctr_command_in(namespace).args(args), COMMAND);
        let lines = output.stderr.split_inclusive('\n');
        output.stderr = lines.filter(|line| !line.contains("DEPRECATION: ")).collect();
        output
    }

    /// Returns a container id that no other test uses at this time, since the state directories may be the machine's.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.reservation.tag())
    }

    /// Imports the image into the namespace `default`, for `ctr run`.
    pub fn import_for_ctr(&self) {
        self.ctr(["images", "import", &*self.dir().join("busybox.tar").to_string_lossy()]).ok();
    }

    /// Returns the arguments of `ctr run` or `ctr create` that choose the runtime and the cgroup of container `id`.
    ///
    /// ctr passes options of a runtime only to `io.containerd.runc.v2`, so berth uses its default state directory here.
    pub fn ctr_runtime(&self, id: &str) -> Vec<String> {
        let mut words = match self.runtime {
            Runtime::Berth(Form::ByPath) => vec!["--runtime".into(), built(self.runtime.shim()).display().to_string()],
            Runtime::Berth(Form::ByName | Form::WithoutPause) => {
                vec!["--runtime".into(), "io.containerd.berth.v2".into()]
            }
            Runtime::Runc => {
                let runc = tool(self.of_version("RUNC_DEBIAN", "RUNC")).display().to_string();
                let root = self.dir().join("runc").display().to_string();
                ["--runtime", "io.containerd.runc.v2", "--runc-binary", &runc, "--runc-root", &root]
                    .map(String::from)
                    .into()
            }
        };
        words.extend(["--cgroup".into(), format!("{}/{id}", self.reservation.cgroup())]);
        words
    }

    /// Returns the processes of this containerd's shims.
    pub fn shims(&self) -> Vec<procs::Process> {
        let name = self.runtime.shim();
        procs::mentioning(self.dir()).into_iter().filter(|p| p.line.contains(name) && procs::alive(p.pid)).collect()
    }

    /// Records the present traces. [`Containerd::assert_clean`] compares with them.
    pub fn remember(&self) {
        *self.before.lock().expect("lock") = Some(self.reservation.traces());
    }

    /// Panics unless everything that came after [`Containerd::remember`] disappears within a bound.
    pub fn assert_clean(&self) {
        match &*self.before.lock().expect("lock") {
            Some(before) => leak::assert_restored(before, || self.reservation.traces()),
            None => assert_eq!(self.runtime, Runtime::Runc, "remember() comes first"),
        }
    }

    /// Skips the comparison of [`Containerd::assert_clean`] for runc, and prints the reason.
    pub fn excuse_runc(&self, reason: &str) {
        if self.runtime == Runtime::Runc {
            eprintln!("runc leaves something behind here: {reason}");
            *self.before.lock().expect("lock") = None;
        }
    }

    /// Removes network namespaces that a killed containerd forgot: it makes one before it records the pod, and 1.6 does
    /// not look for it afterwards. To be called when no pod is left that could own one.
    pub fn clear_forgotten_netns(&self) {
        for dir in ["io.containerd.grpc.v1.cri/netns", "netns"].map(|dir| self.dir().join("state").join(dir)) {
            procs::unmount_below(&dir);
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                eprintln!("containerd forgot a network namespace when it was killed: {}", entry.path().display());
                fs::remove_file(entry.path()).expect("remove a network namespace");
            }
        }
    }

    /// Removes bundles that containerd was removing when it was killed. It first renames a bundle to a name with a
    /// leading dot, and ignores such names when it starts again.
    pub fn clear_hidden_bundles(&self) {
        for dir in ["state", "root"].map(|dir| self.dir().join(dir).join("io.containerd.runtime.v2.task")) {
            let namespaces = fs::read_dir(dir).into_iter().flatten().flatten();
            let bundles =
                namespaces.flat_map(|namespace| fs::read_dir(namespace.path()).into_iter().flatten().flatten());
            for bundle in bundles.filter(|bundle| bundle.file_name().as_encoded_bytes().starts_with(b".")) {
                eprintln!("containerd was killed while it removed {}", bundle.path().display());
                fs::remove_dir_all(bundle.path()).expect("remove a hidden bundle");
            }
        }
    }

    /// Returns the last lines of containerd's log, with the messages of shims and without those of its start.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let told = |line: &&str| {
            !["loading plugin", "starting cri plugin", "Start cri plugin", "skip plugin"]
                .iter()
                .any(|at| line.contains(at))
        };
        let lines: Vec<&str> = log.lines().filter(told).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Returns the whole log.
    pub fn log(&self) -> String {
        fs::read(self.dir().join("containerd.log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    fn ctr_command_in(&self, namespace: &str) -> Command {
        let mut command = Command::new(tool(self.of_version("CTR_1", "CTR_2")));
        command.arg("--address").arg(self.dir().join("c.sock")).args(["--namespace", namespace]);
        command
    }

    fn of_version(&self, one: &'static str, two: &'static str) -> &'static str {
        match self.version {
            Version::V1_6 => one,
            Version::V2_3 => two,
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of containerd's log\n{}\n--- shims: {:?}\n---", self.log_tail(), self.shims());
            if let Some(dir) = std::env::var_os("BERTH_LOGS") {
                let name = format!("{}-{:?}.log", self.reservation.tag(), std::thread::current().name());
                fs::write(Path::new(&dir).join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")), self.log())
                    .ok();
            }
        }
        // The daemon must end first: it would start new shims to clean up after the killed ones.
        if let Some(daemon) = self.daemon.get_mut().ok().and_then(Option::as_mut) {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

/// Returns the generations that this machine has, the newest first.
pub fn versions() -> Vec<Version> {
    let all = [(Version::V2_3, "CONTAINERD_2"), (Version::V1_6, "CONTAINERD_1")];
    all.into_iter().filter(|(_, name)| find(name).is_some()).map(|(version, _)| version).collect()
}

fn system_path() -> &'static str {
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

/// Returns whether `crictl info` reports the runtime and the network as ready.
fn ready(info: &serde_json::Value) -> bool {
    let conditions = info["status"]["conditions"].as_array();
    // containerd 2.x has further conditions, such as one about deprecated configuration.
    let holds = |name: &str| conditions.is_some_and(|all| all.iter().any(|c| c["type"] == name && c["status"] == true));
    holds("RuntimeReady") && holds("NetworkReady")
}
