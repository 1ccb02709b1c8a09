//! Hooks of the OCI spec: plans them, runs those of the runtime, and words the failure of one.
//!
//! [`berth_init::hook`] runs a hook. The operations decide when (config.md, "POSIX-platform Hooks").
//!
//! | kind | runs in | namespaces and root | a failure |
//! |---|---|---|---|
//! | prestart, createRuntime | the runtime | the runtime's namespaces | fails the create |
//! | createContainer | init | the container's namespaces, the host's tree as root | fails the create |
//! | startContainer | init | the container, with the payload's rights | fails the start and ends the container |
//! | poststart | the runtime | the runtime's namespaces | fails the start and ends the container |
//! | poststop | the runtime | the runtime's namespaces | is logged as a warning |

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{Read, Seek},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use berth_init::{
    hook::{self, Descendants, HookContext},
    plan::{Hook as Planned, Hooks as Point, Ptr},
    wire::{Failure, Step},
};
use oci_spec::runtime::{Hook, Hooks, Spec};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Kind, Result,
    arena::Arena,
    error::errno_text,
    host::{environment::of_caller, open_files, signals},
    oci_state::OciState,
};

/// Most bytes of each of a hook's output streams that an error or a log line repeats.
const MAX_OUTPUT: u64 = 16 << 10;

/// The log target for the output of hooks. A front door that logs to a terminal can leave it out.
pub const LOG_TARGET: &str = "hooks";

/// The kinds of hooks by their names in config.json, in the order of the lifecycle.
pub const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Returns the hooks of a config.json, in the order of [`KINDS`].
fn by_kind(hooks: &Hooks) -> [&[Hook]; 6] {
    #[allow(deprecated, reason = "prestart is deprecated in the specification and still written by callers")]
    let prestart = hooks.prestart();
    let others = [
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    let [b, c, d, e, f] = others.map(|list| list.as_deref().unwrap_or_default());
    [prestart.as_deref().unwrap_or_default(), b, c, d, e, f]
}

/// Checks the hooks beyond their types: absolute path, timeout above zero, no NUL bytes.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name of the field.
pub fn check(hooks: &Hooks) -> Result<()> {
    for (kind, list) in KINDS.iter().zip(by_kind(hooks)) {
        for (n, hook) in list.iter().enumerate() {
            let bad = |field: &str, why: String| Err(Error::invalid(format!("hooks.{kind}[{n}].{field}: {why}")));
            if !hook.path().is_absolute() {
                return bad("path", format!("must be absolute: {:?}", hook.path()));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return bad("timeout", "must be greater than zero".into());
            }
            let has_nul = |bytes: &[u8]| bytes.contains(&0);
            if has_nul(hook.path().as_os_str().as_bytes()) {
                return bad("path", "contains a NUL byte".into());
            }
            for (field, words) in [("args", hook.args()), ("env", hook.env())] {
                if let Some(at) = words.iter().flatten().position(|word| has_nul(word.as_bytes())) {
                    return bad(&format!("{field}[{at}]"), "contains a NUL byte".into());
                }
            }
        }
    }
    Ok(())
}

/// The hooks that run after create. state.json keeps them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaterHooks {
    /// Init runs these; the list serves to word a failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// The runtime runs these after the payload's execve(2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// The runtime runs these after the container is deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

impl LaterHooks {
    /// Returns the later hooks of a config.json.
    pub fn of(spec: &Spec) -> Self {
        let Some(hooks) = spec.hooks() else { return Self::default() };
        let [_, _, _, start_container, poststart, poststop] = by_kind(hooks).map(<[Hook]>::to_vec);
        Self { start_container, poststart, poststop }
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The hooks of a create.
#[derive(Default)]
pub struct CreateHooks {
    /// prestart and createRuntime. The runtime runs them while init waits.
    runtime: [Vec<Hook>; 2],
    /// Init runs these; the list serves to word a failure.
    pub create_container: Vec<Hook>,
}

impl CreateHooks {
    /// Returns the create hooks of a config.json.
    pub fn of(spec: &Spec) -> Self {
        let Some(hooks) = spec.hooks() else { return Self::default() };
        let [prestart, create_runtime, create_container, ..] = by_kind(hooks).map(<[Hook]>::to_vec);
        Self { runtime: [prestart, create_runtime], create_container }
    }

    /// Runs prestart and createRuntime. `pid` is the container's init.
    ///
    /// # Errors
    /// The error of the first hook that fails.
    pub fn run(&self, state: OciState<'_>, pid: i32) -> Result<()> {
        let text = state_json(state, "creating")?;
        KINDS.iter().zip(&self.runtime).try_for_each(|(kind, list)| run(kind, list, &text, pid, state.bundle, Err))
    }
}

/// The plan of the hooks that init runs, or waits for.
pub struct InitHooks<'a> {
    /// The runtime runs hooks at create, so init waits for them.
    pub runtime: bool,
    /// Hooks in the container's namespaces, before init enters the root.
    pub create_container: Point<'a>,
    /// Hooks in the container, before execve(2).
    pub start_container: Point<'a>,
}

impl InitHooks<'_> {
    /// Returns true if any hook expects the container's root at its path in the bundle.
    pub fn need_root_in_bundle(&self) -> bool {
        self.runtime || !self.create_container.list.is_empty()
    }
}

/// Plans the hooks that init runs. A startContainer hook without `env` gets `payload_env`, as in runc.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name of the field.
pub fn plan<'a>(
    arena: &'a Arena,
    spec: &Spec,
    state: OciState<'_>,
    rootfs: &Path,
    payload_env: &'a [Cell<Ptr>],
) -> Result<InitHooks<'a>> {
    let Some(hooks) = spec.hooks() else {
        return Ok(InitHooks { runtime: false, create_container: Point::NONE, start_container: Point::NONE });
    };
    let [prestart, create_runtime, create_container, start_container, ..] = by_kind(hooks);
    let nothing = environment::<&str>(arena, &[])?;
    let create_container = Point {
        directory: Some(arena.path(rootfs, "root.path")?),
        ..point(arena, create_container, &state_json(state, "creating")?, nothing)?
    };
    Ok(InitHooks {
        runtime: !prestart.is_empty() || !create_runtime.is_empty(),
        create_container,
        // These run with the payload's resource limits.
        start_container: Point {
            limit: None,
            ..point(arena, start_container, &state_json(state, "created")?, payload_env)?
        },
    })
}

