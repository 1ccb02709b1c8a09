//! `start`, `-info` and `-v`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use berth_proto::{Message, any, bootstrap::BootstrapResult, info::RuntimeInfo, runc};

use crate::harness::*;

const POD: &str = r#"{"ociVersion":"1.2.0","annotations":{"io.kubernetes.cri.sandbox-id":"pod1"}}"#;

#[test]
fn start_answers_when_the_socket_listens() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    assert_eq!(socket.parent().unwrap(), world.sockets());
    let pid = server_pid(&socket);
    assert_eq!(world.servers(), [pid]);
    assert_eq!((mode(&socket), mode(&world.sockets())), (0o600, 0o700));
    assert_eq!(std::fs::read_to_string(bundle.dir.join("address")).unwrap(), format!("unix://{}", socket.display()));
}

#[test]
fn the_server_process_is_set_up_as_containerd_expects() {
    let world = World::new();
    let socket = world.bundle("c1", "{}").start();
    let pid = server_pid(&socket);
    let proc = PathBuf::from(format!("/proc/{pid}"));
    for fd in ["0", "1"] {
        assert_eq!(std::fs::read_link(proc.join("fd").join(fd)).unwrap(), Path::new("/dev/null"));
    }
    assert_eq!(std::fs::read_link(proc.join("fd/2")).unwrap(), world.dir.join("c1/log"), "a panic is told there");
    for fd in std::fs::read_dir(proc.join("fd")).unwrap().flatten() {
        // A descriptor that the server has closed meanwhile has no link any more.
        let target = std::fs::read_link(fd.path()).unwrap_or_default();
        assert!(!target.to_str().unwrap().starts_with("pipe:"), "{target:?} is a pipe of somebody else");
    }
    // The processes of containers must not inherit the listener.
    let info = std::fs::read_to_string(proc.join("fdinfo/3")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    assert_ne!(u32::from_str_radix(flags, 8).unwrap() & u32::try_from(libc::O_CLOEXEC).unwrap(), 0, "{info}");
    let score = |path: &Path| std::fs::read_to_string(path).unwrap().trim().parse::<i32>().unwrap();
    let own = score(Path::new("/proc/self/oom_score_adj"));
    assert_eq!(score(&proc.join("oom_score_adj")), (own + 1).min(1000));
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).unwrap();
    assert_eq!(group.as_raw(), pid);
    assert_eq!(std::fs::read_link(proc.join("cwd")).unwrap(), world.dir.join("c1"));
    eventually("one thread at rest", || std::fs::read_dir(proc.join("task")).unwrap().count() == 1);
}

#[test]
fn the_oom_score_stops_at_its_maximum() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let input = world.dir.join("input");
    std::fs::write(&input, bundle.params().write_to_bytes().unwrap()).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args([
        "-c",
        "echo 1000 > /proc/self/oom_score_adj; echo 1000 > /proc/$$/oom_score_adj; \"$0\" \"$@\" < ../input",
    ]);
    let shim = bundle.command(&["start"]);
    shell.arg(SHIM).args(shim.get_args()).current_dir(&bundle.dir);
    let pid = server_pid(&started(shell.stdin(Stdio::null()).output().unwrap()));
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "1000");
}

#[test]
fn a_second_start_finds_the_first_server() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    let pid = server_pid(&socket);
    assert_eq!(bundle.start(), socket);
    assert_eq!(world.servers(), [pid]);
}

#[test]
fn the_containers_of_a_pod_share_a_server() {
    let world = World::new();
    let sandbox = world.bundle("pod1", POD);
    let (one, two) = (world.bundle("c1", POD), world.bundle("c2", POD));
    let socket = sandbox.start();
    assert_eq!((one.start(), two.start()), (socket.clone(), socket.clone()));
    assert_eq!(world.servers().len(), 1);
    assert!(one.dir.join("address").exists(), "every bundle knows its server");
    let group = r#"{"annotations":{"io.containerd.runc.v2.group":"pod1","io.kubernetes.cri.sandbox-id":"x"}}"#;
    assert_eq!(world.bundle("c3", group).start(), socket);
    assert_ne!(world.bundle("c4", "{}").start(), socket);
}

