//! The ends of streams: late input, unread output, clients that are gone, and the environment of a log program. Each
//! order of events is forced and observed before the next step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    executable,
    shim::{
        Kind, Shim,
        container::{exec_request, process},
        stdio,
    },
    wait::{LONG, until_true},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionread,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
};

const APPLETS: [&str; 7] = ["sh", "cat", "sleep", "echo", "dd", "stty", "grep"];

fn shell(script: &str) -> Bundle {
    Bundle::busybox(&["/bin/sh", "-c", script], &APPLETS)
}

/// The fifos of a client that reads only on demand.
struct Fifos {
    stdin: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    terminal: bool,
}

impl Fifos {
    fn new(shim: &Shim, name: &str, terminal: bool) -> Self {
        let [stdin, stdout, stderr] =
            ["in", "out", "err"].map(|end| stdio::fifo(shim.work(), &format!("{name}-{end}")));
        Self { stdin, stdout, stderr, terminal }
    }

    /// Opens the client's reader. It reads nothing by itself.
    fn reader(&self) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.stdout).unwrap()
    }

    /// Opens the client's writer. That fails unless the shim has the fifo open.
    fn writer(&self) -> File {
        let writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.stdin).unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
        writer
    }

    /// Starts `script` with these streams: as init of a container `name`, or as its exec in `c`.
    fn start(&self, shim: &Shim, name: &str, exec: bool, script: &str) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let stderr = if self.terminal { String::new() } else { text(&self.stderr) };
        // stderr needs a reader, or the shim waits for one.
        let _stderr = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.stderr).unwrap();
        if exec {
            let mut request = exec_request("c", name, &process(&["/bin/sh", "-c", script]), None);
            (request.stdin, request.stdout, request.stderr) = (text(&self.stdin), text(&self.stdout), stderr);
            request.terminal = self.terminal;
            shim.exec_as(request).unwrap();
            shim.start_process("c", name).unwrap();
        } else {
            let mut request = shim.request(name, &shell(script));
            (request.stdin, request.stdout, request.stderr) = (text(&self.stdin), text(&self.stdout), stderr);
            request.terminal = self.terminal;
            shim.create_as(request).unwrap();
            shim.start_process(name, "").unwrap();
        }
    }
}

/// Returns the container id and the exec id of a process that [`Fifos::start`] started.
fn ids(name: &str, exec: bool) -> (&str, &str) {
    if exec { ("c", name) } else { (name, "") }
}

/// Returns each kind of process: name, terminal, exec.
fn kinds() -> [(&'static str, bool, bool); 4] {
    [("it", true, true), ("plain", false, true), ("init-it", true, false), ("init", false, false)]
}

/// Reads everything until the end.
fn read_out(mut client: File) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let long = Timespec { tv_sec: LONG.as_secs().cast_signed(), tv_nsec: 0 };
        assert_ne!(poll(&mut [PollFd::new(&client, PollFlags::IN)], Some(&long)).unwrap(), 0, "no end after {all:?}");
        match client.read(&mut buffer) {
            Ok(0) => return String::from_utf8(all).unwrap(),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("read a fifo: {e}"),
        }
    }
}

/// Writes everything on a thread, so that a blocked writer is noticed.
fn write_all(mut client: File, size: usize) {
    let writer = thread::spawn(move || client.write_all(&vec![b'x'; size]));
    until_true("a write into a stdin that nobody reads", LONG, || writer.is_finished());
    writer.join().unwrap().unwrap();
}

#[test]
fn input_after_the_exit_loses_no_output() {
    let shim = Shim::start("late");
    shim.run("c", &shell("sleep 1000"));
    for round in 0..10 {
        for (kind, terminal, exec) in kinds() {
            let name = format!("{kind}{round}");
            let fifos = Fifos::new(&shim, &name, terminal);
            let client = fifos.reader();
            fifos.start(&shim, &name, exec, "echo said");
            let mut typist = fifos.writer();
            let (id, exec) = ids(&name, exec);
            assert_eq!(shim.status(id, exec), 0);
            typist.write_all(b"x").unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(read_out(client).trim_end(), "said", "{name}");
            typist.write_all(b"x").unwrap_or_else(|e| panic!("{name}, after the end: {e}"));
            shim.delete(id, exec).unwrap();
        }
    }
    shim.end("c");
}

