//! The output of `--help` and `--version`, made from the table in the layout of urfave/cli v1.

use std::fmt::Write as _;

use berth_runtime::OCI_VERSION;
use berth_version::{COMMIT, VERSION};

use crate::{
    args::{AnyCommand, Flag, HELP, Takes, Usage, flags},
    table::{COMMANDS, GLOBALS},
};

/// The name line of the program, and the paragraphs below it.
pub const ABOUT: &str = "Open Container Initiative runtime

berth makes and runs containers. A container comes from a bundle: a directory
that holds a root filesystem and a config.json as in the OCI runtime
specification. Commands, flags, output and exit statuses are runc's.

To run the container of the bundle in the current directory, choose an id that
no other container of this host has:

    # berth run <container-id>";

/// The version. go-runc and Docker read these lines.
pub fn version(program: &str) -> String {
    let commit = COMMIT.unwrap_or("unknown");
    format!("{program} version {VERSION}\ncommit: {commit}\nspec: {OCI_VERSION}\n")
}

/// The help of the program.
pub fn program(program: &str) -> String {
    let about = ABOUT.replace("berth", program);
    let mut text = format!(
        "NAME:\n   {program} - {about}\n\nUSAGE:\n   {program} [global options] command [command options] \
         [arguments...]\n\nVERSION:\n   {VERSION}\n\nCOMMANDS:\n"
    );
    let rows = COMMANDS
        .iter()
        .map(|command| (command.usage().name.to_owned(), command.usage().summary.to_owned()))
        .chain([("help, h".to_owned(), "explain the program or one command".to_owned())]);
    columns(&mut text, &rows.collect::<Vec<_>>());
    text.push_str("\nGLOBAL OPTIONS:\n");
    options(&mut text, &flags(GLOBALS));
    text
}

/// The help of one command.
pub fn command(program: &str, command: &dyn AnyCommand) -> String {
    let Usage { name, summary, operands, description, .. } = command.usage();
    let flags = command.flags();
    let operands = if operands.is_empty() { "[arguments...]" } else { operands };
    let options_word = if flags.is_empty() { "" } else { " [command options]" };
    let mut text =
        format!("NAME:\n   {program} {name} - {summary}\n\nUSAGE:\n   {program} {name}{options_word} {operands}\n");
    if !description.is_empty() {
        let _ = write!(text, "\nDESCRIPTION:\n   {description}\n");
    }
    text.push_str("\nOPTIONS:\n");
    options(&mut text, &flags);
    text
}

fn options(text: &mut String, flags: &[&Flag]) {
    let rows = flags.iter().copied().chain([&HELP]).filter(|flag| !flag.help.is_empty()).map(|flag| {
        let mut left = String::new();
        for (n, name) in flag.names.iter().enumerate() {
            let dashes = if name.len() == 1 { "-" } else { "--" };
            let comma = if n > 0 { ", " } else { "" };
            let _ = write!(left, "{comma}{dashes}{name}");
            if flag.takes != Takes::Nothing {
                left.push_str(" value");
            }
        }
        let right = match (flag.default, flag.takes) {
            ("", _) => flag.help.to_owned(),
            (default, Takes::Text) => format!("{} (default: {default:?})", flag.help),
            (default, _) => format!("{} (default: {default})", flag.help),
        };
        (left, right)
    });
    columns(text, &rows.collect::<Vec<_>>());
}

/// Two columns, two spaces apart.
fn columns(text: &mut String, rows: &[(String, String)]) {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 2;
    for (left, right) in rows {
        let _ = writeln!(text, "   {left:<width$}{right}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_has_the_lines_that_go_runc_reads() {
        let text = version("runc");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("runc version ") && lines[1].starts_with("commit: "));
        assert_eq!(lines[2], "spec: 1.3.0");
    }

    #[test]
    fn help_names_every_command_and_flag() {
        let all = program("berth");
        assert!(all.starts_with("NAME:\n   berth - Open Container Initiative runtime\n"));
        for shown in COMMANDS {
            let name = shown.usage().name;
            assert!(all.contains(&format!("\n   {name} ")), "{name}");
            let text = command("runc", *shown);
            assert!(text.starts_with(&format!("NAME:\n   runc {name} - ")));
            for flag in shown.flags().iter().filter(|flag| !flag.help.is_empty()) {
                assert!(text.contains(&format!("   --{}", flag.names[0])), "{name} {}", flag.names[0]);
            }
            assert!(text.contains("--help, -h"));
        }
    }
}
