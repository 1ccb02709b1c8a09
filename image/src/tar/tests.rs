use super::*;
use crate::fixture::Tar;

fn entries(archive: &[u8]) -> Result<Vec<(String, u64)>> {
    let mut reader = Reader::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        found.push((escaped(&entry.name), entry.size));
    }
    Ok(found)
}

fn one(archive: Tar) -> Result<Entry> {
    let archive = archive.end();
    Ok(Reader::new(archive.as_slice()).next_entry()?.unwrap())
}

#[test]
fn long_names_come_from_extended_headers_and_the_prefix() {
    let long = "d/".repeat(150) + "file";
    assert_eq!(one(Tar::default().pax(&[("path", long.as_bytes())]).file("short", "x")).unwrap().name, long.as_bytes());
    let gnu = Tar::default().extended(b'L', format!("{long}\0").as_bytes()).extended(b'K', b"target\0");
    let entry = one(gnu.symlink("short", "other")).unwrap();
    assert_eq!((entry.name, entry.link), (long.into_bytes(), b"target".to_vec()));
    let prefixed = Tar::default().header(b'0', b"name", b"", 0, |block| block[345..348].copy_from_slice(b"a/b"));
    assert_eq!(one(prefixed).unwrap().name, b"a/b/name");
    let old_gnu = Tar::default().header(b'0', b"name", b"", 0, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..348].copy_from_slice(b"777");
    });
    assert_eq!(one(old_gnu).unwrap().name, b"name");
}

#[test]
fn pax_records_win_and_global_headers_do_not_count() {
    let records: [(&str, &[u8]); 6] = [
        ("uid", b"3000000"),
        ("gid", b"3000001"),
        ("mtime", b"-1.5"),
        ("linkpath", b"to"),
        ("SCHILY.xattr.user.a", b"\0\n="),
        ("comment", b"x"),
    ];
    let archive = Tar::default().extended(b'g', &crate::fixture::record("path", b"wrong")).pax(&records);
    let entry = one(archive.symlink("name", "x")).unwrap();
    assert_eq!((entry.uid, entry.gid), (3_000_000, 3_000_001));
    assert_eq!(entry.mtime, Time { seconds: -2, nanoseconds: 500_000_000 });
    assert_eq!((entry.name.as_slice(), entry.link.as_slice()), (&b"name"[..], &b"to"[..]));
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"\0\n=".to_vec())]);
}

#[test]
fn the_size_is_the_pax_record_and_links_have_no_data() {
    // CVE-2025-62518 and CVE-2026-33055: the header says another size than the record.
    let hidden = Tar::default().file("hidden", "").end();
    for said in [0, 7, 4096] {
        let archive = Tar::default()
            .pax(&[("size", hidden.len().to_string().as_bytes())])
            .header(b'0', b"outer", b"", said, |_| {})
            .data(&hidden)
            .file("after", "x");
        let expected = vec![("outer".to_owned(), hidden.len() as u64), ("after".to_owned(), 1)];
        assert_eq!(entries(&archive.end()).unwrap(), expected);
    }
    for kind in *b"123456" {
        let archive = Tar::default().header(kind, b"no data", b"x", 512, |_| {}).file("after", "");
        assert_eq!(entries(&archive.end()).unwrap(), [("no data".to_owned(), 0), ("after".to_owned(), 0)]);
    }
}

/// The archive without the record is what a reader sees that believes the header.
#[test]
fn control_header_size_would_show_a_hidden_member() {
    let hidden = Tar::default().file("hidden", "").end();
    let archive = Tar::default().header(b'0', b"outer", b"", 0, |_| {}).data(&hidden).file("after", "x");
    assert!(entries(&archive.end()).unwrap().contains(&("hidden".to_owned(), 0)));
}

#[test]
fn types_are_told_by_their_flag() {
    for (kind, name, expected) in [
        (0, "dir/", Kind::Directory),
        (0, "file", Kind::File),
        (b'7', "file", Kind::File),
        (b'3', "null", Kind::Character(1, 3)),
        (b'4', "disk", Kind::Block(1, 3)),
        (b'6', "fifo", Kind::Fifo),
    ] {
        assert_eq!(one(Tar::default().entry(kind, name, "")).unwrap().kind, expected);
    }
}

#[test]
fn malformed_archives_are_refused() {
    let good = Tar::default().file("name", "x").end();
    let mut checksum = good.clone();
    checksum[0] = b'N';
    let big = "1".repeat(1 << 20);
    let negative = Tar::default().header(b'0', b"a", b"", 0, |block| block[124..136].fill(0xff));
    for (name, archive) in [
        ("checksum", checksum),
        ("within a header", good[..300].to_vec()),
        ("within the data", good[..512].to_vec()),
        ("one block of zeros", [vec![0; 512], good.clone()].concat()),
        ("after an extended header", Tar::default().pax(&[("path", b"a")]).end()),
        ("large extended header", Tar::default().pax(&[("comment", big.as_bytes())]).file("a", "").end()),
        ("size record", Tar::default().pax(&[("size", b"-1")]).file("a", "").end()),
        ("huge size", Tar::default().pax(&[("size", b"18446744073709551615")]).file("a", "").end()),
        ("negative size", negative.end()),
        ("sparse record", Tar::default().pax(&[("GNU.sparse.major", b"1")]).file("a", "").end()),
        ("sparse type", Tar::default().entry(b'S', "a", "").end()),
        ("unknown type", Tar::default().entry(b'Q', "a", "").end()),
        ("NUL in a name", Tar::default().pax(&[("path", b"a\0b")]).file("a", "").end()),
        ("long name", Tar::default().pax(&[("path", "a".repeat(4096).as_bytes())]).file("a", "").end()),
        ("large xattr", Tar::default().pax(&[("SCHILY.xattr.user.a", &[7; 70000])]).file("a", "").end()),
        ("owner -1", Tar::default().pax(&[("uid", b"4294967295")]).file("a", "").end()),
    ] {
        assert!(entries(&archive).is_err(), "{name}");
    }
    let names: Vec<_> = (0..200).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    assert!(entries(&Tar::default().pax(&many).file("a", "").end()).is_err());
}

#[test]
fn an_archive_may_end_without_zeros() {
    let whole = Tar::default().file("a", "x").file("b", "");
    assert_eq!(entries(&whole.0).unwrap().len(), 2);
    assert_eq!(entries(&[whole.0.clone(), vec![0; 512]].concat()).unwrap().len(), 2);
    assert!(entries(b"").unwrap().is_empty());
}

#[test]
fn positions_are_those_of_the_data() {
    let archive = Tar::default().file("a", "xyz").pax(&[("path", b"b")]).file("-", "data").end();
    let mut reader = Reader::new(archive.as_slice());
    for (offset, data) in [(512, "xyz"), (512 * 5, "data")] {
        reader.next_entry().unwrap().unwrap();
        assert_eq!(reader.position(), offset);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, data);
    }
}

/// Any bytes give entries or an error, never a panic or an endless loop; a fuzz target calls the same functions.
#[test]
fn arbitrary_bytes_are_survived() {
    let good = Tar::default().pax(&[("path", b"a"), ("SCHILY.xattr.user.b", b"c")]).file("x", "data").dir("d/").end();
    let mut state = 0x9e37_79b9_u32;
    for _ in 0..20_000 {
        let mut archive = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % archive.len();
            archive[at] = (state >> 24) as u8;
        }
        if state & 1 == 0 {
            // The checksum is made right again, so that the fields behind it are read.
            for block in archive.chunks_mut(512) {
                if block.get(257..262) == Some(b"ustar") {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let _ = entries(&archive);
    }
}
