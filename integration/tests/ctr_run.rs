//! `ctr run` in the foreground: output, exit codes, a terminal, and errors of starting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    containerd::{Containerd, Runtime},
    matrix,
    task::{run, run_in_pipes, run_logged, run_on_terminal},
};

matrix!(ctr_run_passes_output_and_exit_codes, ctr_run_carries_a_terminal, ctr_run_reports_why_a_start_failed);

fn ctr_run_passes_output_and_exit_codes(containerd: &Containerd) {
    containerd.import_for_ctr();
    // ctr may stop reading when it learns of the exit, so the container waits until its output is read.
    let mut streams =
        run_in_pipes(containerd, "streams", &[], &["sh", "-c", "echo one; echo two >&2; read line; exit 3"]);
    streams.expect("one\n");
    streams.expect("two\n");
    streams.send("on\n");
    assert_eq!(streams.finish(), 3, "{}", streams.heard());
    for (script, code) in [("exit 1", 1), ("exit 42", 42), ("kill -9 $$", 137), ("kill -15 $$", 143), ("nosuch", 127)] {
        // The first process of a pid namespace is immune to its own signals, so a child shell dies, and its parent
        // passes on the code.
        let out = run(containerd, &format!("code-{code}"), &[], &["sh", "-c", &format!("sh -c '{script}'; exit $?")]);
        assert_eq!(out.code(), code, "{script}: {out}");
    }
    // Large output arrives whole.
    let script = "yes '#########' | head -c 1000000; echo end; read line";
    let mut large = run_in_pipes(containerd, "large", &[], &["sh", "-c", script]);
    assert_eq!(large.expect("#\nend\n").matches('#').count(), 900_000);
    large.send("on\n");
    assert_eq!(large.finish(), 0);
    let flags = ["--env", "WORD=it works", "--cwd", "/tmp"];
    let mut env = run_in_pipes(containerd, "env", &flags, &["sh", "-c", "echo $WORD in $(pwd); read line"]);
    env.expect("it works in /tmp\n");
    env.send("on\n");
    assert_eq!(env.finish(), 0, "{}", env.heard());
}

fn ctr_run_carries_a_terminal(containerd: &Containerd) {
    containerd.import_for_ctr();
    let mut shell = run_on_terminal(containerd, "terminal", &["sh"]);
    // ctr passes the terminal size on after the start.
    shell.send("tty; until stty size 2> /dev/null | grep 111; do usleep 20000; done\n");
    shell.expect("/dev/pts/0");
    shell.expect("37 111");
    shell.send("echo $((6 * 7)) is it\n");
    shell.expect("42 is it");
    shell.send("exit 5\n");
    assert_eq!(shell.finish(), 5, "{}", shell.heard());
}

fn ctr_run_reports_why_a_start_failed(containerd: &Containerd) {
    containerd.import_for_ctr();
    // The message of execve is output of the process. Only berth promises that it is complete at the end.
    let lost = |said: &str| containerd.runtime == Runtime::Runc && said.is_empty();
    for (name, program, words) in [
        ("missing", "no-such-program", "executable file not found in $PATH"),
        ("absolute", "/no/such/program", "no such file or directory"),
        ("data", "/bad/data", "permission denied"),
        ("script", "/bad/script", "no such file or directory"),
        ("text", "/bad/text", "exec format error"),
        ("elf", "/bad/elf", "exec format error"),
    ] {
        let said = run_logged(containerd, name, &[], &[program]).failed();
        assert!(said.contains(words) && said.contains(program) || lost(&said), "{program}: {said}");
        // ctr 1.6 leaves the created task when the start failed.
        let id = containerd.id(name);
        containerd.ctr(["task", "delete", "--force", &id]);
        containerd.ctr(["container", "delete", &id]);
    }
    let said = run_logged(containerd, "directory", &[], &["/etc"]).failed();
    assert!(said.contains("permission denied") || said.contains("is a directory") || lost(&said), "{said}");
}
