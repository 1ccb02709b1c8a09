//! The streams of a process under a shim: fifos, files, log programs, terminals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    executable,
    shim::{
        Shim,
        stdio::{Stdio, Stream},
    },
    wait::{LONG, until_true},
};
use berth_proto::ttrpc::Code;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

fn shell(script: &str) -> Bundle {
    Bundle::busybox(&["/bin/sh", "-c", script], &["sh", "cat", "sleep", "echo", "dd", "tty", "stty", "head", "id"])
}

#[test]
fn both_output_fifos_get_all_output_apart() {
    let shim = Shim::start("outputs");
    let mut stdio = Stdio::outputs(shim.work(), "c1");
    shim.run_with("c1", &shell("echo out; echo err >&2; exit 3"), &stdio);
    assert_eq!(shim.status("c1", ""), 3);
    assert_eq!((stdio.out.end(), stdio.err.take().unwrap().end()), ("out\n".into(), "err\n".into()));
    shim.delete("c1", "").unwrap();
}

#[test]
fn stdin_stays_open_until_close_io() {
    let shim = Shim::start("stdin");
    let mut stdio = Stdio::all(shim.work(), "c1");
    shim.run_with("c1", &shell("cat; echo end"), &stdio);
    stdio.write("one\n");
    stdio.hang_up();
    stdio.out.until("one\n");
    stdio.write("two\n");
    stdio.out.until("two\n");
    // A client that disconnects does not end the stream: it may reconnect.
    stdio.hang_up();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(shim.phase("c1", ""), "RUNNING");
    shim.close_stdin("c1", "").unwrap();
    assert_eq!(shim.status("c1", ""), 0);
    assert_eq!(stdio.out.end(), "one\ntwo\nend\n");
    shim.delete("c1", "").unwrap();
}

#[test]
fn close_io_before_start_takes_effect_at_start() {
    let shim = Shim::start("earlyclose");
    shim.run("c1", &shell("sleep 1000"));
    let mut stdio = Stdio::all(shim.work(), "e");
    shim.exec("c1", "e", &["/bin/sh", "-c", "cat; echo end"], Some(&stdio)).unwrap();
    shim.close_stdin("c1", "e").unwrap();
    shim.start_process("c1", "e").unwrap();
    assert_eq!(shim.status("c1", "e"), 0);
    assert_eq!(stdio.out.end(), "end\n");
    shim.delete("c1", "e").unwrap();
    shim.end("c1");
}

#[test]
fn reader_that_reconnects_loses_no_output() {
    let shim = Shim::start("restart");
    let mut stdio = Stdio::outputs(shim.work(), "c1");
    let path = stdio.stdout.clone();
    // The first reader stands for a containerd that dies: it never reads, and is closed.
    let first = fs::OpenOptions::new()
        .read(true)
        .custom_flags_nonblock()
        .open(berth_integration::shim::stdio::fifo(shim.work(), "again"))
        .unwrap();
    stdio.stdout = shim.work().join("again").to_str().unwrap().into();
    let script = "echo first; echo second; : > /up; until [ -e /go ]; do sleep 0.02; done; echo third";
    let bundle = shell(script).set("/root/readonly", false.into());
    shim.run_with("c1", &bundle, &stdio);
    drop(first);
    until_true("two lines that nobody has read", LONG, || bundle.rootfs().join("up").exists());
    let mut back = Stream::read(std::path::Path::new(&stdio.stdout));
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    assert_eq!(shim.status("c1", ""), 0);
    assert_eq!(back.end(), "first\nsecond\nthird\n");
    shim.delete("c1", "").unwrap();
    drop(path);
}

trait NonBlocking {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl NonBlocking for fs::OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK)
    }
}

#[test]
fn dev_stdout_of_a_fifo_can_be_reopened() {
    let shim = Shim::start("reopen");
    let mut stdio = Stdio::outputs(shim.work(), "c1");
    let bundle = shell("id -u; echo again > /dev/stdout; echo err > /dev/stderr").set("/process/user/uid", 1234.into());
    shim.run_with("c1", &bundle, &stdio);
    assert_eq!(shim.status("c1", ""), 0, "{:?}", stdio.err.as_ref().unwrap().so_far());
    assert_eq!((stdio.out.end(), stdio.err.take().unwrap().end()), ("1234\nagain\n".into(), "err\n".into()));
    shim.delete("c1", "").unwrap();
}

#[test]
fn large_output_arrives_whole() {
    let shim = Shim::start("much");
    let mut stdio = Stdio::outputs(shim.work(), "c1");
    shim.run_with("c1", &shell("dd if=/dev/zero bs=1000 count=20000 2> /dev/null"), &stdio);
    assert_eq!(shim.status("c1", ""), 0);
    shim.delete("c1", "").unwrap();
    stdio.out.end();
    assert_eq!(stdio.out.len(), 20_000_000);
}

