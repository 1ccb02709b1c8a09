//! docs/security/dependencies.md, and the rules about licences, sources and duplicates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The programs that are shipped, by package.
const PROGRAMS: [(&str, &str); 3] =
    [("containerd-shim-berth-v2", "shim"), ("berth-cli", "berth"), ("berth-image", "image")];
/// Licences that may be in a tree of an Apache-2.0 program.
const LICENCES: [&str; 8] =
    ["Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-3-Clause", "ISC", "MIT", "Unicode-3.0", "Unlicense", "Zlib"];
/// The one registry.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Crates that are in one program with several versions, and the reason.
const DUPLICATES: [(&str, &str); 7] = [
    ("base64", "ureq has the newer one"),
    ("bitflags", "nix 0.26 of ttrpc"),
    ("memoffset", "nix 0.26 of ttrpc"),
    ("nix", "ttrpc"),
    ("syn", "the macros of oci-spec and protobuf"),
    ("thiserror", "protobuf and ttrpc"),
    ("thiserror-impl", "thiserror"),
];
const NOTE: &str = "\
# Dependencies

The crates of the three programs, with the reason for each. `make conformance` writes this page; a crate without a reason in
[integration/dependencies.txt](../../integration/dependencies.txt) fails a test, and so do a licence that is not listed there, another source than
crates.io, a new duplicate, and a crate with an advisory.

The tests read `cargo metadata` and `cargo tree`. cargo-deny and cargo-audit are not used: each is one more program that every run
of the tests would build from source, and cargo-audit fetches its database. The advisories are a copy with the commit and date of
[RustSec's database](https://github.com/rustsec/advisory-db) in [integration/advisories.txt](../../integration/advisories.txt); the copy names the crates that it covers, so a new crate
fails until `make advisories DB=DIR` has taken them over from a newer checkout.

";

fn cargo(words: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo).args(words).current_dir(ROOT).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Names and versions of the crates of a program, without those of this tree; with `macros`, also those that only run while
/// it is built.
fn tree(package: &str, macros: bool) -> BTreeSet<(String, String)> {
    let edges = if macros { "normal" } else { "normal,no-proc-macro" };
    let words =
        ["tree", "--offline", "--locked", "-p", package, "-e", edges, "--prefix", "none", "--format", "{p}|{r}"];
    let text = cargo(&words);
    let lines = text.lines().map(|line| line.split('|').next().unwrap());
    let crates = lines.filter(|line| !line.contains("(/")).filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    });
    crates.collect()
}

/// Name, version, licence and source of each package.
fn packages() -> Vec<[String; 4]> {
    let host = "x86_64-unknown-linux-gnu";
    let words = ["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host];
    let whole: Value = serde_json::from_str(&cargo(&words)).unwrap();
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let list = whole["packages"].as_array().unwrap().iter();
    list.map(|package| ["name", "version", "license", "source"].map(|key| text(package, key))).collect()
}

/// Returns true if allowed licences fulfil an SPDX expression.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace(['(', ')'], "").replace('/', " OR ");
    // No expression in the tree has an OR outside of parentheses beside an AND.
    let all = |text: &str| text.split(" AND ").all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())));
    !expression.trim().is_empty() && all(&expression)
}

/// The faults of licences and sources.
fn faults(packages: &[[String; 4]]) -> Vec<String> {
    let mut faults = Vec::new();
    for [name, version, licence, source] in packages {
        if !is_allowed(licence) {
            faults.push(format!("{name} {version}: licence {licence:?}"));
        }
        if !source.is_empty() && source != REGISTRY {
            faults.push(format!("{name} {version}: source {source}"));
        }
    }
    faults
}

fn reasons() -> BTreeMap<String, String> {
    let text = fs::read_to_string(Path::new(ROOT).join("integration/dependencies.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}")))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

fn page(reasons: &BTreeMap<String, String>) -> String {
    let trees: Vec<_> = PROGRAMS.iter().map(|(package, _)| tree(package, true)).collect();
    let mut page = NOTE.to_owned();
    page += "| program | crates | of them in the program, and not only in its build |\n|---|---|---|\n";
    for ((package, name), whole) in PROGRAMS.iter().zip(&trees) {
        let _ = writeln!(page, "| {name} | {} | {} |", whole.len(), tree(package, false).len());
    }
    let held = DUPLICATES.map(|(name, by)| format!("{name} ({by})")).join(", ");
    let _ = writeln!(page, "\nWith two versions: {held}.\n");
    page += "ttrpc holds some thirty crates of the shim: futures, crossbeam, vsock, an older nix and their own. oci-spec holds as many: regex-lite,\n\
        const_format, strum, and the macros of its builders. Without crates that only run in the build, the shim has fewer than 90.\n\n";
    page += "| crate | versions | licence | programs | reason |\n|---|---|---|---|---|\n";
    let packages = packages();
    for (name, reason) in reasons {
        let of = |set: &BTreeSet<(String, String)>| set.iter().any(|(other, _)| other == name);
        let programs: Vec<_> =
            PROGRAMS.iter().zip(&trees).filter(|(_, set)| of(set)).map(|((_, name), _)| *name).collect();
        let versions: BTreeSet<_> =
            trees.iter().flatten().filter(|(other, _)| other == name).map(|(_, version)| version.as_str()).collect();
        let licence = packages.iter().find(|[other, ..]| other == name).map_or("", |[_, _, licence, _]| licence);
        let versions = versions.into_iter().collect::<Vec<_>>().join(", ");
        let _ = writeln!(page, "| {name} | {versions} | {licence} | {} | {reason} |", programs.join(", "));
    }
    page
}

#[test]
fn each_crate_of_the_programs_has_a_reason() {
    let reasons = reasons();
    let names: BTreeSet<_> =
        PROGRAMS.iter().flat_map(|(package, _)| tree(package, true)).map(|(name, _)| name).collect();
    let known: BTreeSet<_> = reasons.keys().cloned().collect();
    assert_eq!(names.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "crates without a reason");
    assert_eq!(known.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "reasons without a crate");
    let (page, file) = (page(&reasons), Path::new(ROOT).join("docs/security/dependencies.md"));
    if std::env::var("BERTH_CONFORMANCE").is_ok_and(|what| what == "write") {
        fs::write(&file, &page).unwrap();
    }
    assert!(
        fs::read_to_string(&file).is_ok_and(|written| written == page),
        "`make conformance` writes {}",
        file.display()
    );
}

#[test]
fn licences_and_sources_of_all_crates_are_allowed() {
    let packages = packages();
    let faults = faults(&packages);
    assert!(packages.len() > 100 && faults.is_empty(), "{faults:#?}");
}

#[test]
fn duplicates_of_a_program_are_known() {
    let mut found = BTreeSet::new();
    for (package, _) in PROGRAMS {
        let names: Vec<_> = tree(package, true).into_iter().map(|(name, _)| name).collect();
        found.extend(names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone()));
    }
    assert_eq!(found, BTreeSet::from(DUPLICATES.map(|(name, _)| name.to_owned())));
}

#[test]
fn control_bad_licences_and_sources_are_found() {
    for (expression, allowed) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only", false),
        ("(MIT OR Apache-2.0) AND GPL-2.0-only", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
    let package = |licence: &str, source: &str| ["a", "1.0.0", licence, source].map(str::to_owned);
    assert_eq!(faults(&[package("MIT", REGISTRY), package("MIT", "")]).len(), 0);
    assert_eq!(faults(&[package("MIT", "git+https://example.org/a"), package("AGPL-3.0", REGISTRY)]).len(), 2);
}
