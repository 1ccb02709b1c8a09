//! The images of the tests, made at run time: OCI layouts of one layer, as tars for `ctr images import`.

use crate::{
    command::run,
    tar::Archive,
    tools::{built, tool},
    wait::LONG,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The sandbox image that containerd 2.3 uses by default. The tests configure it for 1.6 as well.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// The image with busybox and its applets, users, and some files that cannot be executed.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// Returns the pause image: one static program.
pub fn pause() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut layer = Archive::default();
        layer.file("pause", 0o755, &read(built("berth-pause")));
        layout(PAUSE, layer, json!({"Entrypoint": ["/pause"], "User": "65535:65535"}))
    })
}

/// Returns the busybox image. Beside the applets in /bin it has /etc/passwd and /etc/group with root, user (1000) and
/// nobody, /bad/data (not executable), /bad/text (executable, of no format), /bad/script (with a missing interpreter)
/// and /bad/elf (of another machine).
pub fn busybox() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let program = tool("BUSYBOX");
        let mut layer = Archive::default();
        for dir in ["bad", "bin", "dev", "etc", "home", "home/user", "proc", "root", "sys", "usr", "usr/bin", "var"] {
            layer.dir(dir, 0o755);
        }
        layer.dir("tmp", 0o1777).dir("run", 0o755).file("bin/busybox", 0o755, &read(program.into()));
        let applets = run(Command::new(program).arg("--list"), LONG).ok();
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            layer.link(&format!("bin/{applet}"), "/bin/busybox");
        }
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        let group = "root:x:0:\nuser:x:1000:\nstaff:x:50:user\nnobody:x:65534:\n";
        layer.file("etc/passwd", 0o644, passwd.as_bytes()).file("etc/group", 0o644, group.as_bytes());
        layer.file("bad/data", 0o644, b"no program\n").file("bad/text", 0o755, b"no program\n");
        layer.file("bad/script", 0o755, b"#!/no/such/interpreter\n").file("bad/elf", 0o755, &foreign_elf());
        layout(BUSYBOX, layer, json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}))
    })
}

fn read(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Returns the head of an ELF program for an obsolete machine (e_machine 7, Intel 80860).
fn foreign_elf() -> Vec<u8> {
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x07\0\x01\0\0\0".to_vec();
    head.resize(64, 0);
    head
}

/// Returns an OCI image layout (image-spec 1.1) of one layer, as a tar.
fn layout(name: &str, layer: Archive, config: Value) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.dir("blobs", 0o755).dir("blobs/sha256", 0o755);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let layer = layer.finish();
    let layer = blob(&mut archive, "application/vnd.oci.image.layer.v1.tar", &layer);
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(&mut archive, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
    let mut manifest = blob(&mut archive, manifest_type, manifest.to_string().as_bytes());
    let tag = name.rsplit(':').next().expect("a name with a tag");
    manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    archive.file("index.json", 0o644, index.to_string().as_bytes());
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.finish()
}

/// Adds a blob to the layout and returns its descriptor.
fn blob(archive: &mut Archive, media_type: &str, content: &[u8]) -> Value {
    let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    archive.file(&format!("blobs/sha256/{digest}"), 0o644, content);
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()})
}
