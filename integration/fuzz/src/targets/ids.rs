//! Ids, numbers, durations and signals from command lines and images. The oracle is a direct reading of the text.

use berth_image::{config::user::Accounts, ids::Range};
use berth_runtime::{Ids, fuzzing::translate_idmaps, kill::parse_signal};
use oci_spec::runtime::Spec;
use serde_json::json;

use crate::input::Input;

#[allow(dead_code, reason = "a file of the command line, whose tests run there")]
#[path = "../../../../runtime/cli/src/commands/exec/process/ids.rs"]
mod exec_ids;
#[allow(dead_code, reason = "a file of the command line, whose tests run there")]
#[path = "../../../../runtime/cli/src/args/numbers.rs"]
mod numbers;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.below(7);
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    match kind {
        0 => exec_user(&text),
        1 => integer(&text),
        2 => duration(&text),
        3 => signal(&text),
        4 => range(&text),
        5 => idmap(&text),
        _ => account(&text),
    }
}

/// An id of digits alone that is no `-1`.
fn naive_id(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches('0');
    let fits = digits.len() < 10 || (digits.len() == 10 && digits < "4294967295");
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && fits;
    good.then(|| digits.bytes().fold(0, |n: u32, b| n * 10 + u32::from(b - b'0')))
}

fn exec_user(text: &str) {
    let parts: Vec<_> = text.splitn(2, ':').collect();
    let naive = match parts.as_slice() {
        [uid] => naive_id(uid).map(|uid| (uid, None)),
        [uid, gid] => naive_id(uid).zip(naive_id(gid)).map(|(uid, gid)| (uid, Some(gid))),
        _ => None,
    };
    assert_eq!(exec_ids::ids(text).ok(), naive, "{text:?}");
}

fn integer(text: &str) {
    for base in [numbers::Base::Decimal, numbers::Base::Prefixed] {
        let (sign, rest) = match text.chars().next() {
            Some('-') => (-1, &text[1..]),
            Some('+') => (1, &text[1..]),
            _ => (1, text),
        };
        let low = rest.to_ascii_lowercase();
        let prefix = |p: &str| low.strip_prefix(p).map(str::to_owned);
        let (digits, radix) = match base {
            numbers::Base::Decimal => (low.clone(), 10),
            numbers::Base::Prefixed => prefix("0x")
                .map(|d| (d, 16))
                .or_else(|| prefix("0b").map(|d| (d, 2)))
                .or_else(|| prefix("0o").map(|d| (d, 8)))
                .or_else(|| prefix("0").filter(|d| !d.is_empty()).map(|d| (d, 8)))
                .unwrap_or((low.clone(), 10)),
        };
        let mut value = Some(0i128);
        let syntax = digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix));
        for digit in digits.chars().filter_map(|c| c.to_digit(radix)) {
            value = value.and_then(|v| v.checked_mul(radix.into())?.checked_add(digit.into()));
        }
        let naive = match value.and_then(|v| i64::try_from(sign * v).ok()) {
            _ if syntax => Err(numbers::IntError::Syntax),
            None => Err(numbers::IntError::Range),
            Some(value) => Ok(value),
        };
        assert_eq!(numbers::int(text, base), naive, "{text:?}");
    }
}

/// Only whole numbers with units; fractions are checked to be near the value as a float.
fn duration(text: &str) {
    let found = numbers::duration(text);
    let Some(ns) = found else { return };
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total = 0.0;
    while !rest.is_empty() && rest != "0" {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').expect("a unit");
        let number: f64 = format!("0{}0", &rest[..end]).parse().unwrap_or_else(|e| panic!("{rest:?}: {e}"));
        let number = if rest[..end].contains('.') { number } else { number / 10.0 };
        let tail = &rest[end..];
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        total += number
            * match &tail[..unit] {
                "ns" => 1.0,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                other => panic!("unit {other:?}"),
            };
        rest = &tail[unit..];
    }
    #[allow(clippy::cast_precision_loss, reason = "the comparison is by a relative difference")]
    let difference = (sign * total - ns as f64).abs();
    assert!(difference <= 64.0 + total * 1e-9, "{text:?}: {ns} and {total}");
}

