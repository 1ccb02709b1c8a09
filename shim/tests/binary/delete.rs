//! The action `delete`.

use std::time::{SystemTime, UNIX_EPOCH};

use berth_proto::{Message, task::DeleteResponse};

use crate::harness::*;

fn delete(bundle: &Bundle<'_>, words: &[&str]) -> DeleteResponse {
    let output = run(bundle.command(&[words, &["delete"]].concat()), b"");
    DeleteResponse::parse_from_bytes(&succeeded(output)).unwrap()
}

#[test]
fn delete_succeeds_on_a_bundle_without_a_container() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    for words in [&[][..], &["-bundle", bundle.dir.to_str().unwrap()]] {
        let answer = delete(&bundle, words);
        assert_eq!((answer.pid, answer.exit_status), (0, 137));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now - u64::try_from(answer.exited_at.seconds).unwrap() < 60);
    }
    std::fs::remove_file(bundle.dir.join("config.json")).unwrap();
    assert_eq!(delete(&bundle, &[]).exit_status, 137);
}

#[test]
fn delete_answers_with_the_pid_that_create_wrote() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    std::fs::write(bundle.dir.join("init.pid"), "4194305").unwrap();
    assert_eq!(delete(&bundle, &[]).pid, 4_194_305);
}

#[test]
fn delete_removes_the_socket_of_a_killed_server() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    let pid = server_pid(&socket);
    delete(&bundle, &[]);
    assert_eq!(server_pid(&socket), pid, "one that lives is left alone");
    kill(pid, libc::SIGKILL);
    eventually("the server to die", || !is_alive(pid));
    assert!(socket.exists());
    delete(&bundle, &[]);
    assert!(!socket.exists());
    delete(&bundle, &[]);
}
