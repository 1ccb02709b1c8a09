//! The driver: follows the runtime and what it clones with ptrace(2), and carries out an [`Order`].
//!
//! Each tracee stops at each entry into a call and at each return. A call fails without being made: at its entry its number
//! becomes -1, and at the return its result becomes the error. A tracee that executes a program is let go, unless it is the
//! runtime itself. The end of the driver lets all others go.

use super::{Action, Class, Order, names, possible, sys};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

/// The bound of a run. A runtime that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// The exit status of the driver for a run that hangs.
pub const HANGS: i32 = 124;

/// The state of a tracee.
#[derive(Clone, Debug)]
struct Tracee {
    class: Class,
    /// The errno that replaces the result of the current call.
    answer: Option<Errno>,
    held: bool,
    /// The call in flight, for the message about a hang.
    call: u64,
}

/// All tracees, by thread id. The watchdog reads them.
type Tracees = Arc<Mutex<BTreeMap<i32, Tracee>>>;

struct Tracer {
    order: Order,
    log: Arc<Mutex<File>>,
    tracees: Tracees,
    root: Pid,
    seen: usize,
    done: bool,
}

/// Runs the commands one after the other while they succeed, under one order. Returns the exit status of the last one, as a
/// shell has it.
pub fn run(order: Order, log: &Path, commands: &[Vec<String>]) -> nix::Result<i32> {
    let mut tracer = Tracer::new(order, log);
    tracer.watch();
    let mut code = 0;
    for words in commands {
        code = tracer.command(words)?;
        tracer.say(&format!("ended {code}"));
        if code != 0 {
            break;
        }
    }
    tracer.finish();
    Ok(code)
}

/// Follows a running process and all its threads until standard input ends.
pub fn attach(order: Order, log: &Path, pid: i32) -> nix::Result<i32> {
    let mut tracer = Tracer::new(order, log);
    tracer.root = Pid::from_raw(pid);
    let mut joined = vec![];
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let fresh: Vec<i32> = threads.filter(|thread| !joined.contains(thread)).collect();
        if fresh.is_empty() {
            break;
        }
        for thread in fresh {
            // A thread that has ended meanwhile is not there to be followed.
            if ptrace::seize(Pid::from_raw(thread), OPTIONS).is_ok() {
                ptrace::interrupt(Pid::from_raw(thread))?;
            }
            joined.push(thread);
        }
    }
    tracer.say(&format!("attached {}", joined.len()));
    let (log, tracees) = (tracer.log.clone(), tracer.tracees.clone());
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        end(&log, &tracees, 0)
    });
    while tracer.step()?.is_none() {}
    tracer.finish();
    Ok(0)
}

const OPTIONS: Options = Options::PTRACE_O_TRACESYSGOOD
    .union(Options::PTRACE_O_TRACECLONE)
    .union(Options::PTRACE_O_TRACEFORK)
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_TRACEEXEC);

impl Tracer {
    fn new(order: Order, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap_or_else(|e| panic!("open the log: {e}"));
        let log = Arc::new(Mutex::new(file));
        Self { order, log, tracees: Arc::default(), root: Pid::from_raw(0), seen: 0, done: false }
    }

    fn say(&self, line: &str) {
        writeln!(self.log.lock().unwrap(), "{line}").unwrap();
    }

    /// Ends the run after [`LIMIT`]. Only the thread that traces may make ptrace(2) calls, so this one kills.
    fn watch(&self) {
        let (log, tracees) = (self.log.clone(), self.tracees.clone());
        std::thread::spawn(move || {
            std::thread::sleep(LIMIT);
            let all = tracees.lock().unwrap().clone();
            let where_ =
                |(tid, tracee): (&i32, &Tracee)| format!("{:?} {tid} in {}", tracee.class, names::of(tracee.call));
            let places: Vec<_> = all.iter().map(where_).collect();
            writeln!(log.lock().unwrap(), "hang {}", places.join(", ")).unwrap();
            for tid in all.keys() {
                let _ = kill(Pid::from_raw(*tid), Signal::SIGKILL);
            }
            std::process::exit(HANGS);
        });
    }

    /// Runs one command to its end.
    fn command(&mut self, words: &[String]) -> nix::Result<i32> {
        let words: Vec<CString> = words.iter().map(|word| CString::new(word.as_str()).unwrap()).collect();
        let (pid, release) = sys::fork_held(&words)?;
        self.root = pid;
        ptrace::seize(pid, OPTIONS)?;
        nix::unistd::write(&release, b"x")?;
        loop {
            if let Some(code) = self.step()? {
                return Ok(code);
            }
        }
    }

    /// Waits for one event and answers it. Returns the exit status of the runtime when it has ended.
    fn step(&mut self) -> nix::Result<Option<i32>> {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => return Ok(None),
            other => other?,
        };
        let pid = status.pid().unwrap_or(self.root);
        let resume = match status {
            WaitStatus::Exited(_, code) => return Ok(self.ended(pid, code)),
            WaitStatus::Signaled(_, signal, _) => return Ok(self.ended(pid, 128 + signal as i32)),
            WaitStatus::PtraceSyscall(_) => self.at_call(pid),
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 && pid != self.root => {
                self.tracees.lock().unwrap().remove(&pid.as_raw());
                ptrace::detach(pid, None)
            }
            WaitStatus::PtraceEvent(..) => {
                self.know(pid);
                ptrace::syscall(pid, None)
            }
            WaitStatus::Stopped(_, signal) => ptrace::syscall(pid, signal),
            _ => Ok(()),
        };
        match resume {
            // It was killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn ended(&mut self, pid: Pid, code: i32) -> Option<i32> {
        self.tracees.lock().unwrap().remove(&pid.as_raw());
        (pid == self.root).then_some(code)
    }

