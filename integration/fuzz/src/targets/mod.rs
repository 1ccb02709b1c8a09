//! The targets, by what they aim at.

mod cgroup_files;
mod dbus;
mod devices;
mod ids;
mod image_documents;
mod init_messages;
mod json;
mod layers;
mod mount_options;
mod netlink;
mod passwd;
mod paths;
mod plan;
mod procfs;
mod registry;
#[cfg(target_arch = "x86_64")]
mod seccomp;
mod shim_input;
mod state_file;
mod tar;
mod task_state;
mod ttrpc_frames;

use crate::Target;

/// All targets.
pub const ALL: &[Target] = &[
    Target { name: "cgroup_files", run: cgroup_files::run },
    Target { name: "config_json", run: json::config },
    Target { name: "dbus", run: dbus::run },
    Target { name: "devices", run: devices::run },
    Target { name: "gvariant", run: dbus::gvariant },
    Target { name: "ids", run: ids::run },
    Target { name: "image_documents", run: image_documents::run },
    Target { name: "init_messages", run: init_messages::run },
    Target { name: "layers", run: layers::run },
    Target { name: "mount_options", run: mount_options::run },
    Target { name: "netlink", run: netlink::run },
    Target { name: "passwd", run: passwd::run },
    Target { name: "paths", run: paths::run },
    Target { name: "plan", run: plan::run },
    Target { name: "process_json", run: json::process },
    Target { name: "procfs", run: procfs::run },
    Target { name: "registry", run: registry::run },
    #[cfg(target_arch = "x86_64")]
    Target { name: "seccomp_profiles", run: seccomp::profile },
    #[cfg(target_arch = "x86_64")]
    Target { name: "seccomp_programs", run: seccomp::program },
    Target { name: "shim_input", run: shim_input::run },
    Target { name: "state_file", run: state_file::run },
    Target { name: "tar", run: tar::run },
    Target { name: "task_state", run: task_state::run },
    Target { name: "ttrpc_frames", run: ttrpc_frames::run },
];
