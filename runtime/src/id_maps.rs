//! The id mappings of a user namespace, or of a mount (user_namespaces(7)).

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};

use crate::{Error, Result};

/// The id mappings of a user namespace; empty where there is none of the container's own.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

/// user_namespaces(7): lines a map may have since Linux 4.15.
const MAX_LINES: usize = 340;
/// user_namespaces(7): a map is written at once and is less than a page, bytes.
const MAX_TEXT: usize = 4096;

impl Ids {
    /// Takes the mappings of config.json; `field` is where they stand: `linux.`, `mounts[3].`.
    ///
    /// # Errors
    /// Too many lines, or more text than the kernel takes; lengths of zero, ranges that overflow or overlap, naming
    /// the line.
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping], field: &str) -> Result<Self> {
        check(uids, &format!("{field}uidMappings"))?;
        check(gids, &format!("{field}gidMappings"))?;
        Ok(Self { uids: uids.to_vec(), gids: gids.to_vec() })
    }

    /// Those of a config.json's user namespace.
    ///
    /// # Errors
    /// As [`Ids::new`].
    pub fn given(spec: &Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let uids = linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default();
        let gids = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
        Self::new(uids, gids, "linux.")
    }

    /// Takes the text of /proc/<pid>/uid_map and gid_map; `None` when it is no such text.
    pub fn parse(uid_map: &str, gid_map: &str) -> Option<Self> {
        Some(Self { uids: parse(uid_map)?, gids: parse(gid_map)? })
    }

    /// There is a mapping at all.
    pub fn mapped(&self) -> bool {
        !self.uids.is_empty() || !self.gids.is_empty()
    }

    /// Maps the same ids to the same ids, in whatever order the lines are.
    pub fn same_as(&self, other: &Self) -> bool {
        sorted(&self.uids) == sorted(&other.uids) && sorted(&self.gids) == sorted(&other.gids)
    }

    /// Maps every id to itself, as the initial user namespace does.
    pub fn identity(&self) -> bool {
        [&self.uids, &self.gids].into_iter().all(|map| sorted(map) == [(0, 0, u32::MAX)])
    }

    /// What a user namespace needs: uids and gids are mapped, root among them.
    ///
    /// # Errors
    /// Names the mapping that is missing.
    pub fn check_complete(&self) -> Result<()> {
        for (map, what) in [(&self.uids, "uid"), (&self.gids, "gid")] {
            let missing =
                |why: &str| Error::invalid(format!("linux.{what}Mappings: user namespaces enabled, but {why}"));
            if map.is_empty() {
                return Err(missing(&format!("no {what} mappings found")));
            }
            if !map.iter().any(|m| m.container_id() == 0) {
                return Err(missing("the root user is not mapped"));
            }
        }
        Ok(())
    }

    /// The same ids as a process inside sees them: each is itself, and those that are not mapped are not there.
    #[must_use]
    pub fn seen_from_inside(&self) -> Self {
        let line = |m: &LinuxIdMapping| {
            let inside = m.container_id();
            LinuxIdMappingBuilder::default().container_id(inside).host_id(inside).size(m.size()).build().ok()
        };
        let inside = |map: &[LinuxIdMapping]| map.iter().filter_map(line).collect();
        Self { uids: inside(&self.uids), gids: inside(&self.gids) }
    }

    /// One gid is mapped, and it is this one of the host's.
    pub fn maps_only_gid(&self, gid: u32) -> bool {
        matches!(self.gids.as_slice(), [line] if line.host_id() == gid && line.size() == 1)
    }

    /// The host's uid of a uid inside; itself without a mapping.
    pub fn host_uid(&self, uid: u32, field: &str) -> Result<u32> {
        translate(&self.uids, uid, field)
    }

    /// The host's gid of a gid inside; itself without a mapping.
    pub fn host_gid(&self, gid: u32, field: &str) -> Result<u32> {
        translate(&self.gids, gid, field)
    }

    /// The text of /proc/<pid>/uid_map.
    pub fn uid_map(&self) -> String {
        lines(&self.uids)
    }

    /// The text of /proc/<pid>/gid_map.
    pub fn gid_map(&self) -> String {
        lines(&self.gids)
    }
}

fn parse(text: &str) -> Option<Vec<LinuxIdMapping>> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse().ok());
        let mut next = || -> Option<u32> { numbers.next().flatten() };
        let (inside, host, size) = (next()?, next()?, next()?);
        LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build().ok()
    };
    text.lines().map(line).collect()
}

fn sorted(map: &[LinuxIdMapping]) -> Vec<(u32, u32, u32)> {
    let mut lines: Vec<_> = map.iter().map(|m| (m.container_id(), m.host_id(), m.size())).collect();
    lines.sort_unstable();
    lines
}

fn lines(map: &[LinuxIdMapping]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect()
}

fn translate(map: &[LinuxIdMapping], id: u32, field: &str) -> Result<u32> {
    if map.is_empty() {
        return Ok(id);
    }
    map.iter()
        .find_map(|m| {
            let offset = id.checked_sub(m.container_id())?;
            (offset < m.size()).then(|| m.host_id().checked_add(offset))?
        })
        .ok_or_else(|| Error::invalid(format!("{field}: id {id} is not mapped in the user namespace")))
}

