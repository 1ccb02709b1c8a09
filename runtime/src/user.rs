//! Users: id mappings of a user namespace, and supplementary groups. Pure.

use oci_spec::runtime::{LinuxIdMapping, User};

use crate::{Error, Result, arena::Arena};

/// The id mappings of a container; empty without a user namespace of its own.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

/// user_namespaces(7): lines a map may have since Linux 4.15.
const MAX_LINES: usize = 340;

impl Ids {
    /// Takes the mappings of config.json.
    ///
    /// # Errors
    /// Too many lines, lengths of zero, ranges that overflow or overlap, naming the line.
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Self> {
        check(uids, "linux.uidMappings")?;
        check(gids, "linux.gidMappings")?;
        Ok(Self { uids: uids.to_vec(), gids: gids.to_vec() })
    }

    /// There is a mapping at all.
    pub fn mapped(&self) -> bool {
        !self.uids.is_empty()
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

/// The supplementary groups of the payload: its additional ones and nothing else. The kernel's own answer also
/// counts the primary group where a caller put it there (CVE-2023-25173 is about leaving some out).
pub fn groups<'a>(arena: &'a Arena, user: &User) -> &'a [u32] {
    arena.list(user.additional_gids().clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn line(inside: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build().unwrap()
    }

    #[test]
    fn ids_translate_or_are_refused() {
        let ids = Ids::new(&[line(0, 100_000, 10), line(10, 5, 1)], &[line(0, 0, 1)]).unwrap();
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
        assert!(Ids::new(&[line(0, 0, 0)], &[]).is_err());
        assert!(Ids::new(&[line(0, 0, 5), line(4, 10, 5)], &[]).is_err());
        assert!(Ids::new(&[line(0, 0, 5), line(5, 4, 5)], &[]).is_err());
        assert!(Ids::new(&[line(1, 0, u32::MAX)], &[]).is_err());
        assert!(Ids::new(&vec![line(0, 0, 1); 341], &[]).is_err());
    }
}
