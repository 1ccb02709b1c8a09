use std::io::Read;

use super::*;
use crate::testing::{Scratch, runtime};

#[test]
fn opening_a_fifo_without_a_reader_fails_with_its_path() {
    let dir = Scratch::new();
    let path = dir.fifo("out");
    let error = runtime().block_on(open_output(&path, Duration::from_millis(20))).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(error.kind(), berth_runtime::Kind::FailedPrecondition);
}

#[test]
fn opening_a_fifo_waits_for_a_late_reader() {
    let dir = Scratch::new();
    let path = dir.fifo("out");
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            std::thread::sleep(Duration::from_millis(30));
            let mut text = String::new();
            std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        }
    });
    let Output::Fifo(fd) = runtime().block_on(open_output(&path, CLIENT_TIMEOUT)).unwrap() else { panic!("no fifo") };
    rustix::io::write(&fd, b"hello").unwrap();
    drop(fd);
    assert_eq!(reader.join().unwrap(), "hello");
}

#[test]
fn a_fifo_keeps_its_content_while_the_reader_is_away() {
    let dir = Scratch::new();
    let path = dir.fifo("out");
    let reader = dir.reader(&path);
    let Output::Fifo(fd) = runtime().block_on(open_output(&path, CLIENT_TIMEOUT)).unwrap() else { panic!("no fifo") };
    drop(reader);
    rustix::io::write(&fd, b"kept").unwrap();
    let reader = dir.reader(&path);
    let mut buf = [0; 8];
    assert_eq!(rustix::io::read(&reader, &mut buf).unwrap(), 4);
}

#[test]
fn a_log_file_is_appended_to_and_its_directories_are_made() {
    let dir = Scratch::new();
    let path = dir.path().join("a/b/log");
    for _ in 0..2 {
        rustix::io::write(open_file(&path).unwrap(), b"x").unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"xx");
}

#[test]
fn a_missing_stdio_path_is_named() {
    let missing = Path::new("/nowhere/fifo");
    assert!(open_input(missing).unwrap_err().to_string().contains("/nowhere/fifo"));
    let error = runtime().block_on(open_output(missing, CLIENT_TIMEOUT)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/fifo"));
}
