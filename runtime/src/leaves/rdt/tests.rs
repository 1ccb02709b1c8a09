use super::*;

/// A directory tree that looks like resctrl. rmdir(2) fails on a directory with the files that the kernel would create,
/// so [`Tree::sweep`] removes them first.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, features: &[&str]) -> Self {
        let root = std::env::temp_dir().join(format!("berth-rdt-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("info")).unwrap();
        for feature in features {
            fs::create_dir(root.join("info").join(feature)).unwrap();
        }
        Self(root)
    }

    fn pending(&self, rdt: &LinuxIntelRdt) -> PendingGroup {
        PendingGroup::of(Some(rdt), "c1", || Ok(Some(self.0.clone()))).unwrap()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }

    /// Creates a class with the files that mkdir(2) creates on resctrl.
    fn class(&self, name: &str) {
        fs::create_dir_all(self.0.join(name).join("mon_groups")).unwrap();
    }

    fn sweep(&self, dir: &str) {
        for name in ["tasks", "schemata"] {
            let _ = fs::remove_file(self.0.join(dir).join(name));
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rdt(json: &str) -> LinuxIntelRdt {
    serde_json::from_str(json).unwrap()
}

#[test]
fn rdt_fields_are_refused_if_the_machine_lacks_the_feature() {
    let tree = Tree::new("refused", &["L3"]);
    for (json, root, says) in [
        ("{}", None, "linux.intelRdt: intelRdt is specified in config, but Intel RDT is not enabled"),
        (r#"{"closID":".."}"#, Some(&tree.0), r#"linux.intelRdt.closID: invalid intelRdt.ClosID "..""#),
        (r#"{"closID":"a/b"}"#, Some(&tree.0), r#"linux.intelRdt.closID: invalid intelRdt.ClosID "a/b""#),
        (r#"{"closID":"/a"}"#, Some(&tree.0), r#"linux.intelRdt.closID: invalid intelRdt.ClosID "/a""#),
        (
            r#"{"memBwSchema":"MB:0=20"}"#,
            Some(&tree.0),
            "linux.intelRdt.memBwSchema: is specified in config, but Intel RDT/MBA is not enabled",
        ),
    ] {
        assert_eq!(check(&rdt(json), root.map(PathBuf::as_path)).unwrap_err().to_string(), says, "{json}");
    }
    for good in ["{}", r#"{"closID":"/"}"#, r#"{"closID":"a"}"#, r#"{"l3CacheSchema":"L3:0=f","memBwSchema":""}"#] {
        check(&rdt(good), Some(&tree.0)).unwrap();
    }
}

#[test]
fn class_with_the_containers_id_is_removed_with_it() {
    let tree = Tree::new("own", &["L3", "MB"]);
    let wanted = rdt(r#"{"l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=20","schemata":["L2:0=1",""]}"#);
    let mut pending = tree.pending(&wanted);
    pending.create(Some(&wanted)).unwrap();
    assert_eq!(tree.read("c1/schemata"), "L3:0=f\nMB:0=20\nL2:0=1\n");
    pending.add_process(77).unwrap();
    assert_eq!(tree.read("c1/tasks"), "77");
    let group = pending.group().unwrap();
    pending.keep();
    tree.sweep("c1");
    assert!(tree.0.join("c1").exists());
    let on_record: Group = serde_json::from_slice(&serde_json::to_vec(&group).unwrap()).unwrap();
    on_record.remove().unwrap();
    assert!(!tree.0.join("c1").exists());
    on_record.remove().unwrap();
}

#[test]
fn failed_create_leaves_no_class() {
    let tree = Tree::new("drop", &["L3"]);
    let wanted = rdt("{}");
    let mut pending = tree.pending(&wanted);
    pending.create(Some(&wanted)).unwrap();
    assert!(tree.0.join("c1").exists());
    drop(pending);
    assert!(!tree.0.join("c1").exists());
}

#[test]
fn existing_class_is_kept() {
    let tree = Tree::new("there", &["L3"]);
    for (class, json) in [
        ("c1", r#"{"enableMonitoring":true}"#),
        ("gold", r#"{"closID":"gold","enableMonitoring":true}"#),
        ("", r#"{"closID":"/","enableMonitoring":true}"#),
    ] {
        tree.class(class);
        let wanted = rdt(json);
        let mut pending = tree.pending(&wanted);
        pending.create(Some(&wanted)).unwrap();
        pending.add_process(78).unwrap();
        let monitor = Path::new(class).join("mon_groups/c1");
        for dir in [Path::new(class), &monitor] {
            assert_eq!(tree.read(dir.join("tasks").to_str().unwrap()), "78");
            tree.sweep(dir.to_str().unwrap());
        }
        drop(pending);
        assert!(tree.0.join(class).exists() && !tree.0.join(monitor).exists(), "{class}");
    }
    // Other processes may be in a class that config.json names, so it stays even if berth has created it.
    let wanted = rdt(r#"{"closID":"new","schemata":["L3:0=1"]}"#);
    let mut pending = tree.pending(&wanted);
    pending.create(Some(&wanted)).unwrap();
    drop(pending);
    assert_eq!(tree.read("new/schemata"), "L3:0=1\n");
}

#[test]
fn named_class_without_schemata_must_exist() {
    let tree = Tree::new("missing", &["L3"]);
    let wanted = rdt(r#"{"closID":"silver"}"#);
    let error = tree.pending(&wanted).create(Some(&wanted)).unwrap_err().to_string();
    assert!(error.starts_with("linux.intelRdt: clos dir not accessible (must be pre-created when "), "{error}");
    assert!(!tree.0.join("silver").exists());
}

#[test]
fn rdt_errors_quote_the_kernels_status() {
    let tree = Tree::new("quoted", &["L3"]);
    fs::write(tree.0.join("info/last_cmd_status"), "Mask out of range\n").unwrap();
    // A directory stands for a file that cannot be written.
    fs::create_dir_all(tree.0.join("c1/schemata")).unwrap();
    let wanted = rdt(r#"{"l3CacheSchema":"L3:0=ffff"}"#);
    let error = tree.pending(&wanted).create(Some(&wanted)).unwrap_err().to_string();
    let says = r#"linux.intelRdt: last_cmd_status "Mask out of range": intelrdt: unable to write "L3:0=ffff\n": is a directory"#;
    assert_eq!(error, says);
}

#[test]
fn rdt_update_needs_the_feature_and_a_group() {
    let tree = Tree::new("update", &["L3"]);
    let wanted = rdt("{}");
    let mut pending = tree.pending(&wanted);
    pending.create(Some(&wanted)).unwrap();
    let group = pending.group();
    let update = |l3_cache, memory_bandwidth| Update { l3_cache, memory_bandwidth };
    let refused = |update: Update<'_>, group, root| update.check(group, root).unwrap_err().to_string();
    let root = Some(tree.0.as_path());
    assert_eq!(
        refused(update(Some("L3:0=f"), None), group.as_ref(), None),
        "Intel RDT/CAT: l3 cache schema is not enabled"
    );
    assert_eq!(
        refused(update(None, Some("MB:0=9")), group.as_ref(), root),
        "Intel RDT/MBA: memory bandwidth schema is not enabled"
    );
    assert_eq!(
        refused(update(Some("L3:0=f"), None), None, root),
        "updating a non-existent Intel RDT configuration is not supported"
    );
    update(None, None).check(None, None).unwrap();
    let good = update(Some("L3:0=3"), None);
    good.check(group.as_ref(), root).unwrap();
    good.apply(group.as_ref()).unwrap();
    assert_eq!(tree.read("c1/schemata"), "L3:0=3\n");
    tree.sweep("c1");
}

#[test]
fn exec_ignores_a_removed_class() {
    let tree = Tree::new("exec", &["L3"]);
    let wanted = rdt("{}");
    let group = tree.pending(&wanted).group().unwrap();
    group.add_exec_process(9).unwrap();
    tree.class("c1");
    group.add_exec_process(9).unwrap();
    assert_eq!(tree.read("c1/tasks"), "9");
}
