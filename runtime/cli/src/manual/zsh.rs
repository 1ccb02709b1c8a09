//! The completion of zsh.

use std::fmt::Write as _;

use super::{COMMANDS, Command, Flag, Takes, choices, repeats, shown, spellings, takes_container};
use crate::table::GLOBALS;

/// A function for the directory of functions of its name.
pub fn script() -> String {
    let mut script = String::from(
        r#"#compdef berth

_berth_containers() {
    local -a ids
    ids=(${(f)"$(berth $root list -q 2> /dev/null)"})
    compadd -a ids
}

_berth() {
    local context state state_descr line
    local -A opt_args
    local -a commands root
    commands=(
"#,
    );
    for command in COMMANDS {
        let _ = writeln!(script, "        '{}:{}'", command.name, quote(command.summary));
    }
    script.push_str("    )\n    _arguments -C \\\n");
    options(&mut script, GLOBALS, 8);
    script.push_str("        '1:command:->command' '*::argument:->argument' && return\n");
    script.push_str("    (( ${+opt_args[--root]} )) && root=(--root ${(Q)opt_args[--root]})\n    case $state in\n");
    script
        .push_str("        command) _describe command commands ;;\n        argument)\n            case $words[1] in\n");
    for command in COMMANDS {
        let _ = writeln!(script, "                {})\n                    _arguments \\", command.name);
        options(&mut script, command.flags, 24);
        let _ = writeln!(script, "                        {}\n                    ;;", operands(command));
    }
    script.push_str("            esac\n            ;;\n    esac\n}\n\n_berth \"$@\"\n");
    script
}

fn options(script: &mut String, flags: &'static [Flag], indent: usize) {
    for flag in shown(flags) {
        let names: Vec<_> = spellings(flag).collect();
        let (exclusive, star) =
            if repeats(flag) { (String::new(), "*") } else { (format!("({})", names.join(" ")), "") };
        let value = match (flag.takes, choices(flag)) {
            (Takes::Nothing, _) => String::new(),
            (Takes::Text, choices) if !choices.is_empty() => format!(":value:({})", choices.join(" ")),
            (Takes::Text, _) => ":value:_files".to_owned(),
            _ => ":value: ".to_owned(),
        };
        for name in &names {
            let _ = writeln!(script, "{:indent$}'{exclusive}{star}{name}[{}]{value}' \\", "", quote(flag.help));
        }
    }
}

fn operands(command: &Command) -> &'static str {
    match (command.name, takes_container(command)) {
        ("kill", _) => "'1:container:_berth_containers' '2:signal:_signals -s'",
        ("exec", _) => "'1:container:_berth_containers' '*:: :_normal'",
        (_, true) => "'1:container:_berth_containers' '*:: :_default'",
        (_, false) => "'*: : '",
    }
}

/// Text within single quotes, within brackets, in front of a colon.
fn quote(text: &str) -> String {
    text.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:").replace('\'', "'\\''")
}

#[test]
fn text_ends_nothing_that_is_around_it() {
    assert_eq!(quote("'-' [a:b]"), "'\\''-'\\'' \\[a\\:b\\]");
}
