//! The owners of files, and the user namespace of an ordinary user.

use std::{fs, os::fd::AsFd};

use berth_runtime::{Context, Error, Ids, Kind, Result, user_namespace};
use rustix::{
    fs::{Gid, Uid},
    thread::LinkNameSpaceType,
};

/// A range of ids: `size` ids from `container` on are those from `host` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id in the image and the container.
    pub container: u32,
    /// The first id on the host.
    pub host: u32,
    /// The count of ids.
    pub size: u32,
}

impl Range {
    /// Reads `CONTAINER:HOST[:SIZE]`; the size is 1 if it is left out, as for umoci.
    ///
    /// # Errors
    /// Not of that form, or the ids end above 4294967295.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} is no mapping of the form CONTAINER:HOST:SIZE"));
        let numbers = text.split(':').map(|part| part.parse().map_err(|_| wrong())).collect::<Result<Vec<u32>>>()?;
        let range = match numbers.as_slice() {
            [container, host] => Self { container: *container, host: *host, size: 1 },
            [container, host, size] => Self { container: *container, host: *host, size: *size },
            _ => return Err(wrong()),
        };
        let fits = |first: u32| first.checked_add(range.size).is_some();
        if range.size > 0 && fits(range.container) && fits(range.host) { Ok(range) } else { Err(wrong()) }
    }
}

/// The ranges of users and of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Ranges of user ids.
    pub uids: Vec<Range>,
    /// Ranges of group ids.
    pub gids: Vec<Range>,
}

impl Ranges {
    /// Returns ranges that map root to these ids of the host, and no other id.
    pub fn only(uid: u32, gid: u32) -> Self {
        let one = |host| vec![Range { container: 0, host, size: 1 }];
        Self { uids: one(uid), gids: one(gid) }
    }
}

/// The owners of an image's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// The ids of the image, also as this process' user namespace understands them.
    #[default]
    AsInImage,
    /// The ids of the host that they are mapped to.
    Mapped(Ranges),
    /// The caller, who has no other ids.
    Caller,
}

impl Owners {
    /// The owner for chown(2); `None` where the owner stays the caller.
    ///
    /// # Errors
    /// The id has no mapping.
    pub fn of(&self, uid: u32, gid: u32) -> Result<Option<(Uid, Gid)>> {
        let (uid, gid) = match self {
            Self::Caller => return Ok(None),
            Self::AsInImage => (uid, gid),
            Self::Mapped(ranges) => (mapped(&ranges.uids, uid, "user")?, mapped(&ranges.gids, gid, "group")?),
        };
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    /// The host's id of the container's root, where the kernel does not map ids itself.
    pub fn root(&self) -> Option<u32> {
        match self {
            Self::Mapped(ranges) => mapped(&ranges.uids, 0, "user").ok(),
            _ => None,
        }
    }
}

fn mapped(ranges: &[Range], id: u32, what: &str) -> Result<u32> {
    ranges
        .iter()
        .find_map(|range| {
            let offset = id.checked_sub(range.container).filter(|offset| *offset < range.size)?;
            range.host.checked_add(offset)
        })
        .ok_or_else(|| Error::invalid(format!("{what} {id} of the image has no mapping")))
}

/// Returns the ids that an ordinary user may map: the user's own ids as root, then the ranges of subuid(5) and subgid(5).
///
/// # Errors
/// The files are there and cannot be read.
pub fn of_user(uid: u32, gid: u32) -> Result<Ranges> {
    let name = fs::read_to_string("/etc/passwd").ok().and_then(|text| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
        })
    });
    let ranges = |own: u32, file: &str| -> Result<Vec<Range>> {
        let text = match fs::read_to_string(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| file.to_owned())?,
        };
        Ok(subordinate(own, &text, uid, name.as_deref()))
    };
    Ok(Ranges { uids: ranges(uid, "/etc/subuid")?, gids: ranges(gid, "/etc/subgid")? })
}

/// The ranges of one user, by name or id, in the text of a file: lines `USER:FIRST:COUNT`.
fn subordinate(own: u32, text: &str, uid: u32, name: Option<&str>) -> Vec<Range> {
    let mut ranges = vec![Range { container: 0, host: own, size: 1 }];
    let mut next = 1u32;
    for line in text.lines() {
        let mut fields = line.trim().splitn(3, ':');
        let (Some(user), Some(Ok(host)), Some(Ok(size))) =
            (fields.next(), fields.next().map(str::parse::<u32>), fields.next().map(str::parse::<u32>))
        else {
            continue;
        };
        let is_theirs = user == uid.to_string() || Some(user) == name;
        // The kernel takes at most 340 ranges in a map (user_namespaces(7)).
        if is_theirs && size > 0 && host.checked_add(size).is_some() && ranges.len() < 340 {
            let Some(after) = next.checked_add(size) else { break };
            ranges.push(Range { container: next, host, size });
            next = after;
        }
    }
    ranges
}

/// Puts this process, which must have one thread, into a new user namespace in which it is root and has `ranges`.
///
/// # Errors
/// The host does not allow user namespaces, or as [`user_namespace::create`] for the maps.
pub fn enter_namespace(ranges: &Ranges) -> Result<()> {
    let ids = Ids::parse(&map(&ranges.uids), &map(&ranges.gids))
        .ok_or_else(|| Error::new(Kind::Internal, "cannot parse the id maps of the user"))?;
    let namespace = user_namespace::create(&ids)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .context("enter the user namespace")
}

fn map(ranges: &[Range]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.container, r.host, r.size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_applied() {
        let uids = vec![Range::parse("0:1000").unwrap(), Range::parse("1:100000:65536").unwrap()];
        let gids = vec![Range::parse("0:50:10").unwrap()];
        let owners = Owners::Mapped(Ranges { uids, gids });
        let ids = |uid, gid| owners.of(uid, gid).ok().flatten().map(|(u, g)| (u.as_raw(), g.as_raw()));
        assert_eq!(ids(0, 9), Some((1000, 59)));
        assert_eq!(ids(65536, 0), Some((165_535, 50)));
        assert_eq!((ids(65537, 0), ids(0, 10)), (None, None));
        assert_eq!(owners.root(), Some(1000));
        for text in ["", "1", "0:1:0", "0:1:2:3", "-1:0:1", "0:4294967295:2", "a:b"] {
            assert!(Range::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn subordinate_ids_follow_the_own_one() {
        let text = "ann:100000:65536\nbob:200000:5\n# comment\n1000:300000:10\nann:x:1\n";
        let range = |container, host, size| Range { container, host, size };
        assert_eq!(
            subordinate(1000, text, 1000, Some("ann")),
            [range(0, 1000, 1), range(1, 100_000, 65536), range(65537, 300_000, 10)]
        );
        assert_eq!(subordinate(7, text, 7, None), [range(0, 7, 1)]);
        assert_eq!(map(&subordinate(7, text, 7, Some("bob"))), "0 7 1\n1 200000 5\n");
    }
}
