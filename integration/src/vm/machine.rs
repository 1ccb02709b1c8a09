//! A machine: one qemu, from its start to its end.
//!
//! ```text
//! disk ──boot, once──> up ──save──> state/{disk,memory} ──resume, each time──> up
//! ```
//!
//! A resumed machine's writes to its disk are discarded. A qemu never outlives the program that started it.

use super::{Result, fault, guest::Guest, image::Image, qmp::Qmp};
use rustix::io::{FdFlags, fcntl_setfd};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The bound from power on until systemd has started: 20 s under emulation on an idle host.
const BOOT: Duration = Duration::from_secs(400);
/// The bound until a saved machine runs: usually 1 s.
const RESUME: Duration = Duration::from_secs(120);
/// The number of attempts to start a machine. A kernel patches its own code as it boots; emulation of two processors
/// sometimes misses that, and the kernel panics.
const TRIES: usize = 3;
/// The bound until the kernel's first message under KVM: usually well under 1 s. KVM of some clouds never gets there.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// The accelerator of qemu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, by KVM.
    Kvm,
    /// qemu's emulation, 3 to 10 times slower.
    Emulation,
}

impl Accelerator {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Some kernels panic under emulation with cmpxchg16b. Five-level page tables only cost time.
            Self::Emulation => &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off,cx16=off"],
        }
    }
}

/// A running qemu with the agent in it.
pub struct Machine {
    qemu: Qemu,
    /// The connection to the agent.
    pub guest: Guest,
}

impl Machine {
    /// Returns a machine that answers: the saved one, which is made first if there is none. After a failure the next
    /// attempt boots anew without KVM.
    ///
    /// # Errors
    /// The error has the end of the console.
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
                    // The accelerator may be the cause, even if it worked before.
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

    /// Returns the last lines of the console, and the exit status of qemu if it has ended.
    pub fn console_end(&mut self) -> String {
        self.qemu.console_end()
    }

    /// Returns the processor time of the host that the machine has used, which does not depend on the load of the host.
    pub fn spent(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.qemu.child.id())).unwrap_or_default();
        // User and system time in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Ends the machine. Its disk is discarded, so systemd need not stop its units.
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
    /// Returns the state of this image with this qemu on this processor.
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

/// A qemu process with its monitor, the host's end of the port, and its console.
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
        // The kernel ends qemu with this process (PR_SET_PDEATHSIG).
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

    /// Waits for the machine's message on the port that it has booted, and returns it.
    fn booted(&mut self) -> Result<String> {
        self.port.set_read_timeout(Some(BOOT)).map_err(fault("the port"))?;
        let mut line = String::new();
        // The reader takes one byte at a time: the bytes after the line belong to the agent's protocol.
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

/// Returns the arguments of qemu. Writes to a `scratch` disk are discarded.
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

/// Returns KVM if it boots this kernel, which is tried once on this host, and else emulation.
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

/// Returns the path of the file that has the result of the KVM attempt on this host.
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

/// Returns the processor and the kernel of this host, on which KVM depends.
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
