//! `checkpoint`: saves a running container to disk, with CRIU.

use std::{
    fs::OpenOptions,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use berth_runtime::{
    Context, Error, Kind, Result,
    checkpoint::{self, CgroupsMode, CommonOptions, Options, Then},
    delete,
};

use super::{failed, load};
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Usage, non_empty, path},
    sys::was_passed,
};

/// The directory of images without `--image-path`.
const IMAGES: &str = "checkpoint";

/// The arguments that `checkpoint` and `restore` share.
#[derive(Debug, Default)]
pub struct CriuArgs {
    /// `--image-path`
    pub images: Option<PathBuf>,
    /// `--work-path`
    work: Option<PathBuf>,
    tcp_established: bool,
    ext_unix_sockets: bool,
    shell_job: bool,
    file_locks: bool,
    auto_dedup: bool,
    lazy_pages: bool,
    cgroups: Option<String>,
    empty_namespaces: Vec<String>,
}

impl AsMut<CriuArgs> for CriuArgs {
    fn as_mut(&mut self) -> &mut CriuArgs {
        self
    }
}

impl CriuArgs {
    /// Returns the directory of images.
    pub fn images(&self) -> &Path {
        self.images.as_deref().unwrap_or(Path::new(IMAGES))
    }

    /// Checks the flags and returns the options.
    ///
    /// # Errors
    /// Fails for an unknown mode or namespace, in runc's words.
    pub fn options(&self) -> Result<CommonOptions<'_>> {
        checkpoint::check_empty_namespaces(&self.empty_namespaces)?;
        Ok(CommonOptions {
            work: self.work.as_deref(),
            tcp_established: self.tcp_established,
            ext_unix_sockets: self.ext_unix_sockets,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups: self.cgroups.as_deref().map(CgroupsMode::parse).transpose()?,
        })
    }
}

/// `--image-path`
pub const fn image_path<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::text(&["image-path"], "directory of the images; by default ./checkpoint", |args, text| {
        args.as_mut().images = path(text);
    })
}

/// `--work-path`
pub const fn work_path<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::text(&["work-path"], "directory of CRIU's log; by default that of the images", |args, text| {
        args.as_mut().work = path(text);
    })
}

/// `--tcp-established`
pub const fn tcp_established<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::switch(&["tcp-established"], "allow open TCP connections", |args, on| {
        args.as_mut().tcp_established = on;
    })
}

/// `--ext-unix-sk`
pub const fn ext_unix_sk<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::switch(&["ext-unix-sk"], "allow Unix sockets whose other end is outside", |args, on| {
        args.as_mut().ext_unix_sockets = on;
    })
}

/// `--shell-job`
pub const fn shell_job<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::switch(&["shell-job"], "allow a terminal of the host", |args, on| args.as_mut().shell_job = on)
}

/// `--file-locks`
pub const fn file_locks<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::switch(&["file-locks"], "allow file locks", |args, on| args.as_mut().file_locks = on)
}

/// `--lazy-pages`
pub const fn lazy_pages<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::switch(&["lazy-pages"], "fetch memory when the restored processes need it", |args, on| {
        args.as_mut().lazy_pages = on;
    })
}

/// `--manage-cgroups-mode`
pub const fn manage_cgroups_mode<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::text(
        &["manage-cgroups-mode"],
        "CRIU's part in cgroups: 'soft', 'full', 'strict' or 'ignore'; by default 'ignore' with cgroup v2, else 'soft'",
        |args, text| args.as_mut().cgroups = non_empty(text),
    )
}

/// `--empty-ns`
pub const fn empty_ns<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::texts(&["empty-ns"], "leave this namespace empty; only 'network', which always is", |args, text| {
        args.as_mut().empty_namespaces.push(text);
    })
}

/// `--auto-dedup`
pub const fn auto_dedup<A: AsMut<CriuArgs>>() -> Binding<A> {
    Binding::switch(&["auto-dedup"], "drop memory from the images of an earlier dump", |args, on| {
        args.as_mut().auto_dedup = on;
    })
}

/// The arguments of `checkpoint`.
#[derive(Debug, Default)]
pub struct CheckpointArgs {
    id: String,
    criu: CriuArgs,
    parent: Option<PathBuf>,
    leave_running: bool,
    pre_dump: bool,
    tcp_skip_in_flight: bool,
    link_remap: bool,
    status_fd: Option<i64>,
    page_server: Option<String>,
}

impl AsMut<CriuArgs> for CheckpointArgs {
    fn as_mut(&mut self) -> &mut CriuArgs {
        &mut self.criu
    }
}