#[test]
fn racing_starts_make_one_server() {
    let world = World::new();
    let bundles: Vec<_> = (0..8).map(|n| world.bundle(&format!("c{n}"), POD)).collect();
    let sockets: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = bundles.iter().map(|bundle| scope.spawn(|| bundle.start())).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert!(sockets.iter().all(|socket| *socket == sockets[0]), "{sockets:?}");
    assert_eq!(world.servers(), [server_pid(&sockets[0])]);
}

#[test]
fn a_dead_server_is_replaced() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    let first = server_pid(&socket);
    kill(first, libc::SIGKILL);
    eventually("the server to die", || !is_alive(first));
    assert!(socket.exists());
    assert_eq!(bundle.start(), socket);
    assert_ne!(server_pid(&socket), first);
}

#[test]
fn racing_starts_after_a_crash_make_one_server() {
    let world = World::new();
    let bundles: Vec<_> = (0..8).map(|n| world.bundle(&format!("c{n}"), POD)).collect();
    let pid = server_pid(&bundles[0].start());
    kill(pid, libc::SIGKILL);
    eventually("the server to die", || !is_alive(pid));
    std::thread::scope(|scope| {
        for bundle in &bundles {
            scope.spawn(|| bundle.start());
        }
    });
    assert_eq!(world.servers().len(), 1);
}

/// containerd 1.6 to 2.2 cannot name a socket directory. This test uses the default one and leaves nothing in it.
#[test]
fn older_containerds_get_an_address_they_can_read() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let options = any::pack(&runc::Options { systemd_cgroup: true, ..Default::default() }).unwrap();
    for input in [Vec::new(), options.write_to_bytes().unwrap()] {
        let output = run(bundle.command(&["start"]), &input);
        let plain = String::from_utf8(succeeded(output)).unwrap();
        let socket = PathBuf::from(plain.strip_prefix("unix://").unwrap());
        assert_eq!(socket.parent().unwrap(), Path::new("/run/containerd/s"));
        assert_eq!(mode(&socket), 0o600);

        let mut command = bundle.command(&["start"]);
        command.env("MAX_SHIM_VERSION", "2");
        let json: serde_json::Value = serde_json::from_slice(&succeeded(run(command, &input))).unwrap();
        assert_eq!(json, serde_json::json!({ "version": 2, "address": plain, "protocol": "ttrpc" }));

        let pid = server_pid(&socket);
        kill(pid, libc::SIGTERM);
        eventually("the socket to go", || !socket.exists());
    }
}

#[test]
fn the_server_joins_the_shim_cgroup() {
    let world = World::new();
    let name = format!("/{}", world.namespace);
    let hierarchies: Vec<_> = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"]
        .map(|mount| PathBuf::from(format!("{mount}{name}")))
        .into_iter()
        .filter(|dir| dir.parent().unwrap().join("cgroup.procs").exists())
        .inspect(|dir| std::fs::create_dir(dir).unwrap())
        .collect();
    assert!(!hierarchies.is_empty());
    let bundle = world.bundle("c1", "{}");
    let options = any::pack(&runc::Options { shim_cgroup: name.clone(), ..Default::default() }).unwrap();
    let output = run(bundle.command(&["start"]), &bundle.params_with(options));
    let result = BootstrapResult::parse_from_bytes(&succeeded(output)).unwrap();
    let pid = server_pid(Path::new(result.address.strip_prefix("unix://").unwrap()));
    for dir in &hierarchies {
        let members = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert_eq!(members.trim(), pid.to_string(), "{}", dir.display());
    }
    kill(pid, libc::SIGKILL);
    eventually("the server to die", || !is_alive(pid));
    for dir in &hierarchies {
        eventually("the cgroup to empty", || std::fs::remove_dir(dir).is_ok());
    }
}

#[test]
fn core_scheduling_is_set_up_or_refused() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let mut command = bundle.command(&["start"]);
    command.env("SCHED_CORE", "1");
    let output = run(command, &bundle.params().write_to_bytes().unwrap());
    let own = rustix::process::getpid();
    if rustix::thread::core_scheduling_cookie(own, rustix::thread::CoreSchedulingScope::Thread).is_ok() {
        let result = BootstrapResult::parse_from_bytes(&succeeded(output)).unwrap();
        let pid =
            rustix::process::Pid::from_raw(server_pid(Path::new(result.address.strip_prefix("unix://").unwrap())));
        let cookie = rustix::thread::core_scheduling_cookie(pid.unwrap(), rustix::thread::CoreSchedulingScope::Thread);
        assert_ne!(cookie.unwrap(), 0);
    } else {
        assert!(failed(output).contains("SCHED_CORE: create core scheduling cookie: "));
        assert_nothing_left(&world);
    }
}

