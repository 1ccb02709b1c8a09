//! `make demo`: runs a pod of the handler `berth` under a private containerd through crictl, shows it, and removes it.
//!
//! The first process holds the reserved names and cleans up in every case. It starts a second process, which shows the
//! pod.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "the harness of the tests"
)]

use berth_integration::{
    command::run,
    containerd::{Containerd, Form, Runtime, Version, versions},
    pod::{Pod, container_config, pod_config},
    procs::{self, Process},
    reservation::Reservation,
    tools::tool,
    wait::{LONG, until},
};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("show") {
        show();
        return ExitCode::SUCCESS;
    }
    // SIGINT ends the child, whose signal mask std empties. This process stays to clean up.
    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.add(Signal::SIGTERM);
    interrupts.thread_block().expect("block signals");
    let reservation = Reservation::take();
    let (name, value) = reservation.lend();
    let me = std::env::current_exe().expect("the path of this program");
    let shown = Command::new(me).arg("show").env(name, value).status().expect("start the demo");
    drop(reservation);
    if shown.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show() {
    let version = *versions().first().expect("a containerd; run integration/tools/setup demo");
    let program = tool(if version == Version::V2_3 { "CONTAINERD_2" } else { "CONTAINERD_1" });
    let said = run(Command::new(program).arg("--version"), LONG).ok();
    let number = said.split_whitespace().nth(2).unwrap_or_default().trim_end_matches("+unknown");
    let runtime = Runtime::under_test(Form::ByPath);
    say(&format!("starting a private containerd {number}; its handler {} is {}", runtime.handler(), runtime.shim()));
    let mut containerd = Containerd::start_with(version, runtime);
    containerd.remember();
    say("made and imported the images: busybox, and a pause program of our own");

    let pod = Pod::run(&containerd, "hello");
    say(&format!("crictl runp --runtime {} pod.json", runtime.handler()));
    let mut config =
        container_config("main", &["sh", "-c", "echo \"hello from $(hostname), uid $(id -u)\"; exec sleep 1000"]);
    config["linux"]["resources"] =
        json!({"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50_000, "cpu_period": 100_000});
    // The kubelet asks for these by default.
    config["linux"]["security_context"] = json!({
        "namespace_options": {"pid": 1}, "run_as_user": {"value": 1000}, "no_new_privs": true, "seccomp": {"profile_type": 0},
        "masked_paths": ["/proc/kcore", "/proc/keys"], "readonly_paths": ["/proc/sys"],
    });
    let main = pod.start_config(&config);
    say("crictl create && crictl start: a container with 64 MiB, half a CPU and a seccomp profile");
    print(&containerd, &["pods"]);
    print(&containerd, &["ps"]);
    main.expect_log("hello");
    print(&containerd, &["logs", &main.id]);
    print(&containerd, &["exec", &main.id, "sh", "-c", "id; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; exec ps"]);
    until("measures", LONG, || {
        containerd.crictl(["stats", "--output", "json", &main.id]).stdout.contains("usageCoreNanoSeconds").then_some(())
    });
    print(&containerd, &["stats"]);
    say("the processes, from the outside:");
    let all = procs::all();
    for shim in containerd.shims() {
        tree(&all, &shim, 1);
    }
    say("crictl stop, rm, stopp, rmp");
    main.stop(0);
    main.remove();
    pod.stop();
    pod.remove();
    if version == Version::V2_3 && matches!(runtime, Runtime::Berth(_)) {
        containerd.runtime = Runtime::Berth(Form::WithoutPause);
        show_without_pause(&containerd);
    }
    containerd.assert_clean();
    say("taken down: no process, mount, cgroup or network namespace of it is left");
}

/// The same without a pause container: an idle pod is its shim alone.
fn show_without_pause(containerd: &Containerd) {
    let mut config = pod_config(containerd, "alone");
    let own_pids = json!({"namespace_options": {"pid": 1}});
    config["linux"]["security_context"] = own_pids.clone();
    let pod = Pod::run_config(containerd, config);
    say(&format!("crictl runp --runtime {}: a pod without a pause container", containerd.runtime.handler()));
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["security_context"] = own_pids;
    let main = pod.start_config(&config);
    print(containerd, &["exec", &main.id, "hostname"]);
    say("the processes, from the outside:");
    let all = procs::all();
    for shim in containerd.shims().iter().filter(|shim| shim.line.contains(&pod.id)) {
        tree(&all, shim, 1);
    }
    main.stop(0);
    pod.stop();
    pod.remove();
}

fn say(text: &str) {
    println!("demo: {text}");
}

fn print(containerd: &Containerd, args: &[&str]) {
    let shown: Vec<String> =
        args.iter().map(|arg| if arg.contains(' ') { format!("\"{arg}\"") } else { short(arg) }).collect();
    println!("$ crictl {}", shown.join(" "));
    // `crictl stats` clears the screen first.
    println!("{}", containerd.crictl(args).ok().trim_start_matches("\x1b[2J\x1b[H"));
}

/// Shortens an id as crictl does.
fn short(word: &str) -> String {
    if word.len() == 64 { word[..13].to_owned() } else { word.to_owned() }
}

fn tree(all: &[Process], root: &Process, depth: usize) {
    let line: Vec<String> = root.line.split(' ').map(short).collect();
    println!("{:indent$}{} {}", "", root.pid, line.join(" "), indent = 2 * depth);
    for child in all.iter().filter(|process| process.parent == root.pid) {
        tree(all, child, depth + 1);
    }
}
