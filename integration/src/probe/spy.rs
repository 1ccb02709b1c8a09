//! `spy STOP MARK HOST_FILE HOST_MOUNT HOST_NAMESPACE...`: examines each new process of this pid namespace as soon as
//! it appears, until the file STOP exists. It prints everything that a container must not have.
//!
//! MARK is a text that is in the command line, environment or memory of the runtime and in nothing of the container.
//! HOST_FILE is a file of the host's tree alone. HOST_MOUNT is a mount point of the host alone. HOST_NAMESPACE is a
//! link such as `mnt:[4026531841]`.

use super::sys;
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

const PTRACE_SEIZE: i64 = 0x4206;
const PTRACE_INTERRUPT: i64 = 0x4207;
const PTRACE_DETACH: i64 = 17;
const NAMESPACES: [&str; 8] = ["mnt", "net", "ipc", "uts", "cgroup", "user", "pid", "time"];

/// The finds: the count and the first sample of each kind.
#[derive(Default)]
struct Caught(Map<String, Value>);

impl Caught {
    fn add(&mut self, kind: &str, sample: impl Into<String>) {
        let sample: String = sample.into().chars().take(200).collect();
        let entry = self.0.entry(kind.to_owned()).or_insert_with(|| json!({"times": 0, "first": sample}));
        if let Some(times) = entry["times"].as_u64() {
            entry["times"] = json!(times + 1);
        }
    }
}

/// Runs the action that the module describes.
pub fn spy(args: &[String]) -> Option<i32> {
    let [stop, prey @ ..] = args else { return Some(99) };
    let [mark, host_file, host_mount, host_namespaces @ ..] = prey else { return Some(99) };
    let prey = Prey { mark, host_file, host_mount: &format!(" {host_mount} "), host_namespaces };
    let own = Own::now()?;
    let mut caught = Caught::default();
    let mut newest = sys::call(libc::SYS_getpid, &[]);
    let mut seen = 0u64;
    let mut held = 0u64;
    while !Path::new(stop).exists() {
        for n in 0..500 {
            // The kernel gives pids in ascending order. Processes that came and went unseen leave a gap, which is
            // sometimes wide.
            let gap = if n == 0 { 2000 } else { 6 };
            let Some(pid) = (newest + 1..newest + gap).find(|pid| sys::call(libc::SYS_kill, &[*pid, 0]) != -esrch())
            else {
                continue;
            };
            newest = pid;
            seen += 1;
            held += u64::from(examine(pid, &own, &prey, &mut caught));
        }
    }
    println!("{}", json!({"spy": {"seen": seen, "held": held, "caught": caught.0}}));
    None
}

fn esrch() -> i64 {
    i64::from(libc::ESRCH)
}

/// The marks of the runtime and the host, as the module describes them.
struct Prey<'a> {
    mark: &'a str,
    host_file: &'a str,
    host_mount: &'a str,
    host_namespaces: &'a [String],
}

/// The properties of the spy's own container.
struct Own {
    interfaces: Vec<String>,
    permitted: u64,
}

impl Own {
    fn now() -> Option<Self> {
        Some(Self { interfaces: interfaces("self").unwrap_or_default(), permitted: permitted("self")? })
    }
}

fn interfaces(pid: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
    Some(names.map(|name| name.trim().to_owned()).collect())
}

