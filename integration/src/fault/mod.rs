//! `berth-fault`: runs the runtime under ptrace(2), and lets one system call fail, kills the process at one, or stops it
//! there. [`Order`] says which; [`tracer`] carries it out; [`matrix`] tries all of them and judges each outcome.
//!
//! The calls are counted in two classes: those of the runtime and its threads, and those of the processes that the runtime
//! makes, until they execute a program. The driver lets go of a process that executes a program.

pub mod judge;
pub mod matrix;
mod names;
pub mod page;
pub mod scenes;
mod sys;
pub mod tracer;

use nix::errno::Errno;
use std::{fmt, fs, path::Path};

/// The errors that each call is answered with.
pub const ERRNOS: [Errno; 10] = [
    Errno::EPERM,
    Errno::EIO,
    Errno::ENOSPC,
    Errno::EINTR,
    Errno::EAGAIN,
    Errno::ENOMEM,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOSYS,
    Errno::ETIMEDOUT,
];

/// The processes whose calls are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The runtime or the shim, with all threads.
    Parent,
    /// A process that the runtime clones, until it executes a program.
    Child,
}

impl Class {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Parent, Self::Child];
}

/// The action at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing; all calls are listed in the log.
    Count,
    /// The call is not made, and its result is this error. A close(2) is made: the kernel frees the number always.
    Fail(Errno),
    /// The process is killed before the call.
    Kill,
    /// The process is stopped before the call, for as long as the driver runs.
    Hold,
}

/// One order for the driver.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The action.
    pub action: Action,
    /// Whose calls are counted.
    pub class: Class,
    /// The number of the call, from 1.
    pub at: usize,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Class::Parent => "parent",
            Class::Child => "child",
        };
        match self.action {
            Action::Count => write!(f, "count:{class}:{}", self.at),
            Action::Kill => write!(f, "kill:{class}:{}", self.at),
            Action::Hold => write!(f, "hold:{class}:{}", self.at),
            Action::Fail(errno) => write!(f, "{errno:?}:{class}:{}", self.at),
        }
    }
}

impl Order {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let action = match words.next()? {
            "count" => Action::Count,
            "kill" => Action::Kill,
            "hold" => Action::Hold,
            name => Action::Fail(ERRNOS.into_iter().find(|errno| format!("{errno:?}") == name)?),
        };
        let class = match words.next()? {
            "parent" => Class::Parent,
            "child" => Class::Child,
            _ => return None,
        };
        Some(Self { action, class, at: words.next()?.parse().ok()? })
    }
}

/// Calls that never fail (their man pages name no error, or only errors of their arguments), or that do not return. brk(2)
/// returns the old end of the heap instead.
const NEVER_FAIL: [&str; 22] = [
    "exit",
    "exit_group",
    "rt_sigreturn",
    "restart_syscall",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "umask",
    "set_tid_address",
    "sched_yield",
    "sync",
    "getpgrp",
    "setfsuid",
    "setfsgid",
    "alarm",
    "brk",
    "rt_sigaction",
    "rseq",
];

/// Calls with the only errors of [`ERRNOS`] that the kernel can give, where a wrong one would be a fault of the kernel:
/// the C library or the event loop ends the program then.
const ONLY: [(&str, &[Errno]); 11] = [
    ("futex", &[Errno::EAGAIN, Errno::EINTR, Errno::ETIMEDOUT, Errno::ENOMEM]),
    ("close", &[Errno::EINTR, Errno::EIO, Errno::ENOSPC]),
    ("epoll_wait", &[Errno::EINTR]),
    ("epoll_pwait", &[Errno::EINTR]),
    ("rt_sigprocmask", &[]),
    ("arch_prctl", &[]),
    ("getrandom", &[Errno::EINTR, Errno::ENOSYS, Errno::EPERM]),
    ("mmap", &[Errno::ENOMEM, Errno::EAGAIN, Errno::EPERM, Errno::ENFILE]),
    ("mprotect", &[Errno::ENOMEM]),
    ("munmap", &[Errno::ENOMEM]),
    ("poll", &[Errno::EINTR, Errno::ENOMEM]),
];

/// Returns whether the kernel may answer a call with an error.
pub fn possible(name: &str, errno: Errno) -> bool {
    let only = ONLY.iter().find(|(call, _)| *call == name);
    !NEVER_FAIL.contains(&name) && only.is_none_or(|(_, errnos)| errnos.contains(&errno))
}

/// The log of the driver about a run.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The name of the call that the order came to, with its readable arguments. `None` if there were fewer calls.
    pub hit: Option<String>,
    /// The order came to a call that cannot fail so, and the call was left alone.
    pub spared: bool,
    /// The calls that the processes were in when the bound had passed.
    pub hang: Option<String>,
    /// A process that was held when the runtime had ended.
    pub left: Option<String>,
    /// The number of commands that ended.
    pub ended: usize,
    /// The names of all calls of each class, of a run that counts.
    pub calls: Vec<(Class, String)>,
}

impl Log {
    /// Reads the log of a run.
    pub fn read(path: &Path) -> Self {
        let mut log = Self::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let Some((word, rest)) = line.split_once(' ') else { continue };
            match word {
                "parent" => log.calls.push((Class::Parent, rest.to_owned())),
                "child" => log.calls.push((Class::Child, rest.to_owned())),
                "hit" => log.hit = Some(rest.to_owned()),
                "spared" => (log.hit, log.spared) = (Some(rest.to_owned()), true),
                "hang" => log.hang = Some(rest.to_owned()),
                "ended" => log.ended += 1,
                "left" => log.left = Some(rest.to_owned()),
                _ => {}
            }
        }
        log
    }

    /// Returns the number of calls of a class.
    pub fn count(&self, class: Class) -> usize {
        self.calls.iter().filter(|(of, _)| *of == class).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        for text in ["count:parent:0", "kill:child:7", "hold:child:1", "EIO:parent:12"] {
            assert_eq!(Order::parse(text).unwrap().to_string(), text);
        }
        for bad in ["EXDEV:parent:1", "kill:shim:1", "kill:child:x", "kill"] {
            assert!(Order::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn futile_errors_are_left_out() {
        assert!(possible("openat", Errno::EPERM) && possible("futex", Errno::EINTR));
        assert!(!possible("getpid", Errno::EPERM) && !possible("futex", Errno::EIO));
    }
}
