use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use super::*;

/// A host below a directory of the test.
struct World {
    root: PathBuf,
    host: Host,
}

impl World {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("berth-setup-install-{}-{name}", std::process::id()));
        let world = Self { host: Host::new(Some(&root)), root };
        fs::create_dir_all(world.root.join("var/lib")).unwrap();
        for (path, text) in files {
            let path = world.host.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        world
    }

    fn options(&self) -> Options {
        Options { name: "berth".into(), bin_dir: "/usr/bin".into(), shim: false, containerd: Some((2, 3)) }
    }

    fn install(&self, engine: Engine) -> Result<String> {
        let store = Store::make(&self.host)?;
        let work = install(&self.host, &store, engine, &self.options(), false)?;
        let shown = work.show();
        work.carry_out(&self.host, &store)?;
        Ok(shown)
    }

    fn uninstall(&self, engine: Engine) -> Result<bool> {
        let store = Store::make(&self.host)?;
        let Some(work) = uninstall(&self.host, &store, engine, false)? else { return Ok(false) };
        work.carry_out(&self.host, &store)?;
        Ok(true)
    }

    /// Every path below the root, with mode, owner and content.
    fn tree(&self) -> Vec<(PathBuf, u32, u32, Vec<u8>)> {
        let mut pending = vec![self.root.clone()];
        let mut found = Vec::new();
        while let Some(path) = pending.pop() {
            let data = fs::symlink_metadata(&path).unwrap();
            if data.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let bytes = if data.is_file() { fs::read(&path).unwrap() } else { vec![] };
            found.push((path, data.mode(), data.uid(), bytes));
        }
        found.sort_unstable();
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A host with each engine, as an administrator left it.
fn full(name: &str) -> World {
    World::new(
        name,
        &[
            ("/etc/containerd/config.toml", "version = 3\n# mine\n[grpc]\n  gid = 0"),
            ("/etc/docker/daemon.json", "{\"debug\": true,\n \"runtimes\": {}}"),
            ("/etc/containers/containers.conf.d/x.conf", ""),
            ("/etc/crio/crio.conf", ""),
            ("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", "version = 3\n"),
            ("/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl", "{{ template \"base\" . }}\n# mine\n"),
        ],
    )
}

#[test]
fn uninstall_restores_each_engine_byte_for_byte() {
    let world = full("restore");
    fs::set_permissions(world.host.path("/etc/docker/daemon.json"), PermissionsExt::from_mode(0o640)).unwrap();
    let before = world.tree();
    for engine in engine::ALL {
        assert!(world.install(engine).unwrap().contains("berth"), "{engine:?}");
    }
    let installed = world.tree();
    assert!(before.iter().filter(|row| !installed.contains(row)).count() >= 3, "the control: nothing was changed");
    for engine in engine::ALL {
        assert_eq!(world.install(engine).unwrap(), format!("{}: nothing to do\n", engine.name()));
    }
    assert_eq!(world.tree(), installed);
    for engine in engine::ALL {
        assert!(world.uninstall(engine).unwrap(), "{engine:?}");
        assert!(!world.uninstall(engine).unwrap());
    }
    assert_eq!(world.tree(), before);
}

#[test]
fn edits_after_an_installation_survive_its_end() {
    let world = full("edited");
    for engine in [Engine::Docker, Engine::Containerd] {
        world.install(engine).unwrap();
    }
    let daemon = world.host.path("/etc/docker/daemon.json");
    fs::write(&daemon, fs::read_to_string(&daemon).unwrap().replace("true", "false")).unwrap();
    let config = world.host.path("/etc/containerd/config.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + "[debug]\n").unwrap();
    for engine in [Engine::Docker, Engine::Containerd] {
        assert_eq!(world.install(engine).unwrap(), format!("{}: nothing to do\n", engine.name()));
        world.uninstall(engine).unwrap();
    }
    assert_eq!(fs::read_to_string(&config).unwrap(), "version = 3\n# mine\n[grpc]\n  gid = 0\n[debug]\n");
    let left: serde_json::Value = serde_json::from_slice(&fs::read(&daemon).unwrap()).unwrap();
    assert_eq!(left, serde_json::json!({"debug": false}));
}

#[test]
fn own_file_that_was_edited_is_not_lost() {
    let world = full("own");
    world.install(Engine::Podman).unwrap();
    let path = world.host.path("/etc/containers/containers.conf.d/berth.conf");
    fs::write(&path, "# mine\n").unwrap();
    for failed in [world.uninstall(Engine::Podman).unwrap_err(), world.install(Engine::Podman).unwrap_err()] {
        assert!(failed.to_string().contains("was edited after"), "{failed}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\n");
    let store = Store::make(&world.host).unwrap();
    let work = uninstall(&world.host, &store, Engine::Podman, true).unwrap().unwrap();
    work.carry_out(&world.host, &store).unwrap();
    assert!(!path.exists());
}

#[test]
fn bad_configuration_is_named_and_left_alone() {
    let config = "/etc/containerd/config.toml";
    let daemon = "/etc/docker/daemon.json";
    for (name, engine, files, word) in [
        ("toml", Engine::Containerd, vec![(config, "version = [\n")], "config.toml: TOML parse error"),
        ("json", Engine::Docker, vec![(daemon, "{\"a\": }")], "daemon.json: expected value"),
        ("taken", Engine::Docker, vec![(daemon, "{\"runtimes\":{\"berth\":{\"path\":\"/x\"}}}")], "is another runtime"),
        ("foreign", Engine::Crio, vec![("/etc/crio/crio.conf.d/20-berth.conf", "# mine\n")], "did not write it"),
        ("absent", Engine::Rke2, vec![], "rke2: is not on this host"),
    ] {
        let world = World::new(name, &files);
        let before = world.tree();
        let failed = world.install(engine).unwrap_err().to_string();
        assert!(failed.contains(word), "{name}: {failed}");
        assert_eq!(world.tree(), before, "{name}");
    }
}

#[test]
fn symbolic_link_and_device_are_not_configuration() {
    let world = World::new("link", &[("/etc/docker/other.json", "{}\n")]);
    let daemon = world.host.path("/etc/docker/daemon.json");
    symlink("other.json", &daemon).unwrap();
    let before = world.tree();
    assert!(world.install(Engine::Docker).unwrap_err().to_string().ends_with("daemon.json: is a symbolic link"));
    assert_eq!(world.tree(), before);
    fs::remove_file(&daemon).unwrap();
    fs::create_dir(&daemon).unwrap();
    assert!(world.install(Engine::Docker).unwrap_err().to_string().ends_with("is not a regular file"));
}

#[test]
fn second_installer_is_refused_while_the_first_works() {
    let world = full("lock");
    let first = Store::make(&world.host).unwrap();
    let failed = world.install(Engine::Docker).unwrap_err().to_string();
    assert!(failed.contains("another berth install or uninstall is at work"), "{failed}");
    drop(first);
    world.install(Engine::Docker).unwrap();
}

#[test]
fn failed_write_takes_back_what_was_done() {
    let world = full("taken-back");
    let store = Store::make(&world.host).unwrap();
    let work = install(&world.host, &store, Engine::Docker, &world.options(), false).unwrap();
    // An administrator writes between the reading and the writing.
    let daemon = world.host.path("/etc/docker/daemon.json");
    fs::write(&daemon, "{}").unwrap();
    let before = fs::read(&daemon).unwrap();
    assert!(work.carry_out(&world.host, &store).unwrap_err().to_string().contains("has changed meanwhile"));
    assert_eq!(fs::read(&daemon).unwrap(), before);
    assert!(store.load(Engine::Docker).unwrap().is_none());
}

#[test]
fn interrupted_installation_is_completed_or_undone() {
    let world = full("interrupted");
    let before = world.tree();
    world.install(Engine::Docker).unwrap();
    // As after a crash between the record and the file.
    let daemon = world.host.path("/etc/docker/daemon.json");
    fs::write(&daemon, "{\"debug\": true,\n \"runtimes\": {}}").unwrap();
    assert!(world.install(Engine::Docker).unwrap().contains("change /etc/docker/daemon.json"));
    fs::write(&daemon, "{\"debug\": true,\n \"runtimes\": {}}").unwrap();
    assert!(world.uninstall(Engine::Docker).unwrap());
    assert_eq!(world.tree(), before);
}