/// Runs the poststart hooks, after the payload's execve(2).
///
/// # Errors
/// The error of the first hook that fails.
pub fn poststart(hooks: &LaterHooks, state: OciState<'_>, pid: i32) -> Result<()> {
    if hooks.poststart.is_empty() {
        return Ok(());
    }
    run("poststart", &hooks.poststart, &state_json(state, "running")?, pid, state.bundle, Err)
}

/// Runs the poststop hooks, after the container is deleted. A failure is logged as a warning, and the next hook runs
/// (runtime.md, "Lifecycle", step 13).
pub fn poststop(hooks: &LaterHooks, state: OciState<'_>) {
    let warn = |e: Error| log::warn!("container {}: {e}", state.id);
    let each = |e| {
        warn(e);
        Ok(())
    };
    let all =
        state_json(state, "stopped").and_then(|text| run("poststop", &hooks.poststop, &text, 0, state.bundle, each));
    if let Err(e) = all {
        warn(e);
    }
}

/// Returns the OCI state as JSON in two parts, before and after the number of the pid (runtime.md, "State").
fn state_json(state: OciState<'_>, status: &str) -> Result<[String; 2]> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Before<'s> {
        oci_version: &'s str,
        id: &'s str,
        status: &'s str,
    }
    #[derive(Serialize)]
    struct After<'s> {
        bundle: &'s Path,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<&'s String, &'s String>,
    }
    let bad = |e: serde_json::Error| Error::new(Kind::Internal, format!("encode the state for a hook: {e}"));
    let before = Before { oci_version: state.oci_version, id: state.id, status };
    let after = After { bundle: state.bundle, annotations: state.annotations.iter().collect() };
    let mut before = serde_json::to_string(&before).map_err(bad)?;
    before.truncate(before.len().saturating_sub(1));
    before.push_str(",\"pid\":");
    let mut after = serde_json::to_string(&after).map_err(bad)?;
    after.replace_range(..1, ",");
    Ok([before, after])
}