#[test]
fn input_after_the_exit_is_discarded() {
    let shim = Shim::start("thrown");
    shim.run("c", &shell("sleep 1000"));
    for (name, terminal, exec) in kinds() {
        let fifos = Fifos::new(&shim, name, terminal);
        let client = fifos.reader();
        fifos.start(&shim, name, exec, "echo said");
        let typist = fifos.writer();
        let (id, exec) = ids(name, exec);
        assert_eq!(shim.status(id, exec), 0);
        write_all(typist, 1 << 20);
        // A client reconnects, and another one comes after CloseIO.
        write_all(fifos.writer(), 1 << 20);
        shim.close_stdin(id, exec).unwrap();
        write_all(fifos.writer(), 1 << 20);
        assert_eq!(read_out(client).trim_end(), "said", "{name}");
        shim.delete(id, exec).unwrap();
    }
    shim.end("c");
}

#[test]
fn client_of_a_process_that_closed_its_stdin_can_write_on() {
    let shim = Shim::start("unread");
    shim.run("c", &shell("sleep 1000"));
    for (name, exec) in [("plain", true), ("init", false)] {
        let fifos = Fifos::new(&shim, name, false);
        let client = fifos.reader();
        fifos.start(
            &shim,
            name,
            exec,
            "exec < /dev/null; echo closed; until [ -e /dev/shm/go ]; do sleep 0.02; done; echo end",
        );
        let typist = fifos.writer();
        until_true("the process to close its stdin", LONG, || ioctl_fionread(&client).unwrap() > 0);
        write_all(typist, 1 << 20);
        let (id, exec) = ids(name, exec);
        assert_eq!(shim.phase(id, exec), "RUNNING");
        let pid = shim.state(id, exec).unwrap().pid;
        fs::write(format!("/proc/{pid}/root/dev/shm/go"), "").unwrap();
        assert_eq!(shim.status(id, exec), 0);
        assert_eq!(read_out(client), "closed\nend\n", "{name}");
        shim.delete(id, exec).unwrap();
    }
    shim.end("c");
}

