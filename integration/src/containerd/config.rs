//! containerd's configuration for the tests: private directories, and the handlers from `deploy/containerd`.

use super::version::Version;
use crate::{
    image,
    reservation::Reservation,
    tools::{built_dir, find, tool, workspace},
};
use std::{fs, path::Path};

/// The directory in which the snippets of `deploy/` expect berth.
const INSTALLED: &str = "/usr/local/bin";

/// The features of the node that containerd uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Only features that every host has.
    Plain,
    /// systemd: the handlers have `SystemdCgroup`.
    Systemd,
    /// SELinux: `enable_selinux`, so each pod has a label.
    Selinux,
}

/// Writes containerd's configuration, the CNI network and crictl's configuration into the directory of `reservation`.
pub fn write(reservation: &Reservation, version: Version, node: Node) {
    let dir = reservation.dir();
    fs::create_dir_all(dir.join("cni")).expect("make the CNI directory");
    fs::write(dir.join("cni/10-berth.conflist"), network(reservation)).expect("write the CNI network");
    fs::write(dir.join("config.toml"), containerd(dir, version, node)).expect("write containerd's configuration");
    let socket = format!("unix://{}/c.sock", dir.display());
    let crictl = format!("runtime-endpoint: {socket}\nimage-endpoint: {socket}\ntimeout: 60\n");
    fs::write(dir.join("crictl.yaml"), crictl).expect("write crictl's configuration");
}

fn containerd(dir: &Path, version: Version, node: Node) -> String {
    let (text, snippet) = match version {
        Version::V1_6 => (V2, "config-v2.toml"),
        Version::V2_3 => (V3, "config-v3.toml"),
    };
    let runc = match version {
        Version::V1_6 => find("RUNC_DEBIAN"),
        Version::V2_3 => find("RUNC"),
    };
    let snippet = workspace().join("deploy/containerd").join(snippet);
    let snippet = fs::read_to_string(&snippet).unwrap_or_else(|e| panic!("read {}: {e}", snippet.display()));
    assert!(snippet.contains(INSTALLED), "the snippet names where berth is installed");
    let ours = snippet.replace(INSTALLED, &built_dir().to_string_lossy());
    // `version` comes before the first table and is already in our text.
    let ours: Vec<&str> = ours.lines().filter(|line| !line.starts_with("version")).collect();
    let text = text
        .replace("@DIR@", &dir.to_string_lossy())
        .replace("@CNI@", &tool("CNI_BIN_DIR").to_string_lossy())
        .replace("@RUNC@", &runc.unwrap_or(Path::new("/nonexistent/runc")).to_string_lossy())
        .replace("@PAUSE@", image::PAUSE);
    let mut all = format!("{text}\n{}\n", ours.join("\n"));
    if node == Node::Selinux {
        // Both versions have this line in the table of the CRI service.
        all = all
            .replace("\nrestrict_oom_score_adj = true\n", "\nrestrict_oom_score_adj = true\nenable_selinux = true\n");
    }
    if node == Node::Systemd {
        all = all.replace("BinaryName = ", "SystemdCgroup = true\nBinaryName = ");
        // containerd 1.6 has options only for handlers of runc's type. The handler by path has that type.
        if version == Version::V2_3 {
            all.push_str(SYSTEMD);
        }
    }
    all
}

fn network(reservation: &Reservation) -> String {
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": reservation.tag(),
        "plugins": [{
            "type": "bridge", "bridge": reservation.bridge(), "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": reservation.subnet()}]], "dataDir": reservation.dir().join("ipam"),
            },
        }],
    });
    network.to_string()
}

/// The configuration of containerd 2.x. The opt plugin and NRI would make files outside of the directory.
const V3: &str = r"
version = 3
root = '@DIR@/root'
state = '@DIR@/state'
disabled_plugins = [
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.zfs',
  'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.blockfile', 'io.containerd.tracing.processor.v1.otlp',
]
[grpc]
address = '@DIR@/c.sock'
[ttrpc]
address = '@DIR@/t.sock'
[debug]
level = 'info'
[plugins.'io.containerd.internal.v1.opt']
path = '@DIR@/opt'
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.grpc.v1.cri']
stream_server_address = '127.0.0.1'
stream_server_port = '0'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '@PAUSE@'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['@CNI@']
conf_dir = '@DIR@/cni'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '@RUNC@'
Root = '@DIR@/runc'
";

/// The options of the snippet's handlers in containerd 2.x.
const SYSTEMD: &str = r"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.berth.options]
SystemdCgroup = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.berth-own.options]
SystemdCgroup = true
";

/// The configuration of containerd 1.6 and 1.7.
const V2: &str = r"
version = 2
root = '@DIR@/root'
state = '@DIR@/state'
disabled_plugins = [
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.zfs',
  'io.containerd.snapshotter.v1.aufs', 'io.containerd.tracing.processor.v1.otlp',
]
[grpc]
address = '@DIR@/c.sock'
[ttrpc]
address = '@DIR@/t.sock'
[debug]
level = 'info'
[plugins.'io.containerd.internal.v1.opt']
path = '@DIR@/opt'
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = '@PAUSE@'
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = '127.0.0.1'
stream_server_port = '0'
[plugins.'io.containerd.grpc.v1.cri'.cni]
bin_dir = '@CNI@'
conf_dir = '@DIR@/cni'
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]
BinaryName = '@RUNC@'
Root = '@DIR@/runc'
";