/// Runs hooks of the runtime in order. After a failure `failed` decides whether the next one runs.
fn run(
    kind: &str,
    hooks: &[Hook],
    text: &[String; 2],
    pid: i32,
    bundle: &Path,
    failed: impl Fn(Error) -> Result<()>,
) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let arena = Arena::default();
    let point = Point {
        directory: Some(arena.path(bundle, "bundle")?),
        ..point(&arena, hooks, text, environment(&arena, &of_caller())?)?
    };
    (0..hooks.len()).try_for_each(|n| run_one(kind, hooks, &point, n, pid).or_else(&failed))
}

/// Runs hook number `n`, and logs its output.
fn run_one(kind: &str, hooks: &[Hook], point: &Point<'_>, n: usize, pid: i32) -> Result<()> {
    match hook::run(
        point,
        n,
        &HookContext { pid, watch: None, filtered: None, descendants: Descendants::EndAfterTimeout },
    ) {
        Ok(output) => {
            for (stream, file) in ["stdout", "stderr"].iter().zip(output) {
                let output = read_output(file);
                if !output.is_empty() {
                    log::info!(target: LOG_TARGET, "{kind} hook #{n}: {stream}: {output}");
                }
            }
            Ok(())
        }
        Err(fault) => Err(to_error(kind, hooks, fault.failure, fault.output.into_iter().flatten().collect())),
    }
}

fn point<'a>(arena: &'a Arena, hooks: &[Hook], text: &[String; 2], env: &'a [Cell<Ptr>]) -> Result<Point<'a>> {
    let mut list = Vec::with_capacity(hooks.len());
    for hook in hooks {
        let path = arena.path(hook.path(), "hooks.path")?;
        let mut args = Vec::new();
        for word in hook.args().iter().flatten() {
            args.push(arena.text(word, "hooks.args")?.as_ptr());
        }
        if args.is_empty() {
            args.push(path.as_ptr());
        }
        args.push(std::ptr::null());
        let env = match hook.env().as_deref().unwrap_or_default() {
            [] => env,
            own => environment(arena, own)?,
        };
        let timeout = hook.timeout().map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        list.push(Planned { path, args: arena.list(args), env, timeout });
    }
    let [before, after] = text;
    Ok(Point {
        list: arena.list(list),
        state: [arena.bytes(before.as_bytes()), arena.bytes(after.as_bytes())],
        directory: None,
        limit: open_files::inherited_nofile(),
        ignored_signals: signals::ignored(),
    })
}

fn environment<'a, T: AsRef<[u8]>>(arena: &'a Arena, words: &[T]) -> Result<&'a [Cell<Ptr>]> {
    let mut cells = Vec::with_capacity(words.len() + 1);
    for word in words {
        cells.push(Cell::new(arena.text(word, "hooks.env")?.as_ptr()));
    }
    cells.push(Cell::new(std::ptr::null()));
    Ok(arena.list(cells))
}

/// Returns true if a hook has failed.
pub fn is_hook(failure: Failure) -> bool {
    matches!(failure.step, Step::HookStart | Step::HookStatus | Step::HookTimeout)
}

/// Returns the error for a failed hook, in runc's words. `output` holds the files of its stdout and stderr.
pub fn to_error(kind: &str, hooks: &[Hook], failure: Failure, output: Vec<OwnedFd>) -> Error {
    let hook = usize::try_from(failure.index).ok().and_then(|n| hooks.get(n));
    let with_output = |status: String| {
        let [stdout, stderr] =
            output.try_into().map_or_else(|_| [String::new(), String::new()], |o: [_; 2]| o.map(read_output));
        format!("{status}, stdout: {stdout}, stderr: {stderr}")
    };
    let why = match failure.step {
        Step::HookTimeout => {
            let seconds = hook.and_then(Hook::timeout).unwrap_or_default();
            format!("hook ran past specified timeout of {seconds}.0s")
        }
        Step::HookStart => {
            let path = hook.map(|h| h.path().display().to_string()).unwrap_or_default();
            format!("fork/exec {path}: {}", errno_text(failure.errno))
        }
        _ => with_output(status_text(failure.errno)),
    };
    Error::new(Kind::Internal, format!("error running {kind} hook #{}: {why}", failure.index))
}

