//! The table of global flags and commands. The parser, `--help`, the manual pages and the completions read it.

use crate::{
    args::{AnyCommand, Binding, non_empty, path},
    commands::{
        checkpoint, create, delete, events, exec, features, image, kill, list, mounts, pause, ps, restore, run, setup,
        shims, spec, start, state, update,
    },
    globals::GlobalArgs,
};

/// The flags in front of the command.
pub static GLOBALS: &[Binding<GlobalArgs>] = &[
    Binding::switch(&["debug"], "also log debug messages", |args, on| args.debug = on),
    Binding::text(&["log"], "append log messages to this file instead of writing them to stderr", |args, text| {
        args.log = path(text);
    }),
    Binding::text(&["log-format"], "format of log messages: 'text' or 'json'", |args: &mut GlobalArgs, text| {
        args.log_format = non_empty(text);
    })
    .or("text"),
    Binding::text(&["root"], "directory of the containers' state, best on a tmpfs", |args: &mut GlobalArgs, text| {
        args.root = Some(text);
    })
    .or("/run/berth"),
    Binding::switch(
        &["systemd-cgroup"],
        "let systemd manage cgroups; cgroupsPath then reads \"slice:prefix:name\"",
        |args, on| args.systemd_cgroup = on,
    ),
    Binding::text(
        &["cgroup-manager"],
        "manager of cgroups: 'cgroupfs', 'systemd' (same as --systemd-cgroup) or 'disabled'",
        |args, text| args.cgroup_manager = non_empty(text),
    ),
    Binding::text(
        &["rootless"],
        "skip cgroup settings that the host forbids: 'true', 'false' or 'auto'",
        |args: &mut GlobalArgs, text| args.rootless = non_empty(text),
    )
    .or("auto"),
    Binding::switch(&["version", "v"], "print the version", |args, on| args.version = on),
];

/// The commands, in the order of `--help`.
pub static COMMANDS: &[&dyn AnyCommand] = &[
    &setup::CHECK,
    &checkpoint::COMMAND,
    &setup::COMPLETION,
    &create::COMMAND,
    &delete::COMMAND,
    &events::COMMAND,
    &exec::COMMAND,
    &setup::INSTALL,
    &kill::COMMAND,
    &list::COMMAND,
    &mounts::COMMAND,
    &pause::PAUSE,
    &ps::COMMAND,
    &restore::COMMAND,
    &pause::RESUME,
    &run::COMMAND,
    &shims::SHIMS,
    &spec::COMMAND,
    &start::COMMAND,
    &state::COMMAND,
    &image::TAGS,
    &setup::UNINSTALL,
    &image::UNPACK,
    &update::COMMAND,
    &shims::UPGRADE,
    &features::COMMAND,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::flags;

    #[test]
    fn names_of_commands_and_flags_are_unique() {
        let mut names: Vec<_> = COMMANDS.iter().map(|command| command.usage().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMMANDS.len());
        for flags in COMMANDS.iter().map(|command| command.flags()).chain([flags(GLOBALS)]) {
            let mut names: Vec<_> = flags.iter().flat_map(|flag| flag.names).chain(&["help", "h"]).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
