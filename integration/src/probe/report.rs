//! `probe report [KEY[=ARGUMENT]...]`: prints one JSON object of what the process sees. Without keys it has all but
//! `read` and `stat`.
//!
//! A container may lack `/proc` or `/dev`, so each key fails on its own with `{"error": "..."}`. The report uses system
//! calls where it can instead of `/proc`, which the runtime may have set up wrongly.

use super::sys;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, os::unix::ffi::OsStrExt, path::Path};

/// The keys of a report without named keys, beside the descriptors.
pub const KEYS: [&str; 19] = [
    "ids",
    "umask",
    "caps",
    "nnp",
    "seccomp",
    "rlimits",
    "cwd",
    "env",
    "args",
    "uts",
    "namespaces",
    "mountinfo",
    "oom",
    "dev",
    "cgroup",
    "tty",
    "process",
    "signals",
    "keyring",
];

/// Prints the report. It never ends the program.
pub fn print(keys: &[String], fds: &Value) -> Option<i32> {
    let all: Vec<String> = KEYS.iter().map(|k| (*k).to_owned()).chain(["fds".to_owned()]).collect();
    let mut out = Map::new();
    for key in if keys.is_empty() { &all } else { keys } {
        let (name, argument) = key.split_once('=').unwrap_or((key, ""));
        let value = if name == "fds" { fds.clone() } else { one(name, argument) };
        if argument.is_empty() {
            out.insert(name.into(), value);
        } else if let Some(map) = out.entry(name).or_insert_with(|| json!({})).as_object_mut() {
            map.insert(argument.into(), value);
        }
    }
    println!("{}", Value::Object(out));
    None
}

/// Returns every open descriptor with its flags, link, device and inode. It must be called before the probe opens a
/// file.
pub fn fds() -> Value {
    let open: Vec<_> = (0..4096).filter_map(|fd| Some((fd, sys::fd_flags(fd)?))).collect();
    let mut out = Map::new();
    for (fd, [flags, status]) in open {
        let target = match fs::read_link(format!("/proc/self/fd/{fd}")) {
            Ok(t) => json!(t.to_string_lossy()),
            Err(e) => error(&e),
        };
        let mut one = json!({"target": target, "cloexec": flags & libc::FD_CLOEXEC != 0, "mode": status & libc::O_ACCMODE,
            "path_only": status & libc::O_PATH != 0});
        if let Ok(st) = sys::fstat(fd) {
            one["dev"] = json!(st.st_dev);
            one["ino"] = json!(st.st_ino);
            one["type"] = json!(kind(st.st_mode));
            one["rdev"] = json!([libc::major(st.st_rdev), libc::minor(st.st_rdev)]);
        }
        out.insert(fd.to_string(), one);
    }
    Value::Object(out)
}

fn one(name: &str, argument: &str) -> Value {
    match name {
        "ids" => json!({"uid": sys::resids(false), "gid": sys::resids(true), "groups": sys::groups(),
            "fsuid": sys::call(libc::SYS_setfsuid, &[-1]), "fsgid": sys::call(libc::SYS_setfsgid, &[-1])}),
        "umask" => json!(sys::umask()),
        "caps" => caps(),
        "nnp" => json!(sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0)),
        "seccomp" => json!({"mode": status("Seccomp"), "filters": status("Seccomp_filters")}),
        "rlimits" => rlimits(),
        "cwd" => text(std::env::current_dir().map(|p| p.as_os_str().as_bytes().to_vec())),
        "env" => Value::Object(
            std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into(), json!(v.to_string_lossy()))).collect(),
        ),
        "args" => json!(std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>()),
        "uts" => {
            let [host, domain, release, machine] = sys::uname();
            json!({"hostname": host, "domainname": domain, "release": release, "machine": machine})
        }
        "namespaces" => namespaces(),
        "mountinfo" => lines("/proc/self/mountinfo"),
        "oom" => text(fs::read("/proc/self/oom_score_adj")),
        "dev" => tree("/dev"),
        "cgroup" => lines("/proc/self/cgroup"),
        "tty" => tty(),
        "process" => process(),
        "signals" => {
            let [blocked, ignored, caught] = sys::signals();
            json!({"blocked": blocked, "ignored": ignored, "caught": caught})
        }
        "keyring" => {
            let (id, description, label) = sys::session_keyring();
            json!({"id": id, "description": description, "label": label})
        }
        "status" => lines("/proc/self/status"),
        "read" => text(fs::read(argument)),
        "stat" => stat(argument),
        "tree" => tree(argument),
        "list" => list(argument),
        other => json!({"error": format!("no such key: {other}")}),
    }
}

fn error(e: &std::io::Error) -> Value {
    json!({"error": e.to_string(), "errno": e.raw_os_error()})
}

fn text(content: std::io::Result<Vec<u8>>) -> Value {
    match content {
        Ok(bytes) => json!(String::from_utf8_lossy(&bytes).trim_end_matches('\n')),
        Err(e) => error(&e),
    }
}

fn lines(path: &str) -> Value {
    match fs::read(path) {
        Ok(bytes) => json!(String::from_utf8_lossy(&bytes).lines().collect::<Vec<_>>()),
        Err(e) => error(&e),
    }
}

/// Returns one field of /proc/self/status, as text.
fn status(field: &str) -> Value {
    match fs::read_to_string("/proc/self/status") {
        Ok(s) => json!(s.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':').map(str::trim))),
        Err(e) => error(&e),
    }
}