fn signal(text: &str) {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |digits: &str, sign: char| {
        let digits = digits.trim_start_matches(sign);
        if digits.is_empty() { Some(0) } else { digits.parse::<u8>().ok().map(i32::from) }
    };
    let in_range = |n: &i32| (34..=64).contains(n);
    let naive = if let Ok(number) = text.parse::<i32>() {
        (0..=64).contains(&number).then_some(number)
    } else if let Some(rest) = bare.strip_prefix("RTMIN") {
        real_time(rest, '+').map(|n| 34 + n).filter(in_range)
    } else if let Some(rest) = bare.strip_prefix("RTMAX") {
        real_time(rest, '-').map(|n| 64 - n).filter(in_range)
    } else {
        let alias = [("IOT", 6), ("CLD", 17), ("POLL", 29)].into_iter().find(|(name, _)| *name == bare);
        let at = NAMES.iter().position(|name| *name == bare);
        alias.map(|(_, number)| number).or_else(|| i32::try_from(at? + 1).ok())
    };
    assert_eq!(parse_signal(text).ok(), naive, "{text:?}");
}

fn range(text: &str) {
    let numbers: Option<Vec<u64>> = text.split(':').map(|n| n.parse::<u32>().ok().map(u64::from)).collect();
    let naive = numbers.and_then(|n| match n.as_slice() {
        [a, b] => Some((*a, *b, 1)),
        [a, b, size] => Some((*a, *b, *size)),
        _ => None,
    });
    let end = u64::from(u32::MAX);
    let naive = naive.filter(|(a, b, size)| *size > 0 && a + size <= end && b + size <= end);
    let found = Range::parse(text).ok();
    assert_eq!(found.map(|r| (u64::from(r.container), u64::from(r.host), u64::from(r.size))), naive, "{text:?}");
}

fn idmap(text: &str) {
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 5}]);
    let value = json!({"ociVersion": "1", "linux": {"uidMappings": map, "gidMappings": map},
        "mounts": [{"destination": "/m", "options": [format!("idmap={text}")]}]});
    let mut spec: Spec = serde_json::from_value(value).unwrap();
    let ids = Ids::from_spec(&spec).unwrap();
    let triplet = |triplet: &str| {
        let (bare, relative) = triplet.strip_prefix('@').map_or((triplet, false), |bare| (bare, true));
        let numbers: Option<Vec<u32>> = bare.split('-').map(|n| n.parse().ok()).collect();
        let numbers = numbers.filter(|n| n.len() == 3)?;
        let host = if relative { ids.host_uid(numbers[1], "").ok()? } else { numbers[1] };
        Some((numbers[0], host, numbers[2]))
    };
    let mut naive = Some([None, None]);
    for part in text.split(';') {
        let list = part.split_once('=').and_then(|(key, list)| {
            let at = ["uids", "gids"].iter().position(|known| *known == key)?;
            Some((at, list.split('#').map(triplet).collect::<Option<Vec<_>>>()?))
        });
        match (&mut naive, list) {
            (Some(maps), Some((at, list))) => maps[at] = Some(list),
            _ => naive = None,
        }
    }
    let done = translate_idmaps(&mut spec);
    assert_eq!(done.is_ok(), naive.is_some(), "{text:?}: {done:?}");
    let Some([uids, gids]) = naive else { return };
    let mount = &spec.mounts().as_ref().unwrap()[0];
    for (found, naive) in [(mount.uid_mappings(), uids), (mount.gid_mappings(), gids)] {
        let found = found.as_ref().map(|map| map.iter().map(|m| (m.container_id(), m.host_id(), m.size())).collect());
        assert_eq!(found, naive, "{text:?}");
    }
}

/// The user of an image, in small files of accounts.
fn account(text: &str) {
    let (user, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (passwd, group) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let Ok(found) = Accounts::new(passwd, group).resolve(user) else { return };
    let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number(name) {
        assert_eq!(Ok(found.uid), name.parse(), "{user:?}");
    } else if !name.is_empty() {
        let line = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            fields.len() >= 6 && fields[0] == name && fields[2].parse() == Ok(found.uid)
        };
        assert!(passwd.lines().any(line), "{user:?} is {} in {passwd:?}", found.uid);
    }
    if is_number(group_name) {
        assert_eq!(Ok(found.gid), group_name.parse(), "{user:?}");
    }
    assert!(group_name.is_empty() || found.additional_gids.is_empty(), "{user:?}");
    assert!(found.home.is_none_or(|home| home.starts_with('/')));
}