/// containerd's CRI stops sending stdin when the first output ends, so `sh -c 'cat > file'` would get only a part of
/// it.
#[test]
fn output_fifo_stays_open_until_the_process_exits() {
    let shim = Shim::start("early");
    shim.run("c", &shell("sleep 1000"));
    for (name, exec) in [("plain", true), ("init", false)] {
        let fifos = Fifos::new(&shim, name, false);
        let client = fifos.reader();
        fifos.start(&shim, name, exec, "exec > /dev/shm/got; echo begun; exec cat");
        let mut typist = fifos.writer();
        let (id, exec) = ids(name, exec);
        let got = format!("/proc/{}/root/dev/shm/got", shim.state(id, exec).unwrap().pid);
        // The shim passes on the input after it has learned that no process holds stdout.
        for word in ["begun\n", "begun\nmore\n"] {
            until_true("the input to arrive", LONG, || fs::read_to_string(&got).unwrap_or_default() == word);
            assert_eq!(shim.phase(id, exec), "RUNNING");
            let mut fds = [PollFd::new(&client, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
            assert!(fds[0].revents().is_empty(), "{name}: {:?} while it runs", fds[0].revents());
            if word == "begun\n" {
                typist.write_all(b"more\n").unwrap();
            }
        }
        drop(typist);
        shim.close_stdin(id, exec).unwrap();
        assert_eq!(shim.status(id, exec), 0);
        assert_eq!(read_out(client), "", "{name}");
        shim.delete(id, exec).unwrap();
    }
    shim.end("c");
}

#[test]
fn large_input_arrives_whole_before_its_end() {
    let shim = Shim::start("input");
    shim.run("c", &shell("sleep 1000"));
    let fifos = Fifos::new(&shim, "e", false);
    let client = fifos.reader();
    fifos.start(&shim, "e", true, "cat > /dev/shm/f; stat -c %s /dev/shm/f 2> /dev/null || wc -c < /dev/shm/f");
    let mut typist = fifos.writer();
    typist.write_all(&vec![b'x'; 64 << 20]).unwrap();
    drop(typist);
    shim.close_stdin("c", "e").unwrap();
    shim.status("c", "e");
    let file = format!("/proc/{}/root/dev/shm/f", shim.state("c", "").unwrap().pid);
    assert_eq!(fs::metadata(file).unwrap().len(), 64 << 20);
    drop(client);
    shim.delete("c", "e").unwrap();
    shim.end("c");
}

/// A reconnecting client opens the fifo as containerd does: its open(2) waits for a writer.
#[test]
fn last_lines_wait_for_a_client_that_reconnects() {
    let shim = Shim::start("away");
    shim.run("c", &shell("sleep 1000"));
    for (name, terminal, exec) in kinds() {
        for goes_late in [false, true] {
            let name = format!("{name}{goes_late}");
            let fifos = Fifos::new(&shim, &name, terminal);
            let first = fifos.reader();
            fifos.start(&shim, &name, exec, "until [ -e /dev/shm/go ]; do sleep 0.02; done; echo last; echo lines");
            let (id, exec) = ids(&name, exec);
            let pid = shim.state(id, exec).unwrap().pid;
            // The client disconnects before the last lines, or when they are unread in the fifo.
            let first = if goes_late {
                Some(first)
            } else {
                drop(first);
                None
            };
            fs::write(format!("/proc/{pid}/root/dev/shm/go"), "").unwrap();
            assert_eq!(shim.status(id, exec), 0);
            drop(first);
            fs::remove_file(format!("/proc/{}/root/dev/shm/go", shim.state(id, "").unwrap().pid)).unwrap_or_default();
            let path = fifos.stdout.clone();
            let back = thread::spawn(move || fs::read_to_string(path).unwrap());
            until_true("the lines, and the end", LONG, || back.is_finished());
            let lines = back.join().unwrap();
            assert_eq!(lines.split_whitespace().collect::<Vec<_>>(), ["last", "lines"], "{name}");
            shim.delete(id, exec).unwrap();
        }
    }
    shim.end("c");
}

/// The amount of short lines that fit unread, in bytes.
const UNREAD: usize = 125 << 10;

#[test]
fn unread_short_lines_fit_into_the_fifo() {
    let shim = Shim::start("lines");
    shim.run("c", &shell("sleep 1000"));
    // A line has 20 bytes with its end, and 21 on a terminal.
    let count = UNREAD.div_ceil(20);
    let script = format!("i=0; while [ $i -lt {count} ]; do echo 0123456789012345678; i=$((i+1)); done");
    for (name, terminal, exec) in kinds() {
        let fifos = Fifos::new(&shim, name, terminal);
        let client = fifos.reader();
        fifos.start(&shim, name, exec, &script);
        let (id, exec) = ids(name, exec);
        // The process could not exit if one of its lines did not fit.
        assert_eq!(shim.status(id, exec), 0);
        assert_eq!(read_out(client).lines().count(), count, "{name}");
        shim.delete(id, exec).unwrap();
    }
    shim.end("c");
}

/// The shim reads such lines one by one, since they come at long intervals.
#[test]
fn unread_lines_at_long_intervals_fit_into_the_fifo() {
    let shim = Shim::start("slowly");
    shim.run("c", &shell("sleep 1000"));
    let fifos = Fifos::new(&shim, "e", false);
    let client = fifos.reader();
    fifos.start(&shim, "e", true, "while read line; do echo $line; done");
    let mut typist = fifos.writer();
    for n in 0..100 {
        writeln!(typist, "{n:04}").unwrap();
        until_true("a line in the fifo", LONG, || ioctl_fionread(&client).unwrap() == (n + 1) * 5);
    }
    drop(typist);
    shim.close_stdin("c", "e").unwrap();
    assert_eq!(shim.status("c", "e"), 0);
    assert_eq!(read_out(client).lines().count(), 100);
    shim.delete("c", "e").unwrap();
    shim.end("c");
}

/// The log is a fifo without an active reader: a writer hangs once it is full.
#[test]
fn hanging_log_file_delays_no_call() {
    let shim = Shim::start("hanging");
    shim.run("c2", &shell("sleep 1000"));
    for (name, terminal) in [("plain", false), ("it", true)] {
        let log = stdio::fifo(shim.work(), &format!("{name}-log"));
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&log).unwrap();
        let mut request = shim.request(name, &shell("while :; do echo 0123456789012345678; done"));
        request.stdout = format!("file://{}", log.display());
        request.terminal = terminal;
        shim.create_as(request).unwrap();
        shim.start_process(name, "").unwrap();
        until_true("a writer that hangs", LONG, || writers_that_hang(&shim) > 0);
        for id in [name, "c2"] {
            assert_eq!(shim.phase(id, ""), "RUNNING");
        }
        shim.run_exec("c2", name, &["/bin/echo"], None);
        assert_eq!(shim.status("c2", name), 0);
        shim.delete("c2", name).unwrap();
        shim.kill("c2", "", 0, false).unwrap();
        shim.kill(name, "", 9, false).unwrap();
        assert_eq!(shim.status(name, ""), 137);
        assert!(writers_that_hang(&shim) > 0, "the writer hangs no more: this proves nothing");
        drop(reader);
        shim.delete(name, "").unwrap();
        until_true("the writer to go", LONG, || writers_that_hang(&shim) == 0);
    }
    shim.end("c2");
}

/// Returns the number of the shim's threads in write(2).
fn writers_that_hang(shim: &Shim) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", shim.pid)).unwrap().flatten();
    let number = format!("{} ", libc::SYS_write);
    threads.filter(|t| fs::read_to_string(t.path().join("syscall")).is_ok_and(|call| call.starts_with(&number))).count()
}

