//! The application of layers. The oracles: nothing outside the root changes, whatever the names and links say; and without
//! links the tree is that of a model in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::AtomicBool,
};

use berth_image::{
    apply::{Options, Tree},
    ids::Owners,
    tar::Reader,
};
use rustix::fs::{Mode, OFlags};

use crate::{
    input::Input,
    scratch::{Item, tree, with_root},
};

/// A member: type, name, target, data.
#[derive(Debug)]
struct Member(u8, String, String, Vec<u8>);

/// A name of a tree, from the root.
type Place = Vec<String>;

impl Member {
    fn bytes(&self) -> Vec<u8> {
        let Self(kind, name, link, data) = self;
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name.as_bytes()[..name.len().min(100)]);
        put(100, if *kind == b'5' { b"0000755\0" } else { b"0000644\0" });
        put(108, format!("{:07o}\0", rustix::process::geteuid().as_raw()).as_bytes());
        put(116, format!("{:07o}\0", rustix::process::getegid().as_raw()).as_bytes());
        put(124, format!("{:011o}\0", data.len()).as_bytes());
        put(136, b"00000001750\0");
        put(148, b"        ");
        put(156, &[*kind]);
        put(157, &link.as_bytes()[..link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, b"0000001\0");
        put(337, b"0000003\0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut all = block.to_vec();
        all.extend(data);
        all.resize(all.len().next_multiple_of(512), 0);
        all
    }
}

/// The tree by rules of layer.md, for archives without links.
#[derive(Default)]
struct Model {
    tree: BTreeMap<Place, Item>,
    /// The places that the current layer has named.
    made: BTreeSet<Place>,
    has_lower: bool,
}

impl Model {
    fn remove(&mut self, at: &Place) {
        self.tree.retain(|place, _| !place.starts_with(at));
        // The entries of a directory go with it; a later one of this name is another.
        self.made.retain(|place| place == at || !place.starts_with(at));
    }

    fn make_parents(&mut self, at: &Place) {
        for len in 1..at.len() {
            let above = at[..len].to_vec();
            if self.tree.get(&above) != Some(&Item::Directory) {
                self.remove(&above);
                self.tree.insert(above, Item::Directory);
            }
        }
    }

    /// Removes an entry and what is below it, but for what this layer has made, and the directories on the way there.
    fn hide(&mut self, at: &Place, itself: bool) {
        let below: Vec<Place> =
            self.tree.keys().filter(|place| place.starts_with(at) && (itself || *place != at)).cloned().collect();
        for place in below.iter().rev() {
            let has_more = self.tree.keys().any(|other| other != place && other.starts_with(place));
            if !self.made.contains(place) && !has_more {
                self.tree.remove(place);
            }
        }
    }

    fn apply(&mut self, layer: &[Member]) -> Result<(), ()> {
        self.made.clear();
        for Member(kind, name, _, data) in layer {
            let mut place: Place = Vec::new();
            for part in name.split('/') {
                match part {
                    "" | "." => {}
                    ".." => drop(place.pop()),
                    part => place.push(part.to_owned()),
                }
            }
            let Some(last) = place.last().cloned() else {
                if *kind != b'5' {
                    return Err(());
                }
                continue;
            };
            if place[0].starts_with(".wh..wh.") && place != [".wh..wh..opq"] {
                continue;
            }
            if let Some(hidden) = last.strip_prefix(".wh.") {
                let parent = place[..place.len() - 1].to_vec();
                if ["", ".", ".."].contains(&hidden) {
                    return Err(());
                }
                let is_there = parent.is_empty() || self.tree.get(&parent) == Some(&Item::Directory);
                if self.has_lower && is_there && hidden == ".wh..opq" {
                    self.hide(&parent, false);
                } else if self.has_lower && is_there {
                    self.hide(&[parent, vec![hidden.to_owned()]].concat(), true);
                }
                continue;
            }
            self.make_parents(&place);
            if !(*kind == b'5' && self.tree.get(&place) == Some(&Item::Directory)) {
                self.remove(&place);
                let item = match kind {
                    b'5' => Some(Item::Directory),
                    b'0' => Some(Item::File(data.clone())),
                    b'6' => Some(Item::Special),
                    _ => None,
                };
                item.map(|item| self.tree.insert(place.clone(), item));
            }
            self.made.insert(place);
        }
        self.has_lower = true;
        Ok(())
    }
}

fn name(input: &mut Input, outside: &[String]) -> String {
    if input.below(16) == 0 {
        return input.of(outside);
    }
    let parts =
        ["a", "b", "c", "a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh..wh.x", ".wh..", "d"];
    let parts: Vec<_> = (0..=input.below(4)).map(|_| input.of(&parts)).collect();
    format!("{}{}", if input.below(6) == 0 { "/" } else { "" }, parts.join("/"))
}

fn layers(input: &mut Input, outside: &[String]) -> Vec<Vec<Member>> {
    let kinds: &[u8] = if input.flag() { b"0055500567" } else { b"00555222116" };
    let layer = |input: &mut Input| {
        let member = |input: &mut Input| {
            let kind = match input.of(kinds) {
                b'7' => b'3',
                kind => kind,
            };
            let name = name(input, outside);
            let link = if matches!(kind, b'1' | b'2') { self::name(input, outside) } else { String::new() };
            let len = input.below(4);
            let data = if kind == b'0' { input.bytes(len).to_vec() } else { Vec::new() };
            Member(kind, if name.is_empty() { "./".into() } else { name }, link, data)
        };
        (0..input.below(9)).map(|_| member(input)).collect()
    };
    (0..3).map(|_| layer(input)).collect()
}

pub fn run(data: &[u8]) {
    with_root(|root, decoy| {
        let outside = ["../decoy", "../decoy/a", "../../x"].map(str::to_owned).into_iter();
        let outside: Vec<_> = outside
            .chain(["", "/a", "/a/b", "/b", "/c"].map(|name| format!("{}{name}", decoy.path().display())))
            .collect();
        apply(root, &layers(&mut Input::new(data), &outside));
    });
}

fn apply(root: &Path, layers: &[Vec<Member>]) {
    let stop = AtomicBool::new(false);
    let fd = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let options = Options { owners: Owners::Caller, devices: false };
    let mut applied = Tree::new(fd, options, 1000, &stop).unwrap();
    let mut model = Model::default();
    let has_links = layers.iter().flatten().any(|member| matches!(member.0, b'1' | b'2'));
    for layer in layers {
        let archive: Vec<u8> = layer.iter().flat_map(Member::bytes).chain([0; 1024]).collect();
        let result = applied.apply(&mut Reader::new(archive.as_slice()));
        if has_links {
            if result.is_err() {
                return;
            }
            continue;
        }
        let expected = model.apply(layer);
        assert_eq!(result.is_ok(), expected.is_ok(), "{result:?}: {layers:?}");
        if expected.is_err() {
            return;
        }
        let real: BTreeMap<Place, Item> = tree(root)
            .into_iter()
            .map(|(path, item)| (path.to_str().unwrap().split('/').map(str::to_owned).collect(), item))
            .collect();
        assert_eq!(real, model.tree, "{layers:?}");
    }
}
