//! Commands in a container through crictl: ExecSync and Exec with a terminal, and the exit codes of both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    command::feed,
    containerd::{Containerd, Runtime},
    matrix,
    pod::{Pod, container_config},
    wait::{LONG, until_true},
};
use serde_json::json;

matrix!(
    exec_sync_returns_both_streams_and_the_exit_code,
    exec_on_a_terminal_passes_input_and_interrupts,
    input_typed_ahead_loses_no_output,
    exec_reads_all_input_after_its_output_has_ended,
    exit_codes_and_reasons_reach_the_kubelet,
    programs_that_cannot_be_executed_are_named
);

fn exec_sync_returns_both_streams_and_the_exit_code(containerd: &Containerd) {
    let pod = Pod::run(containerd, "sync");
    let mut config = container_config("main", &["sleep", "1000"]);
    config["envs"] = json!([{"key": "FROM", "value": "container"}]);
    config["working_dir"] = json!("/tmp");
    let main = pod.start_config(&config);
    let script = "echo $FROM in $(pwd); echo bad >&2";
    // crictl prints both streams to its standard output here, with a blank line after each.
    let out = main.exec(&["sh", "-c", script]);
    assert_eq!((out.stdout.as_str(), out.code()), ("container in /tmp\n\nbad\n\n", 0), "{out}");
    let out = containerd.crictl(["exec", &main.id, "sh", "-c", script]);
    assert_eq!((out.stdout.as_str(), out.stderr.as_str(), out.code()), ("container in /tmp\n", "bad\n", 0), "{out}");
    // crictl exits with 1 if the command failed, and prints the command's exit code.
    for (script, code) in [
        ("exit 1", 1),
        ("exit 42", 42),
        ("no-such-program", 127),
        ("/bad/data", 126),
        ("/bad/script", 127),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let said = main.exec(&["sh", "-c", script]).failed();
        assert!(said.contains(&format!("exited with {code}:")), "{script}: {said}");
    }
    let out = main.exec(&["sh", "-c", "yes 0123456789abcde | head -c 2000000"]);
    assert_eq!((out.stdout.trim_end().len(), out.code()), (1_999_999, 0), "{}", out.stderr);
    // A background child that closed the pipes does not keep the exec from ending.
    assert_eq!(main.exec(&["sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo done"]).ok(), "done");
    pod.stop();
    pod.remove();
}

fn exec_on_a_terminal_passes_input_and_interrupts(containerd: &Containerd) {
    let pod = Pod::run(containerd, "terminal");
    let main = pod.start("main", &["sleep", "1000"]);
    let mut shell = main.exec_on_terminal(&["sh"]);
    shell.send("tty; until stty size 2> /dev/null | grep 111; do usleep 20000; done\n");
    shell.expect("/dev/pts/0");
    shell.expect("37 111");
    shell.send("echo $((6 * 7)) is it\n");
    shell.expect("42 is it");
    shell.send("exit 0\n");
    assert_eq!(shell.finish(), 0, "{}", shell.heard());
    // The terminal's interrupt character reaches the foreground process.
    let mut sleeper = main.exec_on_terminal(&[
        "sh",
        "-c",
        "trap 'echo trapped; exit 0' INT; echo ready; while :; do usleep 20000; done",
    ]);
    sleeper.expect("ready");
    sleeper.send("\x03");
    sleeper.expect("trapped");
    assert_eq!(sleeper.finish(), 0, "{}", sleeper.heard());
    let mut failing = main.exec_on_terminal(&["sh", "-c", "exit 42"]);
    assert_ne!(failing.finish(), 0);
    assert!(failing.heard().contains("exit code 42"), "{}", failing.heard());
    pod.stop();
    pod.remove();
}

/// Input that was typed before the command ended may arrive after its end (kubernetes#124571).
fn input_typed_ahead_loses_no_output(containerd: &Containerd) {
    let pod = Pod::run(containerd, "ahead");
    let main = pod.start("main", &["sleep", "1000"]);
    for round in 0..10 {
        let mut command = main.exec_on_terminal(&["echo", "said"]);
        command.send("x\n");
        assert_eq!(command.finish(), 0, "{}", command.heard());
        // runc's shim has no reader for it, and containerd then drops the output (a known fault).
        assert!(
            containerd.runtime == Runtime::Runc || command.heard().contains("said"),
            "{round}: {}",
            command.heard()
        );
    }
    pod.stop();
    pod.remove();
}

