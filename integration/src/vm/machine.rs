//! A machine: one qemu, from its start to its end.
//!
//! ```text
//! disk ──boot, once──> up ──save──> state/{disk,memory} ──resume, each time──> up
//! ```
//!
//! What a resumed machine writes to its disk goes with it. A qemu never outlives the program that started it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use sha2::{Digest, Sha256};

use super::guest::Guest;
use super::image::Image;
use super::qmp::Qmp;
use super::{Result, fault};

/// From power on until systemd is done: 20 s under emulation on a machine without other work.
const BOOT: Duration = Duration::from_secs(400);
/// Until a saved machine runs: 1 s.
const RESUME: Duration = Duration::from_secs(120);
/// How often a machine may fail to come up, and be started again. A kernel changes its own code as it boots, and emulation
/// of two processors has been seen to miss that: the kernel then panics.
const TRIES: usize = 3;
/// Until the kernel's first word under KVM: well under 1 s. What counts as KVM in some clouds never gets there.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// Who runs the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// qemu itself, 3 to 10 times slower.
    Emulation,
}

impl Accelerator {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // With cmpxchg16b some kernels panic under emulation; five-level page tables only cost time.
            Self::Emulation => &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off,cx16=off"],
        }
    }
}

/// A running qemu with the agent in it.
pub struct Machine {
    qemu: Qemu,
    /// What runs inside.
    pub guest: Guest,
}

impl Machine {
    /// A machine that answers: the saved one, which is made first where there is none. What does not come up is started
    /// again, from the beginning and without KVM.
    ///
    /// # Errors
    /// With the end of the console in it.
    pub fn up(image: &Image, logs: &Path) -> Result<Self> {
        for _ in 1..TRIES {
            let fault = match Self::try_up(image, logs) {
                Ok(machine) => return Ok(machine),
                Err(fault) => fault,
            };
            eprintln!("vm: {}: {fault}\nvm: {}: once more", image.name, image.name);
            if let Ok(state) = State::of(image) {
                state.remove();
                if state.accelerator == Accelerator::Kvm {
                    // It may have been the accelerator's fault, whatever was seen of it before.
                    remember_kvm(image, false)?;
                }
            }
        }
        Self::try_up(image, logs)
    }

    fn try_up(image: &Image, logs: &Path) -> Result<Self> {
        let state = State::of(image)?;
        if !state.made() {
            let _lock = image.lock()?;
            if !state.made() {
                state.make(image)?;
            }
        }
        fs::create_dir_all(logs).map_err(fault(&format!("make {}", logs.display())))?;
        let begun = Instant::now();
        let incoming = format!("exec:cat '{}'", state.memory().display());
        let words = ["-incoming", &incoming];
        let mut qemu = Qemu::start(image, state.accelerator, &state.disk(), true, &words, &logs.join("console"))?;
        let entered = qemu.resumed().and_then(|()| {
            let up = fs::read_to_string(state.dir.join("up")).unwrap_or_default();
            Guest::enter(qemu.port()?, up)
        });
        match entered {
            Ok(guest) => {
                let took = begun.elapsed().as_secs_f64();
                eprintln!("vm: {}: {} ({:?}), resumed in {took:.1} s", image.name, guest.up, state.accelerator);
                Ok(Self { qemu, guest })
            }
            Err(e) => Err(format!("{e}\n{}", qemu.console_end())),
        }
    }

    /// The last lines of the console, and how qemu ended when it did.
    pub fn console_end(&mut self) -> String {
        self.qemu.console_end()
    }

    /// How much processor time of this host it has had: what a run costs, whatever else the host does meanwhile.
    pub fn spent(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.qemu.child.id())).unwrap_or_default();
        // User and system time, in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Switches it off. Nothing of it is kept, so its systemd is not asked to stop everything in order.
    pub fn off(mut self) {
        if let Err(e) = self.qemu.qmp.call("quit", &serde_json::json!({})) {
            eprintln!("vm: {e}");
        }
        crate::command::wait(&mut self.qemu.child, RESUME);
    }
}

/// A saved machine.
struct State {
    dir: PathBuf,
    accelerator: Accelerator,
}

