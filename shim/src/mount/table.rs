//! The mount points of the kernel's mount table, for unmounting.

use std::path::{Path, PathBuf};

use berth_runtime::mountinfo;

/// The mount points at and below `path`, oldest first. Each mount has an entry, also when several are at one path.
pub fn below(table: &[u8], path: &Path) -> Vec<PathBuf> {
    mountinfo::lines(table).map(|line| line.point()).filter(|point| point.starts_with(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 / /proc rw - proc proc rw\n\
        30 1 0:40 / /run/b/rootfs rw - overlay overlay rw\n\
        31 30 0:41 / /run/b/rootfs/etc\\040x rw - tmpfs tmpfs rw\n\
        32 30 0:41 / /run/b/rootfs rw - tmpfs tmpfs rw\n\
        33 1 0:41 / /run/b/rootfs2 rw - tmpfs tmpfs rw\n";

    #[test]
    fn mount_points_at_and_below_a_path_are_found_in_order() {
        let points = below(TABLE, Path::new("/run/b/rootfs"));
        let points: Vec<_> = points.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(points, ["/run/b/rootfs", "/run/b/rootfs/etc x", "/run/b/rootfs"]);
    }
}
