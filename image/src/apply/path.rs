//! The names of members as places in the root filesystem.

use berth_runtime::{Error, Result};

use crate::limits;

/// A place below the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory, relative to the root, without `.`, `..` and empty components; empty for the root.
    pub directory: Vec<u8>,
    /// The last component.
    pub name: Vec<u8>,
}

impl Place {
    /// Reads a name as relative to the root, whether it begins with `/`, `./` or neither; `..` goes up by text and never
    /// above the root, as in umoci and containerd. `None` is the root itself.
    ///
    /// # Errors
    /// The name is empty, too long or too deep.
    pub fn of(name: &[u8]) -> Result<Option<Self>> {
        if name.is_empty() {
            return Err(Error::invalid("the name is empty"));
        }
        if name.len() >= limits::PATH {
            return Err(Error::invalid(format!("the name has {} bytes", name.len())));
        }
        let mut components = components(name);
        if components.len() > limits::DEPTH {
            return Err(Error::invalid(format!("the name has {} components", components.len())));
        }
        Ok(components.pop().map(|last| Self { directory: components.join(&b'/'), name: last.to_vec() }))
    }

    /// Whether this is in the metadata that AUFS had at the root of its branches, and old images still have.
    pub fn is_aufs_metadata(&self) -> bool {
        match self.directory.as_slice() {
            b"" => self.name.starts_with(b".wh..wh.") && self.name != b".wh..wh..opq",
            directory => directory.starts_with(b".wh..wh."),
        }
    }
}

/// Splits a name into its components without `.` and empty ones. `..` removes the component before it by text.
pub fn components(name: &[u8]) -> Vec<&[u8]> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            _ => components.push(component),
        }
    }
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for (name, expected) in [
            (&b"a"[..], Some(("", "a"))),
            (b"./a/b/", Some(("a", "b"))),
            (b"/etc//./passwd", Some(("etc", "passwd"))),
            (b"../../etc/passwd", Some(("etc", "passwd"))),
            (b"a/../../b", Some(("", "b"))),
            (b"./", None),
            (b"/", None),
            (b"a/..", None),
        ] {
            let expected = expected.map(|(directory, name)| Place { directory: directory.into(), name: name.into() });
            assert_eq!(Place::of(name).unwrap(), expected, "{name:?}");
        }
        assert!(Place::of(b"").is_err());
        assert!(Place::of(&b"a/".repeat(257)).is_err());
        assert!(Place::of(&b"a".repeat(5000)).is_err());
    }
}