impl State {
    /// The one of this image with this qemu on this processor.
    fn of(image: &Image) -> Result<Self> {
        let accelerator = accelerator(image)?;
        let version = Command::new("qemu-system-x86_64").arg("--version").output().map_err(fault("run qemu"))?;
        let mut key = Sha256::new();
        key.update(version.stdout);
        key.update(arguments(image, accelerator, Path::new("disk"), false)?.join(" "));
        if accelerator == Accelerator::Kvm {
            key.update(processor());
        }
        let dir = image.beside(&format!("state-{}", hex(&key.finalize())));
        Ok(Self { dir, accelerator })
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }

    fn made(&self) -> bool {
        self.memory().exists()
    }

    fn remove(&self) {
        fs::remove_dir_all(&self.dir).ok();
    }

    fn make(&self, image: &Image) -> Result<()> {
        let begun = Instant::now();
        let new = Self { dir: image.beside("state.new"), accelerator: self.accelerator };
        new.remove();
        fs::create_dir(&new.dir).map_err(fault("make a directory for the state"))?;
        let copied = Command::new("cp").arg("--sparse=always").arg(image.disk()).arg(new.disk()).status();
        if !copied.map_err(fault("copy the disk"))?.success() {
            return Err("the disk could not be copied".to_owned());
        }
        eprintln!("vm: {}: booting, to be saved ({:?})", image.name, self.accelerator);
        let console = image.beside("console");
        let mut qemu = Qemu::start(image, self.accelerator, &new.disk(), false, &[], &console)?;
        let saved = qemu.booted().and_then(|up| {
            eprintln!("vm: {}: {up} after {:.0} s", image.name, begun.elapsed().as_secs_f64());
            fs::write(new.dir.join("up"), up).map_err(fault("write what the machine said"))?;
            qemu.qmp.save(&new.memory().display().to_string(), BOOT)
        });
        saved.map_err(|e| format!("{e}\n{}", qemu.console_end()))?;
        qemu.qmp.call("quit", &serde_json::json!({}))?;
        crate::command::wait(&mut qemu.child, RESUME);
        self.remove();
        fs::rename(&new.dir, &self.dir).map_err(fault("put the state in its place"))?;
        eprintln!("vm: {}: saved after {:.0} s", image.name, begun.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A qemu process, its monitor, this side of the machine's port, and its console.
struct Qemu {
    child: Child,
    qmp: Qmp,
    port: UnixStream,
    console: PathBuf,
}

impl Qemu {
    fn start(
        image: &Image,
        accelerator: Accelerator,
        disk: &Path,
        scratch: bool,
        more: &[&str],
        console: &Path,
    ) -> Result<Self> {
        let (monitor, its_monitor) = UnixStream::pair().map_err(fault("make a socket"))?;
        let (port, its_port) = UnixStream::pair().map_err(fault("make a socket"))?;
        for inherited in [its_monitor.as_fd(), its_port.as_fd()] {
            fcntl_setfd(inherited, FdFlags::empty()).map_err(|e| format!("a socket for qemu: {e}"))?;
        }
        File::create(console).map_err(fault(&format!("make {}", console.display())))?;
        // The kernel ends qemu with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        command.args(arguments(image, accelerator, disk, scratch)?).args(more);
        command.arg("-chardev").arg(format!("file,id=console,path={}", console.display()));
        command.args(["-serial", "chardev:console"]);
        command.arg("-chardev").arg(format!("socket,id=monitor,fd={}", its_monitor.as_raw_fd()));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        command.arg("-chardev").arg(format!("socket,id=port,fd={}", its_port.as_raw_fd()));
        command.args(["-device", "virtserialport,chardev=port,name=berth"]);
        let child = command.stdin(Stdio::null()).spawn().map_err(fault("start qemu"))?;
        drop((its_monitor, its_port));
        let qmp = Qmp::greet(monitor)?;
        Ok(Self { child, qmp, port, console: console.to_owned() })
    }

    /// Waits until the machine says over the port that it is up; gives what it says.
    fn booted(&mut self) -> Result<String> {
        self.port.set_read_timeout(Some(BOOT)).map_err(fault("the port"))?;
        let mut line = String::new();
        // A byte at a time: what follows is not ours to read.
        BufReader::with_capacity(1, &self.port).read_line(&mut line).map_err(fault("the machine did not come up"))?;
        match line.strip_prefix("up ") {
            Some(up) => Ok(up.trim().to_owned()),
            None => Err(format!("the machine ended while it came up; it said {line:?}")),
        }
    }

    /// Waits until the saved machine runs.
    fn resumed(&mut self) -> Result<()> {
        let end = Instant::now() + RESUME;
        while !self.qmp.runs()? {
            if Instant::now() > end {
                return Err("the saved machine was not loaded in time".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn port(&self) -> Result<UnixStream> {
        self.port.try_clone().map_err(fault("the port"))
    }

    fn console_end(&mut self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
        let status = match self.child.try_wait() {
            Ok(Some(status)) => format!("qemu ended: {status}"),
            _ => "qemu runs".to_owned(),
        };
        format!("--- the end of {}\n{end}\n--- {status}", self.console.display())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What makes the machine what it is. A `scratch` disk keeps nothing that is written to it.
fn arguments(image: &Image, accelerator: Accelerator, disk: &Path, scratch: bool) -> Result<Vec<String>> {
    let snapshot = if scratch { "on" } else { "off" };
    let drive =
        format!("if=none,id=disk,format=raw,cache=unsafe,discard=unmap,snapshot={snapshot},file={}", disk.display());
    let words = ["-name", "berth", "-machine", "q35,hpet=off,sata=off,smbus=off", "-smp", "2", "-m", "2048"];
    let machine = words.into_iter().chain(accelerator.words().iter().copied());
    let rest = ["-nodefaults", "-display", "none", "-no-reboot", "-drive", &drive];
    let devices = ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-serial-pci"];
    let mut all: Vec<String> = machine.chain(rest).chain(devices).map(str::to_owned).collect();
    for (option, file) in [("-kernel", image.kernel()), ("-initrd", image.initrd())] {
        all.extend([option.to_owned(), file.display().to_string()]);
    }
    all.extend(["-append".to_owned(), image.words()?]);
    Ok(all)
}

/// KVM where it boots this kernel, as tried once on this host; else emulation.
fn accelerator(image: &Image) -> Result<Accelerator> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Emulation);
    }
    let known = fs::read_to_string(kvm_answer(image)).unwrap_or_default();
    let works = match known.trim() {
        "works" => true,
        "fails" => false,
        _ => {
            let works = boots_under_kvm(image)?;
            remember_kvm(image, works)?;
            works
        }
    };
    Ok(if works { Accelerator::Kvm } else { Accelerator::Emulation })
}

/// The file that says what KVM can on this host.
fn kvm_answer(image: &Image) -> PathBuf {
    image.cache().join(format!("vm-kvm-{}", hex(&Sha256::digest(processor()))))
}

fn remember_kvm(image: &Image, works: bool) -> Result<()> {
    fs::write(kvm_answer(image), if works { "works" } else { "fails" }).map_err(fault("keep what KVM can"))
}

fn boots_under_kvm(image: &Image) -> Result<bool> {
    eprintln!("vm: trying KVM (once, at most {} s)", FIRST_WORD.as_secs());
    let console = image.beside("console-kvm");
    let Ok(qemu) = Qemu::start(image, Accelerator::Kvm, &image.disk(), true, &[], &console) else {
        return Ok(false);
    };
    let end = Instant::now() + FIRST_WORD;
    let mut said = Vec::new();
    let mut from = File::open(&console).map_err(fault("open the console"))?;
    while Instant::now() < end {
        from.read_to_end(&mut said).map_err(fault("read the console"))?;
        if String::from_utf8_lossy(&said).contains("Linux version") {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(qemu);
    Ok(false)
}

/// The processor and the kernel of this host, as far as KVM is a matter of them.
fn processor() -> String {
    let all = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of_kvm = |line: &&str| ["model name", "microcode", "flags"].iter().any(|name| line.starts_with(name));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut lines: Vec<&str> = all.lines().filter(of_kvm).collect();
    lines.dedup();
    lines.truncate(3);
    format!("{release}{}", lines.join("\n"))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