#[test]
fn start_names_malformed_input_and_leaves_nothing() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let broken = world.bundle("c2", r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"#);
    let deep = world.bundle("c3", "{}");
    let fine = |bundle: &Bundle<'_>| bundle.params().write_to_bytes().unwrap();
    let mut long = deep.params();
    long.socket_dir = Some(format!("{}/{}", world.sockets().display(), "x".repeat(60)));
    let nowhere =
        any::pack(&runc::Options { shim_cgroup: "/berth-there/is-none".into(), ..Default::default() }).unwrap();
    let malformed = any::json("containerd.runc.v1.Options", vec![0x0a, 0x7f]);
    for (bundle, input, word) in [
        (&bundle, b"\xff\xfe garbage".to_vec(), "standard input is neither"),
        (&bundle, bundle.params_with(malformed), "options containerd.runc.v1.Options: malformed"),
        (&bundle, bundle.params_with(nowhere), "ShimCgroup \"/berth-there/is-none\": no such cgroup"),
        (&broken, fine(&broken), "config.json: EOF while parsing"),
        (&deep, long.write_to_bytes().unwrap(), "file name too long"),
    ] {
        let message = failed(run(bundle.command(&["start"]), &input));
        assert!(message.contains(word), "{message}");
        assert_nothing_left(&world);
    }
    for (words, word) in [
        (&["-namespace", "", "start"][..], "-namespace is empty"),
        (&["-id", "", "start"], "-id is empty"),
        (&["-id", "../x", "start"], "-id: invalid value \"../x\""),
        (&["-id", "a\nb", "start"], "invalid value \"a\\nb\""),
        (&["reboot"], "unknown action \"reboot\""),
        (&[], "descriptor 3 is no listening socket"),
    ] {
        let message = failed(run(bundle.command(words), b""));
        assert!(message.contains(word), "{words:?}: {message}");
    }
    assert_nothing_left(&world);
}

#[test]
fn a_start_whose_answer_cannot_be_written_leaves_nothing() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let mut command = bundle.command(&["start"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer);
    let output = run(command, &bundle.params().write_to_bytes().unwrap());
    assert!(!output.status.success());
    eventually("the server to go", || world.servers().is_empty());
    assert_nothing_left(&world);
}

#[test]
fn unknown_options_are_logged_and_ignored() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let input = any::json("example.com/options.v7", vec![0xff, 0xff]).write_to_bytes().unwrap();
    let plain = String::from_utf8(succeeded(run(bundle.command(&["start"]), &input))).unwrap();
    assert!(bundle.await_log("unknown type").contains("level=warning msg=\"options of unknown type \\\"example.com"));
    let socket = PathBuf::from(plain.strip_prefix("unix://").unwrap());
    kill(server_pid(&socket), libc::SIGTERM);
    eventually("the socket to go", || !socket.exists());
}

#[test]
fn info_prints_a_protobuf_message() {
    let output = run(piped(&["-info"]), b"");
    let info = RuntimeInfo::parse_from_bytes(&succeeded(output)).unwrap();
    assert_eq!(info.name, "io.containerd.berth.v2");
    assert_eq!(info.features.type_url, any::OCI_FEATURES);
    let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
    assert!(features["ociVersionMin"].is_string());
}

#[test]
fn version_prints_a_line_of_text() {
    for flag in ["-v", "--version"] {
        let text = String::from_utf8(succeeded(run(piped(&[flag]), b""))).unwrap();
        assert!(text.starts_with("containerd-shim-berth-v2: berth "), "{text}");
    }
}

fn piped(words: &[&str]) -> Command {
    let mut command = Command::new(SHIM);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn assert_nothing_left(world: &World) {
    assert_eq!(world.servers(), [0; 0]);
    if let Ok(mut sockets) = std::fs::read_dir(world.sockets()) {
        assert!(sockets.next().is_none(), "a socket is left");
    }
}