/// Formats a wait(2) status as Go's os.ProcessState does.
fn status_text(status: i32) -> String {
    match nix::sys::signal::Signal::try_from(status & 0x7f) {
        Ok(signal) => {
            let core = if status & 0x80 == 0 { "" } else { " (core dumped)" };
            format!("signal: {}{core}", signal_text(signal))
        }
        Err(_) if status & 0x7f != 0 => format!("signal: signal {}", status & 0x7f),
        Err(_) => format!("exit status {}", status >> 8 & 0xff),
    }
}

fn signal_text(signal: nix::sys::signal::Signal) -> String {
    use nix::sys::signal::Signal;
    match signal {
        Signal::SIGKILL => "killed".into(),
        Signal::SIGTERM => "terminated".into(),
        Signal::SIGINT => "interrupt".into(),
        Signal::SIGHUP => "hangup".into(),
        Signal::SIGABRT => "aborted".into(),
        Signal::SIGSEGV => "segmentation fault".into(),
        Signal::SIGBUS => "bus error".into(),
        Signal::SIGPIPE => "broken pipe".into(),
        Signal::SIGSYS => "bad system call".into(),
        Signal::SIGILL => "illegal instruction".into(),
        Signal::SIGFPE => "floating point exception".into(),
        other => other.as_str().to_lowercase(),
    }
}

/// Reads the start of a hook's output, without trailing newlines.
fn read_output(file: OwnedFd) -> String {
    let mut file = std::fs::File::from(file);
    let mut bytes = Vec::new();
    // A hook may have closed or redirected its streams. Output that cannot be read is left out.
    let _ = file.rewind().and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut bytes).map(drop));
    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hooks(kind: &str, hook: serde_json::Value) -> Hooks {
        serde_json::from_value(json!({ kind: [{"path": "/first"}, hook] })).unwrap()
    }

    #[test]
    fn malformed_hooks_are_refused_by_field() {
        for kind in KINDS {
            for (hook, says) in [
                (json!({"path": "relative"}), "path: must be absolute: \"relative\""),
                (json!({"path": ""}), "path: must be absolute: \"\""),
                (json!({"path": "/a\u{0}b"}), "path: contains a NUL byte"),
                (json!({"path": "/a", "timeout": 0}), "timeout: must be greater than zero"),
                (json!({"path": "/a", "timeout": -1}), "timeout: must be greater than zero"),
                (json!({"path": "/a", "args": ["a", "b\u{0}"]}), "args[1]: contains a NUL byte"),
                (json!({"path": "/a", "env": ["A=\u{0}"]}), "env[0]: contains a NUL byte"),
            ] {
                let error = check(&hooks(kind, hook)).unwrap_err();
                assert_eq!(error.to_string(), format!("hooks.{kind}[1].{says}"));
                assert_eq!(error.kind(), Kind::InvalidArgument);
            }
            check(&hooks(kind, json!({"path": "/a", "args": [], "env": ["A"], "timeout": 1}))).unwrap();
        }
    }

    #[test]
    fn hook_failures_have_runcs_words() {
        let hooks: Vec<Hook> = serde_json::from_value(json!([{"path": "/bin/x", "timeout": 3}])).unwrap();
        for (step, errno, says) in [
            (Step::HookStart, libc::ENOENT, "fork/exec /bin/x: no such file or directory"),
            (Step::HookTimeout, 0, "hook ran past specified timeout of 3.0s"),
            (Step::HookStatus, 7 << 8, "exit status 7, stdout: , stderr: "),
            (Step::HookStatus, libc::SIGKILL, "signal: killed, stdout: , stderr: "),
            (Step::HookStatus, libc::SIGSEGV | 0x80, "signal: segmentation fault (core dumped), stdout: , stderr: "),
            (Step::HookStatus, 40, "signal: signal 40, stdout: , stderr: "),
        ] {
            let error = to_error("poststart", &hooks, Failure { step, index: 0, errno }, vec![]);
            assert_eq!(error.to_string(), format!("error running poststart hook #0: {says}"));
        }
    }
}
