//! Device rules: the program of v2, and the writes of v1 from nothing and from another list. The oracle evaluates the rules
//! directly; the machines that run program and writes are of this file.

use berth_runtime::{cgroup::default_device_rules, fuzzing::cgroup};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use serde_json::{Value, json};

use crate::input::Input;

const NUMBERS: [i64; 9] = [-1, -1, 0, 1, 3, 8, 4_294_967_295, 4_294_967_296, -2];
const ACCESS: [&str; 9] = ["r", "w", "m", "rw", "rm", "wm", "rwm", "", "rx"];

/// Type (1 block, 2 char), access bits, major, minor.
type Request = (u32, u32, u32, u32);

/// An exception: type, major, minor, access bits.
type Exception = (char, Option<u32>, Option<u32>, u32);

/// A list as the kernel keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List {
    allow: bool,
    exceptions: Vec<Exception>,
}

impl List {
    fn all(&mut self, allow: bool) {
        *self = Self { allow, exceptions: Vec::new() };
    }

    fn add(&mut self, (node, major, minor, access): Exception) {
        match self.exceptions.iter_mut().find(|e| (e.0, e.1, e.2) == (node, major, minor)) {
            Some(known) => known.3 |= access,
            None => self.exceptions.push((node, major, minor, access)),
        }
    }

    fn remove(&mut self, (node, major, minor, access): Exception) {
        for known in self.exceptions.iter_mut().filter(|e| (e.0, e.1, e.2) == (node, major, minor)) {
            known.3 &= !access;
        }
        self.exceptions.retain(|e| e.3 != 0);
    }

    fn change(&mut self, allow: bool, exception: Exception) {
        if allow == self.allow { self.remove(exception) } else { self.add(exception) }
    }

    /// The answer of the kernel.
    fn allows(&self, (node, asked, major, minor): Request) -> bool {
        let about = |e: &&Exception| {
            e.0 == if node == 1 { 'b' } else { 'c' } && e.1.is_none_or(|m| m == major) && e.2.is_none_or(|m| m == minor)
        };
        let mut about = self.exceptions.iter().filter(about);
        if self.allow { about.all(|e| e.3 & asked == 0) } else { about.any(|e| asked & !e.3 == 0) }
    }

    /// `devices.list`.
    fn text(&self) -> String {
        if self.allow {
            return "a *:* rwm\n".to_owned();
        }
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let letters =
            |bits: u32| [(2, "r"), (4, "w"), (1, "m")].map(|(bit, l)| if bits & bit != 0 { l } else { "" }).concat();
        let line = |e: &Exception| format!("{} {}:{} {}\n", e.0, number(e.1), number(e.2), letters(e.3));
        self.exceptions.iter().map(line).collect()
    }

    /// A write to `devices.allow` or `devices.deny`.
    fn write(&mut self, allow: bool, line: &str) {
        let words: Vec<_> = line.split([' ', ':']).collect();
        if words[0] == "a" {
            return self.all(allow);
        }
        let number = |word: &str| (word != "*").then(|| word.parse().unwrap());
        self.change(allow, (words[0].chars().next().unwrap(), number(words[1]), number(words[2]), bits(words[3])));
    }
}

fn bits(letters: &str) -> u32 {
    letters
        .chars()
        .map(|c| match c {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        })
        .fold(0, |all, bit| all | bit)
}

/// The list after rules; `None` if berth must refuse them.
fn naive(rules: &[LinuxDeviceCgroup]) -> Option<List> {
    let mut list = List::default();
    let mut refused = false;
    for rule in rules {
        let access = bits(rule.access().as_deref().unwrap_or_default());
        let node = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A if access != 0 => {
                list.all(rule.allow());
                continue;
            }
            LinuxDeviceType::B => 'b',
            LinuxDeviceType::C => 'c',
            _ => return None,
        };
        if access == 0 {
            return None;
        }
        let number = |n: Option<i64>| match n.unwrap_or(-1) {
            -1 => Some(None),
            n => u32::try_from(n).ok().map(Some),
        };
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        if rule.allow() == list.allow {
            // A part of a wildcard cannot be taken out.
            let wider = |e: &Exception| {
                (e.0, e.1, e.2) != (node, major, minor)
                    && e.0 == node
                    && (e.1.is_none() || e.1 == major)
                    && (e.2.is_none() || e.2 == minor)
                    && e.3 & access != 0
            };
            refused |= list.exceptions.iter().any(wider);
        }
        list.change(rule.allow(), (node, major, minor, access));
    }
    (!refused).then_some(list)
}

