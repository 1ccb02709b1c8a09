//! What `create` and `run` have in common: their flags, and a container made with stdio, sockets and extra fds.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
};

use berth_runtime::{
    Context, Result,
    bundle::Bundle,
    create::{self, Barrier, Created},
    delete,
};

use super::{
    Globals,
    args::{Flag, Parsed, Takes},
    console,
    extra_fds::ExtraFds,
    stdio::{Front, Streams},
};

/// Where the bundle is.
pub const BUNDLE: Flag =
    Flag::value(&["bundle", "b"], Takes::Text, "directory of the bundle, instead of the current one");
/// Who takes the terminal.
pub const CONSOLE_SOCKET: Flag =
    Flag::value(&["console-socket"], Takes::Text, "unix socket that gets the master of the container's terminal");
/// Who takes the pidfd.
pub const PIDFD_SOCKET: Flag =
    Flag::value(&["pidfd-socket"], Takes::Text, "unix socket that gets a pidfd of the container's process");
/// Where the pid is written.
pub const PID_FILE: Flag = Flag::value(&["pid-file"], Takes::Text, "file to write the process id to");
/// No pivot_root.
pub const NO_PIVOT: Flag =
    Flag::switch(&["no-pivot"], "move the root filesystem over / instead of pivot_root, for a root on an initramfs");
/// No keyring of its own.
pub const NO_NEW_KEYRING: Flag = Flag::switch(&["no-new-keyring"], "leave the container the caller's session keyring");
/// Fds beyond stdio.
pub const PRESERVE_FDS: Flag = Flag::value(
    &["preserve-fds"],
    Takes::Int,
    "pass this many more file descriptors on (beyond stdio and $LISTEN_FDS)",
);

/// Creates the container `id` of the bundle named by the flags, and hands out its terminal and pidfd; with `sd_notify` it
/// gets a place for a notification socket.
///
/// # Errors
/// Those of the flags and of [`create::create`]; no container is left.
pub fn create(
    globals: &Globals,
    parsed: &Parsed,
    detached: bool,
    sd_notify: bool,
    barrier: Barrier,
) -> Result<(Created, Streams)> {
    let id = parsed.operand(0);
    let bundle = Path::new(parsed.text("bundle").unwrap_or("."));
    std::fs::metadata(bundle).with_context(|| format!("chdir {}", bundle.display()))?;
    let mut bundle = Bundle::load(bundle)?;
    let extra = ExtraFds::find(parsed)?;
    let pidfd_socket = parsed.text("pidfd-socket").map(console::connect).transpose()?;
    let (front, stdio) = Front::prepare(globals.program, bundle.terminal(), detached, parsed.text("console-socket"))?;
    bundle.add_env(extra.environment());
    let mut created = create::create(create::Options {
        root: &globals.root,
        id,
        bundle,
        stdio,
        barrier,
        pid_file: parsed.text("pid-file").map(Path::new),
        no_pivot: parsed.on("no-pivot"),
        no_new_keyring: parsed.on("no-new-keyring"),
        preserve_fds: extra.count,
        abort: None,
        cgroup_manager: globals.cgroup_manager,
        sd_notify,
        rootless: globals.rootless,
        warn: &|warning| log::warn!("{warning}"),
    })?;
    match hand_out(&mut created, front, pidfd_socket.as_ref()) {
        Ok(streams) => Ok((created, streams)),
        Err(e) => {
            undo(created);
            Err(e)
        }
    }
}

/// Removes a container that could not be brought to its end; what hinders that is logged, the first error counts.
pub fn undo(created: Created) {
    if let Err(e) = delete::force_delete(&created.container) {
        log::warn!("{e}");
    }
}

fn hand_out(created: &mut Created, front: Front, pidfd_socket: Option<&UnixStream>) -> Result<Streams> {
    let streams = front.attach(created.console.take())?;
    if let Some(socket) = pidfd_socket {
        console::send_fd(socket, "standard", created.pidfd.as_fd())?;
    }
    Ok(streams)
}
