//! Files that the runtime writes into directories which other users can write to: it follows no link that waits there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle, case::skipped_on_runc, host_files::HostFiles, runtime::Runtime, scratch::Scratch,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, lchown, symlink},
    path::Path,
};

/// The uid of a user who is not the caller.
const OTHER: u32 = 4711;

/// Makes a directory that every user may write to, without the sticky bit: in such a directory the kernel does not
/// protect links (fs.protected_symlinks).
fn shared(name: &str) -> Scratch {
    let dir = Scratch::new(name);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// Plants links of another user under names that can be guessed.
fn plant(dir: &Path, names: &[&str], to: &Path) {
    for name in names {
        symlink(to, dir.join(name)).unwrap();
        lchown(dir.join(name), Some(OTHER), Some(OTHER)).unwrap();
    }
}

/// runc refuses such a call. berth writes under a name that cannot be guessed. Only the file behind the links counts.
#[test]
fn planted_links_beside_a_pid_file_change_no_host_file() {
    let runtime = Runtime::new("pid-file-links");
    let (dir, host_files) = (shared("pid-file-dir"), HostFiles::new(runtime.work()));
    let before = host_files.fingerprint();
    runtime.start("c0", &Bundle::probe(&["sleep", "100"]));
    for (verb, n) in [("create", 1), ("run", 2), ("exec", 3)] {
        let (name, id) = (format!("pid{n}"), format!("c{n}"));
        let guesses = [".".to_owned() + &name, name.clone() + ".tmp", name.clone(), ".".to_owned() + &name + ".new"];
        plant(dir.path(), &guesses.each_ref().map(String::as_str), &host_files.path().join("file"));
        let path = dir.path().join(&name);
        let options = ["--pid-file", path.to_str().unwrap()];
        let bundle = Bundle::probe(&["sleep", "100"]);
        let out = match verb {
            "exec" => runtime.call(&["exec", "c0", "/probe", "sleep", "100"]).with(&["--detach"]).with(&options).wait(),
            "run" => runtime.on(verb, &id, &bundle).with(&["--detach"]).with(&options).wait(),
            _ => runtime.on(verb, &id, &bundle).with(&options).wait(),
        };
        assert_eq!(host_files.fingerprint(), before, "{verb}: {out:#?} {}", host_files.listing());
        match out.code {
            0 => {
                assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{verb}: a link is the pid file");
                let pid = fs::read_to_string(&path).unwrap();
                if verb != "exec" {
                    assert_eq!(pid, runtime.pid(&id).to_string(), "{verb}");
                }
                assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "{verb}: {pid}");
            }
            _ => assert!(out.stderr.contains("file exists"), "{verb}: {out:#?}"),
        }
    }
    // The directory has no other entry than the planted ones.
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange: Vec<_> = left.filter(|name| !name.trim_start_matches('.').starts_with("pid")).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn unwritable_pid_file_leaves_nothing_behind() {
    let runtime = Runtime::new("pid-file-fails");
    let dir = shared("pid-file-none");
    fs::create_dir_all(dir.path().join("taken/full")).unwrap();
    let path = dir.path().join("taken");
    let out = runtime.on("create", "c1", &Bundle::probe(&[])).with(&["--pid-file", path.to_str().unwrap()]).wait();
    assert!(out.code != 0 && out.stderr.contains("taken"), "{out:#?}");
    runtime.assert_clean("a pid file in a directory's place");
    // runc leaves its temporary file there.
    if !skipped_on_runc("pid file", "what could not be renamed is left") {
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn log_is_not_written_through_a_link_of_another_user() {
    if skipped_on_runc("log behind links", "it follows every link") {
        return;
    }
    let runtime = Runtime::new("log-links");
    let (dir, host_files) = (shared("log-dir"), HostFiles::new(runtime.work()));
    let before = host_files.fingerprint();
    plant(dir.path(), &["log"], &host_files.path().join("file"));
    let path = dir.path().join("log");
    let state = |path: &Path| runtime.call(&["state", "none"]).global(&["--log", path.to_str().unwrap()]).wait();
    state(&path).fails(1, &["too many", "symbolic links"]);
    assert_eq!(host_files.fingerprint(), before, "{}", host_files.listing());
    // The caller's own link, a path through it, and the standard streams are followed.
    symlink("target", dir.path().join("own")).unwrap();
    symlink(dir.path().join("own"), dir.path().join("second")).unwrap();
    for name in ["own", "second", "target"] {
        state(&dir.path().join(name)).fails(1, &["does not exist"]);
    }
    assert_eq!(fs::read_to_string(dir.path().join("target")).unwrap().lines().count(), 3);
    for standard in ["/dev/stderr", "/proc/self/fd/2", "/dev/fd/2"] {
        let out = state(Path::new(standard)).fails(1, &["level=error msg=\"container does not exist\""]);
        assert_eq!(out.stderr.lines().count(), 2, "{standard}: {out:#?}");
    }
}
