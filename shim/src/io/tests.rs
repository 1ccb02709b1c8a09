use std::{
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use tokio::time::timeout;

use super::*;
use crate::testing::{Scratch, pty, runtime};

const SOON: Duration = Duration::from_secs(60);

fn owner() -> StdioOwner {
    StdioOwner { id: "c".into(), namespace: "ns".into(), owner: (0, 0) }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn fds(prepared: &mut Prepared) -> [OwnedFd; 3] {
    match prepared.take_child() {
        Stdio::Fds(fds) => fds,
        other => panic!("{other:?}"),
    }
}

fn write(fd: &OwnedFd, bytes: &[u8]) {
    let mut file = std::fs::File::from(fd.try_clone().unwrap());
    file.write_all(bytes).unwrap();
}

async fn read_to_end(fd: OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match rustix::io::read(&fd, &mut buf) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Reads `count` bytes from a non-blocking descriptor.
async fn read_just(fd: &OwnedFd, count: usize) -> Vec<u8> {
    let mut all = vec![0; count];
    let mut got = 0;
    while got < count {
        match rustix::io::read(fd, &mut all[got..]) {
            Ok(0) => panic!("ended after {got} bytes"),
            Ok(n) => got += n,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    all
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn stdio_without_paths_is_dev_null() {
    runtime().block_on(async {
        let prepared = prepare(&StdioRequest::default(), &owner(), &Pool::default()).await.unwrap();
        assert!(matches!(prepared.child, Stdio::Null));
        let io = prepared.attach(None).unwrap();
        assert!(io.drained(SOON).await);
    });
}

#[test]
fn both_outputs_arrive_and_end_with_the_last_writer() {
    let dir = Scratch::new();
    let (out, err) = (dir.fifo("out"), dir.fifo("err"));
    let (out_reader, err_reader) = (dir.reader(&out), dir.reader(&err));
    let request = StdioRequest { stdout: text(&out), stderr: text(&err), ..StdioRequest::default() };
    runtime().block_on(async {
        let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let [_, stdout, stderr] = fds(&mut prepared);
        let io = prepared.attach(None).unwrap();
        let grandchild = stdout.try_clone().unwrap();
        write(&stdout, b"to stdout");
        write(&stderr, b"to stderr");
        drop((stdout, stderr));
        io.process_exited();
        assert!(!io.drained(Duration::from_millis(20)).await, "a grandchild still holds stdout");
        write(&grandchild, b", and more");
        drop(grandchild);
        assert!(io.drained(SOON).await);
        assert_eq!(timeout(SOON, read_to_end(out_reader)).await.unwrap(), b"to stdout, and more");
        assert_eq!(timeout(SOON, read_to_end(err_reader)).await.unwrap(), b"to stderr");
    });
}

#[test]
fn close_ends_the_clients_stream_while_a_grandchild_holds_the_pipe() {
    let dir = Scratch::new();
    let out = dir.fifo("out");
    let reader = dir.reader(&out);
    let request = StdioRequest { stdout: text(&out), ..StdioRequest::default() };
    runtime().block_on(async {
        let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let [_, stdout, _] = fds(&mut prepared);
        let io = prepared.attach(None).unwrap();
        write(&stdout, b"x");
        tokio::task::yield_now().await;
        io.drained(Duration::from_millis(20)).await;
        io.close().await;
        assert_eq!(timeout(SOON, read_to_end(reader)).await.unwrap(), b"x");
        drop(stdout);
    });
}

#[test]
fn a_restarted_reader_gets_the_output_written_meanwhile() {
    let dir = Scratch::new();
    let out = dir.fifo("out");
    let reader = dir.reader(&out);
    let request = StdioRequest { stdout: text(&out), ..StdioRequest::default() };
    runtime().block_on(async {
        let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let [_, stdout, _] = fds(&mut prepared);
        let io = prepared.attach(None).unwrap();
        drop(reader);
        write(&stdout, &[b'y'; 40_000]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let reader = dir.reader(&out);
        drop(stdout);
        io.process_exited();
        assert_eq!(timeout(SOON, read_to_end(reader)).await.unwrap().len(), 40_000);
        assert!(io.drained(SOON).await);
    });
}

#[test]
fn stdin_ends_by_close_io_and_not_when_a_client_leaves() {
    let dir = Scratch::new();
    let stdin = dir.fifo("in");
    let request = StdioRequest { stdin: text(&stdin), ..StdioRequest::default() };
    runtime().block_on(async {
        let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let [child, _, _] = fds(&mut prepared);
        fcntl_setfl(&child, OFlags::NONBLOCK).unwrap();
        let io = prepared.attach(None).unwrap();
        for part in [&b"one "[..], b"two"] {
            let client = std::fs::OpenOptions::new().write(true).open(&stdin).unwrap();
            write(&client.into(), part);
        }
        assert_eq!(read_just(&child, 7).await, b"one two");
        let mut buf = [0; 16];
        assert_eq!(rustix::io::read(&child, &mut buf).unwrap_err(), rustix::io::Errno::AGAIN);
        io.close_stdin();
        assert_eq!(timeout(SOON, read_to_end(child)).await.unwrap(), b"");
    });
}

#[test]
fn a_terminal_is_copied_both_ways_and_ends_with_its_process() {
    let dir = Scratch::new();
    let (stdin, out) = (dir.fifo("in"), dir.fifo("out"));
    let reader = dir.reader(&out);
    let request = StdioRequest { stdin: text(&stdin), stdout: text(&out), terminal: true, ..StdioRequest::default() };
    runtime().block_on(async {
        let prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let (master, slave) = pty();
        let io = prepared.attach(Some(master)).unwrap();
        assert!(io.console().is_some());
        let client = std::fs::OpenOptions::new().write(true).open(&stdin).unwrap();
        write(&client.into(), b"typed");
        fcntl_setfl(&slave, OFlags::NONBLOCK).unwrap();
        assert_eq!(read_just(&slave, 5).await, b"typed");
        write(&slave, b"shown");
        // The slave stays open, as with a grandchild.
        io.process_exited();
        assert!(io.drained(SOON).await);
        assert!(io.console().is_none());
        assert_eq!(timeout(SOON, read_to_end(reader)).await.unwrap(), b"shown");
    });
}

#[test]
fn large_output_of_a_terminal_is_complete() {
    let dir = Scratch::new();
    let out = dir.fifo("out");
    let reader = dir.reader(&out);
    let request = StdioRequest { stdout: text(&out), terminal: true, ..StdioRequest::default() };
    runtime().block_on(async {
        let prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let (master, slave) = pty();
        let io = prepared.attach(Some(master)).unwrap();
        let writer = std::thread::spawn(move || {
            for _ in 0..500 {
                write(&slave, &[b'z'; 1000]);
            }
        });
        let reading = tokio::spawn(read_to_end(reader));
        while !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        io.process_exited();
        assert!(io.drained(SOON).await);
        assert_eq!(timeout(SOON, reading).await.unwrap().unwrap().len(), 500_000);
    });
}

#[test]
fn both_outputs_are_appended_to_a_file() {
    let dir = Scratch::new();
    let path = dir.path().join("d/log");
    let request = StdioRequest {
        stdout: format!("file://{}", path.display()),
        stderr: "ignored".into(),
        ..StdioRequest::default()
    };
    runtime().block_on(async {
        let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let [_, stdout, stderr] = fds(&mut prepared);
        let io = prepared.attach(None).unwrap();
        write(&stdout, b"1\n");
        while std::fs::read(&path).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        write(&stderr, b"2\n");
        drop((stdout, stderr));
        io.process_exited();
        assert!(io.drained(SOON).await);
    });
    assert_eq!(std::fs::read(&path).unwrap(), b"1\n2\n");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn closed_stdio_leaves_no_descriptor_open() {
    let dir = Scratch::new();
    let (stdin, out, err) = (dir.fifo("in"), dir.fifo("out"), dir.fifo("err"));
    let request = StdioRequest { stdin: text(&stdin), stdout: text(&out), stderr: text(&err), terminal: false };
    runtime().block_on(async {
        let _readers = (dir.reader(&out), dir.reader(&err));
        let names = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|e| std::fs::read_link(e.unwrap().path()).ok())
                .filter(|p| p.starts_with(dir.path()))
                .count()
        };
        let before = names();
        for _ in 0..20 {
            let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
            let child = fds(&mut prepared);
            let io = prepared.attach(None).unwrap();
            assert!(open_fds() > 0 && names() > before);
            drop(child);
            io.process_exited();
            assert!(io.drained(SOON).await);
            io.close().await;
        }
        tokio::task::yield_now().await;
        assert_eq!(names(), before);
    });
}

#[test]
fn streams_of_a_background_child_end_after_the_written_output() {
    let dir = Scratch::new();
    let (stdin, out) = (dir.fifo("in"), dir.fifo("out"));
    let reader = dir.reader(&out);
    let request = StdioRequest { stdin: text(&stdin), stdout: text(&out), ..StdioRequest::default() };
    runtime().block_on(async {
        let mut prepared = prepare(&request, &owner(), &Pool::default()).await.unwrap();
        let [_, child, _] = fds(&mut prepared);
        let io = prepared.attach(None).unwrap();
        let typist = std::fs::OpenOptions::new().write(true).open(&stdin).unwrap();
        // This is more than the fifo holds, and the client reads only later. No byte may be lost.
        let (size, mut written) = (400_000, 0);
        fcntl_setfl(&child, OFlags::NONBLOCK).unwrap();
        while let Ok(n) = {
            tokio::time::sleep(Duration::from_millis(1)).await;
            rustix::io::write(&child, &vec![b'y'; size - written])
        } {
            written += n;
        }
        io.process_exited();
        let lingering = tokio::spawn({
            let io = io.clone();
            async move { io.linger(Duration::ZERO).await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!lingering.is_finished(), "it ends what nobody has read");
        write(&typist.into(), b"too late");
        assert_eq!(timeout(SOON, read_to_end(reader)).await.unwrap().len(), written);
        timeout(SOON, lingering).await.unwrap().unwrap();
        // The child gets a broken pipe, as at Delete.
        assert_eq!(rustix::io::write(&child, b"more").unwrap_err(), rustix::io::Errno::PIPE);
        assert!(std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&stdin).is_err());
    });
}