#[test]
fn delete_waits_5_s_at_most_for_a_grandchild_that_holds_stdout() {
    let shim = Shim::start("grandchild");
    shim.run("c1", &shell("sleep 1000"));
    let mut stdio = Stdio::outputs(shim.work(), "e");
    shim.run_exec("c1", "e", &["/bin/sh", "-c", "echo said; sleep 1000 &"], Some(&stdio));
    assert_eq!(shim.status("c1", "e"), 0);
    assert!(!stdio.out.ended());
    let start = Instant::now();
    shim.delete("c1", "e").unwrap();
    assert!(start.elapsed() > Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(stdio.out.end(), "said\n");
    shim.end("c1");
}

#[test]
fn shim_terminal_takes_input_and_resizes() {
    let shim = Shim::start("terminal");
    let mut stdio = Stdio::terminal(shim.work(), "c1");
    let bundle = shell("tty; stty size; read line; echo got $line; read other; stty size; exit 5");
    shim.create_with("c1", &bundle, &stdio).unwrap();
    shim.resize("c1", "", 100, 40).unwrap();
    shim.start_process("c1", "").unwrap();
    stdio.out.until("40 100");
    stdio.write("words\n");
    stdio.out.until("got words");
    assert_eq!(masters(&shim), 1);
    shim.resize("c1", "", 132, 50).unwrap();
    shim.resize("c1", "", 70_000, 50).unwrap_err().is(Code::INVALID_ARGUMENT, &["70000"]);
    stdio.write("more\n");
    assert_eq!(shim.status("c1", ""), 5);
    let said = stdio.out.end();
    assert!(said.contains("/dev/pts/0") && said.contains("50 132"), "{said}");
    shim.delete("c1", "").unwrap();
    until_true("the terminal to be closed", LONG, || masters(&shim) == 0);
}

/// Returns the number of terminal masters that the shim has open.
fn masters(shim: &Shim) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", shim.pid)).unwrap().flatten();
    files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.ends_with("ptmx"))).count()
}

#[test]
fn large_terminal_output_arrives_whole() {
    let shim = Shim::start("muchtty");
    shim.run("c1", &shell("sleep 1000"));
    let mut stdio = Stdio::terminal(shim.work(), "e");
    shim.run_exec("c1", "e", &["/bin/sh", "-c", "dd if=/dev/zero bs=1000 count=2000 2> /dev/null"], Some(&stdio));
    assert_eq!(shim.status("c1", "e"), 0);
    shim.delete("c1", "e").unwrap();
    stdio.out.end();
    assert_eq!(stdio.out.len(), 2_000_000);
    shim.end("c1");
}

#[test]
fn log_file_takes_both_streams() {
    let shim = Shim::start("file");
    let path = shim.work().join("logs/c1.log");
    let mut request = shim.request("c1", &shell("echo out; echo err >&2"));
    request.stdout = format!("file://{}", path.display());
    request.stderr = request.stdout.clone();
    shim.create_as(request).unwrap();
    shim.start_process("c1", "").unwrap();
    assert_eq!(shim.status("c1", ""), 0);
    shim.delete("c1", "").unwrap();
    let mut lines: Vec<_> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn full_disk_does_not_stop_the_container() {
    let shim = Shim::start("full");
    let mut request = shim.request("c1", &shell("dd if=/dev/zero bs=1000 count=1000 2> /dev/null"));
    request.stdout = "/dev/full".into();
    shim.create_as(request).unwrap();
    shim.start_process("c1", "").unwrap();
    assert_eq!(shim.status("c1", ""), 0);
    shim.delete("c1", "").unwrap();
}

#[test]
fn log_program_gets_both_streams_and_its_environment() {
    let shim = Shim::start("logger");
    let (program, log) = (shim.work().join("logger"), shim.work().join("log"));
    let script = format!(
        "#!/bin/sh\nexec > {}\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE $1=$2\"\nprintf r >&5\nexec 5>&-\ncat <&3\ncat <&4\n",
        log.display()
    );
    executable::write(&program, &script, 0o755);
    for (id, scheme) in [("c1", "binary"), ("c2", "binary-v2")] {
        let mut request = shim.request(id, &shell("echo out; echo err >&2"));
        request.stdout = format!("{scheme}://{}?key=a%20b", program.display());
        request.stderr = request.stdout.clone();
        shim.create_as(request).unwrap();
        shim.start_process(id, "").unwrap();
        assert_eq!(shim.status(id, ""), 0);
        until_true("the log", LONG, || fs::read_to_string(&log).unwrap().ends_with("out\nerr\n"));
        shim.delete(id, "").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("{id} {} key=a b\nout\nerr\n", shim.namespace));
    }
    let mut request = shim.request("c3", &shell("echo"));
    request.stdout = "binary:///nowhere/logger".into();
    let failure = shim.create_as(request.clone()).unwrap_err();
    assert!(failure.message.contains("/nowhere/logger"), "{failure:?}");
    request.stdout = "carrier-pigeon:///loft".into();
    shim.create_as(request).unwrap_err().is(Code::INVALID_ARGUMENT, &["carrier-pigeon"]);
    shim.assert_clean();
}

#[test]
fn log_program_that_reads_nothing_is_ended() {
    let shim = Shim::start("deaf");
    let program = shim.work().join("logger");
    executable::write(&program, "#!/bin/sh\nexec 5>&-\nexec sleep 1000\n", 0o755);
    let mut request = shim.request("c1", &shell("echo out"));
    request.stdout = format!("binary://{}", program.display());
    shim.create_as(request).unwrap();
    shim.start_process("c1", "").unwrap();
    shim.wait("c1", "").unwrap();
    shim.delete("c1", "").unwrap();
    shim.assert_clean();
}
