//! The completion for fish.

use std::fmt::Write as _;

use super::{COMMANDS, Flag, Takes, Usage, choices, shown, takes_container};
use crate::{args::flags, table::GLOBALS};

/// The script: one `complete` for each flag, command and operand.
pub fn script() -> String {
    let names: Vec<_> = COMMANDS.iter().map(|command| command.usage().name).collect();
    let mut script = format!(
        r#"# fish completion for berth

set -l commands {}

function __berth_containers
    set -l words (commandline -opc)
    set -l at (contains -i -- --root $words)
    and set -l root --root $words[(math $at + 1)]
    berth $root list -q 2>/dev/null
end

"#,
        names.join(" ")
    );
    let none = "not __fish_seen_subcommand_from $commands";
    options(&mut script, none, &flags(GLOBALS));
    for Usage { name, summary, .. } in COMMANDS.iter().map(|command| command.usage()) {
        let _ = writeln!(script, "complete -c berth -n \"{none}\" -f -a {name} -d '{}'", quote(summary));
    }
    for command in COMMANDS {
        let seen = format!("__fish_seen_subcommand_from {}", command.usage().name);
        options(&mut script, &seen, &command.flags());
        if takes_container(command.usage()) {
            let _ = writeln!(script, "complete -c berth -n \"{seen}\" -f -a '(__berth_containers)'");
        }
    }
    script
}

fn options(script: &mut String, condition: &str, flags: &[&'static Flag]) {
    for flag in shown(flags) {
        let _ = write!(script, "complete -c berth -n \"{condition}\"");
        for name in flag.names {
            let _ = write!(script, " {} {name}", if name.len() == 1 { "-s" } else { "-l" });
        }
        match (flag.takes, choices(flag)) {
            (Takes::Nothing, _) => {}
            (_, choices) if !choices.is_empty() => {
                let _ = write!(script, " -x -a '{}'", choices.join(" "));
            }
            (Takes::Text, _) => script.push_str(" -r -F"),
            _ => script.push_str(" -x"),
        }
        let _ = writeln!(script, " -d '{}'", quote(flag.help));
    }
}

/// Escapes text for single quotes.
fn quote(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[test]
fn fish_text_cannot_end_its_quotes() {
    assert_eq!(quote("'a' \\"), "\\'a\\' \\\\");
}
