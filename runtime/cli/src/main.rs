//! `berth`, the runc-compatible command line: words in, one verb of the library, words and an exit status out.
//!
//! It decodes, calls, encodes; what a verb means is the library's. Main path: [`run`] reads the global flags, starts
//! the log, finds the command in [`table::COMMANDS`], reads its flags and runs it. Flags, words and exit statuses are
//! those of runc 1.5.1; called by the name `runc`, it also calls itself so.

mod args;
mod console;
mod exec_process;
mod extra_fds;
mod help;
mod launch;
mod log;
#[cfg(test)]
mod manual;
mod sd_notify;
mod signals;
mod stdio;
mod sys;
mod table;
mod usage;

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod image;
mod kill;
mod list;
mod mounts;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod unbuilt;
mod update;

use std::{
    ffi::OsString,
    fs::{DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use berth_runtime::{
    Context, Error, caller,
    cgroup::{Manager, Rootless},
    state::Container,
};

use self::args::Parsed;

/// Why a command fails: what to say, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// For the log and stderr.
    pub message: String,
    /// The exit status.
    pub status: i32,
}

/// The exit status of a payload that could not be executed, as of runc's init: its standard error, which is the caller's,
/// has said why.
const NOT_EXECUTED: i32 = 255;

/// What a command comes to: its exit status, or a failure.
pub type Outcome = Result<i32, Failure>;

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: error.into().to_string(), status: 1 }
    }
}

/// What the global flags say.
pub struct Globals {
    /// What the program calls itself: `runc` when called so, else `berth`.
    pub program: &'static str,
    /// Where the state of containers lives.
    pub root: PathBuf,
    /// `--root` was given, so it has to exist.
    pub root_given: bool,
    /// Who makes cgroups.
    pub cgroup_manager: Manager,
    /// `--rootless`: whether cgroup setup that the host forbids is skipped.
    pub rootless: Rootless,
}

fn main() {
    std::process::exit(run(std::env::args_os().collect()));
}

/// Runs the command line and returns the exit status.
fn run(words: Vec<OsString>) -> i32 {
    match try_main(words) {
        Ok(status) => status,
        Err(failure) => {
            log::failed(&failure.message);
            failure.status
        }
    }
}

fn try_main(words: Vec<OsString>) -> Outcome {
    let words = words.into_iter().enumerate().map(|(n, word)| {
        word.into_string().map_err(|word| Error::invalid(format!("argument {n} is not UTF-8: {}", word.display())))
    });
    let words = words.collect::<Result<Vec<String>, Error>>()?;
    let (argv0, words) = words.split_first().map_or(("berth", words.as_slice()), |(first, rest)| (first, rest));
    let program = if Path::new(argv0).file_name().is_some_and(|name| name == "runc") { "runc" } else { "berth" };

    let parsed = match args::parse(table::GLOBALS, words, true) {
        Ok(parsed) => parsed,
        Err(complaint) => {
            help::out(&format!("Incorrect Usage. {complaint}\n\n{}", help::program(program)));
            return Err(Failure { message: complaint, status: 1 });
        }
    };
    if parsed.on("help") {
        help::out(&help::program(program));
        return Ok(0);
    }
    if parsed.on("version") {
        help::out(&help::version(program));
        return Ok(0);
    }
    let globals = globals(program, &parsed)?;
    start_log(&parsed)?;

    match parsed.operands.split_first() {
        Some((name, rest)) if name == "help" || name == "h" => explain(program, rest.first().map(String::as_str)),
        Some((name, rest)) => command(&globals, argv0, name, rest),
        None => explain(program, None),
    }
}

/// Shows what there is to know about one command, or all.
fn explain(program: &str, name: Option<&str>) -> Outcome {
    let text = match name {
        None => help::program(program),
        Some(name) => match table::COMMANDS.iter().find(|command| command.name == name) {
            Some(command) => help::command(program, command),
            None => return Err(no_topic(name)),
        },
    };
    help::out(&text);
    Ok(0)
}

/// What urfave/cli says, with its status, about a command that is not there.
fn no_topic(name: &str) -> Failure {
    Failure { message: format!("No help topic for '{name}'"), status: 3 }
}

/// Reads the flags of command `name` and runs it.
fn command(globals: &Globals, argv0: &str, name: &str, words: &[String]) -> Outcome {
    let Some(command) = table::COMMANDS.iter().find(|command| command.name == name) else {
        return Err(no_topic(name));
    };
    // The flags are those of another program, which also has the help.
    if [image::UNPACK.name, image::TAGS.name].contains(&command.name) {
        return Err(image::execute(name, words));
    }
    if matches!(command.name, "create" | "run" | "exec") {
        berth_runtime::sealed::ensure()?;
        berth_runtime::kernel::check()?;
    }
    let usage = |headline: &str, complaint: String| {
        help::out(&format!("{headline}\n\n{}", help::command(globals.program, command)));
        Err(Failure { message: complaint, status: 1 })
    };
    let parsed = match args::parse(command.flags, words, command.operands_last) {
        Ok(parsed) => parsed,
        Err(complaint) => return usage(&format!("Incorrect Usage: {complaint}"), complaint),
    };
    if parsed.on("help") {
        help::out(&help::command(globals.program, command));
        return Ok(0);
    }
    if let Some(complaint) = command.count.complaint(parsed.operands.len()) {
        return usage("Incorrect Usage.", format!("{argv0}: \"{name}\" {complaint}"));
    }
    (command.run)(globals, &parsed)
}

