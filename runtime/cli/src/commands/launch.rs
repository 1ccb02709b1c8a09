//! The part that `create` and `run` share, and of which `restore` has some: their flags, and the making of a container with
//! its stdio, its sockets and its extra file descriptors.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use berth_runtime::{
    Context, Result,
    bundle::Bundle,
    create::{self, Barrier, Created},
    delete,
};

use crate::{
    Globals,
    args::{Binding, path},
    console,
    extra_fds::ExtraFds,
    sd_notify::Manager,
    stdio::{Attachment, HostStdio, Proxies, Request},
};

/// The operands of `create` and `run`, for the usage line.
pub const OPERANDS: &str = "<container-id>

Choose an id that no other container of this host has.";

/// The arguments of `create`, which `run` has as well.
#[derive(Debug, Default)]
pub struct CreateArgs {
    /// The id of the new container.
    pub id: String,
    /// `--bundle`; the current directory without it.
    pub bundle: Option<PathBuf>,
    /// `--console-socket`
    pub console_socket: Option<PathBuf>,
    /// `--pidfd-socket`
    pub pidfd_socket: Option<PathBuf>,
    /// `--pid-file`
    pub pid_file: Option<PathBuf>,
    /// `--no-pivot`
    pub no_pivot: bool,
    /// `--no-new-keyring`
    pub no_new_keyring: bool,
    /// `--preserve-fds`
    pub preserve_fds: i64,
}

impl AsMut<CreateArgs> for CreateArgs {
    fn as_mut(&mut self) -> &mut CreateArgs {
        self
    }
}

impl CreateArgs {
    /// Loads the bundle, and logs its warnings.
    ///
    /// # Errors
    /// The directory does not exist; as [`Bundle::load`].
    pub fn load_bundle(&self) -> Result<Bundle> {
        let directory = self.bundle.as_deref().unwrap_or(Path::new("."));
        std::fs::metadata(directory).with_context(|| format!("chdir {}", directory.display()))?;
        let bundle = Bundle::load(directory)?;
        bundle.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(bundle)
    }
}

/// `--bundle`
pub const fn bundle<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::text(&["bundle", "b"], "directory of the bundle; by default the current directory", |args, text| {
        args.as_mut().bundle = path(text);
    })
}

/// `--console-socket`
pub const fn console_socket<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::text(
        &["console-socket"],
        "send the master of the container's terminal to this Unix socket",
        |args, text| {
            args.as_mut().console_socket = path(text);
        },
    )
}

/// `--pidfd-socket`
pub const fn pidfd_socket<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::text(&["pidfd-socket"], "send a pidfd of the container's process to this Unix socket", |args, text| {
        args.as_mut().pidfd_socket = path(text);
    })
}

/// `--pid-file`
pub const fn pid_file<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::text(&["pid-file"], "write the pid of the container's process to this file", |args, text| {
        args.as_mut().pid_file = path(text);
    })
}

/// `--no-pivot`
pub const fn no_pivot<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::switch(
        &["no-pivot"],
        "enter the root filesystem by MS_MOVE and chroot, for hosts that run from an initramfs",
        |args, on| args.as_mut().no_pivot = on,
    )
}

/// `--no-new-keyring`
pub const fn no_new_keyring<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::switch(&["no-new-keyring"], "keep the caller's session keyring in the container", |args, on| {
        args.as_mut().no_new_keyring = on;
    })
}

/// `--preserve-fds`
pub const fn preserve_fds<A: AsMut<CreateArgs>>() -> Binding<A> {
    Binding::int(
        &["preserve-fds"],
        "number of file descriptors to hand over besides stdio and those of $LISTEN_FDS",
        |args, number| args.as_mut().preserve_fds = number,
    )
}

/// A container that has been created.
pub struct Launched {
    /// The container and its handles.
    pub created: Created,
    /// The copies between its stdio and the caller's.
    pub proxies: Proxies,
    /// The service manager to notify, if there is one.
    pub manager: Option<Manager>,
}

/// Creates the container that `args` describe, and sends its terminal and its pidfd to the sockets. If a service manager
/// waits for a notification, the container gets a directory for a notification socket.
///
/// # Errors
/// Fails if a flag is malformed or [`create::create`] fails. No container is left then.
pub fn launch(globals: &Globals, args: &CreateArgs, attachment: Attachment, barrier: Barrier) -> Result<Launched> {
    let manager = Manager::from_environment()?;
    let mut bundle = args.load_bundle()?;
    let extra = ExtraFds::with_sockets(args.preserve_fds)?;
    let pidfd_socket = args.pidfd_socket.as_deref().map(console::connect).transpose()?;
    let (host, stdio) = HostStdio::prepare(&Request {
        program: globals.program,
        terminal: bundle.terminal(),
        attachment,
        console_socket: args.console_socket.as_deref(),
    })?;
    bundle.add_env(extra.environment());
    let options = create::Options {
        root: &globals.root,
        id: &args.id,
        stdio,
        barrier,
        pid_file: args.pid_file.as_deref(),
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: extra.count,
        abort: None,
        cgroup_manager: globals.cgroup_manager,
        sd_notify: manager.is_some(),
        rootless: globals.rootless,
    };
    let (warnings, checked) = create::check(bundle, options);
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let mut created = create::create(checked?)?;
    match hand_over(&mut created, host, pidfd_socket.as_ref()) {
        Ok(proxies) => Ok(Launched { created, proxies, manager }),
        Err(e) => {
            undo(created);
            Err(e)
        }
    }
}

/// Deletes a container that could not be completed. An error here is logged only, because the caller returns the first
/// one.
pub fn undo(created: Created) {
    if let Err(e) = delete::force_delete(&created.container) {
        log::warn!("{e}");
    }
}

fn hand_over(created: &mut Created, host: HostStdio, pidfd_socket: Option<&UnixStream>) -> Result<Proxies> {
    let proxies = host.connect(created.console.take())?;
    if let Some(socket) = pidfd_socket {
        console::send_fd(socket, "standard", created.pidfd.as_fd())?;
    }
    Ok(proxies)
}
