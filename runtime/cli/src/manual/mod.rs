//! The manual pages and the completions of shells, written from the table that the command line is parsed with.
//!
//! They lie in `docs/cli/`. The test here holds them against the table; `make docs` has it write them. It is built with
//! the unit tests alone: the program that is installed carries none of it.

mod bash;
mod fish;
mod roff;
mod zsh;

use std::{fs, path::PathBuf};

use super::{
    args::{Command, Flag, Takes},
    table::COMMANDS,
};

/// Every file, by its name below `docs/cli/`.
fn files() -> Vec<(String, String)> {
    let mut files = vec![
        ("man/berth.8".to_owned(), roff::program()),
        ("completions/berth.bash".to_owned(), bash::script()),
        ("completions/_berth".to_owned(), zsh::script()),
        ("completions/berth.fish".to_owned(), fish::script()),
    ];
    files.extend(COMMANDS.iter().map(|command| (format!("man/berth-{}.8", command.name), roff::command(command))));
    files
}

/// The flags that are told of: one without help is hidden.
fn shown(flags: &'static [Flag]) -> impl Iterator<Item = &'static Flag> {
    flags.iter().chain([&super::args::HELP]).filter(|flag| !flag.help.is_empty())
}

/// A flag's spellings, with their dashes.
fn spellings(flag: &Flag) -> impl Iterator<Item = String> {
    flag.names.iter().map(|name| if name.len() == 1 { format!("-{name}") } else { format!("--{name}") })
}

/// Whether the flag may be given many times.
fn repeats(flag: &Flag) -> bool {
    matches!(flag.takes, Takes::Texts | Takes::Ints)
}

/// The values that a flag has to choose from: its help quotes them.
fn choices(flag: &Flag) -> Vec<&'static str> {
    let quoted: Vec<_> = flag.help.split('\'').skip(1).step_by(2).collect();
    if quoted.len() < 2 { vec![] } else { quoted }
}

/// Whether the first operand names a container that is there.
fn takes_container(command: &Command) -> bool {
    command.operands.starts_with("<container-id>") && !matches!(command.name, "create" | "run" | "restore")
}

#[test]
fn pages_and_completions_are_those_of_the_table() {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli"));
    let write = std::env::var("BERTH_DOCS").is_ok_and(|what| what == "write");
    let mut stale = vec![];
    for (name, text) in files() {
        let path = directory.join(&name);
        if write {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            stale.push(name);
        }
    }
    let known: Vec<_> = files().into_iter().map(|(name, _)| directory.join(name)).collect();
    for kind in ["man", "completions"] {
        let there = fs::read_dir(directory.join(kind)).unwrap().map(|entry| entry.unwrap().path());
        stale.extend(there.filter(|path| !known.contains(path)).map(|path| format!("{} is nobody's", path.display())));
    }
    assert!(stale.is_empty(), "`make docs` writes them anew: {stale:#?}");
}

#[test]
fn choices_are_what_help_quotes() {
    let flag = |help| Flag::value(&["x"], Takes::Text, help);
    assert_eq!(choices(&flag("'table' or 'json'")), ["table", "json"]);
    assert_eq!(choices(&flag("file, or '-' for the standard input")), [""; 0]);
}