fn permitted(pid: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Examines a process. Returns true if ptrace(2) could stop it.
fn examine(pid: i64, own: &Own, prey: &Prey<'_>, caught: &mut Caught) -> bool {
    let stopped = sys::call(libc::SYS_ptrace, &[PTRACE_SEIZE, pid, 0, 0]) == 0
        && sys::call(libc::SYS_ptrace, &[PTRACE_INTERRUPT, pid, 0, 0]) == 0
        && sys::call(libc::SYS_wait4, &[pid, 0, i64::from(libc::__WALL), 0]) == pid;
    look(pid, own, prey, caught);
    if stopped {
        sys::call(libc::SYS_ptrace, &[PTRACE_DETACH, pid, 0, 0]);
    }
    stopped
}

fn look(pid: i64, own: &Own, prey: &Prey<'_>, caught: &mut Caught) {
    let Prey { mark, host_file, host_mount, host_namespaces } = *prey;
    let text = |what: &str| fs::read(format!("/proc/{pid}/{what}")).map(|b| String::from_utf8_lossy(&b).into_owned());
    for what in ["cmdline", "environ"] {
        if let Ok(text) = text(what).map(|text| text.replace('\0', " ")).as_deref()
            && text.contains(mark)
        {
            caught.add(what, text);
        }
    }
    if let Some(more) = permitted(&pid.to_string()).map(|held| held & !own.permitted).filter(|more| *more != 0) {
        caught.add("capabilities", format!("{more:x}"));
    }
    if let Ok(mountinfo) = text("mountinfo")
        && mountinfo.contains(host_mount)
    {
        caught.add("mountinfo", mountinfo);
    }
    if let Some(more) = interfaces(&pid.to_string()).filter(|names| names.iter().any(|n| !own.interfaces.contains(n))) {
        caught.add("net", more.join(" "));
    }
    for name in NAMESPACES {
        if let Ok(link) = fs::read_link(format!("/proc/{pid}/ns/{name}"))
            && host_namespaces.iter().any(|namespace| link.as_os_str() == namespace.as_str())
        {
            caught.add(&format!("ns/{name}"), link.to_string_lossy());
        }
    }
    for what in ["root", "cwd"] {
        if fs::metadata(format!("/proc/{pid}/{what}{host_file}")).is_ok() {
            caught.add(what, host_file);
        }
    }
    descriptors(pid, mark, caught);
    memory(pid, mark, caught);
}

/// Examines descriptors by their links and by pidfd_getfd(2). Sockets, pipes, memory, and files that the container
/// itself has do not count.
fn descriptors(pid: i64, mark: &str, caught: &mut Caught) {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for link in links.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let link = link.to_string_lossy();
        if link.contains(mark)
            || link.contains("cgroup")
            || link.ends_with("/proc")
            || link.starts_with("(unreachable)")
        {
            caught.add("fd", link);
        }
    }
    let pidfd = sys::call(libc::SYS_pidfd_open, &[pid, 0]);
    if pidfd < 0 {
        return;
    }
    for number in 3..24 {
        let fd = sys::call(libc::SYS_pidfd_getfd, &[pidfd, number, 0]);
        if fd < 0 {
            continue;
        }
        if fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|file| file.is_dir()) {
            caught
                .add("pidfd_getfd", fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default().to_string_lossy());
        }
        sys::call(libc::SYS_close, &[fd]);
    }
    sys::call(libc::SYS_close, &[pidfd]);
}

/// Searches the readable memory of the process for the mark.
fn memory(pid: i64, mark: &str, caught: &mut Caught) {
    let (Ok(maps), Ok(mut memory)) =
        (fs::read_to_string(format!("/proc/{pid}/maps")), fs::File::open(format!("/proc/{pid}/mem")))
    else {
        return;
    };
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else { continue };
        let bounds = range.split_once('-').map(|(a, b)| (u64::from_str_radix(a, 16), u64::from_str_radix(b, 16)));
        let Some((Ok(start), Ok(end))) = bounds else { continue };
        let size = usize::try_from(end - start).unwrap_or(0).min(4 << 20);
        let mut bytes = vec![0; size];
        if !rest.starts_with('r')
            || memory.seek(SeekFrom::Start(start)).is_err()
            || memory.read_exact(&mut bytes).is_err()
        {
            continue;
        }
        if bytes.windows(mark.len()).any(|window| window == mark.as_bytes()) {
            caught.add("memory", line);
        }
    }
}
