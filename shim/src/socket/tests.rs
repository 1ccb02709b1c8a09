use super::*;
use crate::testing::Scratch;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn socket_paths_differ_in_each_part_and_fit_in_sun_path() {
    let dir = Path::new(DIRECTORY);
    let one = path(dir, "/run/c.sock", "ns", "g").unwrap();
    assert!(one.as_os_str().len() < 107);
    assert_eq!(one, path(dir, "/run/c.sock", "ns", "g").unwrap());
    for other in [("/run/d.sock", "ns", "g"), ("/run/c.sock", "nt", "g"), ("/run/c.sock", "ns", "h")] {
        assert_ne!(one, path(dir, other.0, other.1, other.2).unwrap());
    }
    let long = PathBuf::from(format!("/{}", "x".repeat(60)));
    assert!(path(&long, "", "ns", "g").unwrap_err().to_string().contains("file name too long"));
}

#[test]
fn the_first_claim_binds_and_the_second_finds_a_server() {
    let scratch = Scratch::new();
    let path = scratch.path().join("deep/s/socket");
    let Claim::Bound(listener) = claim(&path).unwrap() else { panic!("served") };
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert!(matches!(claim(&path).unwrap(), Claim::InUse));
    remove_dead(&path).unwrap();
    assert!(path.exists(), "a served socket stays");
    drop(listener);
    let Claim::Bound(_listener) = claim(&path).unwrap() else { panic!("the dead socket was not replaced") };
}

#[test]
fn a_socket_with_a_full_backlog_is_in_use() {
    let scratch = Scratch::new();
    let path = scratch.path().join("s/socket");
    let Claim::Bound(listener) = claim(&path).unwrap() else { panic!("served") };
    rustix::net::listen(&listener, 0).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(matches!(claim(&path).unwrap(), Claim::InUse));
    drop(waiting);
}

#[test]
fn dead_sockets_are_removed_and_those_of_newer_servers_stay() {
    let scratch = Scratch::new();
    let path = scratch.path().join("s/socket");
    let Claim::Bound(first) = claim(&path).unwrap() else { panic!("served") };
    let own = socket_id(&path).unwrap();
    drop(first);
    remove_dead(&path).unwrap();
    assert!(!path.exists());
    remove_dead(&path).unwrap();
    // This keeps the inode number from being reused.
    let _other = std::os::unix::net::UnixListener::bind(path.with_extension("other")).unwrap();
    let Claim::Bound(_second) = claim(&path).unwrap() else { panic!("served") };
    if socket_id(&path) != Some(own) {
        remove_own(&path, own).unwrap();
        assert!(path.exists(), "a successor's socket stays");
    }
    remove_own(&path, socket_id(&path).unwrap()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_not_removed() {
    let scratch = Scratch::new();
    let path = scratch.path().join("s/socket");
    make_directory(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(claim(&path).unwrap_err().to_string().ends_with("is no socket"));
    assert!(path.exists());
}

#[test]
fn a_socket_directory_writable_by_others_is_refused() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("s");
    make_directory(&dir).unwrap();
    rustix::fs::chmod(&dir, Mode::from_raw_mode(0o777)).unwrap();
    let e = claim(&dir.join("socket")).unwrap_err();
    assert!(e.to_string().contains("writable by another user"), "{e}");
}

#[test]
fn one_of_many_racing_claims_binds() {
    let scratch = Scratch::new();
    let path = scratch.path().join("s/socket");
    // The racers find a dead socket.
    drop(claim(&path).unwrap());
    let claims: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| claim(&path).unwrap())).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Bound(_))).count(), 1);
}
