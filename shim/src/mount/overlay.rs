//! Overlays whose options do not fit in the page of data that mount(2) takes, because of their many layers.
//!
//! Each lower directory is opened, and the option names `/proc/self/fd/N` instead of its path. Some 240 layers fit
//! then, more than an image has. The alternatives are worse: fsconfig(2) takes 256 bytes for each value, and its
//! `lowerdir+` for single layers needs Linux 6.7; relative paths need a thread with its own working directory, which
//! unshare(2) makes.

use std::os::fd::{AsRawFd, OwnedFd};

use berth_runtime::{Context, Error, Result};
use rustix::fs::{Mode, OFlags, open};

/// The size of mount(2)'s data in bytes: one page.
const PAGE: usize = 4096;
/// The number of bytes that containerd leaves free for the kernel's additions.
const RESERVE: usize = 512;

/// Reports whether mount(2) would cut the options off.
pub fn too_long(data: &[String]) -> bool {
    data.iter().map(|d| d.len() + 1).sum::<usize>() >= PAGE - RESERVE
}

/// Names the lower directories by descriptor. The descriptors must live until the mount is made.
///
/// # Errors
/// A lower directory cannot be opened, and the error names it; or the options are still too long.
pub fn shorten(data: &[String]) -> Result<(String, Vec<OwnedFd>)> {
    let mut layers = Vec::new();
    let mut out = Vec::with_capacity(data.len());
    for option in data {
        let Some(lower) = option.strip_prefix("lowerdir=") else {
            out.push(option.clone());
            continue;
        };
        let mut names = Vec::new();
        for path in split(lower) {
            let fd = open(path.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .with_context(|| format!("open lower directory {path}"))?;
            names.push(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            layers.push(fd);
        }
        out.push(format!("lowerdir={}", names.join(":")));
    }
    let text = out.join(",");
    if text.len() >= PAGE {
        return Err(Error::invalid(format!("mount options are too long: {} layers", layers.len())));
    }
    Ok((text, layers))
}

/// Splits `lowerdir` at its colons. A backslash escapes a colon or a backslash in a name.
pub fn split(lower: &str) -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut chars = lower.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            ':' => {
                paths.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            c => c,
        };
        if let Some(path) = paths.last_mut() {
            path.push(c);
        }
    }
    paths
}

/// Escapes a name for `lowerdir`.
pub fn escape(name: &str) -> String {
    name.replace('\\', r"\\").replace(':', r"\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_colon_belongs_to_the_name() {
        let names = ["/a", "/b:c", r"/d\e"];
        assert_eq!(split(r"/a:/b\:c:/d\\e"), names);
        assert_eq!(split(&names.map(escape).join(":")), names);
    }

    #[test]
    fn a_hundred_long_layer_paths_fit_in_a_page() {
        let dir = std::env::temp_dir();
        let lower = vec![dir.to_str().unwrap(); 100].join(":");
        let data = vec!["index=off".to_owned(), format!("lowerdir={lower}"), "x".repeat(3600)];
        assert!(too_long(&data));
        let (text, layers) = shorten(&data[..2]).unwrap();
        assert_eq!(layers.len(), 100);
        assert!(text.starts_with("index=off,lowerdir=/proc/self/fd/"));
        assert!(text.len() < PAGE);
    }

    #[test]
    fn a_missing_overlay_layer_is_named() {
        let error = shorten(&["lowerdir=/nowhere/at/all".into()]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
