//! The one table of commands and flags: the parser, `--help` and the list of commands come from it.

use super::args::{Command, Flag, Takes};

/// The flags before the command.
pub static GLOBALS: &[Flag] = &[
    Flag::switch(&["debug"], "log debug messages too"),
    Flag::value(&["log"], Takes::Text, "append the log to this file (default is '/dev/stderr')"),
    Flag::value(&["log-format"], Takes::Text, "how log lines are written: 'text' or 'json'").or("text"),
    Flag::value(&["root"], Takes::Text, "directory for the state of containers (should be on a tmpfs)")
        .or("/run/berth"),
    Flag::switch(
        &["systemd-cgroup"],
        "make cgroups through systemd; cgroupsPath then has the form \"slice:prefix:name\"",
    ),
    Flag::value(
        &["cgroup-manager"],
        Takes::Text,
        "who makes cgroups: 'cgroupfs', 'systemd' (as --systemd-cgroup), or nobody ('disabled')",
    ),
    Flag::value(&["rootless"], Takes::Text, "go on without cgroup permissions: 'true', 'false' or 'auto'").or("auto"),
    Flag::switch(&["version", "v"], "print the version"),
];

/// The commands, as `--help` lists them.
pub static COMMANDS: &[&Command] = &[
    &super::unbuilt::CHECKPOINT,
    &super::create::COMMAND,
    &super::delete::COMMAND,
    &super::events::COMMAND,
    &super::exec::COMMAND,
    &super::kill::COMMAND,
    &super::list::COMMAND,
    &super::mounts::COMMAND,
    &super::pause::PAUSE,
    &super::ps::COMMAND,
    &super::unbuilt::RESTORE,
    &super::pause::RESUME,
    &super::run::COMMAND,
    &super::spec::COMMAND,
    &super::start::COMMAND,
    &super::state::COMMAND,
    &super::image::TAGS,
    &super::image::UNPACK,
    &super::update::COMMAND,
    &super::features::COMMAND,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_given_once() {
        let mut names: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMMANDS.len());
        for flags in COMMANDS.iter().map(|command| command.flags).chain([GLOBALS]) {
            let mut names: Vec<_> = flags.iter().flat_map(|flag| flag.names).chain(&["help", "h"]).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
