use std::{os::fd::AsRawFd, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::testing::{Scratch, pipe, pty, runtime};

const SOON: Duration = Duration::from_secs(60);

fn nonblocking(fd: &OwnedFd) {
    rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK).unwrap();
}

fn read_available(fd: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n) = rustix::io::read(fd, &mut buf) {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&buf[..n]);
    }
    all
}

#[test]
fn a_pump_copies_until_the_last_writer_closes() {
    let ((r1, w1), (r2, w2)) = (pipe(), pipe());
    nonblocking(&r1);
    nonblocking(&r2);
    rustix::io::write(&w1, b"all of it").unwrap();
    drop(w1);
    runtime()
        .block_on(async { timeout(SOON, Pump::new(Kind::Output, r1, Sink::Pipe(w2.into())).run()).await.unwrap() });
    assert_eq!(read_available(&r2), b"all of it");
}

#[test]
fn a_full_sink_delays_the_source_and_loses_nothing() {
    let ((r1, w1), (r2, w2)) = (pipe(), pipe());
    for fd in [&r1, &w1, &r2, &w2] {
        nonblocking(fd);
    }
    runtime().block_on(async {
        let pump = Pump::new(Kind::Output, r1, Sink::Pipe(w2.into()));
        let task = tokio::spawn({
            let pump = pump.clone();
            async move { pump.run().await }
        });
        drop(pump);
        let mut sent = Vec::new();
        let mut got = Vec::new();
        for round in 0..200u8 {
            let chunk = [round; 3000];
            while rustix::io::write(&w1, &chunk).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                got.extend(read_available(&r2));
            }
            sent.extend_from_slice(&chunk);
        }
        drop(w1);
        while !task.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            got.extend(read_available(&r2));
        }
        got.extend(read_available(&r2));
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    });
}

