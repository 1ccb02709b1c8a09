//! The parsers of /proc/PID/stat, mountinfo, uid_map and /proc/PID/cgroup, part of which a process chooses. The oracle is a
//! second implementation over lists of fields.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use berth_runtime::{
    Ids,
    fuzzing::{cgroup, parse_stat},
    mountinfo::Line,
};

use crate::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(5) {
        0 => stat(&String::from_utf8_lossy(input.rest())),
        1 => mount_line(input.rest()),
        2 => hierarchies(&String::from_utf8_lossy(input.rest())),
        3 => id_map(&String::from_utf8_lossy(input.rest())),
        _ => escapes(input.rest()),
    }
}

fn stat(line: &str) {
    let naive = || {
        let after = &line[line.rfind(')')? + 1..];
        let words: Vec<_> =
            after.split([' ', '\t', '\n', '\r', '\u{c}']).filter(|word: &&str| !word.is_empty()).collect();
        let threads: u32 = words.get(17)?.parse().ok()?;
        let start: u64 = words.get(19)?.parse().ok()?;
        Some((["Z", "X", "x"].contains(&words[0]), threads, start))
    };
    assert_eq!(parse_stat(line).map(|stat| (stat.leader_ended, stat.threads, stat.start_time)), naive());
}

/// Octal escapes, decoded from the end to the begin.
fn naive_unescape(field: &[u8]) -> Vec<u8> {
    let mut text = String::from_utf8(field.iter().flat_map(|b| format!("{b:03} ").into_bytes()).collect()).unwrap();
    text = text.trim_end().to_owned();
    let codes: Vec<u8> = text.split(' ').filter(|code| !code.is_empty()).map(|code| code.parse().unwrap()).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < codes.len() {
        let octal = codes.get(at + 1..at + 4).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if codes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(codes[at]);
                at += 1;
            }
        }
    }
    out
}

/// Any name of a mount point, as the kernel writes it.
fn escapes(bytes: &[u8]) {
    let escape = |b: &u8| match b {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
        b => vec![*b],
    };
    let point: Vec<u8> = bytes.iter().flat_map(escape).collect();
    let line = [b"1 2 3:4 / ", &point[..], b" rw - proc proc rw"].concat();
    assert_eq!(Line::parse(&line).unwrap().point(), PathBuf::from(OsString::from_vec(bytes.to_vec())));
}

fn mount_line(line: &[u8]) {
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let path = |at: usize| words.get(at).map(|word| PathBuf::from(OsString::from_vec(naive_unescape(word))));
    let dash = words.iter().skip(5).position(|word| *word == b"-").map(|at| at + 5);
    let right = |n: usize| dash.and_then(|at| words.get(at + n)).copied();
    let naive = right(1).map(|fstype| (words[0], fstype, right(3).unwrap_or_default(), path(3), path(4)));
    let read = Line::parse(line);
    assert_eq!(read.map(|l| (l.id, l.fstype, l.options, Some(l.root()), Some(l.point()))), naive);
}

/// The first half of the text is mountinfo, the second `/proc/self/cgroup`.
fn hierarchies(text: &str) {
    let (mountinfo, own) = text.split_once("\n\n").unwrap_or((text, "0::/\n"));
    let Ok((unified, mounts)) = cgroup::hierarchies(mountinfo, own) else { return };
    let is_v2 = |(_, controllers, ..): &cgroup::Hierarchy| controllers.is_empty();
    assert_eq!(unified, mounts.iter().all(is_v2));
    assert!(mounts.iter().rev().skip(1).all(|mount| !is_v2(mount)), "v2 is the last one: {mounts:?}");
    for (point, controllers, root, own_path) in &mounts {
        let line = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let path = |at: usize| words.get(at).map(|w| OsString::from_vec(naive_unescape(w.as_bytes())));
            let kind = words.iter().skip(5).skip_while(|word| **word != "-").nth(1).copied();
            path(4).is_some_and(|at| Path::new(&at) == point)
                && path(3).is_some_and(|at| Path::new(&at) == root)
                && kind == Some(if controllers.is_empty() { "cgroup2" } else { "cgroup" })
        };
        assert!(mountinfo.split('\n').any(line), "{point:?} {root:?} is in no line");
        let names = controllers.join(",");
        let is_own = |line: &str| {
            let words: Vec<_> = line.splitn(3, ':').collect();
            words.len() == 3
                && Path::new(words[2]) == own_path
                && words[1].split(',').filter(|w| !w.is_empty()).eq(names.split(',').filter(|w| !w.is_empty()))
        };
        assert!(own.lines().any(is_own) || own_path == Path::new("/"), "{own_path:?}");
    }
}

fn id_map(text: &str) {
    let naive = || -> Option<Vec<[u32; 3]>> {
        let number = |words: &[&str], at: usize| words.get(at)?.parse().ok();
        text.lines()
            .map(|line| {
                let words: Vec<_> = line.split_ascii_whitespace().collect();
                Some([number(&words, 0)?, number(&words, 1)?, number(&words, 2)?])
            })
            .collect()
    };
    let parsed = Ids::parse(text, "");
    let lines = naive();
    assert_eq!(parsed.is_some(), lines.is_some());
    let (Some(ids), Some(lines)) = (parsed, lines) else { return };
    let again: String = lines.iter().map(|[a, b, c]| format!("{a} {b} {c}\n")).collect();
    assert_eq!(ids.uid_map(), again);
    for id in [0, 1, 999, 1000, 65535, u32::MAX] {
        let naive = lines.iter().find_map(|[inside, host, size]| {
            let range = u64::from(*inside)..u64::from(*inside) + u64::from(*size);
            let there = u64::from(id) + u64::from(*host) - u64::from(*inside).min(u64::from(id));
            (range.contains(&u64::from(id))).then(|| u32::try_from(there).ok())?
        });
        let expected = if lines.is_empty() { Some(id) } else { naive };
        assert_eq!(ids.host_uid(id, "uid").ok(), expected, "id {id}");
    }
}
