//! The global flags, and the settings that follow from them.

use std::{
    fs::{DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use ::log::LevelFilter;
use berth_runtime::{
    Context, Error, Result, caller,
    cgroup::{Manager, Rootless},
    go_bool,
};

use crate::log;

/// The global flags as given.
#[derive(Debug, Default)]
pub struct GlobalArgs {
    /// `--debug`
    pub debug: bool,
    /// `--log`
    pub log: Option<PathBuf>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--root`; an empty text is the current directory.
    pub root: Option<String>,
    /// `--systemd-cgroup`
    pub systemd_cgroup: bool,
    /// `--cgroup-manager`
    pub cgroup_manager: Option<String>,
    /// `--rootless`
    pub rootless: Option<String>,
    /// `--version`
    pub version: bool,
}

/// The settings that all commands share.
#[derive(Debug)]
pub struct Globals {
    /// The name that the program calls itself: `runc` if it was started under that name, else `berth`.
    pub program: &'static str,
    /// The directory that holds the state of containers.
    pub root: PathBuf,
    /// The caller named the directory. Then it has to exist for `list`.
    pub root_given: bool,
    /// The cgroup driver.
    pub cgroup_manager: Manager,
    /// The treatment of cgroup setup that the host forbids (`--rootless`).
    pub rootless: Rootless,
}

impl Globals {
    /// Checks the flags and finds the state directory.
    ///
    /// # Errors
    /// Fails if a flag is malformed or the directory cannot be made. The error names it.
    pub fn resolve(program: &'static str, args: &GlobalArgs) -> Result<Self> {
        let rootless = rootless(args.rootless.as_deref())?;
        let root = match &args.root {
            Some(root) => absolute(root)?,
            None => default_root()?,
        };
        if args.root.is_some() && root == Path::new("/") {
            return Err(Error::invalid("Option --root argument should not be set to /"));
        }
        Ok(Self { program, root, root_given: args.root.is_some(), cgroup_manager: cgroup_manager(args)?, rootless })
    }
}

/// Starts the log as the flags say.
///
/// # Errors
/// Fails if the format is unknown or the file cannot be opened.
pub fn start_log(args: &GlobalArgs) -> Result<()> {
    let format = match args.log_format.as_deref() {
        None | Some("text") => log::Format::Text,
        Some("json") => log::Format::Json,
        Some(other) => return Err(Error::invalid(format!("invalid log-format: {other}"))),
    };
    log::start(args.log.as_deref(), format, if args.debug { LevelFilter::Debug } else { LevelFilter::Info })
}

fn rootless(flag: Option<&str>) -> Result<Rootless> {
    let Some(text) = flag.filter(|text| !text.eq_ignore_ascii_case("auto")) else { return Ok(Rootless::Auto) };
    match go_bool::parse_bool(text) {
        Some(true) => Ok(Rootless::On),
        Some(false) => Ok(Rootless::Off),
        None => Err(Error::invalid(format!("--rootless {text:?}: neither true, false nor auto"))),
    }
}

/// The driver by runc's flag or by crun's. Engines pass crun's flag for a container without a cgroup of its own.
fn cgroup_manager(args: &GlobalArgs) -> Result<Manager> {
    match args.cgroup_manager.as_deref() {
        None if args.systemd_cgroup => Ok(Manager::Systemd),
        None => Ok(Manager::Cgroupfs),
        Some("systemd") => Ok(Manager::Systemd),
        Some(other) if args.systemd_cgroup => {
            Err(Error::invalid(format!("--cgroup-manager {other}: contradicts --systemd-cgroup")))
        }
        Some("cgroupfs") => Ok(Manager::Cgroupfs),
        Some("disabled") => Ok(Manager::Disabled),
        Some(other) => Err(Error::invalid(format!("--cgroup-manager {other:?}: not cgroupfs, systemd or disabled"))),
    }
}

/// The state directory without `--root`: `/run/berth`, or `$XDG_RUNTIME_DIR/berth` for an unprivileged user. The latter
/// gets the sticky bit, because the XDG Base Directory Specification lets files without it be removed.
fn default_root() -> Result<PathBuf> {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let Some(dir) = xdg.filter(|_| honours_xdg()) else {
        return Ok(PathBuf::from("/run/berth"));
    };
    let root = PathBuf::from(dir).join("berth");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .with_context(|| format!("mkdir {}: $XDG_RUNTIME_DIR must be writable by the user", root.display()))?;
    std::fs::set_permissions(&root, Permissions::from_mode(0o1700))
        .with_context(|| format!("chmod {}", root.display()))?;
    Ok(root)
}

/// Returns whether `$XDG_RUNTIME_DIR` counts. It does for an unprivileged user, and for root of a user namespace unless `$USER` is
/// root.
fn honours_xdg() -> bool {
    caller::is_user() || (caller::in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root"))
}

/// `path` as an absolute path without `.` and `..`. Symbolic links are not followed, as in Go's `filepath.Abs`.
fn absolute(path: &str) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    let start = if path.starts_with('/') { PathBuf::new() } else { std::env::current_dir().context("getcwd")? };
    for part in start.join(path).components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_root_is_made_absolute_and_clean() {
        for (path, clean) in [("/a/../b/./c/", "/b/c"), ("/..", "/"), ("/", "/"), ("/a//b", "/a/b")] {
            assert_eq!(absolute(path).unwrap(), Path::new(clean), "{path}");
        }
        assert_eq!(absolute("x").unwrap(), std::env::current_dir().unwrap().join("x"));
        assert_eq!(absolute("").unwrap(), std::env::current_dir().unwrap());
    }

    #[test]
    fn slash_as_state_root_is_refused() {
        let args = GlobalArgs { root: Some("/x/..".to_owned()), ..GlobalArgs::default() };
        let error = Globals::resolve("berth", &args).unwrap_err().to_string();
        assert_eq!(error, "Option --root argument should not be set to /");
    }

    #[test]
    fn rootless_is_a_boolean_of_go_or_auto() {
        for (flag, value) in [
            (None, Rootless::Auto),
            (Some("AUTO"), Rootless::Auto),
            (Some("t"), Rootless::On),
            (Some("0"), Rootless::Off),
        ] {
            assert_eq!(rootless(flag).unwrap(), value, "{flag:?}");
        }
        assert!(rootless(Some("yes")).is_err());
    }
}
