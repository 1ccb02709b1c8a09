//! `shims` and `upgrade`: execute the program containerd-shim-berth-v2, which speaks the protocol of the running shims.

use super::{Format, sibling::execute};
use crate::args::{Binding, Command, Count, Usage, non_empty};

/// The program that does the work.
const PROGRAM: &str = "containerd-shim-berth-v2";
/// The directory of the shims' sockets by default.
const SOCKETS: &str = "/run/containerd/s";

/// The arguments of `shims`.
#[derive(Debug, Default)]
pub struct ShimsArgs {
    format: Option<String>,
    json: bool,
    quiet: bool,
    directories: Directories,
}

/// The arguments of `upgrade`.
#[derive(Debug, Default)]
pub struct UpgradeArgs {
    all: bool,
    ids: Vec<String>,
    binary: Option<String>,
    check: bool,
    directories: Directories,
}

/// The directories of sockets, of both commands.
#[derive(Debug, Default)]
pub struct Directories(Vec<String>);

impl Directories {
    fn words(self) -> impl Iterator<Item = String> {
        values("--socket-dir", self.0)
    }
}

impl AsMut<Directories> for ShimsArgs {
    fn as_mut(&mut self) -> &mut Directories {
        &mut self.directories
    }
}

impl AsMut<Directories> for UpgradeArgs {
    fn as_mut(&mut self) -> &mut Directories {
        &mut self.directories
    }
}

/// `--socket-dir`
const fn socket_dir<A: AsMut<Directories>>() -> Binding<A> {
    Binding::texts(&["socket-dir"], "directory of sockets; may be given more than once", |args: &mut A, text| {
        args.as_mut().0.push(text);
    })
    .or(SOCKETS)
}

/// The command `shims`.
pub static SHIMS: Command<ShimsArgs> = Command {
    usage: Usage {
        name: "shims",
        summary: "show the running shims of containerd's pods",
        operands: "

Lists each shim that answers: its id (of the pod or of the single container),
containerd's namespace, the version of its program, its pid, the number of its
containers and its share of memory. Shims of other runtimes are left out.",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        Binding::text(&["format", "f"], "output format: 'table' or 'json'", |args: &mut ShimsArgs, text| {
            args.format = non_empty(text);
        })
        .or("table"),
        Binding::switch(&["json"], "same as --format json", |args, on| args.json = on),
        Binding::switch(&["quiet", "q"], "print ids and nothing else", |args, on| args.quiet = on),
        socket_dir(),
    ],
    operands: |_, _| {},
    run: |_, args| {
        let json = args.json || Format::parse(args.format.as_deref())? == Format::Json;
        let words = switches([(json, "--json"), (args.quiet, "--quiet")]).chain(args.directories.words());
        Err(execute(PROGRAM, "shims", &words.collect::<Vec<_>>()))
    },
};

/// The command `upgrade`.
pub static UPGRADE: Command<UpgradeArgs> = Command {
    usage: Usage {
        name: "upgrade",
        summary: "give running shims a new program, without a restart of their pods",
        operands: "--all|--id <id>...",
        description: "Each shim executes the new program in its own process. Its pid, its containers,
their streams and exits, and containerd's connections stay. The new program
first reads the state of the shim without any effect; one that cannot take over
is an error, and the shim serves on as before. A shim with a change in flight
waits for its end for up to five seconds, and then says that it is busy.

The shims are upgraded one after another. The first one is the canary: after an
error the others are left as they are. The program must belong to root, on a
path that root alone can write to.

EXAMPLE:
    berth upgrade --all --check
    berth upgrade --all",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        Binding::switch(&["all"], "upgrade all shims", |args: &mut UpgradeArgs, on| args.all = on),
        Binding::texts(&["id"], "upgrade this shim; may be given more than once", |args, text| args.ids.push(text)),
        Binding::text(
            &["binary"],
            "path of the new program, instead of the path that the shim runs from",
            |args, text| {
                args.binary = non_empty(text);
            },
        ),
        Binding::switch(&["check"], "try whether the new program can take over, and change nothing", |args, on| {
            args.check = on;
        }),
        socket_dir(),
    ],
    operands: |_, _| {},
    run: |_, args| {
        let words = switches([(args.all, "--all"), (args.check, "--check")]);
        let binary = args.binary.map(|path| format!("--binary={path}"));
        let words = words.chain(values("--id", args.ids)).chain(binary).chain(args.directories.words());
        Err(execute(PROGRAM, "upgrade", &words.collect::<Vec<_>>()))
    },
};

/// The words of the switches that are on.
fn switches<const N: usize>(list: [(bool, &'static str); N]) -> impl Iterator<Item = String> {
    list.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.to_owned())
}

/// A flag with each of its values as one word.
fn values(flag: &str, values: Vec<String>) -> impl Iterator<Item = String> {
    values.into_iter().map(move |value| format!("{flag}={value}"))
}
