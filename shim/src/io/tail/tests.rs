use std::io::Read;

use rustix::fs::{Mode, open};

use super::*;
use crate::testing::{Scratch, runtime};

fn writer(path: &std::path::Path) -> Arc<OwnedFd> {
    Arc::new(open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap())
}

#[test]
fn a_client_that_is_there_gets_the_end_at_once() {
    let dir = Scratch::new();
    let path = dir.fifo("out");
    let client = dir.reader(&path);
    let both = writer(&path);
    rustix::io::write(&*both, b"left").unwrap();
    let tail = Tail::of(&both).unwrap();
    drop(both);
    tail.become_reader();
    assert!(tail.unread());
    let mut buffer = [0; 8];
    assert_eq!(rustix::io::read(&client, &mut buffer).unwrap(), 4);
    assert_eq!(rustix::io::read(&client, &mut buffer).unwrap(), 0);
    assert!(!tail.unread());
    runtime().block_on(tail.read_out());
}

#[test]
fn a_client_that_comes_back_gets_the_rest_and_then_the_end() {
    let dir = Scratch::new();
    let path = dir.fifo("out");
    let both = writer(&path);
    rustix::io::write(&*both, b"left").unwrap();
    let tail = Tail::of(&both).unwrap();
    drop(both);
    tail.become_reader();
    let client = std::thread::spawn(move || {
        let mut text = String::new();
        std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    runtime().block_on(async {
        tail.read_out().await;
        drop(tail);
    });
    assert_eq!(client.join().unwrap(), "left");
}

#[test]
fn a_client_that_leaves_unread_content_can_come_back() {
    let dir = Scratch::new();
    let path = dir.fifo("out");
    let client = dir.reader(&path);
    let both = writer(&path);
    rustix::io::write(&*both, b"left").unwrap();
    let tail = Tail::of(&both).unwrap();
    drop(both);
    tail.become_reader();
    drop(client);
    let client = std::thread::spawn(move || {
        let mut text = String::new();
        std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    runtime().block_on(async {
        tail.read_out().await;
        drop(tail);
    });
    assert_eq!(client.join().unwrap(), "left");
}
