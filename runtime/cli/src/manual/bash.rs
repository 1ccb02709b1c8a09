//! The completion for bash. It does not need the package bash-completion.

use std::fmt::Write as _;

use super::{COMMANDS, Flag, Takes, choices, shown, spellings, takes_container};
use crate::{args::flags, table::GLOBALS};

/// The script. It completes commands, flags, values with a fixed list, container ids and signals, else file names.
pub fn script() -> String {
    let mut script = String::from(
        r#"# bash completion for berth

_berth() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local i command='' flags='' values='' operand=0 root=()
    # "--flag=value" is three words to readline.
    [[ $cur == '=' ]] && cur=''
    [[ $prev == '=' ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$command ${COMP_WORDS[i]}" in
"#,
    );
    skip_values(&mut script, "", &flags(GLOBALS));
    for command in COMMANDS {
        skip_values(&mut script, command.usage().name, &command.flags());
    }
    script.push_str(
        r#"            *' -'*) ;;
            ' '*) command=${COMP_WORDS[i]} ;;
            *) operand=$((operand + 1)) ;;
        esac
    done
    case "$command" in
"#,
    );
    case(&mut script, "''", &flags(GLOBALS));
    for command in COMMANDS {
        case(&mut script, command.usage().name, &command.flags());
    }
    script.push_str("    esac\n    case \"$command $prev\" in\n");
    offers(&mut script, "", &flags(GLOBALS));
    for command in COMMANDS {
        offers(&mut script, command.usage().name, &command.flags());
    }
    let names: Vec<_> = COMMANDS.iter().map(|command| command.usage().name).collect();
    let usages = COMMANDS.iter().map(|command| command.usage());
    let on_container: Vec<_> =
        usages.filter(|usage| takes_container(usage)).map(|usage| format!("{} 0", usage.name)).collect();
    let _ = write!(
        script,
        r#"        *)
            case "$cur:$command $operand" in
                -*) values=$flags ;;
                *:' 0' | *:'help 0') values='{}' ;;
                *:'kill 1') values=$(compgen -A signal -X '*JUNK*' SIG) ;;
                {})
                    values=$(berth "${{root[@]}}" list -q 2> /dev/null)
                    ;;
            esac
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
}}

complete -o default -F _berth berth
"#,
        names.iter().copied().chain(["help"]).collect::<Vec<_>>().join(" "),
        on_container.iter().map(|row| format!("*:'{row}'")).collect::<Vec<_>>().join(" | "),
    );
    script
}

/// Skips the word behind a flag that takes a value; keeps the value of `--root`.
fn skip_values(script: &mut String, command: &str, flags: &[&'static Flag]) {
    let rows = |wanted: &dyn Fn(&Flag) -> bool| {
        let flags = flags.iter().copied().filter(|flag| flag.takes != Takes::Nothing && wanted(flag));
        flags.flat_map(spellings).map(|name| format!("'{command} {name}'")).collect::<Vec<_>>().join(" | ")
    };
    let is_root = |flag: &Flag| command.is_empty() && flag.names.contains(&"root");
    for (rows, then) in [
        (
            rows(&is_root),
            "\n                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))\n                root=(--root \"${COMP_WORDS[i]}\")",
        ),
        (rows(&|flag| !is_root(flag)), "\n                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))"),
    ] {
        if !rows.is_empty() {
            let _ = writeln!(script, "            {rows})\n                i=$((i + 1)){then}\n                ;;");
        }
    }
}

fn case(script: &mut String, name: &str, flags: &[&'static Flag]) {
    let words: Vec<_> = shown(flags).flat_map(spellings).collect();
    let _ = writeln!(script, "        {name}) flags='{}' ;;", words.join(" "));
}

/// Offers the values of a flag. For a file name, and for a value without a list, bash's own completion applies.
fn offers(script: &mut String, command: &str, flags: &[&'static Flag]) {
    for flag in shown(flags).filter(|flag| flag.takes != Takes::Nothing) {
        let names: Vec<_> = spellings(flag).map(|name| format!("'{command} {name}'")).collect();
        let _ = writeln!(script, "        {}) values='{}' ;;", names.join(" | "), choices(flag).join(" "));
    }
}

#[test]
fn bash_completes_commands_flags_values_and_ids() {
    let offered = |line: &[&str]| {
        let berth = "berth() { [[ $* == \"--root /r list -q\" || $* == \"list -q\" ]] && echo c1 c2; }";
        let script = format!(
            "{berth}\n{}\nCOMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)); _berth; echo ${{COMPREPLY[@]}}",
            script()
        );
        let words = [&["-c", script.as_str(), "bash"], line].concat();
        let out = std::process::Command::new("bash").args(words).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{line:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    for (line, offer) in [
        (&["berth", "cr"] as &[_], "create"),
        (&["berth", "--root", "run", "re"], "restore resume"),
        (&["berth", "--log-format", ""], "text json"),
        (&["berth", "--log-format", "=", "t"], "text"),
        (&["berth", "list", "--for"], "--format"),
        (&["berth", "list", "-f", "="], "table json"),
        (&["berth", "state", "c"], "c1 c2"),
        (&["berth", "--root", "/r", "exec", "--user", "c9", "c"], "c1 c2"),
        (&["berth", "--root", "=", "/r", "exec", "-t", "c1", "c"], ""),
        (&["berth", "kill", "c1", "SIGKI"], "SIGKILL"),
        (&["berth", "kill", "c1", "SIGJ"], ""),
        (&["berth", "help", "cre"], "create"),
        (&["berth", "run", "c"], ""),
        (&["berth", "create", "--bundle", ""], ""),
    ] {
        assert_eq!(offered(line), offer, "{line:?}");
    }
}
