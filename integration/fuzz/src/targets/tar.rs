//! The reader of archives. The oracle is a second reader, over the whole archive in memory.

use std::io::Read;

use berth_image::tar::{Kind, Reader};

/// Name, type flag by kind, target, data.
type Member = (Vec<u8>, u8, Vec<u8>, Vec<u8>);

/// Makes the checksums right, so that the fields behind them are read.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    for block in archive.chunks_mut(512).filter(|block| block.len() == 512 && block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

fn read(archive: &[u8]) -> Option<Vec<Member>> {
    let mut reader = Reader::new(archive);
    let mut members = Vec::new();
    while let Some(entry) = reader.next_entry().ok()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).ok()?;
        assert_eq!(data.len() as u64, entry.size);
        assert!(entry.name.len() < 4096 && entry.link.len() < 4096 && entry.mode <= 0o7777);
        assert!(entry.uid != u32::MAX && entry.gid != u32::MAX && entry.xattrs.len() <= 128);
        assert!(entry.mtime.nanoseconds < 1_000_000_000);
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Character(..) => b'3',
            Kind::Block(..) => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        members.push((entry.name, kind, entry.link, data));
    }
    Some(members)
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// A size in octal digits or base 256.
fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        let sign = i128::from(field[0] & 0x40) << 1;
        let first = i128::from(field[0] & 0x7f) - sign;
        return Some(field[1..].iter().fold(first, |n, byte| n << 8 | i128::from(*byte)));
    }
    let words = std::str::from_utf8(field).ok()?;
    let words = words.trim_start_matches(|c: char| c.is_ascii_whitespace()).trim_end_matches([' ', '\0']);
    if words.is_empty() {
        Some(0)
    } else {
        i128::from_str_radix(words, 8).ok().filter(|_| !words.starts_with(['+', '-']))
    }
}

/// A record of an extended header: its key, and its value or `None` for an empty one, which takes a record back.
type Record = (Vec<u8>, Option<Vec<u8>>);

/// The records of an extended header.
fn records(mut rest: &[u8]) -> Option<Vec<Record>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (record[..equals].to_vec(), record[equals + 1..].to_vec());
        all.push((key, Some(value).filter(|value| !value.is_empty())));
        rest = &rest[length..];
    }
    Some(all)
}

/// Reads what it can; `None` where the archive is malformed in a way that this reader sees.
fn naive(archive: &[u8]) -> Option<Vec<Member>> {
    let (mut members, mut at) = (Vec::new(), 0);
    let (mut long_name, mut long_link, mut size_record, mut pending) = (None, None, None, false);
    loop {
        let Some(header) = archive.get(at..at + 512) else {
            return (at >= archive.len() && !pending).then_some(members);
        };
        if header.iter().all(|byte| *byte == 0) {
            return (!pending).then_some(members);
        }
        let kind = header[156];
        let mut size = usize::try_from(number(&header[124..136]).filter(|n| *n >= 0).unwrap_or(0)).ok()?;
        let is_file = !pending_kind(kind) && matches!(kind, 0 | b'0' | b'7');
        let prefix = text(&header[345..500]);
        let short = text(&header[..100]);
        let short = if header[257..263] == *b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/".to_vec(), short].concat()
        } else {
            short
        };
        let name: Vec<u8> = long_name.clone().unwrap_or(short);
        let directory = kind == 0 && name.ends_with(b"/");
        if is_file && !directory {
            size = size_record.unwrap_or(size);
        } else if !pending_kind(kind) {
            size = 0;
        }
        let data = archive.get(at + 512..(at + 512).checked_add(size)?)?;
        at = (at + 512 + size).next_multiple_of(512);
        match kind {
            b'x' => {
                pending = true;
                for (key, value) in records(data)? {
                    match key.as_slice() {
                        b"path" => long_name = value,
                        b"linkpath" => long_link = value,
                        b"size" => size_record = value.and_then(|v| std::str::from_utf8(&v).ok()?.parse().ok()),
                        _ => {}
                    }
                }
            }
            b'g' => {}
            b'L' => (long_name, pending) = (Some(text(data)), true),
            b'K' => (long_link, pending) = (Some(text(data)), true),
            _ => {
                let is_link = matches!(kind, b'1' | b'2');
                let link =
                    if is_link { long_link.take().unwrap_or_else(|| text(&header[157..257])) } else { Vec::new() };
                let kind = match kind {
                    _ if directory => b'5',
                    0 | b'7' => b'0',
                    kind => kind,
                };
                members.push((name, kind, link, data.to_vec()));
                (long_name, long_link, size_record, pending) = (None, None, None, false);
            }
        }
    }
}

/// The types that extend the next member.
fn pending_kind(kind: u8) -> bool {
    matches!(kind, b'x' | b'g' | b'L' | b'K')
}

pub fn run(data: &[u8]) {
    let (first, archive) = data.split_first().unwrap_or((&0, data));
    let archive = if first & 1 == 0 { with_checksums(archive) } else { archive.to_vec() };
    let Some(members) = read(&archive) else { return };
    let naive = naive(&archive).unwrap_or_else(|| panic!("{} members, and the other reader refuses", members.len()));
    assert_eq!(members, naive);
}
