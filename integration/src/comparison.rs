//! Runs one config.json on two runtimes and compares the containers: what the process sees, what an exec sees, which
//! devices open, and the cgroup's files, id maps, labels and namespaces as the host sees them. Numbers that differ
//! between any two containers are left out. The rest must be equal, or stricter on berth.

use crate::{
    bundle::Bundle,
    cgroup, mounts,
    probe::report::KEYS,
    runtime::{Runtime, wait_until},
    wait::{LONG, until},
};
use serde_json::Value;
use std::{collections::BTreeMap, fs};

/// Keys of the probe's report that do not depend on the runtime: its arguments, and inodes and numbers of one
/// container, which the host looks at instead.
const OF_ONE_CONTAINER: [&str; 3] = ["args", "namespaces", "keyring"];

/// Returns the probe's arguments.
pub fn report_words() -> Vec<&'static str> {
    let keys = KEYS.into_iter().filter(|key| !OF_ONE_CONTAINER.contains(key));
    ["/probe", "report"].into_iter().chain(keys).chain(["fds"]).collect()
}

/// The mount point of a tmpfs in which device nodes are tried.
pub const NODES: &str = "/nodes";

/// Name, type for mknod(2), major and minor number.
const DEVICES: [(&str, u32, u32, u32); 12] = [
    ("null", libc::S_IFCHR, 1, 3),
    ("zero", libc::S_IFCHR, 1, 5),
    ("full", libc::S_IFCHR, 1, 7),
    ("random", libc::S_IFCHR, 1, 8),
    ("urandom", libc::S_IFCHR, 1, 9),
    ("mem", libc::S_IFCHR, 1, 1),
    ("kmsg", libc::S_IFCHR, 1, 11),
    ("tty", libc::S_IFCHR, 5, 0),
    ("ptmx", libc::S_IFCHR, 5, 2),
    ("fuse", libc::S_IFCHR, 10, 229),
    ("tun", libc::S_IFCHR, 10, 200),
    ("loop0", libc::S_IFBLK, 7, 0),
];

/// An observation by name.
pub type Seen = BTreeMap<String, String>;

/// Creates the container, observes it, and deletes it. If the runtime refuses it, the only entry is `refused` with its
/// error.
pub fn observe(runtime: &Runtime, bundle: Bundle) -> Seen {
    let mut words = report_words();
    words.extend(["+", "sleep", "1000"]);
    let bundle = bundle.args(&words);
    let call = runtime.on("create", "c1", &bundle).spawn();
    let number = call.number;
    let created = call.wait();
    let mut seen = Seen::new();
    if created.code != 0 {
        seen.insert("refused".into(), created.stderr.trim().to_owned());
        return seen;
    }
    outside(runtime, &mut seen);
    runtime.cmd(&["start", "c1"]).ok();
    wait_until(|| runtime.stdout_of(number).contains('\n'), || format!("no report: {}", runtime.all_stdout()));
    report("init", &runtime.stdout_of(number), &mut seen);
    report("exec", &exec(runtime, &report_words()), &mut seen);
    if bundle_has_nodes(&bundle) {
        devices(runtime, &mut seen);
    }
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    let (place, group) = (bundle.path().display().to_string(), runtime.cgroup("c1"));
    seen.into_iter()
        .map(|(k, v)| (k.replace(&place, "BUNDLE"), v.replace(&place, "BUNDLE").replace(&group, "CGROUP")))
        .collect()
}

/// Returns the differences, one line each. `stricter` decides whether berth may have a difference.
pub fn differences(ours: &Seen, theirs: &Seen, stricter: impl Fn(&str, &str, &str) -> bool) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let absent = "(nothing)".to_owned();
    let differs = |key: &&String| {
        let (a, b) = (ours.get(*key).unwrap_or(&absent), theirs.get(*key).unwrap_or(&absent));
        (a != b && !stricter(key, a, b)).then(|| format!("{key}: {a} instead of {b}"))
    };
    keys.iter().filter_map(differs).collect()
}

fn bundle_has_nodes(bundle: &Bundle) -> bool {
    bundle.config["mounts"].as_array().is_some_and(|list| list.iter().any(|m| m["destination"] == NODES))
}

/// An exec makes and opens the nodes, since the container's device rules apply to it as well.
fn devices(runtime: &Runtime, seen: &mut Seen) {
    let mut make = vec!["/probe".to_owned(), "syscall".to_owned()];
    let mut open = vec!["+".to_owned(), "open".to_owned(), "rw".to_owned()];
    for (name, kind, major, minor) in DEVICES {
        make.push(format!("133:@{NODES}/{name},{},{}", kind | 0o666, major << 8 | minor));
        open.push(format!("{NODES}/{name}"));
    }
    make.extend(open);
    let words: Vec<&str> = make.iter().map(String::as_str).collect();
    for line in exec(runtime, &words).lines() {
        flatten("device", &serde_json::from_str(line).unwrap(), seen);
    }
}