/// A command that has closed its output gets all of its input (containerd#13934).
fn exec_reads_all_input_after_its_output_has_ended(containerd: &Containerd) {
    let pod = Pod::run(containerd, "input");
    let main = pod.start("main", &["sleep", "1000"]);
    let bytes = vec![b'x'; 32 << 20];
    for round in 0..3 {
        let mut exec = containerd.crictl_command();
        exec.args(["exec", "-i", &main.id, "sh", "-c", "cat > /tmp/f"]);
        let out = feed(&mut exec, &bytes, LONG);
        let size = main.exec(&["sh", "-c", "wc -c < /tmp/f"]).stdout;
        // runc's shim ends stdout at once, and containerd then ends stdin (a known fault).
        assert!(
            containerd.runtime == Runtime::Runc || size.trim() == bytes.len().to_string(),
            "{round}: {size}; {out}"
        );
    }
    pod.stop();
    pod.remove();
}

/// The exit codes of containers, and the reasons that the kubelet sees.
fn exit_codes_and_reasons_reach_the_kubelet(containerd: &Containerd) {
    let pod = Pod::run(containerd, "codes");
    let rows = [("zero", "exit 0", 0, "Completed"), ("one", "exit 1", 1, "Error"), ("answer", "exit 42", 42, "Error")];
    for (name, script, code, reason) in rows {
        let status = pod.start(name, &["sh", "-c", script]).exited();
        assert_eq!((&status["exitCode"], &status["reason"]), (&code.into(), &reason.into()), "{status}");
    }
    let sleeper = pod.start("killed", &["sleep", "1000"]);
    sleeper.stop(0);
    assert_eq!(sleeper.exited()["exitCode"], 137);
    let polite =
        pod.start("polite", &["sh", "-c", "trap 'exit 143' TERM; echo ready; while :; do sleep 1000 & wait; done"]);
    polite.expect_log("ready");
    polite.stop(30);
    assert_eq!(polite.exited()["exitCode"], 143);
    // The first process of a shared pid namespace is the pod's, so SIGTERM has its default action here.
    let plain = pod.start("plain", &["sleep", "1000"]);
    plain.stop(30);
    assert_eq!(plain.exited()["exitCode"], 143);
    pod.stop();
    pod.remove();
}

fn programs_that_cannot_be_executed_are_named(containerd: &Containerd) {
    let pod = Pod::run(containerd, "faults");
    for (name, program, words) in [
        ("missing", "no-such-program", "executable file not found in $PATH"),
        ("absolute", "/no/such/program", "no such file or directory"),
        ("data", "/bad/data", "permission denied"),
        ("script", "/bad/script", "no such file or directory"),
        ("text", "/bad/text", "exec format error"),
        ("elf", "/bad/elf", "exec format error"),
    ] {
        let container = pod.create(&container_config(name, &[program]));
        let start = container.try_start();
        let started = start.status.success();
        let status = container.exited();
        if started {
            // runc detects such a fault only after it reported the container as running.
            assert_eq!(
                (containerd.runtime, &status["reason"]),
                (Runtime::Runc, &"Error".into()),
                "{program}: {status}"
            );
            container.expect_log(words);
        } else {
            let said = start.failed();
            assert!(said.contains(words) && said.contains(program), "{program}: {said}");
            assert_eq!(status["reason"], "StartError", "{program}: {status}");
        }
        container.remove();
    }
    let main = pod.start("main", &["sleep", "1000"]);
    let said = main.exec(&["no-such-program"]).failed();
    assert!(said.contains("no-such-program") && said.contains("executable file not found in $PATH"), "{said}");
    main.stop(0);
    until_true("the end", LONG, || main.status()["state"] == "CONTAINER_EXITED");
    let said = main.exec(&["true"]).failed();
    assert!(said.contains("CONTAINER_EXITED"), "{said}");
    pod.stop();
    pod.remove();
}
