//! The engines that read a directory of files: podman and CRI-O.

use super::{CRIO, Kind, Options, PODMAN, Wanted};

/// The first line of each file that is berth's alone.
pub const HEAD: &str = "# Written by berth install. berth uninstall removes it.";

/// podman's file. The other lists of `[engine]` stay as they are: a list in a later file replaces the one before.
pub fn podman(options: &Options) -> Wanted {
    let Options { name, bin_dir, .. } = options;
    Wanted {
        path: format!("{}/{name}.conf", PODMAN.directory).into(),
        text: format!("{HEAD}\n[engine.runtimes]\n{name} = [\"{}\"]\n", bin_dir.join("berth").display()),
        kind: Kind::Own,
    }
}

/// CRI-O's file. The number sorts it behind the ones of the distribution.
pub fn crio(options: &Options) -> Wanted {
    let Options { name, bin_dir, .. } = options;
    Wanted {
        path: format!("{}/20-{name}.conf", CRIO.directory).into(),
        text: format!(
            "{HEAD}\n[crio.runtime.runtimes.{name}]\nruntime_path = \"{}\"\nruntime_type = \"oci\"\nruntime_root = \"/run/{name}\"\n",
            bin_dir.join("berth").display()
        ),
        kind: Kind::Own,
    }
}
