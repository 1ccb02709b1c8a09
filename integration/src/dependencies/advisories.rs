//! `integration/advisories.txt`: the advisories of RustSec about crates of Cargo.lock, with the database's commit and date. A
//! crate that the copy does not cover fails, so a new crate needs a look at the database.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::version::{fulfils, parse};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Names and versions of Cargo.lock.
fn locked() -> Vec<(String, String)> {
    let lock: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter().filter(|package| package.get("source").is_some());
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    packages.map(|package| (text(package, "name"), text(package, "version"))).collect()
}

fn file() -> PathBuf {
    Path::new(ROOT).join("integration/advisories.txt")
}

/// A line `ID CRATE | patched; patched | unaffected`.
fn is_affected(line: &str, version: &str) -> bool {
    let lists: Vec<_> = line.split('|').skip(1).collect();
    let mut safe = lists.iter().flat_map(|list| list.split(';')).map(str::trim).filter(|list| !list.is_empty());
    let version = parse(version);
    !safe.any(|requirement| fulfils(version, requirement))
}

/// The affected crates, and those that the copy does not cover.
fn faults(text: &str, locked: &[(String, String)]) -> Vec<String> {
    let covered: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("covers ")).flat_map(|l| l.split(' ')).collect();
    let mut faults = Vec::new();
    for (name, version) in locked {
        if !covered.contains(name.as_str()) {
            faults.push(format!("{name} is not covered by integration/advisories.txt"));
        }
        let about = text.lines().filter(|line| line.starts_with("RUSTSEC-") && line.split(' ').nth(1) == Some(name));
        faults.extend(about.filter(|line| is_affected(line, version)).map(|line| format!("{name} {version}: {line}")));
    }
    faults
}

/// The advisories of a checkout of the database about these crates.
fn copy(database: &Path, names: &BTreeSet<String>) -> String {
    let git = |format: &str| {
        let words = ["log", "-1", "--date=short", format];
        let out = Command::new("git").arg("-C").arg(database).args(words).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let mut text = format!(
        "# RustSec's advisories about the crates of Cargo.lock: id, crate | patched versions | unaffected versions.\n\
         # `make advisories DB=DIR` writes this file out of a checkout of github.com/rustsec/advisory-db.\n\
         database {}\n",
        git("--format=%H %cd")
    );
    let mut line = String::from("covers");
    for name in names {
        if line.len() + name.len() > 120 {
            text += &(line + "\n");
            line = "covers".into();
        }
        line += &format!(" {name}");
    }
    text += &(line + "\n");
    for name in names {
        let mut files: Vec<_> = fs::read_dir(database.join("crates").join(name))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        files.sort();
        files
            .iter()
            .filter_map(|path| advisory(name, &fs::read_to_string(path).unwrap()))
            .for_each(|line| text += &line);
    }
    text
}

/// The line of an advisory; `None` if it was withdrawn.
fn advisory(name: &str, markdown: &str) -> Option<String> {
    let front: toml::Table = markdown.split("```toml\n").nth(1)?.split("\n```").next()?.parse().unwrap();
    let about = front["advisory"].as_table().unwrap();
    if about.contains_key("withdrawn") {
        return None;
    }
    let list = |key: &str| {
        let list = front["versions"].get(key).and_then(toml::Value::as_array).cloned().unwrap_or_default();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>().join("; ")
    };
    Some(format!("{} {name} | {} | {}\n", about["id"].as_str().unwrap(), list("patched"), list("unaffected")))
}

#[test]
fn crates_of_the_lock_file_have_no_known_advisory() {
    let locked = locked();
    if let Ok(database) = std::env::var("BERTH_ADVISORIES") {
        let names = locked.iter().map(|(name, _)| name.clone()).collect();
        fs::write(file(), copy(Path::new(&database), &names)).unwrap();
    }
    let faults = faults(&fs::read_to_string(file()).unwrap(), &locked);
    assert!(locked.len() > 100 && faults.is_empty(), "{faults:#?}");
}

#[test]
fn control_affected_and_uncovered_crates_are_found() {
    let text = "covers a b\nRUSTSEC-1 a | >= 1.2.0; ^0.9.5 | < 0.5.0\n";
    let faults = |name: &str, version: &str| faults(text, &[(name.to_owned(), version.to_owned())]).len();
    for (name, version, count) in [
        ("a", "1.1.9", 1),
        ("a", "1.2.0", 0),
        ("a", "0.9.5", 0),
        ("a", "0.4.9", 0),
        ("b", "1.0.0", 0),
        ("c", "1.0.0", 1),
    ] {
        assert_eq!(faults(name, version), count, "{name} {version}");
    }
    let unmaintained =
        advisory("a", "```toml\n[advisory]\nid = \"RUSTSEC-2\"\n[versions]\npatched = []\n```\n").unwrap();
    assert!(is_affected(&unmaintained, "9.9.9"));
    let withdrawn =
        "```toml\n[advisory]\nid = \"RUSTSEC-3\"\nwithdrawn = \"2025-01-01\"\n[versions]\npatched = []\n```\n";
    assert_eq!(advisory("a", withdrawn), None);
}