#[test]
fn a_full_sink_at_the_end_does_not_spin() {
    let (r1, w1) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let (r2, w2) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    while rustix::io::write(&w2, &[0; 4096]).is_ok() {}
    drop(w1);
    runtime().block_on(async {
        let pump = Pump::new(Kind::Output, r1, Sink::Pipe(w2.into()));
        let task = tokio::spawn(async move { pump.run().await });
        // If the pump spins, the test never comes here.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!task.is_finished());
        while rustix::io::read(&r2, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
        timeout(SOON, task).await.unwrap().unwrap();
    });
}

#[test]
fn the_source_of_a_failed_sink_is_read_to_its_end() {
    let ((r1, w1), (r2, w2)) = (pipe(), pipe());
    nonblocking(&r1);
    drop(r2);
    rustix::io::write(&w1, &[0; 30_000]).unwrap();
    drop(w1);
    runtime()
        .block_on(async { timeout(SOON, Pump::new(Kind::Output, r1, Sink::Pipe(w2.into())).run()).await.unwrap() });
}

#[test]
fn input_ends_when_the_process_reads_no_more() {
    let ((r1, w1), (r2, w2)) = (pipe(), pipe());
    nonblocking(&r1);
    drop(r2);
    rustix::io::write(&w1, b"x").unwrap();
    runtime().block_on(async { timeout(SOON, Pump::new(Kind::Input, r1, Sink::Pipe(w2.into())).run()).await.unwrap() });
}

#[test]
fn two_streams_append_to_one_file() {
    let dir = Scratch::new();
    let path = dir.path().join("log");
    for text in [&b"one\n"[..], b"two\n"] {
        let (r, w) = pipe();
        nonblocking(&r);
        rustix::io::write(&w, text).unwrap();
        drop(w);
        let sink = Sink::Append(crate::io::fifo::open_file(&path).unwrap());
        runtime().block_on(Pump::new(Kind::Output, r, sink).run());
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
}

#[test]
fn a_full_disk_does_not_stop_the_reader() {
    let (r, w) = pipe();
    nonblocking(&r);
    rustix::io::write(&w, &[0; 60_000]).unwrap();
    drop(w);
    let full = rustix::fs::open("/dev/full", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty()).unwrap();
    runtime().block_on(async { timeout(SOON, Pump::new(Kind::Output, r, Sink::Append(full)).run()).await.unwrap() });
}

#[test]
fn a_terminal_is_read_to_its_end_after_the_exit() {
    let (master, slave) = pty();
    let (r, w) = pipe();
    nonblocking(&master);
    nonblocking(&r);
    nonblocking(&w);
    runtime().block_on(async {
        let pump = Pump::new(Kind::Terminal, master, Sink::Pipe(w.into()));
        let task = tokio::spawn({
            let pump = pump.clone();
            async move { pump.run().await }
        });
        rustix::io::write(&slave, &[b'x'; 3000]).unwrap();
        tokio::task::yield_now().await;
        // A grandchild holds the terminal open, so the pump sees no end by itself.
        pump.end();
        timeout(SOON, task).await.unwrap().unwrap();
    });
    assert_eq!(read_available(&r).len(), 3000);
    assert!(slave.as_raw_fd() >= 0);
}

#[test]
fn a_terminal_ends_when_its_slave_is_closed() {
    let (master, slave) = pty();
    let (r, w) = pipe();
    nonblocking(&master);
    nonblocking(&r);
    rustix::io::write(&slave, b"bye").unwrap();
    drop(slave);
    runtime().block_on(async {
        timeout(SOON, Pump::new(Kind::Terminal, master, Sink::Pipe(w.into())).run()).await.unwrap()
    });
    assert_eq!(read_available(&r), b"bye");
}

#[test]
fn input_reaches_a_terminal() {
    let (master, slave) = pty();
    let (r, w) = pipe();
    nonblocking(&r);
    nonblocking(&master);
    rustix::io::write(&w, b"typed\n").unwrap();
    drop(w);
    let master = Arc::new(master);
    runtime()
        .block_on(async { timeout(SOON, Pump::new(Kind::Input, r, Sink::Pipe(master.clone())).run()).await.unwrap() });
    let mut buf = [0; 16];
    let n = rustix::io::read(&slave, &mut buf).unwrap();
    assert_eq!(&buf[..n], b"typed\n");
}

#[test]
fn a_terminal_is_read_while_its_input_is_full() {
    let (master, slave) = pty();
    let ((typed, keys), (shown, screen)) = (pipe(), pipe());
    for fd in [&master, &slave, &typed, &shown] {
        nonblocking(fd);
    }
    // Without echo and line editing the bytes pass unchanged.
    let mut raw = rustix::termios::tcgetattr(&slave).unwrap();
    raw.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &raw).unwrap();
    rustix::io::write(&keys, &[b'k'; 60_000]).unwrap();
    drop(keys);
    runtime().block_on(async {
        let master = Arc::new(master);
        let output = Pump::new(Kind::Terminal, master.clone(), Sink::Pipe(screen.into()));
        let output = tokio::spawn(async move { output.run().await });
        let input = tokio::spawn(async move { Pump::new(Kind::Input, typed, Sink::Pipe(master)).run().await });
        // The input is more than the terminal holds, and no process reads it.
        rustix::io::write(&slave, b"said").unwrap();
        let mut said = Vec::new();
        while said.len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            said.extend(read_available(&shown));
        }
        assert!(said == b"said" && !input.is_finished());
        let mut got = 0;
        while got < 60_000 {
            got += read_available(&slave).len();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        timeout(SOON, input).await.unwrap().unwrap();
        output.abort();
    });
}

#[test]
fn a_busy_stream_yields_to_other_tasks() {
    let (r, w) = pipe();
    nonblocking(&r);
    rustix::pipe::fcntl_setpipe_size(&w, 1 << 20).unwrap();
    rustix::io::write(&w, &vec![b'm'; 1 << 20]).unwrap();
    drop(w);
    runtime().block_on(async {
        let pump = Pump::new(Kind::Output, r, Sink::Nowhere);
        let task = tokio::spawn(async move { pump.run().await });
        let mut turns = 0;
        while !task.is_finished() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        // A stream that does not yield leaves one or two turns: before its first step and after its last one.
        assert!(turns >= 4, "{turns} turns of others while a megabyte was moved");
    });
}
