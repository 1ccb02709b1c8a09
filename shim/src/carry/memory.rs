//! The document's memory: a memfd(2) that nothing can change once it is written.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
};

use berth_runtime::{Context, Error, Result};
use rustix::fs::{MemfdFlags, SealFlags};

/// The largest document, in bytes. A server has at most some thousand execs and events, and 512 unfinished frames.
const MAX: u64 = 1 << 30;

fn seals() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

/// Writes a document into sealed memory.
///
/// # Errors
/// There is no descriptor or no memory for it.
pub fn seal(json: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("berth-handover", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create("berth-handover", flags))
        .context("memfd_create")?;
    let mut file = File::from(memory);
    file.write_all(json).context("write the handover document")?;
    file.rewind().context("write the handover document")?;
    rustix::fs::fcntl_add_seals(&file, seals()).context("seal the handover document")?;
    Ok(file.into())
}

/// Reads a sealed document.
///
/// # Errors
/// The descriptor is no sealed memory, or cannot be read.
pub fn read(memory: impl AsFd) -> Result<Vec<u8>> {
    let sealed = rustix::fs::fcntl_get_seals(&memory).context("handover document: no sealed memory")?;
    if !sealed.contains(seals()) {
        return Err(Error::invalid("handover document: its memory is not sealed"));
    }
    let mut file = File::from(memory.as_fd().try_clone_to_owned().context("dup the handover document")?);
    file.rewind().context("read the handover document")?;
    let mut json = Vec::new();
    file.take(MAX).read_to_end(&mut json).context("read the handover document")?;
    Ok(json)
}
