use super::*;

fn toml(body: &str) -> Result<TaskOptions> {
    let message = RuntimeOptions { config_body: body.into(), ..RuntimeOptions::default() };
    TaskOptions::decode(Some(&any::json("runtimeoptions.v1.Options", message.write_to_bytes().unwrap())))
}

#[test]
fn absent_options_are_the_defaults() {
    assert_eq!(TaskOptions::decode(None).unwrap(), TaskOptions::default());
    assert_eq!(TaskOptions::decode(Some(&Any::default())).unwrap(), TaskOptions::default());
    assert_eq!(TaskOptions::default().state_root("ns"), Path::new("/run/containerd/berth/ns"));
}

#[test]
fn both_option_messages_decode_alike() {
    let message = runc::Options {
        no_pivot_root: true,
        no_new_keyring: true,
        shim_cgroup: "/shims".into(),
        io_uid: 1000,
        io_gid: 1001,
        binary_name: "crun".into(),
        root: "/r".into(),
        systemd_cgroup: true,
        criu_work_path: "/w".into(),
        ..Default::default()
    };
    let want = TaskOptions {
        systemd_cgroup: Some(true),
        root: Some("/r".into()),
        binary_name: Some("crun".into()),
        no_pivot_root: true,
        no_new_keyring: true,
        shim_cgroup: Some("/shims".into()),
        io_uid: 1000,
        io_gid: 1001,
        criu_work_path: Some("/w".into()),
    };
    assert_eq!(TaskOptions::decode(Some(&any::pack(&message).unwrap())).unwrap(), want);
    assert_eq!(want.state_root("ns"), Path::new("/r/ns"));
    let body = "SystemdCgroup = true\nRoot = \"/r\"\nBinaryName = 'crun'\nNoPivotRoot = true\nno_new_keyring = true\n\
                ShimCgroup = \"/shims\"\nIoUid = 1000\nIoGid = 1001\nCriuWorkPath = \"/w\"\nCriuPath = \"\"\nNew = 1\n";
    assert_eq!(toml(body).unwrap(), want);
}

#[test]
fn only_toml_can_set_an_option_to_false() {
    let message = any::pack(&runc::Options { io_uid: 1, ..Default::default() }).unwrap();
    assert_eq!(TaskOptions::decode(Some(&message)).unwrap().systemd_cgroup, None);
    assert_eq!(toml("SystemdCgroup = false").unwrap().systemd_cgroup, Some(false));
}

#[test]
fn a_configuration_path_overrides_the_body() {
    let dir = crate::testing::Scratch::new();
    let path = dir.path().join("berth.toml");
    std::fs::write(&path, "NoPivotRoot = true\n").unwrap();
    let decode = |path: &Path| {
        let config_path = path.to_str().unwrap().to_owned();
        let message = RuntimeOptions { config_path, config_body: b"IoUid = 7".to_vec(), ..Default::default() };
        TaskOptions::decode(Some(&any::json("x/runtimeoptions.v1.Options", message.write_to_bytes().unwrap())))
    };
    let options = decode(&path).unwrap();
    assert_eq!((options.no_pivot_root, options.io_uid), (true, 0));
    let message = decode(&dir.path().join("none.toml")).unwrap_err().to_string();
    assert!(message.contains("none.toml: no such file or directory"), "{message}");
    let message = decode(std::path::Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(message.contains("/dev/zero: file is larger than"), "{message}");
}

#[test]
fn options_of_unknown_type_are_ignored() {
    let other = any::json("type.googleapis.com/example.v9.Options", vec![0xff]);
    assert_eq!(TaskOptions::decode(Some(&other)).unwrap(), TaskOptions::default());
}

#[test]
fn malformed_options_are_refused_by_name() {
    let runc = TaskOptions::decode(Some(&any::json("containerd.runc.v1.Options", vec![0x0a, 0x7f]))).unwrap_err();
    assert!(runc.to_string().starts_with("options containerd.runc.v1.Options: malformed message"), "{runc}");
    let wire = TaskOptions::decode(Some(&any::json("runtimeoptions.v1.Options", vec![0x12, 0x7f]))).unwrap_err();
    assert!(wire.to_string().starts_with("options runtimeoptions.v1.Options: malformed message"), "{wire}");
    for (body, word) in [
        ("A = 1\nSystemdCgroup = ", "config_body: line 2: "),
        ("SystemdCgroup = \"yes\"", "SystemdCgroup: want a boolean, not a string"),
        ("IoUid = -1", "IoUid: want an id, not a integer"),
        ("IoUid = 4294967296", "IoUid: want an id"),
        ("Root = 5", "Root: want a string"),
        ("Root = \"here\"", "Root here is not absolute"),
        ("A = 1\nA = 2", "line 2: duplicate key"),
    ] {
        let e = toml(body).unwrap_err();
        assert!(e.to_string().contains(word), "{body}: {e}");
        assert_eq!(e.kind(), Kind::InvalidArgument);
    }
}

#[test]
fn saved_options_load_from_the_bundle() {
    let dir = crate::testing::Scratch::new();
    assert_eq!(TaskOptions::load(dir.path()).unwrap(), TaskOptions::default());
    let options = TaskOptions { root: Some("/r".into()), io_uid: 5, ..TaskOptions::default() };
    options.save(dir.path()).unwrap();
    assert_eq!(TaskOptions::load(dir.path()).unwrap(), options);
    std::fs::write(dir.path().join("options.json"), "{").unwrap();
    assert!(TaskOptions::load(dir.path()).unwrap_err().to_string().contains("options.json: EOF"));
}
