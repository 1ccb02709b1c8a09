//! Writes tar archives (POSIX ustar) in memory, with fixed owners and times, so that equal content has an equal digest.

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a directory. `path` has no leading slash.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.entry(&format!("{path}/"), mode, b'5', "", b"")
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entry(path, mode, b'0', "", content)
    }

    /// Adds a symbolic link at `path` to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, 0o777, b'2', target, b"")
    }

    /// Returns the archive with its end marks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, kind: u8, target: &str, content: &[u8]) -> &mut Self {
        assert!(path.len() <= 100 && target.len() <= 100, "{path}: names over 100 bytes are not written here");
        let mut header = [0; 512];
        put(&mut header, 0, path);
        put(&mut header, 100, &format!("{mode:07o}"));
        put(&mut header, 108, "0000000");
        put(&mut header, 116, "0000000");
        put(&mut header, 124, &format!("{:011o}", content.len()));
        put(&mut header, 136, "00000000000");
        // The checksum counts its own field as blanks.
        put(&mut header, 148, "        ");
        header[156] = kind;
        put(&mut header, 157, target);
        put(&mut header, 257, "ustar\0" /* version: */);
        put(&mut header, 263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, &format!("{sum:06o}\0 "));
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }
}

fn put(header: &mut [u8; 512], at: usize, text: &str) {
    header[at..at + text.len()].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::feed;
    use crate::wait::LONG;
    use std::process::Command;

    #[test]
    fn tar_reads_the_archive() {
        let mut archive = Archive::default();
        archive.dir("d", 0o1777).file("d/f", 0o644, &[b'x'; 513]).link("l", "d/f");
        let list = feed(Command::new("tar").arg("tvf").arg("-"), &archive.finish(), LONG).ok();
        let lines: Vec<_> = list.lines().collect();
        assert!(lines[0].starts_with("drwxrwxrwt") && lines[0].ends_with(" d/"), "{list}");
        assert!(lines[1].starts_with("-rw-r--r--") && lines[1].contains(" 513 "), "{list}");
        assert!(lines[2].ends_with(" l -> d/f"), "{list}");
    }
}
