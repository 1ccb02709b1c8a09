//! Mount options of config.json and of a rootfs, paths of mounts, and the layers of an overlay. The oracle evaluates each
//! option by itself, the last one first.

use std::path::{Path, PathBuf};

use berth_runtime::fuzzing::{Options, Submounts, attr, clean, clean_unless_dotdot, known_options};
use berth_shim::mount::{
    options::MountOptions,
    overlay::{escape, split},
};

use crate::input::Input;

/// Option, bits that it sets, bits that it clears.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", 1, 0),
    ("rw", 0, 1),
    ("nosuid", 2, 0),
    ("suid", 0, 2),
    ("nodev", 4, 0),
    ("dev", 0, 4),
    ("noexec", 8, 0),
    ("exec", 0, 8),
    ("noatime", 0x10, 0x20),
    ("atime", 0, 0x10),
    ("strictatime", 0x20, 0x10),
    ("nostrictatime", 0, 0x20),
    ("relatime", 0, 0x70),
    ("norelatime", 0, 0),
    ("nodiratime", 0x80, 0),
    ("diratime", 0, 0x80),
    ("nosymfollow", 0x20_0000, 0),
    ("symfollow", 0, 0x20_0000),
];

fn words(input: &mut Input) -> Vec<String> {
    let known = known_options();
    let mut list = Vec::new();
    while !input.is_empty() && list.len() < 24 {
        let word = match input.below(8) {
            0 => {
                let len = input.below(12);
                String::from_utf8_lossy(input.bytes(len)).into_owned()
            }
            1 => input
                .of(&["size=64k", "mode=755", "loop", "uidmap=0:1:1", "X-containerd.x", "rr", "direct-io"])
                .to_owned(),
            _ => known[usize::from(input.byte()) % known.len()].clone(),
        };
        list.push(word);
    }
    list
}

/// The bits that options leave set, and cleared: for each bit the last option about it counts.
fn naive(list: &[String]) -> (u64, u64) {
    let (mut set, mut clear) = (0, 0);
    for bit in (0..64).map(|n| 1u64 << n) {
        let last = list.iter().rev().find_map(|word| {
            let (_, on, off) = ATTRIBUTES.iter().find(|(name, ..)| *name == word)?;
            // noatime clears strictatime, which leaves no mark of its own.
            ((on | off) & bit != 0).then_some((on & bit, off & bit))
        });
        let (on, off) = last.unwrap_or_default();
        set |= on;
        clear |= off;
    }
    (set, clear)
}

fn of_config(list: &[String]) {
    let options = match Options::parse(list) {
        Ok(options) => options,
        Err(_) => {
            let has = |words: &[&str]| list.iter().any(|word| words.contains(&word.as_str()));
            assert!(has(&["tmpcopyup"]) && has(&["bind", "rbind", "remount"]), "{list:?}");
            return;
        }
    };
    let (set, clear) = naive(list);
    assert_eq!((options.set, options.clear), (set, clear), "{list:?}");
    assert_eq!(options.set & options.clear, 0, "{list:?}");
    let own = ["relatime", "rslave", "rshared", "rprivate", "runbindable", "rbind", "remount", "ridmap", "ro", "rw"];
    let recursive = |word: &str| -> Option<&'static str> {
        let plain = word.strip_prefix('r').filter(|_| !own.contains(&word))?;
        ATTRIBUTES.iter().map(|(name, ..)| *name).find(|name| *name == plain)
    };
    let (set, clear) = {
        let (mut set, mut clear) = (0u64, 0u64);
        for (_, on, off) in list
            .iter()
            .filter_map(|word| recursive(word))
            .map(|plain| ATTRIBUTES.iter().find(|(name, ..)| *name == plain).unwrap())
        {
            set = (set | on) & !off | on;
            clear = (clear | off) & !on | off;
        }
        (set, clear)
    };
    assert_eq!((options.set_recursive, options.clear_recursive), (set, clear), "{list:?}");
    let known = known_options();
    let other: Vec<_> = list.iter().filter(|word| !word.is_empty() && !known.contains(word)).cloned().collect();
    assert_eq!(options.data, other);
    let bind = if list.iter().any(|word| word == "rbind") {
        Some(Submounts::Include)
    } else {
        list.iter().any(|word| word == "bind").then_some(Submounts::Exclude)
    };
    assert_eq!(options.bind, bind);
    let (on, off) = options.bind_attributes();
    assert_eq!(on & off & !attr::ATIME, 0, "{list:?}");
    if on | off != 0 {
        // With one attribute named, each other one that protects is decided too.
        assert_eq!((on | off) & attr::BIND, attr::BIND, "{list:?}");
    }
}

fn of_rootfs(list: &[String]) {
    let refused = list.iter().any(|word| word.starts_with("X-containerd."));
    let parsed = MountOptions::parse(list);
    assert_eq!(parsed.is_err(), refused, "{list:?}");
    let Ok(options) = parsed else { return };
    let last =
        |on: &str, off: &str| list.iter().rev().find(|word| [on, off].contains(&word.as_str())).map(|word| word == on);
    for (on, off, bit) in [("ro", "rw", 1), ("nosuid", "suid", 2), ("nodev", "dev", 4), ("noexec", "exec", 8)] {
        assert_eq!(options.flags.bits() & bit != 0, last(on, off) == Some(true), "{on} of {list:?}");
    }
    assert!(options.data.iter().all(|word| list.contains(word)));
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 | 1 => {
            let list = words(&mut input);
            of_config(&list);
            of_rootfs(&list);
        }
        2 => path(&String::from_utf8_lossy(input.rest())),
        _ => {
            let text = String::from_utf8_lossy(input.rest()).into_owned();
            let names: Vec<_> = text.split('\n').collect();
            let joined = names.iter().map(|name| escape(name)).collect::<Vec<_>>().join(":");
            assert_eq!(split(&joined), names);
            assert_eq!(split(&text).len(), 1 + unescaped_colons(&text));
        }
    }
}

fn unescaped_colons(text: &str) -> usize {
    text.replace(r"\\", "").replace(r"\:", "").matches(':').count()
}

fn path(text: &str) {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let naive = PathBuf::from(format!("/{}", parts.join("/")));
    let cleaned = clean(Path::new(text));
    assert_eq!(cleaned.as_os_str(), naive.as_os_str(), "{text:?}");
    assert_eq!(clean(&cleaned), cleaned);
    let kept = clean_unless_dotdot(Path::new(text));
    assert!(kept.is_absolute());
    assert_eq!(clean(&kept), cleaned, "{text:?}");
}
