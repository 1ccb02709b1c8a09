//! The completion for zsh.

use std::fmt::Write as _;

use super::{COMMANDS, Flag, Takes, Usage, choices, repeats, shown, spellings, takes_container};
use crate::{args::flags, table::GLOBALS};

/// The script: a completion function for a directory in `$fpath`.
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
    for Usage { name, summary, .. } in COMMANDS.iter().map(|command| command.usage()) {
        let _ = writeln!(script, "        '{name}:{}'", quote(summary));
    }
    script.push_str("    )\n    _arguments -C \\\n");
    options(&mut script, &flags(GLOBALS), 8);
    script.push_str("        '1:command:->command' '*::argument:->argument' && return\n");
    script.push_str("    (( ${+opt_args[--root]} )) && root=(--root ${(Q)opt_args[--root]})\n    case $state in\n");
    script
        .push_str("        command) _describe command commands ;;\n        argument)\n            case $words[1] in\n");
    for command in COMMANDS {
        let usage = command.usage();
        let _ = writeln!(script, "                {})\n                    _arguments \\", usage.name);
        options(&mut script, &command.flags(), 24);
        let _ = writeln!(script, "                        {}\n                    ;;", operands(usage));
    }
    script.push_str("            esac\n            ;;\n    esac\n}\n\n_berth \"$@\"\n");
    script
}

fn options(script: &mut String, flags: &[&'static Flag], indent: usize) {
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

fn operands(usage: &Usage) -> &'static str {
    match (usage.name, takes_container(usage)) {
        ("kill", _) => "'1:container:_berth_containers' '2:signal:_signals -s'",
        ("exec", _) => "'1:container:_berth_containers' '*:: :_normal'",
        (_, true) => "'1:container:_berth_containers' '*:: :_default'",
        (_, false) => "'*: : '",
    }
}

/// Escapes text for single quotes, for brackets, and in front of a colon.
fn quote(text: &str) -> String {
    text.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:").replace('\'', "'\\''")
}

#[test]
fn zsh_text_cannot_end_its_quotes() {
    assert_eq!(quote("'-' [a:b]"), "'\\''-'\\'' \\[a\\:b\\]");
}
