//! The id mappings of a user namespace, or of a mount (user_namespaces(7)).

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};

use crate::{Error, Result};

/// The id mappings of a user namespace. They are empty for a container in the runtime's user namespace.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

/// Most lines that a map may have since Linux 4.15 (user_namespaces(7)).
const MAX_LINES: usize = 340;
/// A map must be shorter than one page, in bytes, because it is written with one write(2) (user_namespaces(7)).
const MAX_TEXT: usize = 4096;

impl Ids {
    /// Checks the mappings of config.json. `field` is the prefix for errors: `linux.`, `mounts[3].`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] for too many lines or too long a map, and, with the index of the line, for a
    /// size of zero, or a range that overflows or overlaps another.
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping], field: &str) -> Result<Self> {
        check(uids, &format!("{field}uidMappings"))?;
        check(gids, &format!("{field}gidMappings"))?;
        Ok(Self { uids: uids.to_vec(), gids: gids.to_vec() })
    }

    /// Returns the mappings of a config.json's user namespace.
    ///
    /// # Errors
    /// As [`Ids::new`].
    pub fn from_spec(spec: &Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let uids = linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default();
        let gids = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
        Self::new(uids, gids, "linux.")
    }

    /// Parses the content of /proc/<pid>/uid_map and gid_map. Returns `None` if it is malformed.
    pub fn parse(uid_map: &str, gid_map: &str) -> Option<Self> {
        Some(Self { uids: parse(uid_map)?, gids: parse(gid_map)? })
    }

    /// Returns true if there is any mapping.
    pub fn has_mappings(&self) -> bool {
        !self.uids.is_empty() || !self.gids.is_empty()
    }

    /// Returns true if both map the same ids to the same ids, whatever the order of the lines is.
    pub fn same_as(&self, other: &Self) -> bool {
        sorted(&self.uids) == sorted(&other.uids) && sorted(&self.gids) == sorted(&other.gids)
    }

    /// Returns true if every id is mapped to itself, as in the initial user namespace.
    pub fn is_identity(&self) -> bool {
        [&self.uids, &self.gids].into_iter().all(|map| sorted(map) == [(0, 0, u32::MAX)])
    }

    /// Checks that uids and gids are mapped, root among them.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] with the name of the missing mapping.
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

    /// Returns the mappings as a process inside sees them: each mapped id is itself, and others are not mapped.
    #[must_use]
    pub fn seen_from_inside(&self) -> Self {
        let line = |m: &LinuxIdMapping| {
            let inside = m.container_id();
            LinuxIdMappingBuilder::default().container_id(inside).host_id(inside).size(m.size()).build().ok()
        };
        let inside = |map: &[LinuxIdMapping]| map.iter().filter_map(line).collect();
        Self { uids: inside(&self.uids), gids: inside(&self.gids) }
    }

    /// Returns true if the gid map has one line of one id, and that is `gid` of the host.
    pub fn maps_only_gid(&self, gid: u32) -> bool {
        matches!(self.gids.as_slice(), [line] if line.host_id() == gid && line.size() == 1)
    }

    /// Returns the host's uid for a uid inside, or the same uid if there is no mapping at all.
    pub fn host_uid(&self, uid: u32, field: &str) -> Result<u32> {
        translate(&self.uids, uid, field)
    }

    /// Returns the host's gid for a gid inside, or the same gid if there is no mapping at all.
    pub fn host_gid(&self, gid: u32, field: &str) -> Result<u32> {
        translate(&self.gids, gid, field)
    }

    /// Returns the content for /proc/<pid>/uid_map.
    pub fn uid_map(&self) -> String {
        map_text(&self.uids)
    }

    /// Returns the content for /proc/<pid>/gid_map.
    pub fn gid_map(&self) -> String {
        map_text(&self.gids)
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

fn map_text(map: &[LinuxIdMapping]) -> String {
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
    let text = map_text(map).len();
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
    fn unmapped_ids_are_refused_and_mapped_ids_translated() {
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
    fn malformed_id_maps_are_refused_by_line() {
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
    fn id_maps_of_proc_are_parsed() {
        let text = "         0     100000      65536\n     65536          7          1\n";
        let ids = Ids::parse(text, "0 0 4294967295\n").unwrap();
        let given = Ids::new(&[line(65536, 7, 1), line(0, 100_000, 65536)], &[line(0, 0, u32::MAX)], "").unwrap();
        assert!(ids.same_as(&given) && !ids.is_identity());
        assert!(!ids.same_as(&Ids::default()));
        assert!(Ids::parse("0 0 4294967295\n", "0 0 4294967295\n").unwrap().is_identity());
        assert!(Ids::parse("0 0\n", "").is_none());
    }

    #[test]
    fn mapped_ids_seen_from_inside_are_themselves() {
        let ids = Ids::new(&[line(0, 1000, 1), line(1, 100_000, 10)], &[line(0, 1001, 1)], "").unwrap();
        let inside = ids.seen_from_inside();
        assert_eq!((inside.host_uid(0, "").unwrap(), inside.host_uid(10, "").unwrap()), (0, 10));
        assert!(inside.host_uid(11, "").is_err() && inside.host_gid(1, "").is_err());
        assert!(ids.maps_only_gid(1001) && !ids.maps_only_gid(1000) && !Ids::default().maps_only_gid(0));
        assert!(!Ids::new(&[], &[line(0, 1001, 2)], "").unwrap().maps_only_gid(1001));
    }

    #[test]
    fn id_maps_without_root_are_incomplete() {
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
