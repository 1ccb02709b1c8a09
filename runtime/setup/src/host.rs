//! The files of a host: this one, or a tree in another directory (`--destdir`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The directories in which engines have their programs, beside PATH.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Most bytes of a file that is read.
const MOST: u64 = 16 << 20;

/// The files of a host.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose root is `destdir`; this one without it.
    pub fn new(destdir: Option<&Path>) -> Self {
        Self { root: destdir.map_or_else(|| PathBuf::from("/"), Path::to_path_buf) }
    }

    /// Returns whether this is the running host, whose programs may be executed.
    pub fn is_own(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The place of an absolute path.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// The text of a file; `None` if it does not exist, cannot be read, is not UTF-8 or is longer than 16 MiB.
    pub fn text(&self, absolute: impl AsRef<Path>) -> Option<String> {
        let path = self.path(absolute);
        // Files of procfs and sysfs have the length 0.
        let short = fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() <= MOST);
        if short { fs::read_to_string(path).ok() } else { None }
    }

    /// The text of a file of one line, without the end of the line.
    pub fn line(&self, absolute: impl AsRef<Path>) -> Option<String> {
        Some(self.text(absolute)?.trim_end().to_owned())
    }

    /// Returns whether a path exists.
    pub fn has(&self, absolute: impl AsRef<Path>) -> bool {
        self.path(absolute).exists()
    }

    /// The names in a directory, sorted; none if it cannot be read.
    pub fn names(&self, absolute: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(absolute)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Finds a program, as an absolute path on the host.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let path = if self.is_own() { std::env::var_os("PATH") } else { None };
        let path: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute()).collect();
        let places = path.into_iter().chain(PROGRAMS.map(PathBuf::from)).map(|dir| dir.join(name));
        places.into_iter().find(|place| fs::metadata(self.path(place)).is_ok_and(|data| data.is_file()))
    }

    /// Returns the output of `PROGRAM ARGUMENT`; `None` on another host, or if the program fails.
    pub fn output(&self, program: &str, argument: &str) -> Option<String> {
        let path = self.program(program).filter(|_| self.is_own())?;
        let out = Command::new(path).arg(argument).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// The first two numbers of a text such as `containerd github.com/containerd/containerd/v2 v2.3.4`. A number alone, as
/// the `2` of `v2`, is not a version.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.into_iter().find_map(|word| {
        let (major, rest) = word.split_once('.')?;
        Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_engines_are_read_from_their_words() {
        for (text, found) in [
            ("containerd github.com/containerd/containerd/v2 v2.3.4 abc", Some((2, 3))),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", Some((1, 6))),
            ("Docker version 28.5.2+dfsg1, build ecc6942", Some((28, 5))),
            ("podman version 4.3.1", Some((4, 3))),
            ("none", None),
        ] {
            assert_eq!(version(text), found, "{text}");
        }
    }

    #[test]
    fn paths_of_another_root_stay_below_it() {
        let host = Host::new(Some(Path::new("/x")));
        assert_eq!(host.path("/etc/a"), Path::new("/x/etc/a"));
        assert!(!host.is_own() && host.output("true", "").is_none());
        assert_eq!(Host::new(None).path("/etc/a"), Path::new("/etc/a"));
    }
}
