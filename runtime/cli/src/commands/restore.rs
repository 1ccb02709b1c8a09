//! `restore`: makes a container of the images that checkpoint wrote, with CRIU.

use berth_runtime::{
    Result,
    create::{self, Barrier, Created},
    restore::{self, Options},
};

use super::{
    checkpoint::{
        CriuArgs, auto_dedup, empty_ns, ext_unix_sk, file_locks, image_path, lazy_pages, manage_cgroups_mode,
        shell_job, tcp_established, work_path,
    },
    failed,
    launch::{self, CreateArgs, undo},
    run::{AtExit, Waiting, detach, no_subreaper, wait},
};
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Program, Usage, non_empty},
    stdio::{Attachment, HostStdio, Proxies, Request},
};

/// The arguments of `restore`.
#[derive(Debug, Default)]
pub struct RestoreArgs {
    create: CreateArgs,
    criu: CriuArgs,
    waiting: Waiting,
    lsm_profile: Option<String>,
    lsm_mount_context: Option<String>,
}

impl AsMut<CreateArgs> for RestoreArgs {
    fn as_mut(&mut self) -> &mut CreateArgs {
        &mut self.create
    }
}

impl AsMut<Waiting> for RestoreArgs {
    fn as_mut(&mut self) -> &mut Waiting {
        &mut self.waiting
    }
}

impl AsMut<CriuArgs> for RestoreArgs {
    fn as_mut(&mut self) -> &mut CriuArgs {
        &mut self.criu
    }
}

/// The command.
pub static COMMAND: Command<RestoreArgs> = Command {
    usage: Usage {
        name: "restore",
        summary: "make a container of the images of a checkpoint",
        operands: "<container-id>",
        description: "The program CRIU (criu.org) makes the processes again. They go on where they were.
The images decide what the processes may do; they are refused if they give more
rights than config.json. Do not restore images of a stranger: a seccomp filter
of theirs cannot be compared.",
        program: Program::Sealed,
        ..Usage::DEFAULT
    },
    flags: &[
        launch::console_socket(),
        image_path(),
        work_path(),
        tcp_established(),
        ext_unix_sk(),
        shell_job(),
        file_locks(),
        manage_cgroups_mode(),
        launch::bundle(),
        detach("return as soon as the processes run"),
        launch::pid_file(),
        no_subreaper(),
        launch::no_pivot(),
        empty_ns(),
        auto_dedup(),
        lazy_pages(),
        Binding::text(
            &["lsm-profile"],
            "replace the profile of the images: 'apparmor:NAME' or 'selinux:LABEL'",
            |args, text| {
                args.lsm_profile = non_empty(text);
            },
        ),
        Binding::text(&["lsm-mount-context"], "replace the SELinux context of the mounts", |args, text| {
            args.lsm_mount_context = non_empty(text);
        }),
    ],
    operands: |args, operands| args.create.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: RestoreArgs) -> Outcome {
    try_run(globals, &args).map_err(|e| failed(globals, "restore", e))
}

fn try_run(globals: &Globals, args: &RestoreArgs) -> Result<i32> {
    let (attachment, signals) = args.waiting.prepare()?;
    let (created, proxies) = restore(globals, args, attachment)?;
    match signals {
        Some(signals) => wait(created, proxies, &signals, None, AtExit::Delete),
        None => Ok(0),
    }
}

/// Restores the container, and connects its stdio.
fn restore(globals: &Globals, args: &RestoreArgs, attachment: Attachment) -> Result<(Created, Proxies)> {
    let common = args.criu.options()?;
    let bundle = args.create.load_bundle()?;
    let (host, stdio) = HostStdio::prepare(&Request {
        program: globals.program,
        terminal: bundle.terminal(),
        attachment,
        console_socket: args.create.console_socket.as_deref(),
    })?;
    let options = create::Options {
        root: &globals.root,
        id: &args.create.id,
        stdio,
        barrier: Barrier::Inherited,
        pid_file: args.create.pid_file.as_deref(),
        no_pivot: args.create.no_pivot,
        no_new_keyring: true,
        preserve_fds: 0,
        abort: None,
        cgroup_manager: globals.cgroup_manager,
        sd_notify: false,
        rootless: globals.rootless,
    };
    let (warnings, checked) = create::check(bundle, options);
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let mut created = restore::restore(
        checked?,
        &Options {
            images: args.criu.images(),
            common,
            lsm_profile: args.lsm_profile.as_deref(),
            lsm_mount_context: args.lsm_mount_context.as_deref(),
        },
    )?;
    match host.connect(created.console.take()) {
        Ok(proxies) => Ok((created, proxies)),
        Err(e) => {
            undo(created);
            Err(e)
        }
    }
}
