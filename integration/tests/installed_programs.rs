//! The installed programs as files: they load nothing from a container, and have no switch for the tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{case::skipped_on_runc, tools};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The programs that run beside containers.
const RUNTIMES: [&str; 2] = ["berth", "containerd-shim-berth-v2"];

fn has(program: &Path, text: &str) -> bool {
    fs::read(program).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

/// Returns the traces of the name service switch of the C library, and of a program interpreter (`PT_INTERP`).
fn loads(program: &Path) -> Vec<String> {
    let traces = ["/etc/nsswitch.conf", "libnss_", "/lib64/ld-linux", "/lib/ld-linux"];
    traces
        .into_iter()
        .filter(|trace| has(program, trace))
        .map(|trace| format!("{}: {trace}", program.display()))
        .collect()
}

/// Returns a C library of this machine.
fn c_library() -> PathBuf {
    let folders = fs::read_dir("/lib").unwrap().flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("libc.so.6")).find(|path| path.exists()).unwrap()
}

/// CVE-2019-14271: a program that looks names up in a container loads libraries of the container.
#[test]
fn installed_programs_load_no_library() {
    if skipped_on_runc("libraries", "the test is of berth's files") {
        return;
    }
    let found: Vec<_> = RUNTIMES.iter().flat_map(|name| loads(&tools::built(name))).collect();
    assert!(found.is_empty(), "{found:#?}");
    // The control: the C library that this test uses, and the test itself or another dynamic program.
    let found = loads(&c_library());
    assert!(found.iter().any(|line| line.contains("nsswitch")) && found.iter().any(|line| line.contains("libnss_")));
    assert!(!loads(Path::new("/bin/sh")).is_empty(), "a dynamic program");
}

/// No environment variable takes a defence out of an installed program.
#[test]
fn installed_programs_have_all_defences() {
    if skipped_on_runc("defences", "the test is of berth's files") {
        return;
    }
    const SWITCH: &str = "BERTH_WEAK";
    for name in [&RUNTIMES[..], &["berth-image"]].concat() {
        assert!(!has(&tools::built(name), SWITCH), "{name}");
    }
    assert!(has(&tools::built("berth-weak"), SWITCH), "the control");
}