    /// Takes note of a tracee at its first stop.
    fn know(&self, pid: Pid) {
        let class = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let group = crate::procs::field(&status, "Tgid");
            let own = group == Some(self.root.as_raw().unsigned_abs().into());
            if own { Class::Parent } else { Class::Child }
        };
        let mut tracees = self.tracees.lock().unwrap();
        let fresh = || Tracee { class: class(), answer: None, held: false, call: u64::MAX };
        tracees.entry(pid.as_raw()).or_insert_with(fresh);
    }

    /// A tracee is about to make a call, or has made one.
    fn at_call(&mut self, pid: Pid) -> nix::Result<()> {
        self.know(pid);
        if ptrace::syscall_info(pid)?.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            let answer = self.tracees.lock().unwrap().get_mut(&pid.as_raw()).and_then(|tracee| tracee.answer.take());
            if let Some(errno) = answer {
                let mut registers = ptrace::getregs(pid)?;
                registers.rax = i64::from(-(errno as i32)).cast_unsigned();
                ptrace::setregs(pid, registers)?;
            }
            return ptrace::syscall(pid, None);
        }
        let registers = ptrace::getregs(pid)?;
        let class = {
            let mut tracees = self.tracees.lock().unwrap();
            let Some(tracee) = tracees.get_mut(&pid.as_raw()) else { return Ok(()) };
            tracee.call = registers.orig_rax;
            tracee.class
        };
        if self.order.action == Action::Count {
            let class = if class == Class::Parent { "parent" } else { "child" };
            self.say(&format!("{class} {}", described(pid, &registers)));
        } else if class == self.order.class && !self.done {
            self.seen += 1;
            if self.seen == self.order.at {
                self.done = true;
                return self.strike(pid, registers);
            }
        }
        ptrace::syscall(pid, None)
    }

    /// Carries out the order at the entry into the call.
    fn strike(&mut self, pid: Pid, mut registers: libc::user_regs_struct) -> nix::Result<()> {
        let (name, text) = (names::of(registers.orig_rax), described(pid, &registers));
        let mut tracees = self.tracees.lock().unwrap();
        let Some(tracee) = tracees.get_mut(&pid.as_raw()) else { return Ok(()) };
        match self.order.action {
            Action::Fail(errno) if !can_fail(pid, &name, &registers, errno) => {
                drop(tracees);
                self.say(&format!("spared {text}"));
            }
            Action::Fail(errno) => {
                tracee.answer = Some(errno);
                drop(tracees);
                self.say(&format!("hit {text}"));
                if name != "close" {
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(pid, registers)?;
                }
            }
            Action::Kill => {
                drop(tracees);
                self.say(&format!("hit {text}"));
                // The signal goes to the whole process, and the kernel does not make the call.
                return kill(pid, Signal::SIGKILL);
            }
            Action::Hold => {
                tracee.held = true;
                drop(tracees);
                self.say(&format!("hit {text}"));
                return Ok(());
            }
            Action::Count => {}
        }
        ptrace::syscall(pid, None)
    }

    /// Says which held process the runtime has left, and lets go of all.
    fn finish(&self) {
        leave(&self.log, &self.tracees);
    }
}

/// Returns true if the kernel may answer this call with the error. A wait for a futex without a timeout never times out.
fn can_fail(pid: Pid, name: &str, registers: &libc::user_regs_struct, errno: Errno) -> bool {
    possible(name, errno)
        && match name {
            "close" => !is_directory(pid, registers.rdi),
            "futex" => errno != Errno::ETIMEDOUT || registers.r10 != 0,
            _ => true,
        }
}

/// The close of a directory does not fail: no file system gives its directories a flush.
fn is_directory(pid: Pid, number: u64) -> bool {
    Path::new(&format!("/proc/{pid}/fd/{number}")).is_dir()
}

fn leave(log: &Mutex<File>, tracees: &Tracees) {
    let all = tracees.lock().unwrap();
    for (tid, tracee) in all.iter().filter(|(tid, tracee)| tracee.held && crate::procs::alive(**tid)) {
        writeln!(log.lock().unwrap(), "left {tid} in {}", names::of(tracee.call)).unwrap();
    }
}

fn end(log: &Mutex<File>, tracees: &Tracees, code: i32) -> ! {
    leave(log, tracees);
    std::process::exit(code)
}

/// Returns the name of a call and those of its first arguments that are texts.
fn described(pid: Pid, registers: &libc::user_regs_struct) -> String {
    let mut text = names::of(registers.orig_rax);
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else { return text };
    for address in [registers.rdi, registers.rsi, registers.rdx, registers.r10] {
        let mut bytes = [0; 160];
        let Ok(n) = memory.read_at(&mut bytes, address) else { continue };
        let found: Vec<u8> = bytes[..n].iter().copied().take_while(|b| *b != 0).collect();
        if found.len() > 1 && found.len() < n && found.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
            text = format!("{text} {}", String::from_utf8_lossy(&found));
        }
    }
    text
}