/// The command.
pub static COMMAND: Command<CheckpointArgs> = Command {
    usage: Usage {
        name: "checkpoint",
        summary: "save a running container to disk",
        operands: "<container-id>",
        description: "The program CRIU (criu.org) writes the processes of the container to a directory.
They end with that, and the container is deleted. The command restore makes a
container of the directory again.",
        ..Usage::DEFAULT
    },
    flags: &[
        image_path(),
        work_path(),
        Binding::text(
            &["parent-path"],
            "directory of an earlier dump, from that of the images; only changed memory is written",
            |args, text| args.parent = path(text),
        ),
        Binding::switch(&["leave-running"], "let the container run on", |args, on| args.leave_running = on),
        tcp_established(),
        Binding::switch(&["tcp-skip-in-flight"], "leave out TCP connections that are being made", |args, on| {
            args.tcp_skip_in_flight = on;
        }),
        Binding::switch(&["link-remap"], "allow files that have been unlinked, by links to them", |args, on| {
            args.link_remap = on;
        }),
        ext_unix_sk(),
        shell_job(),
        lazy_pages(),
        Binding::int(
            &["status-fd"],
            "write a zero byte to this descriptor when a lazy restore can begin",
            |args, n| {
                args.status_fd = Some(n);
            },
        ),
        Binding::text(&["page-server"], "send the memory to this server: ADDRESS:PORT", |args, text| {
            args.page_server = non_empty(text);
        }),
        file_locks(),
        Binding::switch(&["pre-dump"], "write only the memory, and let the container run on", |args, on| {
            args.pre_dump = on;
        }),
        manage_cgroups_mode(),
        empty_ns(),
        auto_dedup(),
    ],
    operands: |args, operands| args.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: CheckpointArgs) -> Outcome {
    try_run(globals, &args).map(|()| 0).map_err(|e| failed(globals, "checkpoint", e))
}

fn try_run(globals: &Globals, args: &CheckpointArgs) -> Result<()> {
    let container = load(globals, &args.id)?;
    let then = match (args.pre_dump, args.leave_running) {
        (true, _) => Then::PreDump,
        (false, true) => Then::Run,
        (false, false) => Then::Stop,
    };
    let page_server = args.page_server.as_deref().map(address).transpose()?;
    if args.criu.lazy_pages && page_server.is_none() {
        return Err(Error::invalid(
            "lazy-pages must be used with page-server: Use --page-server ADDRESS:PORT to specify page server",
        ));
    }
    let options = Options {
        images: args.criu.images(),
        common: args.criu.options()?,
        parent: args.parent.as_deref(),
        then,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server,
        status: args.status_fd.map(status_file).transpose()?,
    };
    checkpoint::checkpoint(&container, options)?;
    match then {
        // A `run` in the foreground deletes the container as well.
        Then::Stop => match delete::force_delete(&container) {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            deleted => deleted,
        },
        Then::Run | Then::PreDump => Ok(()),
    }
}

/// Splits `ADDRESS:PORT`. The port follows the last colon, because IPv6 addresses have colons.
fn address(text: &str) -> Result<(&str, u16)> {
    match text.rsplit_once(':') {
        Some((address, port)) if !address.is_empty() => {
            let port =
                port.parse().ok().filter(|port| *port != 0).ok_or_else(|| Error::invalid("Invalid port number"))?;
            Ok((address.trim_start_matches('[').trim_end_matches(']'), port))
        }
        _ => Err(Error::invalid("Use --page-server ADDRESS:PORT to specify page server")),
    }
}

/// Opens the file of `--status-fd`.
fn status_file(number: i64) -> Result<OwnedFd> {
    let passed = u32::try_from(number).is_ok_and(was_passed);
    let file =
        if passed { OpenOptions::new().write(true).open(format!("/proc/self/fd/{number}")) } else { Err(not_open()) };
    file.map(OwnedFd::from).with_context(|| format!("invalid --status-fd argument {number}"))
}

fn not_open() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::EBADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_server_has_an_address_and_a_port() {
        assert_eq!(address("10.0.0.1:99").unwrap(), ("10.0.0.1", 99));
        assert_eq!(address("[::1]:99").unwrap(), ("::1", 99));
        for (bad, says) in
            [("10.0.0.1", "Use --page-server"), (":1", "Use"), ("a:0", "Invalid port"), ("a:x", "Invalid")]
        {
            assert!(address(bad).unwrap_err().to_string().starts_with(says), "{bad}");
        }
    }
}