/// Runs the program.
fn run_program(program: &[cgroup::Instruction], (node, access, major, minor): Request) -> bool {
    let request = [access << 16 | node, major, minor];
    let mut registers = [None; 11];
    let mut at = 0;
    loop {
        let (code, which, offset, value) = program[at];
        let (to, from) = (usize::from(which & 15), usize::from(which >> 4));
        let (value, offset) = (value.cast_unsigned(), usize::try_from(offset).unwrap());
        at += 1;
        let have = |n: usize, registers: &[Option<u32>; 11]| registers[n].expect("an uninitialised register");
        match code {
            0x61 => registers[to] = Some(request[offset / 4]),
            0xb4 => registers[to] = Some(value),
            0xbc => registers[to] = Some(have(from, &registers)),
            0x54 => registers[to] = Some(have(to, &registers) & value),
            0x74 => registers[to] = Some(have(to, &registers) >> value),
            0x56 if have(to, &registers) != value => at += offset,
            0x46 if have(to, &registers) & value != 0 => at += offset,
            0x56 | 0x46 => {}
            0x95 => return have(0, &registers) == 1,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn rules(input: &mut Input) -> LinuxResources {
    let rule = |input: &mut Input| -> Value {
        json!({"allow": input.flag(), "type": input.of(&["c", "c", "c", "b", "b", "a", "p", "u"]),
            "major": input.of(&NUMBERS), "minor": input.of(&NUMBERS), "access": input.of(&ACCESS)})
    };
    let list: Vec<_> = (0..input.below(8)).map(|_| rule(input)).collect();
    serde_json::from_value(json!({"devices": list})).unwrap()
}

fn with_defaults(resources: &LinuxResources) -> Vec<LinuxDeviceCgroup> {
    resources.devices().iter().flatten().cloned().chain(default_device_rules()).collect()
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (old, new) = (rules(&mut input), rules(&mut input));
    let wanted = naive(&with_defaults(&new));
    let program = cgroup::device_program(&new);
    let fresh = cgroup::device_writes(&new, None);
    assert_eq!((program.is_ok(), fresh.is_ok()), (wanted.is_some(), wanted.is_some()), "{new:?}: {program:?}");
    let (Ok(program), Ok(fresh), Some(wanted)) = (program, fresh, wanted) else { return };

    // A new cgroup has a copy of its parent's list.
    let mut made = List { allow: true, exceptions: vec![('b', Some(8), None, 7)] };
    fresh.iter().for_each(|(allow, line)| made.write(*allow, line));
    let mut updated = naive(&with_defaults(&old)).unwrap_or_default();
    let from = updated.clone();
    let writes = cgroup::device_writes(&new, Some(&from.text())).unwrap();
    for (allow, line) in &writes {
        updated.write(*allow, line);
        // A device that both lists allow is never without access.
        if !from.allow && !wanted.allow {
            for request in requests(&with_defaults(&new)) {
                assert!(updated.allows(request) || !(exactly(&from, request) && exactly(&wanted, request)), "{line}");
            }
        }
    }
    for request in requests(&with_defaults(&new)) {
        let answer = wanted.allows(request);
        let by_program = program.as_ref().is_none_or(|program| run_program(program, request));
        assert_eq!(
            (by_program, made.allows(request), updated.allows(request)),
            (answer, answer, answer),
            "{request:?} of {new:?} after {from:?}"
        );
    }
}

/// One exception alone allows the request, with the same numbers.
fn exactly(list: &List, (node, asked, major, minor): Request) -> bool {
    let node = if node == 1 { 'b' } else { 'c' };
    list.exceptions.iter().any(|e| (e.0, e.1, e.2) == (node, Some(major), Some(minor)) && asked & !e.3 == 0)
}

/// Requests that the kernel makes and the rules can tell apart.
fn requests(rules: &[LinuxDeviceCgroup]) -> Vec<Request> {
    let numbers = rules.iter().flat_map(|rule| [rule.major(), rule.minor()]).flatten();
    let mut numbers: Vec<u32> = numbers.filter_map(|n| u32::try_from(n).ok()).chain([77]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut all = Vec::new();
    for major in &numbers {
        for minor in &numbers {
            all.extend([1, 2].iter().flat_map(|node| [1, 2, 4, 6].map(|access| (*node, access, *major, *minor))));
        }
    }
    all
}
