//! The bounds for an image.
//!
//! No real image reaches the fixed bounds. Flags raise the bounds in [`Limits`].

/// Bytes of a member's name or of a link's target: `PATH_MAX` of the kernel.
pub const PATH: usize = 4096;
/// Components of a member's name.
pub const DEPTH: usize = 256;
/// Bytes of one extended header of a tar (PAX records or a GNU long name), as in Go's archive/tar.
pub const TAR_HEADER: u64 = 1 << 20;
/// Extended attributes of one member.
pub const XATTRS: usize = 128;
/// Bytes of one extended attribute's value: `XATTR_SIZE_MAX` of the kernel.
pub const XATTR_VALUE: usize = 65536;
/// Bytes of a JSON document (manifest, index, configuration).
pub const JSON: u64 = 8 << 20;
/// Layers of an image.
pub const LAYERS: usize = 500;
/// Levels of nested image indexes.
pub const INDEXES: usize = 8;
/// Members of the tar that holds an image.
pub const ARCHIVE_MEMBERS: usize = 100_000;
/// Bytes of the names of all those members.
pub const ARCHIVE_NAMES: usize = 8 << 20;
/// Bytes of the image's /etc/passwd and /etc/group that are read.
pub const ACCOUNTS: u64 = 1 << 20;
/// Supplementary groups of one user: `NGROUPS_MAX` of the kernel.
pub const GROUPS: usize = 65536;
/// Bytes of a zstd frame's window: `zstd --long=27`.
pub const ZSTD_WINDOW: u64 = 128 << 20;

/// The bounds that a caller can raise.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Uncompressed bytes of all layers together.
    pub bytes: u64,
    /// Members of all layers together.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 2_000_000 }
    }
}
