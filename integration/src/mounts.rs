//! Mount tables: `/proc/PID/mountinfo` as structures (proc_pid_mountinfo(5)).

use rustix::mount::{MountPropagationFlags, mount_change};
use serde_json::Value;
use std::{
    fs,
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

/// A thread with its own mount namespace, which exists as long as this value.
pub struct MountHolder {
    /// `/proc/PID/task/TID` of the thread.
    pub proc: String,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl MountHolder {
    /// Makes the namespace as a private copy of this process's mounts.
    pub fn unshare() -> Self {
        let (ended, wait) = channel::<()>();
        let (say, named) = channel();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            say.send(format!("/proc/{}/task/{}", std::process::id(), nix::unistd::gettid())).unwrap();
            wait.recv().unwrap_err();
        });
        Self { proc: named.recv().unwrap(), thread: Some((ended, thread)) }
    }

    /// Returns the path of the namespace.
    pub fn namespace(&self) -> String {
        format!("{}/ns/mnt", self.proc)
    }

    /// Returns the text of its mountinfo.
    pub fn table(&self) -> String {
        fs::read_to_string(format!("{}/mountinfo", self.proc)).unwrap()
    }
}

impl Drop for MountHolder {
    fn drop(&mut self) {
        if let Some((ended, thread)) = self.thread.take() {
            drop(ended);
            let _ = thread.join();
        }
    }
}

/// One line of a mountinfo file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device numbers, `major:minor`.
    pub device: String,
    /// The path inside the filesystem that is mounted.
    pub root: String,
    /// The mount point.
    pub point: String,
    /// The options of the mount, sorted: ro or rw, nosuid, ...
    pub options: Vec<String>,
    /// The propagation: `shared:N`, `master:N`, ... It is empty for a private mount.
    pub propagation: Vec<String>,
    /// The type of the filesystem.
    pub fs: String,
    /// The source, as the filesystem reports it.
    pub source: String,
    /// The options of the superblock.
    pub superblock: Vec<String>,
}

impl Mount {
    /// Returns whether the mount (not the superblock) has the option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    /// Returns whether the superblock has the option, alone or as `NAME=VALUE`.
    pub fn fs_has(&self, option: &str) -> bool {
        self.superblock.iter().any(|o| o == option)
    }

    /// Returns `private`, `shared`, `slave`, `slave shared` or `unbindable`.
    pub fn propagation(&self) -> String {
        let word = |p: &String| match p.split(':').next().unwrap_or_default() {
            "master" => Some("slave"),
            "shared" => Some("shared"),
            "unbindable" => Some("unbindable"),
            _ => None,
        };
        let mut words: Vec<_> = self.propagation.iter().filter_map(word).collect();
        words.sort_by(|a, b| b.cmp(a));
        if words.is_empty() { "private".into() } else { words.join(" ") }
    }
}

/// Parses a whole mountinfo file.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(line).collect()
}

/// Parses the `mountinfo` of a probe's report.
pub fn reported(report: &Value) -> Vec<Mount> {
    let lines = report["mountinfo"].as_array().unwrap_or_else(|| panic!("no mountinfo in {report}"));
    lines.iter().filter_map(|l| line(l.as_str()?)).collect()
}

/// Returns the mounts of a process as this process sees them.
pub fn of_process(pid: u32) -> Vec<Mount> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default())
}

/// Returns the topmost mount at a path.
pub fn at<'a>(mounts: &'a [Mount], point: &str) -> Option<&'a Mount> {
    mounts.iter().rfind(|m| m.point == point)
}

fn line(text: &str) -> Option<Mount> {
    let (before, after) = text.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.splitn(3, ' ').collect();
    let words = |s: &str| {
        let mut list: Vec<String> = s.split(',').map(str::to_owned).collect();
        list.sort();
        list
    };
    Some(Mount {
        device: before.get(2)?.to_string(),
        root: unescape(before.get(3)?),
        point: unescape(before.get(4)?),
        options: words(before.get(5)?),
        propagation: before.get(6..)?.iter().map(|s| s.to_string()).collect(),
        fs: after.first()?.to_string(),
        source: unescape(after.get(1)?),
        superblock: words(after.get(2)?),
    })
}

/// Decodes the octal escapes (space, tab, newline, backslash).
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('\\') {
        out.push_str(head);
        match tail.get(..3).and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = tail;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_line_is_parsed_with_all_fields() {
        let m =
            &parse("36 35 98:0 /a\\040b /mnt rw,noatime shared:2 master:1 - ext3 /dev/root rw,errors=continue\n")[0];
        assert_eq!((m.root.as_str(), m.point.as_str(), m.fs.as_str()), ("/a b", "/mnt", "ext3"));
        assert_eq!(m.propagation(), "slave shared");
        assert!(m.has("noatime") && m.fs_has("errors=continue") && !m.has("ro"));
    }

    #[test]
    fn mount_without_optional_fields_is_private() {
        assert_eq!(parse("1 2 0:3 / / rw - proc proc rw")[0].propagation(), "private");
    }
}