#[test]
fn log_file_of_a_busy_process_is_whole() {
    let shim = Shim::start("filelog");
    for terminal in [false, true] {
        let log = shim.work().join(format!("log-{terminal}"));
        let mut request =
            shim.request("c1", &shell("dd if=/dev/zero bs=1000 count=5000 2> /dev/null; echo; echo last"));
        request.stdout = format!("file://{}", log.display());
        request.terminal = terminal;
        shim.create_as(request).unwrap();
        shim.start_process("c1", "").unwrap();
        assert_eq!(shim.status("c1", ""), 0);
        shim.delete("c1", "").unwrap();
        let all = fs::read(&log).unwrap();
        assert_eq!(all.iter().filter(|&&byte| byte == 0).count(), 5_000_000);
        assert_eq!(String::from_utf8_lossy(&all[5_000_000..]).trim(), "last");
    }
}

#[test]
fn terminal_size_set_before_start_holds_at_start() {
    let shim = Shim::start("size");
    shim.run("c", &shell("sleep 1000"));
    for round in 0..10 {
        let name = format!("e{round}");
        let fifos = Fifos::new(&shim, &name, true);
        let client = fifos.reader();
        let mut request = exec_request("c", &name, &process(&["/bin/stty", "size"]), None);
        request.stdin = fifos.stdin.to_str().unwrap().into();
        request.stdout = fifos.stdout.to_str().unwrap().into();
        request.terminal = true;
        shim.exec_as(request).unwrap();
        shim.resize("c", &name, 70_000, 40).unwrap_err();
        shim.resize("c", &name, 80, 20).unwrap();
        shim.resize("c", &name, 100, 40).unwrap();
        shim.start_process("c", &name).unwrap();
        assert_eq!(shim.status("c", &name), 0);
        assert_eq!(read_out(client).trim_end(), "40 100");
        shim.delete("c", &name).unwrap();
    }
    shim.end("c");
}

