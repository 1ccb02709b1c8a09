//! What `--help` and `--version` print, from the table alone, in the layout of urfave/cli v1.

use std::{fmt::Write as _, io::Write as _};

use berth_runtime::OCI_VERSION;

use super::{
    args::{Command, Flag, HELP, Takes},
    table::{COMMANDS, GLOBALS},
};

/// Below which heading the program introduces itself.
pub const ABOUT: &str = "Open Container Initiative runtime

It runs containers from bundles: a bundle is a directory with a config.json as
the OCI runtime specification describes it, and a root filesystem. Commands,
flags, output and exit statuses are those of runc.

In a bundle's directory, to run its container under a name that no other
container on this host has:

    # berth run <container-id>";

/// Prints `text`; a reader that has gone away is no failure.
pub fn out(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The version, in the lines that go-runc and Docker read.
pub fn version(program: &str) -> String {
    let commit = option_env!("BERTH_COMMIT").unwrap_or("unknown");
    format!("{program} version {}\ncommit: {commit}\nspec: {OCI_VERSION}\n", env!("CARGO_PKG_VERSION"))
}

/// Help about the program.
pub fn program(program: &str) -> String {
    let about = ABOUT.replace("berth", program);
    let mut text = format!(
        "NAME:\n   {program} - {about}\n\nUSAGE:\n   {program} [global options] command [command options] \
         [arguments...]\n\nVERSION:\n   {}\n\nCOMMANDS:\n",
        env!("CARGO_PKG_VERSION")
    );
    let rows = COMMANDS
        .iter()
        .map(|command| (command.name.to_owned(), command.summary.to_owned()))
        .chain([("help, h".to_owned(), "show the list of commands or help for one command".to_owned())]);
    columns(&mut text, &rows.collect::<Vec<_>>());
    text.push_str("\nGLOBAL OPTIONS:\n");
    options(&mut text, GLOBALS);
    text
}

/// Help about one command.
pub fn command(program: &str, command: &Command) -> String {
    let operands = if command.operands.is_empty() { "[arguments...]" } else { command.operands };
    let mut text = format!(
        "NAME:\n   {program} {} - {}\n\nUSAGE:\n   {program} {}{} {operands}\n",
        command.name,
        command.summary,
        command.name,
        if command.flags.is_empty() { "" } else { " [command options]" },
    );
    if !command.about.is_empty() {
        let _ = write!(text, "\nDESCRIPTION:\n   {}\n", command.about);
    }
    text.push_str("\nOPTIONS:\n");
    options(&mut text, command.flags);
    text
}

fn options(text: &mut String, flags: &[Flag]) {
    let rows = flags.iter().chain([&HELP]).filter(|flag| !flag.help.is_empty()).map(|flag| {
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
    fn version_has_the_lines_that_callers_read() {
        let text = version("runc");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("runc version ") && lines[1].starts_with("commit: "));
        assert_eq!(lines[2], "spec: 1.3.0");
    }

    #[test]
    fn help_names_every_command_and_every_flag_of_it() {
        let all = program("berth");
        assert!(all.starts_with("NAME:\n   berth - Open Container Initiative runtime\n"));
        for c in COMMANDS {
            assert!(all.contains(&format!("\n   {} ", c.name)), "{}", c.name);
            let text = command("runc", c);
            assert!(text.starts_with(&format!("NAME:\n   runc {} - ", c.name)));
            for flag in c.flags.iter().filter(|flag| !flag.help.is_empty()) {
                assert!(text.contains(&format!("   --{}", flag.names[0])), "{} {}", c.name, flag.names[0]);
            }
            assert!(text.contains("--help, -h"));
        }
    }
}
