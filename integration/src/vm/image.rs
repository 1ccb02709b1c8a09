//! The disk of a machine, as `integration/vm/image` makes it.

use super::{Result, fault};
use crate::tools::workspace;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A disk with its kernel.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name of the machine: that of its Debian suite, or of its distinguishing feature.
    pub name: String,
    dir: PathBuf,
}

impl Image {
    /// Makes the disk unless it exists. That takes minutes; the steps are printed on standard error.
    ///
    /// # Errors
    /// The script failed; its output is on standard error.
    pub fn get(name: &str) -> Result<Self> {
        let script = workspace().join("integration/vm/image");
        let output = Command::new(&script)
            .arg(name)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(fault(&format!("run {}", script.display())))?;
        let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !output.status.success() || !dir.join("disk").exists() {
            return Err(format!("{} {name}: {}", script.display(), output.status));
        }
        Ok(Self { name: name.to_owned(), dir })
    }

    /// Returns the path of the disk: ext4, sparse.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Returns the path of the kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// Returns the path of the initrd.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// Returns the kernel command line.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn words(&self) -> Result<String> {
        let text = fs::read_to_string(self.dir.join("words")).map_err(fault("read the kernel's words"))?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Returns the path of a file or directory that is derived from the image on this host.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns the directory of the cache, for files of all images.
    pub fn cache(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Takes the lock for making saved states of this image. The lock is released with the file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn lock(&self) -> Result<File> {
        let file = File::create(self.dir.join("lock")).map_err(fault("make the lock of the image"))?;
        file.lock().map_err(fault("lock the image"))?;
        Ok(file)
    }
}
