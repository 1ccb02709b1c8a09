//! The law of the house: arrows between modules go down, and no modules of one directory form a circle.
//!
//! It reads the `use` declarations and the paths in the code. [`FLOORS`] are the rooms of the runtime from below; a module
//! may name those of lower floors and of its own room. Each leaf is a room. In all crates, modules beside each other may
//! use each other in one direction only; [`ALLOWED`] are the exceptions. A module and the directory below it may name each
//! other: `impl` blocks of one type are split that way.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test program")]

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use source::{Crate, Module};

/// The rooms of `runtime/src`, from below.
const FLOORS: [&[&str]; 13] = [
    &["error"],
    &["sys"],
    &["arena", "id_maps", "oci_state"],
    &["host"],
    &["cgroup", "criu"],
    &["namespace"],
    &["leaves"],
    &["spec"],
    &["container"],
    &["plan"],
    &["spawn"],
    &["ops"],
    &["fuzzing"],
];

/// Where each part of a crate is a room of its own.
const ROW: &str = "leaves";

/// The crates, by the folder of their sources from the root of the workspace.
const CRATES: [&str; 7] = [
    "runtime/src",
    "runtime/cli/src",
    "runtime/init/src",
    "shim/src",
    "proto/src",
    "integration/src",
    "integration/bench/src",
];

/// Arrows that close a circle and may stay for now: crate, from, to. Arrows leave this list and do not come to it.
const ALLOWED: &[(&str, &str, &str)] = &[];

fn read(src: &str) -> Crate {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Crate::read(&root.join(src))
}

/// The floor and the room of a module; the root, which has neither, is above all.
fn place(module: &[String]) -> Option<(usize, String)> {
    let first = module.first()?;
    let floor = FLOORS.iter().position(|rooms| rooms.contains(&first.as_str()));
    let floor = floor.unwrap_or_else(|| panic!("{first} is in none of the FLOORS"));
    let room = if first == ROW { module.iter().take(2).cloned().collect::<Vec<_>>().join("::") } else { first.clone() };
    Some((floor, room))
}

/// The arrows that do not go down.
fn upward(of: &Crate) -> Vec<String> {
    let bad = of.arrows().into_iter().filter(|(from, to)| match (place(from), place(to)) {
        (Some((from, from_room)), Some((to, to_room))) => from_room != to_room && from <= to,
        (Some(_), None) => true,
        (None, _) => false,
    });
    bad.map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))).collect()
}

/// The arrows among modules beside each other, by the module that they are in.
fn beside(of: &Crate) -> BTreeMap<Module, BTreeSet<(String, String)>> {
    let mut all: BTreeMap<Module, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, to) in of.arrows() {
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
            all.entry(from[..common].to_vec()).or_default().insert((one.clone(), other.clone()));
        }
    }
    all
}

/// The arrows that lie on circles: from where they lead, one comes back to where they begin.
fn circles(arrows: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let comes_to = |start: &str, end: &str| {
        let mut seen = BTreeSet::from([start]);
        while let Some((_, next)) =
            arrows.iter().find(|(from, to)| seen.contains(from.as_str()) && !seen.contains(to.as_str()))
        {
            seen.insert(next);
        }
        seen.contains(end)
    };
    arrows.iter().filter(|(from, to)| comes_to(to, from)).cloned().collect()
}

/// All arrows of a crate that lie on circles and are not `allowed`, and the allowed ones that are on none.
fn faults(name: &str, of: &Crate, allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut unused: BTreeSet<_> =
        allowed.iter().filter(|(in_crate, ..)| *in_crate == name).map(|(_, from, to)| (*from, *to)).collect();
    for (parent, arrows) in beside(of) {
        let path = |module: &str| parent.iter().map(String::as_str).chain([module]).collect::<Vec<_>>().join("::");
        let is_allowed = |from: &str, to: &str| allowed.contains(&(name, path(from).as_str(), path(to).as_str()));
        for (from, to) in circles(&arrows) {
            unused.retain(|(a, b)| (*a, *b) != (path(&from).as_str(), path(&to).as_str()));
        }
        let kept = arrows.iter().filter(|(from, to)| !is_allowed(from, to)).cloned().collect();
        let on_circles = circles(&kept);
        faults.extend(on_circles.iter().map(|(from, to)| format!("{name}: circle: {} -> {}", path(from), path(to))));
    }
    faults.extend(
        unused.iter().map(|(from, to)| format!("{name}: {from} -> {to} is allowed, and on no circle any more")),
    );
    faults
}

#[test]
fn arrows_of_the_runtime_go_down() {
    let runtime = read("runtime/src");
    assert!(runtime.modules().count() > 80 && runtime.arrows().len() > 200, "the sources were not found");
    assert_eq!(upward(&runtime), Vec::<String>::new());
}

#[test]
fn modules_of_a_directory_form_no_circle() {
    let faults: Vec<_> = CRATES.iter().flat_map(|name| faults(name, &read(name), ALLOWED)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The crate of texts with bad arrows.
fn sample(files: &[(&str, &'static str)]) -> Crate {
    let module = |path: &str| path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Crate::of(files.iter().map(|(path, text)| (module(path), *text)))
}

#[test]
fn a_bad_arrow_is_found_in_each_form() {
    let found = upward(&sample(&[
        ("", "pub use error::{Context as _, Error};\npub use ops::create;\nmod error;"),
        ("error", "// use crate::ops::kill;\nfn f() -> &'static str { \"use crate::ops::kill;\" }"),
        ("sys", "use crate::{Error, host::{self, caller::{is_user, uid}}};"),
        ("host", ""),
        ("host::caller", "fn f() { crate::cgroup::limits::g(); }\n#[cfg(test)]\nmod tests { use crate::ops::kill; }"),
        ("cgroup", "pub(crate) use crate::create::Options;"),
        ("cgroup::limits", "use super::super::leaves::caps;"),
        ("leaves", ""),
        ("leaves::caps", "use crate::{Error, leaves::mount::Options as Mounts};"),
        ("leaves::mount", "use crate::host::caller;\nuse crate::root_item;"),
        ("ops", ""),
        ("ops::create", "use crate::leaves::mount;"),
        ("ops::kill", "use super::create;"),
    ]));
    let bad = [
        "cgroup -> ops::create",
        "cgroup::limits -> leaves::caps",
        "host::caller -> cgroup::limits",
        "leaves::caps -> leaves::mount",
        "leaves::mount -> ",
        "sys -> host",
        "sys -> host::caller",
    ];
    assert_eq!(found, bad);
}

#[test]
fn a_circle_is_found_and_an_allowance_must_be_needed() {
    let texts = [
        ("", ""),
        ("a", "use crate::b::x::Y;"),
        ("b", "use self::x::Y;"),
        ("b::x", "use crate::c::Z;\nuse super::T;"),
        ("c", "use crate::a::{self, A};"),
        ("d", "use crate::a::A;"),
    ];
    let circle = sample(&texts);
    assert_eq!(faults("k", &circle, &[]), ["k: circle: a -> b", "k: circle: b -> c", "k: circle: c -> a"]);
    assert_eq!(faults("k", &circle, &[("k", "c", "a")]), Vec::<String>::new());
    let allowed = [("k", "c", "a"), ("k", "d", "a"), ("other", "x", "y")];
    assert_eq!(faults("k", &circle, &allowed), ["k: d -> a is allowed, and on no circle any more"]);
}
