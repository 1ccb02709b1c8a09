//! The security modules of the machine, and the reason for which a test about one is skipped.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    path::Path,
};

/// Prints why `test`, which needs a security module, is skipped.
///
/// # Panics
/// The kernel command line asks for this module (`security=`): then its absence is a fault of the machine.
pub fn skip(test: &str, module: &str, reason: &str) {
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let told = format!("security={module}");
    assert!(!words.split_whitespace().any(|word| word == told), "{test}: the kernel was started with {told}: {reason}");
    eprintln!("{test}: skipped: {reason}");
}

/// Returns a context as the loaded SELinux policy writes it. Returns `None` without SELinux, or if the policy does not
/// know the context.
///
/// # Panics
/// As [`skip`].
pub fn selinux(test: &str, context: &str) -> Option<String> {
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        skip(test, "selinux", "this kernel runs without SELinux");
        return None;
    }
    // selinuxfs answers a write with the content of the next read on the same file, or with EINVAL.
    let mut file = OpenOptions::new().read(true).write(true).open("/sys/fs/selinux/context").expect("open selinuxfs");
    if let Err(e) = file.write_all(context.as_bytes()) {
        skip(test, "selinux", &format!("the policy in force does not know {context}: {e}"));
        return None;
    }
    let mut canonical = String::new();
    file.read_to_string(&mut canonical).expect("read selinuxfs");
    Some(plain(&canonical).to_owned())
}

/// Returns the SELinux context of a process.
pub fn context_of(pid: u32) -> String {
    let file = format!("/proc/{pid}/attr/current");
    plain(&fs::read_to_string(&file).unwrap_or_else(|e| panic!("read {file}: {e}"))).to_owned()
}

/// Removes the NUL or newline that the kernel appends to a context.
pub fn plain(context: &str) -> &str {
    context.trim_end_matches(['\0', '\n'])
}
