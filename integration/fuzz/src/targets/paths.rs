//! Paths in a root full of links: what is found or made, and where. The oracle is a model of the tree in memory that resolves
//! the path by itself; and nothing outside the root changes.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use berth_init::path::{Target, find_or_make};
use rustix::fs::{Mode, OFlags};

use crate::{
    input::Input,
    scratch::{Decoy, Item, tree, with_root},
};

/// Symbolic links that are followed at most (path_resolution(7)).
const LINKS: usize = 40;

/// The names of the tree, as paths without links from the root.
type Model = BTreeMap<Vec<String>, Item>;

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Missing,
    Other,
}

fn components(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

fn is_directory(model: &Model, at: &[String]) -> bool {
    at.is_empty() || model.get(at) == Some(&Item::Directory)
}

/// Resolves as the kernel does, below the root.
fn resolve(model: &Model, path: &str) -> Result<Vec<String>, Fault> {
    let mut rest: Vec<String> = components(path).into_iter().rev().collect();
    let (mut at, mut links): (Vec<String>, usize) = (Vec::new(), 0);
    while let Some(name) = rest.pop() {
        if name.is_empty() && rest.iter().all(String::is_empty) && path.trim_matches('/').is_empty() {
            continue;
        }
        if !is_directory(model, &at) {
            return Err(Fault::Other);
        }
        match name.as_str() {
            "" | "." => {}
            ".." => drop(at.pop()),
            name => {
                let mut next = at.clone();
                next.push(name.to_owned());
                match model.get(&next) {
                    None => return Err(Fault::Missing),
                    Some(Item::Link(target)) => {
                        links += 1;
                        if links > LINKS {
                            return Err(Fault::Other);
                        }
                        let target = target.to_str().unwrap();
                        if target.starts_with('/') {
                            at.clear();
                        }
                        // A link that is followed by a slash must lead to a directory.
                        rest.extend(components(target.trim_start_matches('/')).into_iter().rev());
                    }
                    Some(_) => at = next,
                }
            }
        }
    }
    Ok(at)
}

/// Walks as `mkdir -p` would, and makes what is missing, also behind dangling links.
fn make(model: &mut Model, path: &str, last: &Item) -> Result<Vec<String>, Fault> {
    let mut rest: Vec<String> = components(path).into_iter().rev().collect();
    let (mut at, mut links): (Vec<String>, usize) = (Vec::new(), 0);
    while let Some(name) = rest.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            _ => {}
        }
        if !is_directory(model, &at) {
            return Err(Fault::Other);
        }
        at.push(name);
        match model.get(&at) {
            Some(Item::Link(target)) => {
                links += 1;
                if links > LINKS {
                    return Err(Fault::Other);
                }
                at.pop();
                if target.starts_with("/") {
                    at.clear();
                }
                rest.extend(components(target.to_str().unwrap()).into_iter().rev());
            }
            Some(_) => {}
            None => {
                let more = rest.iter().any(|name| !matches!(name.as_str(), "" | "."));
                model.insert(at.clone(), if more { Item::Directory } else { last.clone() });
            }
        }
    }
    if at.is_empty() { Err(Fault::Other) } else { Ok(at) }
}

fn path(input: &mut Input, absolute: &[String]) -> String {
    if input.below(8) == 0 {
        return input.of(absolute);
    }
    let start = if input.flag() { "/" } else { "" };
    let parts: Vec<_> = (0..=input.below(5)).map(|_| input.of(&["a", "b", "c", "d", "..", "..", ".", ""])).collect();
    format!("{start}{}", parts.join("/"))
}

pub fn run(data: &[u8]) {
    with_root(|root, decoy| in_root(root, decoy, Input::new(data)));
}

fn in_root(root: &Path, decoy: &Decoy, mut input: Input) {
    let outside = ["../decoy/b", "../decoy/new", "../../new"].map(str::to_owned);
    let outside: Vec<_> = outside
        .into_iter()
        .chain(["a", "new", "c"].map(|name| decoy.path().join(name).display().to_string()))
        .collect();
    let mut model = Model::new();
    for _ in 0..input.below(12) {
        let mut at = Vec::new();
        for _ in 0..input.below(3) {
            at.push(input.of(&["a", "b", "c", "d"]).to_owned());
        }
        at.push(input.of(&["a", "b", "c", "d"]).to_owned());
        let item = match input.below(4) {
            0 => Item::Directory,
            1 => Item::File(Vec::new()),
            _ => Item::Link(PathBuf::from(path(&mut input, &outside))),
        };
        if matches!(&item, Item::Link(to) if to.as_os_str().is_empty()) {
            continue;
        }
        let (_, parent) = at.split_last().unwrap();
        if is_directory(&model, parent) && !model.contains_key(&at) {
            let real = root.join(at.join("/"));
            match &item {
                Item::Directory => fs::create_dir(real).unwrap(),
                Item::Link(to) => symlink(to, real).unwrap(),
                _ => fs::write(real, "").unwrap(),
            }
            model.insert(at, item);
        }
    }
    for _ in 0..=input.below(3) {
        let path = path(&mut input, &outside);
        let (target, last) = if input.flag() {
            (Target::Directory, Item::Directory)
        } else {
            (Target::NonDirectory, Item::File(Vec::new()))
        };
        if !path.is_empty() {
            check(root, &mut model, &path, target, &last);
        }
    }
}

fn check(root: &Path, model: &mut Model, path: &str, target: Target, last: &Item) {
    let before = model.clone();
    let expected = match resolve(model, path) {
        Err(Fault::Missing) => make(model, path, last).map(|at| (at, true)),
        found => found.map(|at| (at, false)),
    };
    let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let found = find_or_make(fd.as_fd(), &CString::new(path).unwrap(), target, None);
    let shown = found.as_ref().map(|(fd, made)| {
        let at = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let at = at.strip_prefix(root).expect("the result is inside").to_str().unwrap().to_owned();
        (at.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>(), *made)
    });
    let words = || format!("{path:?} in {before:#?}");
    match (&expected, &shown) {
        (Ok(expected), Ok(shown)) => assert_eq!(shown, expected, "{}", words()),
        (Err(_), Err(_)) => {}
        other => panic!("{other:?}: {}", words()),
    }
    let real: Model = tree(root).into_iter().map(|(path, item)| (components(path.to_str().unwrap()), item)).collect();
    assert_eq!(&real, model, "{}", words());
}
