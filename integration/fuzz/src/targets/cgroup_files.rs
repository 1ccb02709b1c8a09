//! The parsers of cgroup files. The oracle is a second implementation over lists of words.

use berth_runtime::fuzzing::cgroup::{counters, numbers_of_devices, one_number, oom_kills, pressure, usage_of_rdma};

use crate::input::Input;

fn lines(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split(' ').collect()).collect()
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.below(5);
    let bytes = input.rest();
    let text = String::from_utf8_lossy(bytes).into_owned();
    match kind {
        0 => flat(&text, bytes),
        1 => devices(&text),
        2 => stalls(&text),
        3 => rdma(&text),
        _ => {
            let trimmed = text.trim();
            let naive = if trimmed == "max" { u64::MAX } else { trimmed.parse().unwrap_or(0) };
            assert_eq!(one_number(&text), naive);
        }
    }
}

fn flat(text: &str, bytes: &[u8]) {
    let mut naive = Vec::new();
    for line in text.lines() {
        let Some(space) = line.find(' ') else { continue };
        if let Ok(value) = line[space + 1..].trim().parse::<u64>() {
            naive.push((line[..space].to_owned(), value));
        }
    }
    assert_eq!(counters(text), naive);
    let mut kills = None;
    for line in bytes.split(|b| *b == b'\n') {
        let words: Vec<_> = line.splitn(2, |b| *b == b' ').collect();
        if let [b"oom_kill", value] = words.as_slice() {
            kills = kills.or(std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()));
        }
    }
    assert_eq!(oom_kills(bytes), kills.unwrap_or(0));
}

fn devices(text: &str) {
    let (blkio, io) = numbers_of_devices(text);
    let old = text.lines().filter_map(|line| {
        let line = line.replace(':', " ");
        let words: Vec<_> = line.split(' ').collect();
        let (numbers, op) = match words.as_slice() {
            [major, minor, value] => ([*major, *minor, *value], ""),
            [major, minor, op, value] => ([*major, *minor, *value], *op),
            _ => return None,
        };
        let [Ok(major), Ok(minor), Ok(value)] = numbers.map(str::parse::<u64>) else { return None };
        Some((major, minor, op.to_owned(), value))
    });
    let old: Vec<_> = old.collect();
    let mut new = Vec::new();
    for words in lines(text) {
        let Some((major, minor)) = words[0].split_once(':') else { continue };
        let (Ok(major), Ok(minor)) = (major.parse::<u64>(), minor.parse::<u64>()) else { continue };
        let mut values = [0; 4];
        for word in &words[1..] {
            let Some((key, value)) = word.split_once('=') else { continue };
            if let Some(at) = ["rbytes", "wbytes", "rios", "wios"].iter().position(|known| *known == key) {
                values[at] = value.parse().unwrap_or(0);
            }
        }
        new.push((major, minor, values));
    }
    let found: Vec<_> = io.iter().map(|e| (e.major, e.minor, [e.rbytes, e.wbytes, e.rios, e.wios])).collect();
    assert_eq!(found, new);
    let found: Vec<_> = blkio.iter().map(|e| (e.major, e.minor, e.op.clone(), e.value)).collect();
    assert_eq!(found, old);
}

fn stalls(text: &str) {
    let mut naive = [[0.0; 3]; 2];
    let mut totals = [0; 2];
    for words in lines(text) {
        let at = match words[0] {
            "some" => 0,
            "full" => 1,
            _ => continue,
        };
        for word in &words[1..] {
            let Some((key, value)) = word.split_once('=') else { continue };
            match ["avg10", "avg60", "avg300"].iter().position(|known| *known == key) {
                Some(column) => naive[at][column] = value.parse().unwrap_or(0.0),
                None if key == "total" => totals[at] = value.parse().unwrap_or(0),
                None => {}
            }
        }
    }
    let found = pressure(text);
    assert_eq!(found.is_none(), text.is_empty());
    let Some(psi) = found else { return };
    for (line, (averages, total)) in [psi.some, psi.full].iter().zip(naive.iter().zip(totals)) {
        let bits = |values: [f64; 3]| values.map(f64::to_bits);
        assert_eq!(bits([line.avg10, line.avg60, line.avg300]), bits(*averages));
        assert_eq!(line.total, total);
    }
}

fn rdma(text: &str) {
    let number = |value: &str| if value == "max" { u32::MAX } else { value.parse().unwrap_or(0) };
    let mut naive = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(device) = words.first() else { continue };
        let last = |key: &str| {
            let mut of_key = words[1..].iter().filter_map(|word| word.split_once('=')).filter(|(name, _)| *name == key);
            of_key.next_back().map_or(0, |(_, value)| number(value))
        };
        naive.push(((*device).to_owned(), last("hca_handle"), last("hca_object")));
    }
    let found: Vec<_> = usage_of_rdma(text).into_iter().map(|e| (e.device, e.hca_handles, e.hca_objects)).collect();
    assert_eq!(found, naive);
}