fn check(map: &[LinuxIdMapping], field: &str) -> Result<()> {
    if map.len() > MAX_LINES {
        return Err(Error::invalid(format!("{field}: more than {MAX_LINES} mappings")));
    }
    let text = lines(map).len();
    if text >= MAX_TEXT {
        return Err(Error::invalid(format!("{field}: {text} bytes as a map, the kernel takes less than {MAX_TEXT}")));
    }
    let overlap = |a: u32, b: u32, n: u32, m: u32| a < b.saturating_add(m) && b < a.saturating_add(n);
    for (n, line) in map.iter().enumerate() {
        let bad = |why| Error::invalid(format!("{field}[{n}]: {why}"));
        if line.size() == 0 {
            return Err(bad("size must not be 0"));
        }
        if line.container_id().checked_add(line.size()).is_none() || line.host_id().checked_add(line.size()).is_none() {
            return Err(bad("range is out of bounds"));
        }
        for other in map.iter().take(n) {
            if overlap(line.container_id(), other.container_id(), line.size(), other.size())
                || overlap(line.host_id(), other.host_id(), line.size(), other.size())
            {
                return Err(bad("overlaps another mapping"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(inside: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build().unwrap()
    }

    #[test]
    fn ids_translate_or_are_refused() {
        let ids = Ids::new(&[line(0, 100_000, 10), line(10, 5, 1)], &[line(0, 0, 1)], "linux.").unwrap();
        assert_eq!(ids.host_uid(9, "x").unwrap(), 100_009);
        assert_eq!(ids.host_uid(10, "x").unwrap(), 5);
        assert_eq!(
            ids.host_uid(11, "process.user.uid").unwrap_err().to_string(),
            "process.user.uid: id 11 is not mapped in the user namespace"
        );
        assert_eq!(Ids::default().host_uid(u32::MAX, "x").unwrap(), u32::MAX);
        assert_eq!(ids.uid_map(), "0 100000 10\n10 5 1\n");
    }

    #[test]
    fn bad_maps_are_refused() {
        let long: Vec<_> = (0..300).map(|n| line(4_000_000 + n, 4_000_000 + n, 1)).collect();
        for (map, says) in [
            (vec![line(0, 0, 0)], "[0]: size"),
            (vec![line(0, 0, 5), line(4, 10, 5)], "[1]: overlaps"),
            (vec![line(0, 0, 5), line(5, 4, 5)], "[1]: overlaps"),
            (vec![line(1, 0, u32::MAX)], "[0]: range"),
            (vec![line(0, 0, 1); 341], "more than 340"),
            (long, "bytes as a map"),
        ] {
            let uids = Ids::new(&map, &[], "linux.").unwrap_err().to_string();
            assert!(uids.starts_with("linux.uidMappings") && uids.contains(says), "{uids}");
            let gids = Ids::new(&[], &map, "mounts[1].").unwrap_err().to_string();
            assert!(gids.starts_with("mounts[1].gidMappings") && gids.contains(says), "{gids}");
        }
    }

    #[test]
    fn the_kernels_text_is_read_back() {
        let text = "         0     100000      65536\n     65536          7          1\n";
        let ids = Ids::parse(text, "0 0 4294967295\n").unwrap();
        let given = Ids::new(&[line(65536, 7, 1), line(0, 100_000, 65536)], &[line(0, 0, u32::MAX)], "").unwrap();
        assert!(ids.same_as(&given) && !ids.identity());
        assert!(!ids.same_as(&Ids::default()));
        assert!(Ids::parse("0 0 4294967295\n", "0 0 4294967295\n").unwrap().identity());
        assert!(Ids::parse("0 0\n", "").is_none());
    }

    #[test]
    fn from_inside_each_id_is_itself() {
        let ids = Ids::new(&[line(0, 1000, 1), line(1, 100_000, 10)], &[line(0, 1001, 1)], "").unwrap();
        let inside = ids.seen_from_inside();
        assert_eq!((inside.host_uid(0, "").unwrap(), inside.host_uid(10, "").unwrap()), (0, 10));
        assert!(inside.host_uid(11, "").is_err() && inside.host_gid(1, "").is_err());
        assert!(ids.maps_only_gid(1001) && !ids.maps_only_gid(1000) && !Ids::default().maps_only_gid(0));
        assert!(!Ids::new(&[], &[line(0, 1001, 2)], "").unwrap().maps_only_gid(1001));
    }

    #[test]
    fn a_user_namespace_maps_root() {
        let map = |uids: &[_], gids: &[_]| Ids::new(uids, gids, "linux.").unwrap().check_complete();
        assert!(map(&[line(0, 7, 1)], &[line(0, 7, 1)]).is_ok());
        for (ids, says) in [
            (map(&[], &[line(0, 7, 1)]), "linux.uidMappings: user namespaces enabled, but no uid mappings found"),
            (map(&[line(0, 7, 1)], &[]), "linux.gidMappings: user namespaces enabled, but no gid mappings found"),
            (map(&[line(1, 7, 1)], &[line(0, 7, 1)]), "linux.uidMappings: user namespaces enabled, but the root user"),
        ] {
            assert!(ids.unwrap_err().to_string().starts_with(says), "{says}");
        }
    }
}
