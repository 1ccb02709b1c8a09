//! Published faults of shims: containers that see each other's environment, sockets that any process can reach, programs
//! that an image names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    executable,
    shim::{CALL, Shim, stdio::Stdio},
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{CreateTaskRequest, StartRequest},
    ttrpc::context,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    os::{linux::net::SocketAddrExt, unix::net},
};

/// The number of containers that are made at the same time.
const CONTAINERS: usize = 32;

fn token(n: usize) -> String {
    format!("token-of-container-{n}-")
}

/// Returns the containers whose tokens are in the environment or the command line of a process.
fn tokens(pid: u32) -> BTreeSet<usize> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let text = read("environ") + &read("cmdline");
    (0..CONTAINERS).filter(|n| text.contains(&token(*n))).collect()
}

/// CVE-2021-21334, GHSA-6g2q-w5j3-fwh4.
#[test]
fn containers_made_at_once_have_their_own_environment() {
    let shim = Shim::start("environments");
    let requests: Vec<_> = (0..CONTAINERS)
        .map(|n| {
            // The control: the last container has two tokens.
            let second = if n + 1 == CONTAINERS { 0 } else { n };
            let bundle = Bundle::probe(&["say", &token(second), "+", "sleep", "1000"])
                .set("/process/env/-", json!(format!("TOKEN={}", token(n))));
            shim.request(&format!("c{n}"), &bundle)
        })
        .collect();
    let client = shim.connection();
    let made: Vec<_> = requests
        .into_iter()
        .map(|request: CreateTaskRequest| {
            let client = client.clone();
            shim.runtime().spawn(async move {
                let start = StartRequest { id: request.id.clone(), ..Default::default() };
                client.create(context::with_duration(CALL), &request).await?;
                client.start(context::with_duration(CALL), &start).await
            })
        })
        .collect();
    let pids: Vec<u32> = made.into_iter().map(|made| shim.runtime().block_on(made).unwrap().unwrap().pid).collect();
    for (n, pid) in pids.iter().enumerate() {
        let own = if n + 1 == CONTAINERS { BTreeSet::from([0, n]) } else { BTreeSet::from([n]) };
        assert_eq!(tokens(*pid), own, "container {n}");
    }
    (0..CONTAINERS).for_each(|n| drop(shim.end(&format!("c{n}"))));
}

/// Returns the abstract sockets of a process: `/proc/net/unix` shows their names with `@`.
fn abstract_sockets(pid: i32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links: Vec<_> =
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|link| link.display().to_string()).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    let of_process = |line: &&str| {
        let inode = line.split_whitespace().nth(6).unwrap_or_default();
        links.iter().any(|link| link == &format!("socket:[{inode}]"))
    };
    table.lines().filter(of_process).filter(|line| line.contains(" @")).map(str::to_owned).collect()
}

/// CVE-2020-15257: a container in the host's network namespace can reach each abstract socket.
#[test]
fn shim_has_no_abstract_socket() {
    let shim = Shim::start("abstract");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    assert_eq!(abstract_sockets(shim.pid), Vec::<String>::new());
    // The control: the same check finds one of this process.
    let name = format!("berth-test-{}", std::process::id());
    let _socket = net::UnixListener::bind_addr(&net::SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let own = abstract_sockets(std::process::id().cast_signed());
    assert!(own.iter().any(|line| line.ends_with(&format!("@{name}"))), "{own:?}");
    shim.end("c1");
}

/// Annotations that name a logging program in one client or another.
const NAMES: [&str; 7] = [
    "containerd.io/restart.loguri",
    "io.containerd.log.uri",
    "io.kubernetes.container.logpath",
    "io.kubernetes.cri.log-uri",
    "nerdctl/log-uri",
    "log-uri",
    "stdout",
];

/// CVE-2026-53488: the labels of an image become annotations and environment, and never a program of the host.
#[test]
fn only_the_streams_of_the_request_name_a_logging_program() {
    let shim = Shim::start("log-uri");
    let (program, ran) = (shim.work().join("logger"), shim.work().join("ran"));
    let script = format!("#!/bin/sh\n: > {}\nexec 5>&-\ncat <&3 > /dev/null\n", ran.display());
    executable::write(&program, &script, 0o755);
    let uri = format!("binary://{}", program.display());
    let bundle = || {
        NAMES.iter().fold(Bundle::probe(&["say", &uri]).set("/annotations", json!({})), |bundle, name| {
            bundle
                .edit(|config| config["annotations"][name] = json!(uri))
                .set("/process/env/-", json!(format!("{}={uri}", name.to_uppercase())))
        })
    };
    let run = |request: CreateTaskRequest| {
        let id = request.id.clone();
        shim.create_as(request).unwrap();
        shim.start_process(&id, "").unwrap();
        assert_eq!(shim.status(&id, ""), 0);
        shim.delete(&id, "").unwrap();
    };
    run(shim.request("c1", &bundle()));
    let stdio = Stdio::outputs(shim.work(), "c2");
    run(CreateTaskRequest {
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        ..shim.request("c2", &bundle())
    });
    assert!(!ran.exists(), "an annotation or a variable named a program that was run");
    // The control: as the stream of the request the same text is a program.
    run(CreateTaskRequest { stdout: uri.clone(), ..shim.request("c3", &bundle()) });
    until_true("the logging program to run", LONG, || ran.exists());
}
