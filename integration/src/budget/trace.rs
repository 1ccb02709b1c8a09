//! System calls counted by strace(1).

use super::Lines;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Calls that wait or are woken: their number depends on timing.
const TIMING: [&str; 7] =
    ["epoll_pwait", "epoll_wait", "futex", "poll", "restart_syscall", "rt_sigreturn", "sched_yield"];

/// Calls that a thread makes when it begins and ends. The end of the process may come before either.
const OF_A_THREAD: [&str; 12] = [
    "exit",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "prctl",
    "rseq",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "sigaltstack",
];

/// The argument of the eventfd(2) write by which one thread wakes another. Its number depends on timing as well.
const WAKE: &str = "\"\\1\\0\\0\\0\\0\\0\\0\\0\", 8)";

/// The options of strace: follow children, print no strings, no signals and no messages of strace itself.
pub const OPTIONS: [&str; 6] = ["-f", "-qq", "-s", "64", "-e", "signal=none"];

/// Returns the words that run a program under strace and write its calls to `file`.
pub fn words(file: &Path, children: bool) -> Vec<String> {
    let options = OPTIONS.iter().skip(usize::from(!children));
    let mut words: Vec<String> = std::iter::once(&"strace").chain(options).map(|word| (*word).to_owned()).collect();
    words.extend(["-o".to_owned(), file.display().to_string()]);
    words
}

/// The number of calls by name. The calls of the payload are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls {
    by_name: BTreeMap<String, u64>,
    /// The number of processes made.
    processes: u64,
    /// The number of threads made.
    threads: u64,
    /// The number of programs executed, with the payload.
    execs: u64,
}

/// The payload of every operation that is counted.
const PAYLOAD: &str = "\"/bin/true\"";

