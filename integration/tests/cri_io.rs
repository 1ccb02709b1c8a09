//! The streams of a pod: attach, logs, port-forward.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    containerd::Containerd,
    matrix,
    pod::{Pod, container_config},
    session::Session,
    wait::{LONG, until_true},
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpStream,
};

matrix!(
    attach_carries_input_output_and_the_end_of_input,
    attach_carries_a_terminal,
    logs_have_every_line_of_both_streams,
    port_forward_reaches_a_listener_in_the_pod
);

fn attach_carries_input_output_and_the_end_of_input(containerd: &Containerd) {
    let pod = Pod::run(containerd, "attach");
    let mut config =
        container_config("main", &["sh", "-c", "while read -r word; do echo \"<$word>\"; done; echo end >&2"]);
    config["stdin"] = json!(true);
    config["stdin_once"] = json!(true);
    let main = pod.start_config(&config);
    let mut client = Session::start(containerd.crictl_command().args(["attach", "--stdin", &main.id]));
    client.send("one\n");
    client.expect("<one>");
    client.send("two\n");
    client.expect("<two>");
    client.close_input();
    // The end of the input reaches the container, which exits, and attach ends.
    assert_eq!(main.exited()["exitCode"], 0);
    client.finish();
    main.expect_log(" stdout F <two>\n");
    main.expect_log(" stderr F end\n");
    pod.stop();
    pod.remove();
}

fn attach_carries_a_terminal(containerd: &Containerd) {
    let pod = Pod::run(containerd, "attach-tty");
    let mut config = container_config("main", &["sh"]);
    config["stdin"] = json!(true);
    config["tty"] = json!(true);
    let main = pod.start_config(&config);
    let mut client = Session::on_terminal(containerd.crictl_command().args(["attach", "--stdin", "--tty", &main.id]));
    client.send("tty; until stty size 2> /dev/null | grep 111; do usleep 20000; done\n");
    client.expect("/dev/pts/0");
    client.expect("37 111");
    client.send("exit 42\n");
    assert_eq!(main.exited()["exitCode"], 42);
    pod.stop();
    pod.remove();
}

fn logs_have_every_line_of_both_streams(containerd: &Containerd) {
    let pod = Pod::run(containerd, "logs");
    // The two streams take different ways, so only the order within each stream is fixed.
    // The container ends when containerd reads: 1.6 closes a stream that it is still opening when the exit comes.
    let script = "mkfifo /go; echo out; echo err >&2; read -r _ < /go; \
                  i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; printf unfinished";
    let main = pod.start("main", &["sh", "-c", script]);
    main.expect_log(" stdout F out\n");
    main.exec(&["sh", "-c", "echo > /go"]);
    main.exited();
    main.expect_log("unfinished\n");
    let log = main.expect_log(" stderr F err\n");
    let of = |stream: &str| log.lines().filter(|line| line.contains(stream)).collect::<Vec<_>>();
    let (out, err) = (of(" stdout "), of(" stderr "));
    assert_eq!((out.len(), err.len()), (2002, 1), "{log}");
    assert!(out[0].ends_with(" stdout F out"), "{log}");
    assert!(["P", "F"].iter().any(|tag| out[2001].ends_with(&format!(" stdout {tag} unfinished"))), "{log}");
    let numbers: Vec<&str> = log.lines().filter_map(|line| line.split_once("stdout F line ")).map(|(_, n)| n).collect();
    let expected: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);
    // Two of the last three lines of the log are standard output's, wherever the line of the other stream is.
    let out = containerd.crictl(["logs", "--tail", "3", &main.id]);
    assert!(out.stdout.contains("line 1999\nunfinished"), "{out}");
    let out = containerd.crictl(["logs", &main.id]);
    assert_eq!(out.stderr, "err\n", "{out}");
    pod.stop();
    pod.remove();
}

fn port_forward_reaches_a_listener_in_the_pod(containerd: &Containerd) {
    let pod = Pod::run(containerd, "forward");
    let answer = "read -r word; echo \"<$word>\"";
    let main = pod.start("main", &["nc", "-ll", "-p", "8080", "-e", "sh", "-c", answer]);
    // crictl ends when one connection is refused. Port 8080 is 1F90, and state 0A is LISTEN.
    let listening = ["grep", "-q", ":1F90 .* 0A ", "/proc/net/tcp", "/proc/net/tcp6"];
    until_true("the server to listen", LONG, || main.exec(&listening).status.success());
    let forward = Session::start(containerd.crictl_command().args(["port-forward", &pod.id, ":8080"]));
    let heard = forward.expect(" -> ");
    let port: u16 = heard.split_once("127.0.0.1:").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let mut answer = String::new();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"through\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "<through>\n");
    drop(forward);
    main.stop(0);
    pod.stop();
    pod.remove();
}