/// Returns the output of an exec. runc's exec has threads until its execve and sometimes fails under a limit of one
/// task.
fn exec(runtime: &Runtime, words: &[&str]) -> String {
    until("an exec", LONG, || {
        let out = runtime.exec("c1", words);
        (!out.stderr.contains("pthread_create failed")).then(|| out.ok().stdout)
    })
}

/// Returns the entries of a report, which is the first line of `said`.
pub fn inside(who: &str, said: &str) -> Seen {
    let mut seen = Seen::new();
    report(who, said, &mut seen);
    seen
}

fn report(who: &str, said: &str, seen: &mut Seen) {
    let report: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap();
    // The order of mounts at one point shows which one covers which.
    for mount in mounts::reported(&report) {
        let mut superblock = mount.superblock.clone();
        superblock.sort();
        let line = format!(
            "{} {} {} {} {}",
            mount.fs,
            mount.root,
            mount.options.join(","),
            mount.propagation(),
            superblock.join(",")
        );
        let at = format!("{who}/mount {}", mount.point);
        seen.entry(at).and_modify(|all| *all = format!("{all}; {line}")).or_insert(line);
    }
    flatten(who, &report, seen);
}

/// Adds one entry for each leaf. Leaves out the mount table, which is compared line by line, and names of one
/// container's own objects: inodes, pids of execs, pipes.
fn flatten(at: &str, value: &Value, seen: &mut Seen) {
    let last = at.rsplit('/').next().unwrap_or_default();
    let of_inode = last == "ino" || last == "dev" && value.is_number() || last == "target" && at.contains("/fds/");
    if last == "mountinfo" || of_inode {
        return;
    }
    // The pid of an exec counts the forks of the runtime, and pids of the host are arbitrary.
    let of_process = matches!(last, "pid" | "ppid" | "sid" | "pgid") && at.contains("/process/");
    if of_process && (at.starts_with("exec/") || value.as_i64().is_some_and(|pid| pid > 1)) {
        return;
    }
    match value {
        Value::Object(members) => members.iter().for_each(|(name, v)| flatten(&format!("{at}/{name}"), v, seen)),
        other => {
            seen.insert(at.to_owned(), other.to_string());
        }
    }
}

/// Observes the container `c1` of a runtime from the host.
pub fn outside(runtime: &Runtime, seen: &mut Seen) {
    outside_of(runtime.pid("c1"), &runtime.cgroup("c1"), seen);
}

/// Observes a container from the host: its init, and the cgroup `path`.
pub fn outside_of(pid: u32, path: &str, seen: &mut Seen) {
    for file in ["uid_map", "gid_map", "setgroups", "oom_score_adj", "attr/current", "timens_offsets", "loginuid"] {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|e| e.to_string());
        let words: Vec<&str> = text.split_whitespace().collect();
        seen.insert(format!("outside/{file}"), words.join(" "));
    }
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
        let whose = if link(&pid.to_string()) == link("self") { "the host's" } else { "its own" };
        seen.insert(format!("outside/ns/{kind}"), whose.into());
    }
    for hierarchy in cgroup::hierarchies() {
        let name = hierarchy.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(entries) = fs::read_dir(hierarchy.join(path.trim_start_matches('/'))) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file())) {
            let file = entry.file_name().to_string_lossy().into_owned();
            if counts(&file) {
                continue;
            }
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            let owner = entry.metadata().map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap_or_default();
            seen.insert(format!("cgroup/{name}/{file}"), format!("{} (owner {owner})", lines.join("; ")));
        }
    }
}

/// Returns whether a cgroup file shows a momentary state and not a setting.
fn counts(file: &str) -> bool {
    const WORDS: [&str; 22] = [
        "stat",
        "usage",
        "current",
        "events",
        "pressure",
        "peak",
        "failcnt",
        "procs",
        "threads",
        "tasks",
        "numa",
        "io_",
        "sectors",
        "time",
        "effective",
        "force_empty",
        "reclaim",
        "kill",
        "control",
        "local",
        "clone_children",
        "notify_on_release",
    ];
    let oom = file == "memory.oom_control";
    !oom && WORDS.iter().any(|word| file.contains(word)) && file != "cgroup.subtree_control"
}
