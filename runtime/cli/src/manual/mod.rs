//! The manual pages and the shell completions, made from the table of commands.
//!
//! The files are in `docs/cli/`. A test here compares them with the table; `make docs` runs that test so that it writes
//! them. The module is part of the unit tests only, not of the installed program.

mod bash;
mod fish;
mod roff;
mod zsh;

use std::{fs, path::PathBuf};

use crate::{
    args::{AnyCommand, Flag, HELP, Takes, Usage},
    table::COMMANDS,
};

/// All files: the path below `docs/cli/` and the text.
fn files() -> Vec<(String, String)> {
    let mut files = vec![
        ("man/berth.8".to_owned(), roff::program()),
        ("completions/berth.bash".to_owned(), bash::script()),
        ("completions/_berth".to_owned(), zsh::script()),
        ("completions/berth.fish".to_owned(), fish::script()),
    ];
    let page = |command: &&dyn AnyCommand| (format!("man/berth-{}.8", command.usage().name), roff::command(*command));
    files.extend(COMMANDS.iter().map(page));
    files
}

/// The flags to document, with `--help`. A flag without a help text is hidden.
fn shown(flags: &[&'static Flag]) -> impl Iterator<Item = &'static Flag> {
    flags.iter().copied().chain([&HELP]).filter(|flag| !flag.help.is_empty())
}

/// The names of a flag with their dashes.
fn spellings(flag: &Flag) -> impl Iterator<Item = String> {
    flag.names.iter().map(|name| if name.len() == 1 { format!("-{name}") } else { format!("--{name}") })
}

/// Returns whether the flag may be repeated.
fn repeats(flag: &Flag) -> bool {
    matches!(flag.takes, Takes::Texts | Takes::Ints)
}

/// The values that a flag accepts, if there is a fixed list: its help text quotes them.
fn choices(flag: &Flag) -> Vec<&'static str> {
    let quoted: Vec<_> = flag.help.split('\'').skip(1).step_by(2).collect();
    if quoted.len() < 2 { vec![] } else { quoted }
}

/// Returns whether the first operand is the id of an existing container.
fn takes_container(usage: &Usage) -> bool {
    usage.operands.starts_with("<container-id>") && !matches!(usage.name, "create" | "run" | "restore")
}

#[test]
fn pages_and_completions_match_the_table() {
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
        // The page of the shim, which has no table, is written by hand.
        let there = there.filter(|path| !path.ends_with("containerd-shim-berth-v2.8"));
        stale.extend(
            there.filter(|path| !known.contains(path)).map(|path| format!("{} belongs to no command", path.display())),
        );
    }
    assert!(stale.is_empty(), "stale; run `make docs`: {stale:#?}");
}

#[test]
fn quoted_words_of_help_are_the_choices() {
    let flag = |help| Flag { names: &["x"], takes: Takes::Text, default: "", help };
    assert_eq!(choices(&flag("'table' or 'json'")), ["table", "json"]);
    assert_eq!(choices(&flag("file, or '-' for the standard input")), [""; 0]);
}