/// A log program that ends by itself has time for everything that it has read.
#[test]
fn log_program_gets_all_output_before_it_is_ended() {
    let shim = Shim::start("slowlogger");
    let (program, log) = (shim.work().join("logger"), shim.work().join("log"));
    let script = format!(
        "#!/bin/sh\nexec 5>&-\nwhile read -r line; do echo \"$line\" >> {log}; done <&3\nwhile read -r line; do :; done <&4\necho end >> {log}\n",
        log = log.display()
    );
    executable::write(&program, &script, 0o755);
    for terminal in [false, true] {
        fs::write(&log, "").unwrap();
        let count = 3000;
        let mut request =
            shim.request("c1", &shell(&format!("i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done")));
        request.stdout = format!("binary://{}", program.display());
        request.terminal = terminal;
        shim.create_as(request).unwrap();
        shim.start_process("c1", "").unwrap();
        assert_eq!(shim.status("c1", ""), 0);
        shim.delete("c1", "").unwrap();
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!((text.lines().count(), text.lines().last()), (count + 1, Some("end")), "terminal: {terminal}");
    }
}

/// The program inherits the settings of the shim's caller, and not those that the shim changed for itself.
#[test]
fn log_program_inherits_limits_and_signals_of_the_shims_caller() {
    let setting = "ulimit -Sn 777; trap '' HUP USR2 PIPE ALRM; umask 027; exec \"$@\"";
    let before: Vec<String> = ["/bin/sh", "-c", setting, "sh"].map(Into::into).to_vec();
    let shim = Shim::start_under(&before, Kind::Berth, "callers");
    let own = fs::read_to_string(format!("/proc/{}/limits", shim.pid)).unwrap();
    let files = own.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(!files.contains(" 777 "), "the shim has not raised its limit: {files}");
    let (program, seen) = (shim.work().join("logger"), shim.work().join("seen"));
    let script = format!(
        "#!/bin/sh\nexec > {}\nulimit -Sn\numask\ngrep Sig[BI] /proc/self/status\nfor fd in /proc/$$/fd/*; do readlink $fd; done\necho done\nexec 5>&-\ncat <&3\n",
        seen.display()
    );
    executable::write(&program, &script, 0o755);
    let mut request = shim.request("c1", &shell("echo out"));
    request.stdout = format!("binary://{}", program.display());
    shim.create_as(request).unwrap();
    shim.start_process("c1", "").unwrap();
    assert_eq!(shim.status("c1", ""), 0);
    shim.delete("c1", "").unwrap();
    let text = fs::read_to_string(&seen).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "777", "{text}");
    assert_eq!(lines[1], "0027", "{text}");
    for line in &lines[2..4] {
        let (name, mask) = line.split_once(":\t").unwrap();
        assert!(["SigBlk", "SigIgn"].contains(&name), "{text}");
        assert_eq!(u64::from_str_radix(mask, 16).unwrap(), 0, "{text}");
    }
    // Its three streams, the three pipes, and the script that the shell reads.
    let fds: Vec<&str> = lines[4..].iter().copied().take_while(|line| *line != "done").collect();
    assert_eq!(fds.iter().filter(|fd| fd.starts_with("pipe:")).count(), 3, "{fds:?}");
    let known =
        |fd: &&str| fd.starts_with("pipe:") || *fd == "/dev/null" || fd.contains("/logger") || fd.contains("/seen");
    assert!(fds.iter().all(known) && fds.len() <= 8, "{fds:?}");
}

/// A client of a probe that timed out waits for the end of the streams, and calls Delete only then.
#[test]
fn exec_streams_end_although_a_child_holds_them() {
    let shim = Shim::start("linger");
    shim.run("c", &shell("sleep 1000"));
    let (descriptors, ..) = shim.size();
    let fifos = Fifos::new(&shim, "e", false);
    let client = fifos.reader();
    fifos.start(&shim, "e", true, "echo said; sleep 1000 & exec sleep 1000");
    let typist = fifos.writer();
    until_true("its word", LONG, || ioctl_fionread(&client).unwrap() > 0);
    shim.kill("c", "e", 9, false).unwrap();
    assert_eq!(shim.status("c", "e"), 137);
    assert_eq!(read_out(client), "said\n");
    drop(typist);
    until_true("the descriptors to be closed", LONG, || shim.size().0 <= descriptors);
    shim.delete("c", "e").unwrap();
    shim.end("c");
}