fn caps() -> Value {
    let set = |option: i32, sub: Option<u64>| {
        (0..63u64).filter(move |cap| {
            let r = match sub {
                None => sys::prctl(option, *cap, 0),
                Some(sub) => sys::prctl(option, sub, *cap),
            };
            r == 1
        })
    };
    let mask = |caps: &mut dyn Iterator<Item = u64>| caps.fold(0u64, |m, cap| m | 1 << cap);
    let bounding = mask(&mut set(libc::PR_CAPBSET_READ, None));
    let ambient = mask(&mut set(libc::PR_CAP_AMBIENT, Some(1)));
    match sys::capget() {
        Ok([effective, permitted, inheritable]) => json!({"effective": effective, "permitted": permitted,
            "inheritable": inheritable, "bounding": bounding, "ambient": ambient}),
        Err(e) => json!({"error": format!("capget: errno {e}")}),
    }
}

fn rlimits() -> Value {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let one = |(n, name): (u32, &&str)| {
        let value = sys::rlimit(n).map_or_else(|e| json!({"error": e}), |pair| json!(pair));
        (format!("RLIMIT_{name}"), value)
    };
    Value::Object((0..).zip(&NAMES).map(one).collect())
}

fn namespaces() -> Value {
    let mut out = Map::new();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}"));
        out.insert(name.into(), text(link.map(|l| l.into_os_string().into_encoded_bytes())));
    }
    Value::Object(out)
}

fn tty() -> Value {
    let one = |fd| json!({"tty": sys::isatty(fd), "size": sys::winsize(fd), "foreground": sys::foreground(fd)});
    json!({"0": one(0), "1": one(1), "2": one(2), "ctty": sys::try_open("/dev/tty", libc::O_RDWR)})
}

fn process() -> Value {
    json!({
        "pid": sys::call(libc::SYS_getpid, &[]),
        "ppid": sys::call(libc::SYS_getppid, &[]),
        "sid": sys::call(libc::SYS_getsid, &[0]),
        "pgid": sys::call(libc::SYS_getpgid, &[0]),
        "dumpable": sys::prctl(libc::PR_GET_DUMPABLE, 0, 0),
        "pdeathsig": pdeathsig(),
        "subreaper": subreaper(),
        "apparmor": text(fs::read("/proc/self/attr/current")),
        "personality": sys::call(libc::SYS_personality, &[0xffff_ffff]),
        "policy": sys::call(libc::SYS_sched_getscheduler, &[0]),
        "nice": sys::call(libc::SYS_getpriority, &[0, 0]),
        "affinity": status("Cpus_allowed_list"),
        "securebits": sys::prctl(libc::PR_GET_SECUREBITS, 0, 0),
        "keepcaps": sys::prctl(libc::PR_GET_KEEPCAPS, 0, 0),
        "timerslack": sys::prctl(libc::PR_GET_TIMERSLACK, 0, 0),
        "exe": text(fs::read_link("/proc/self/exe").map(|l| l.into_os_string().into_encoded_bytes())),
    })
}

/// Calls prctl(2) with an option that answers through a pointer.
fn through_pointer(option: i32) -> Value {
    let mut value: i32 = -1;
    let r = sys::prctl(option, std::ptr::from_mut(&mut value).addr() as u64, 0);
    if r == 0 { json!(value) } else { json!({"error": r}) }
}

fn pdeathsig() -> Value {
    through_pointer(libc::PR_GET_PDEATHSIG)
}

fn subreaper() -> Value {
    through_pointer(libc::PR_GET_CHILD_SUBREAPER)
}

/// Returns the letter of a file type as `ls -l` and `find -type` show it.
fn kind(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "f",
        libc::S_IFDIR => "d",
        libc::S_IFLNK => "l",
        libc::S_IFCHR => "c",
        libc::S_IFBLK => "b",
        libc::S_IFIFO => "p",
        libc::S_IFSOCK => "s",
        _ => "?",
    }
}

/// Returns type, mode, owner, device numbers and link target of a path, without following links.
fn stat(path: &str) -> Value {
    match sys::lstat(path) {
        Err(e) => json!({"errno": e}),
        Ok(st) => {
            let mut one = json!({"type": kind(st.st_mode), "mode": st.st_mode & 0o7777, "uid": st.st_uid, "gid": st.st_gid,
                "rdev": [libc::major(st.st_rdev), libc::minor(st.st_rdev)], "dev": st.st_dev, "ino": st.st_ino,
                "size": st.st_size});
            if let Ok(target) = fs::read_link(path) {
                one["target"] = json!(target.to_string_lossy());
            }
            one
        }
    }
}

/// Returns `stat` of everything below a directory, by path, with other filesystems and at most 10,000 entries.
fn tree(top: &str) -> Value {
    let mut out = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(Path::new(&dir)) else { continue };
        for entry in entries.flatten().take(10_000) {
            let path = entry.path().to_string_lossy().into_owned();
            let one = stat(&path);
            if one["type"] == "d" && out.len() < 10_000 {
                todo.push(path.clone());
            }
            out.insert(path, one);
        }
    }
    json!(out)
}

/// Returns the names in a directory, sorted.
fn list(dir: &str) -> Value {
    match fs::read_dir(dir) {
        Ok(entries) => {
            let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            json!(names)
        }
        Err(e) => error(&e),
    }
}
