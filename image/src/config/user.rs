//! `Config.User` as numbers, through the image's own /etc/passwd and /etc/group.
//!
//! The files are the image's: they are opened inside its root, have to be regular (a FIFO would block), and are read to a
//! bound (CVE-2026-47262).

use std::{fs::File, io::Read};

use berth_runtime::{Context, Error, Result};

use crate::{apply::Root, limits, text::escaped};

/// The ids of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// The home directory, if the user is in /etc/passwd.
    pub home: Option<String>,
}

/// The two files of accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Accounts {
    /// Reads the files of a root filesystem; one that is missing is empty.
    ///
    /// # Errors
    /// A file is not regular, too large, or cannot be read.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self { passwd: read(root, "etc/passwd")?, group: read(root, "etc/group")? })
    }

    /// The files' texts, for tests and callers that have them.
    pub fn new(passwd: impl Into<String>, group: impl Into<String>) -> Self {
        Self { passwd: passwd.into(), group: group.into() }
    }

    fn users(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            match *fields.as_slice() {
                [name, _, uid, gid, _, home, ..] => {
                    Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
                }
                _ => None,
            }
        })
    }

    /// Names, ids and members of the groups.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.splitn(4, ':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }

    /// Resolves `user`, `uid`, `user:group`, `uid:gid`, `uid:group`, `user:gid` or nothing, which is root. Numbers count as
    /// they are. The supplementary groups are those of a user that is named without a group (conversion.md).
    ///
    /// # Errors
    /// A name is unknown, or a number out of range.
    pub fn resolve(&self, text: &str) -> Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let number = if user.is_empty() { Some(0) } else { number(user)? };
        let account = match number {
            Some(uid) => self.users().find(|account| account.uid == uid),
            None => Some(self.users().find(|account| account.name == user).ok_or_else(|| {
                Error::invalid(format!("user {} is not in the image's /etc/passwd", escaped(user.as_bytes())))
            })?),
        };
        let uid = number.or(account.as_ref().map(|account| account.uid)).unwrap_or_default();
        let gid = match group {
            Some(group) => self.group_id(group)?,
            None => account.as_ref().map_or(0, |account| account.gid),
        };
        let mut additional_gids = Vec::new();
        if number.is_none() && group.is_none() {
            let belongs = |members: &str| members.split(',').any(|member| member.trim() == user);
            additional_gids.extend(self.groups().filter(|(_, _, members)| belongs(members)).map(|(_, gid, _)| gid));
            additional_gids.truncate(limits::GROUPS);
        }
        let home = account.map(|account| account.home.to_owned()).filter(|home| home.starts_with('/'));
        Ok(User { uid, gid, additional_gids, home })
    }

    fn group_id(&self, group: &str) -> Result<u32> {
        if let Some(gid) = number(group)? {
            return Ok(gid);
        }
        self.groups().find(|(name, ..)| *name == group).map(|(_, gid, _)| gid).ok_or_else(|| {
            Error::invalid(format!("group {} is not in the image's /etc/group", escaped(group.as_bytes())))
        })
    }
}

/// The id that a text of digits is; `None` for a name.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX.cast_unsigned() => Ok(Some(id)),
        _ => Err(Error::invalid(format!("id {} is out of range", escaped(text.as_bytes())))),
    }
}

fn read(root: &Root, path: &str) -> Result<String> {
    let read = || -> Result<Vec<u8>> {
        let Some(file) = root.open_regular(path.as_bytes())? else { return Ok(Vec::new()) };
        let mut text = Vec::new();
        File::from(file).take(limits::ACCOUNTS + 1).read_to_end(&mut text)?;
        if text.len() as u64 > limits::ACCOUNTS {
            return Err(Error::invalid(format!("it has more than {} bytes", limits::ACCOUNTS)));
        }
        Ok(text)
    };
    let text = read().with_context(|| format!("the image's /{path}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        let accounts = Accounts::new(
            "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34:web:/srv:/bin/sh\nbad:x:y:0::/:\n7:x:9:9::/:\n",
            "root:x:0:\nweb:x:34:\ntty:x:5:web\nadm:x:4:ann, web\nempty:x:8:\n",
        );
        let user = |uid, gid, groups: &[u32], home: Option<&str>| {
            Some(User { uid, gid, additional_gids: groups.to_vec(), home: home.map(str::to_owned) })
        };
        for (text, expected) in [
            ("", user(0, 0, &[], Some("/root"))),
            ("root", user(0, 0, &[], Some("/root"))),
            ("web", user(33, 34, &[5, 4], Some("/srv"))),
            ("33", user(33, 34, &[], Some("/srv"))),
            ("1234", user(1234, 0, &[], None)),
            ("web:adm", user(33, 4, &[], Some("/srv"))),
            ("web:99", user(33, 99, &[], Some("/srv"))),
            ("1234:tty", user(1234, 5, &[], None)),
            ("1234:99", user(1234, 99, &[], None)),
            ("web:", user(33, 34, &[5, 4], Some("/srv"))),
            (":tty", user(0, 5, &[], Some("/root"))),
            ("7", user(7, 0, &[], None)),
            ("nobody", None),
            ("web:none", None),
            ("bad", None),
            ("4294967295", None),
            ("99999999999999", None),
        ] {
            assert_eq!(accounts.resolve(text).ok(), expected, "{text}");
        }
    }
}