impl Calls {
    /// Reads the output of strace.
    pub fn read(file: &Path) -> Self {
        let text = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Parses lines of the form `PID name(arguments) = result`. The pid is missing if strace does not follow children.
    /// A call that another process's line interrupts goes on as `PID <... name resumed>`.
    pub fn parse(text: &str) -> Self {
        let mut calls = Self::default();
        let mut payloads = BTreeSet::new();
        let threads = threads(text);
        for line in text.lines() {
            let (pid, call) = split(line);
            if payloads.contains(pid) {
                continue;
            }
            let nothing_yet = takes_nothing(call);
            if let Some(resumed) = call.strip_prefix("<... ") {
                let name = resumed.split(' ').next().unwrap_or_default();
                if nothing_yet && let Some(count) = calls.by_name.get_mut(name) {
                    *count = count.saturating_sub(1);
                }
                continue;
            }
            let Some((name, arguments)) = call.split_once('(') else { continue };
            let timing = TIMING.contains(&name) || name == "write" && arguments.contains(WAKE);
            let of_a_thread = threads.contains(pid) && OF_A_THREAD.contains(&name);
            let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if nothing_yet || timing || of_a_thread || !is_name {
                continue;
            }
            *calls.by_name.entry(name.to_owned()).or_default() += 1;
            match name {
                "clone" | "clone3" | "vfork" | "fork" if arguments.contains(THREAD) => calls.threads += 1,
                "clone" | "clone3" | "vfork" | "fork" => calls.processes += 1,
                "execve" | "execveat" => {
                    calls.execs += 1;
                    if arguments.starts_with(PAYLOAD) {
                        payloads.insert(pid);
                    }
                }
                _ => {}
            }
        }
        calls.by_name.retain(|_, count| *count > 0);
        calls
    }

    /// Adds the counts as lines of a budget.
    pub fn put(&self, operation: &str, lines: &mut Lines) {
        lines.put(operation, "processes made", self.processes, "clones");
        lines.put(operation, "threads made", self.threads, "clones");
        lines.put(operation, "programs executed", self.execs, "execs");
        for (name, count) in &self.by_name {
            lines.put(operation, name, *count, "calls");
        }
    }
}

/// Reports whether a call only looks for something that may not be there yet. How often a program looks is a matter of
/// timing: SIGCHLD of two children comes once or twice, and each one makes their parent look for exited children.
fn takes_nothing(call: &str) -> bool {
    let no_child = call.contains("{}, WNOHANG") || call.contains("wait4") && call.contains("WNOHANG, NULL) = 0");
    no_child || [" = -1 EAGAIN", " = ? ERESTART", "WNOWAIT"].iter().any(|word| call.contains(word))
}

/// The clone(2) flag that makes a thread.
const THREAD: &str = "CLONE_THREAD";

/// Splits a line into its pid and the rest. The pid is empty if strace does not follow children.
fn split(line: &str) -> (&str, &str) {
    let pid = line.split(' ').next().filter(|word| word.bytes().all(|b| b.is_ascii_digit())).unwrap_or_default();
    (pid, line[pid.len()..].trim_start())
}

/// Returns the ids of the threads that were made under strace. A thread's first line may come before the line of the
/// clone that made it.
fn threads(text: &str) -> BTreeSet<&str> {
    let mut threads = BTreeSet::new();
    let mut making = BTreeSet::new();
    for (pid, call) in text.lines().map(split) {
        let resumed = call.starts_with("<... clone") && making.remove(pid);
        if call.starts_with("clone") && call.contains(THREAD) && call.ends_with("<unfinished ...>") {
            making.insert(pid);
        } else if resumed || call.starts_with("clone") && call.contains(THREAD) {
            threads.extend(call.rsplit_once("= ").map(|(_, id)| id.trim()));
        }
    }
    threads
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::scratch::Scratch;

    const TEXT: &str = "\
10 execve(\"/x/berth\", [\"berth\"], 0x7 /* 3 vars */) = 0
10 openat(AT_FDCWD, \"/a\", O_RDONLY) = 3
10 read(3, 0x1, 10) = -1 EAGAIN (Resource temporarily unavailable)
11 rseq(0x1, 32) = 0
10 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 11
11 mmap(NULL, 16048) = 0x1
11 futex(0x1, FUTEX_WAIT) = 0
10 clone3({flags=CLONE_PIDFD|CLONE_NEWNS}, 88 <unfinished ...>
12 close(3) = 0
10 <... clone3 resumed> => {pidfd=[9]}) = 12
11 recvmsg(5, <unfinished ...>
12 execve(\"/bin/true\", [\"/bin/true\"], 0x7) = 0
11 <... recvmsg resumed>0x7, 0) = -1 EAGAIN (Resource temporarily unavailable)
12 brk(NULL) = 0x1
11 write(4, \"\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8
12 exit_group(0) = ?
12 +++ exited with 0 +++
";

    #[test]
    fn calls_are_counted_until_the_payload() {
        let calls = Calls::parse(TEXT);
        let names: Vec<_> = calls.by_name.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(names, [("clone3", 2), ("close", 1), ("execve", 2), ("openat", 1)]);
        assert_eq!((calls.processes, calls.threads, calls.execs), (1, 1, 2));
    }

    #[test]
    fn looks_that_take_no_child_are_not_counted() {
        let text = "\
7 wait4(-1, 0x7ffd, WNOHANG, NULL) = 0
7 wait4(-1,  <unfinished ...>
7 <... wait4 resumed>0x7ffd, WNOHANG, NULL) = 0
7 wait4(-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 0}], WNOHANG, NULL) = 8
7 waitid(P_ALL, 0, {}, WNOHANG|WEXITED|WNOWAIT, NULL) = 0
7 waitid(P_ALL, 0,  <unfinished ...>
7 <... waitid resumed>{si_signo=SIGCHLD, si_pid=8}, WNOHANG|WEXITED|WNOWAIT, NULL) = 0
7 waitid(P_PIDFD, 36, {}, WNOHANG|WEXITED, NULL) = 0
7 waitid(P_PIDFD, 36, {si_signo=SIGCHLD, si_pid=8}, WNOHANG|WEXITED, NULL) = 0
";
        let calls = Calls::parse(text);
        assert_eq!((calls.by_name["wait4"], calls.by_name["waitid"]), (1, 1));
    }

    #[test]
    fn threads_are_told_from_processes_by_clone_flags() {
        let text = "7 clone3({flags=CLONE_THREAD}, 88 <unfinished ...>\n8 rseq(1) = 0\n7 <... clone3 resumed>) = 8\n";
        assert_eq!(threads(text).into_iter().collect::<Vec<_>>(), ["8"]);
        assert_eq!(Calls::parse(text).by_name.keys().collect::<Vec<_>>(), ["clone3"]);
    }

    #[test]
    fn lines_without_a_pid_are_counted() {
        let calls = Calls::parse("mkdir(\"/a\", 0700) = 0\nmkdir(\"/b\", 0700) = 0\n");
        assert_eq!(calls.by_name["mkdir"], 2);
    }

    #[test]
    fn program_that_strace_starts_is_counted() {
        let work = Scratch::new("strace");
        let file = work.path().join("calls");
        let words = words(&file, true);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("mkdir").arg(work.path().join("made"));
        assert!(command.status().unwrap().success());
        let calls = Calls::read(&file);
        assert_eq!((calls.execs, calls.by_name["mkdir"]), (1, 1));
    }
}
