//! config.json and process.json. The oracle: an accepted document is the same after it is written and read again, and holds
//! the rules that the kernel and other parts of the runtime rely on.

use std::path::PathBuf;

use berth_runtime::bundle::{Bundle, parse_process};
use oci_spec::runtime::{Process, Spec};
use serde_json::Value;

/// Rules for each process.
fn check(process: &Process) {
    let strings = process.args().iter().flatten().chain(process.env().iter().flatten());
    assert!(strings.clone().all(|text| !text.contains('\0')));
    assert!(process.args().as_ref().is_some_and(|args| !args.is_empty()));
    assert!(process.cwd().is_absolute() && !process.cwd().as_os_str().as_encoded_bytes().contains(&0));
    assert!(process.env().iter().flatten().all(|variable| variable.find('=').is_some_and(|at| at > 0)));
    let user = process.user();
    let groups = user.additional_gids().iter().flatten();
    // 2^32 - 1 is "unchanged" to setresuid(2).
    assert!(groups.chain([&user.uid(), &user.gid()]).all(|id| *id != u32::MAX));
}

/// Objects have a fixed order in a value.
fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}

pub fn process(data: &[u8]) {
    let Ok(process) = parse_process(data) else { return };
    check(&process);
    let text = serde_json::to_vec(&process).unwrap();
    let again = parse_process(&text).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&text)));
    assert_eq!(value(&again), value(&process));
}

fn load(data: &[u8]) -> berth_runtime::Result<Spec> {
    Bundle::from_json(PathBuf::from("/bundle"), data).map(|bundle| bundle.spec)
}

pub fn config(data: &[u8]) {
    let Ok(spec) = load(data) else { return };
    if let Some(process) = spec.process() {
        check(process);
    }
    assert!(spec.linux().is_some() && spec.root().is_some() && !spec.version().is_empty());
    let linux = spec.linux().as_ref().unwrap();
    let paths = linux.masked_paths().iter().flatten().chain(linux.readonly_paths().iter().flatten());
    assert!(paths.clone().all(|path| !path.contains('\0')));
    for name in [spec.hostname(), spec.domainname()].into_iter().flatten() {
        assert!(name.len() <= 64);
    }
    let text = serde_json::to_vec(&spec).unwrap();
    let again = load(&text).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&text)));
    assert_eq!(value(&again), value(&spec));
}