/// The container that the first operand names.
///
/// # Errors
/// There is none, or its state cannot be read.
fn container(globals: &Globals, parsed: &Parsed) -> Result<Container, Error> {
    let id = parsed.operand(0);
    if id.is_empty() {
        return Err(Error::invalid("container id cannot be empty"));
    }
    Container::load(&globals.root, id)
}

/// The failure of a command that says so by name.
fn failed(globals: &Globals, command: &str, error: Error) -> Failure {
    Failure { message: format!("{} {command} failed: {error}", globals.program), status: 1 }
}

fn globals(program: &'static str, parsed: &Parsed) -> Result<Globals, Failure> {
    // Go's strconv.ParseBool.
    let rootless = match parsed.text("rootless") {
        None => Rootless::Auto,
        Some(text) if text.eq_ignore_ascii_case("auto") => Rootless::Auto,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Rootless::On,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Rootless::Off,
        Some(text) => return Err(Error::invalid(format!("--rootless {text:?}: neither true, false nor auto")).into()),
    };
    let root_given = parsed.is_set("root");
    let root = if root_given {
        let root = absolute(parsed.text("root").unwrap_or_default())?;
        if root == Path::new("/") {
            return Err(Error::invalid("Option --root argument should not be set to /").into());
        }
        root
    } else {
        default_root()?
    };
    Ok(Globals { program, root, root_given, cgroup_manager: cgroup_manager(parsed)?, rootless })
}

/// runc's flag, or crun's, which engines pass on for a container without a cgroup of its own.
fn cgroup_manager(parsed: &Parsed) -> Result<Manager, Error> {
    let systemd = parsed.on("systemd-cgroup");
    match parsed.text("cgroup-manager") {
        None if systemd => Ok(Manager::Systemd),
        None => Ok(Manager::Cgroupfs),
        Some("systemd") => Ok(Manager::Systemd),
        Some(other) if systemd => {
            Err(Error::invalid(format!("--cgroup-manager {other}: contradicts --systemd-cgroup")))
        }
        Some("cgroupfs") => Ok(Manager::Cgroupfs),
        Some("disabled") => Ok(Manager::Disabled),
        Some(other) => Err(Error::invalid(format!("--cgroup-manager {other:?}: not cgroupfs, systemd or disabled"))),
    }
}

fn start_log(parsed: &Parsed) -> Result<(), Failure> {
    let format = match parsed.text("log-format") {
        None | Some("text") => log::Format::Text,
        Some("json") => log::Format::Json,
        Some(other) => return Err(Error::invalid(format!("invalid log-format: {other}")).into()),
    };
    Ok(log::start(parsed.text("log").map(Path::new), format, parsed.on("debug"))?)
}

/// Where state lives when `--root` does not say: `/run/berth`, or `$XDG_RUNTIME_DIR/berth` for an ordinary user (or
/// root of a user namespace who is not called so). The latter is made with the sticky bit, without which the XDG
/// specification lets it be pruned.
fn default_root() -> Result<PathBuf, Failure> {
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

fn honours_xdg() -> bool {
    caller::is_user() || (caller::in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root"))
}

/// `path` made absolute and cleaned of `.` and `..` by text alone, as Go's `filepath.Abs` does.
fn absolute(path: &str) -> Result<PathBuf, Error> {
    let mut clean = PathBuf::new();
    let start = if path.starts_with('/') { PathBuf::new() } else { std::env::current_dir().context("getcwd")? };
    for part in start.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_absolute_and_clean() {
        for (path, clean) in [("/a/../b/./c/", "/b/c"), ("/..", "/"), ("/", "/"), ("/a//b", "/a/b")] {
            assert_eq!(absolute(path).unwrap(), Path::new(clean), "{path}");
        }
        assert_eq!(absolute("x").unwrap(), std::env::current_dir().unwrap().join("x"));
        assert_eq!(absolute("").unwrap(), std::env::current_dir().unwrap());
    }

    #[test]
    fn the_root_directory_is_no_state_root() {
        let parsed = args::parse(table::GLOBALS, &["--root=/x/..".to_owned()], true).unwrap();
        let failure = globals("berth", &parsed).err().unwrap();
        assert_eq!((failure.message.as_str(), failure.status), ("Option --root argument should not be set to /", 1));
    }
}
