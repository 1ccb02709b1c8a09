//! Bad input to the task service: a code and words that name it, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    shim::{
        CALL, Failure, Kind, Shim,
        container::{exec_request, process},
        stdio,
    },
};
use berth_proto::{
    Message, TASK_V3, any,
    task::{ConnectRequest, CreateTaskRequest, StartRequest},
    ttrpc::{Code, Request, Response, context},
};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

#[test]
fn bad_container_ids_answer_invalid_argument() {
    let shim = Shim::start("ids");
    for id in ["", ".", "..", "a/b", "../x", "a\nb", &"x".repeat(2000)] {
        let request = CreateTaskRequest { id: id.into(), ..shim.request("good", &Bundle::probe(&[])) };
        let failure = shim.create_as(request).unwrap_err();
        assert_eq!(failure.code, Code::INVALID_ARGUMENT, "{id:?}: {failure:?}");
    }
    shim.assert_clean();
}

#[test]
fn damaged_configurations_are_refused_by_the_shim() {
    let shim = Shim::start("config");
    type Spoil = fn(&std::path::Path);
    let cases: [(&str, Spoil, &str); 4] = [
        ("missing", |p| fs::remove_file(p).unwrap(), "config.json"),
        ("truncated", |p| fs::write(p, "{\"ociVersion\": \"1.0.2\", ").unwrap(), "config.json"),
        ("no object", |p| fs::write(p, "[]").unwrap(), "config.json"),
        ("wrong field", |p| fs::write(p, r#"{"ociVersion":"1.0.2","process":{"cwd":7}}"#).unwrap(), "process.cwd"),
    ];
    for (name, spoil, word) in cases {
        let bundle = Bundle::probe(&["exit", "0"]);
        let request = shim.request("c1", &bundle);
        spoil(&bundle.path().join("config.json"));
        let failure = shim.create_as(request).unwrap_err();
        assert!(failure.message.starts_with("OCI runtime create failed: "), "{name}: {failure:?}");
        assert!(failure.message.contains(word), "{name}: {failure:?}");
        shim.state("c1", "").unwrap_err().is(Code::NOT_FOUND, &["c1"]);
        shim.assert_clean();
    }
    assert!(shim.events.words().is_empty());
}

#[test]
fn bad_options_and_bundle_paths_answer_invalid_argument() {
    let shim = Shim::start("options");
    let bundle = Bundle::probe(&["exit", "0"]);
    let mut request = shim.request("c1", &bundle);
    request.options = Some(any::json("containerd.runc.v1.Options", vec![0xff, 0xff])).into();
    shim.create_as(request.clone()).unwrap_err().is(Code::INVALID_ARGUMENT, &["containerd.runc.v1.Options"]);
    request.options = Some(any::json("runtimeoptions.v1.Options", b"\x1a\x01[".to_vec())).into();
    shim.create_as(request.clone()).unwrap_err().is(Code::INVALID_ARGUMENT, &["config_body"]);
    request.bundle = "relative".into();
    request.options = Some(shim.options()).into();
    shim.create_as(request.clone()).unwrap_err().is(Code::INVALID_ARGUMENT, &["relative"]);
    request.bundle = bundle.path().to_str().unwrap().into();
    request.checkpoint = "somewhere".into();
    shim.create_as(request).unwrap_err().is(Code::INVALID_ARGUMENT, &["checkpoint \"somewhere\" is not absolute"]);
    shim.assert_clean();
}

#[test]
fn calls_for_unknown_containers_answer_not_found() {
    let shim = Shim::start("missing");
    let missing: [(&str, Result<(), Failure>); 8] = [
        ("state", shim.state("x", "").map(drop)),
        ("start", shim.start_process("x", "").map(drop)),
        ("delete", shim.delete("x", "").map(drop)),
        ("kill", shim.kill("x", "", 9, false)),
        ("wait", shim.wait("x", "").map(drop)),
        ("pids", shim.pids("x").map(drop)),
        ("stats", shim.stats("x").map(drop)),
        ("pause", shim.pause("x")),
    ];
    for (call, result) in missing {
        assert_eq!(result.unwrap_err().code, Code::NOT_FOUND, "{call}");
    }
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    for result in [
        shim.state("c1", "e").map(drop),
        shim.start_process("c1", "e").map(drop),
        shim.delete("c1", "e").map(drop),
        shim.kill("c1", "e", 9, false),
        shim.wait("c1", "e").map(drop),
        shim.resize("c1", "e", 1, 1),
        shim.close_stdin("c1", "e"),
    ] {
        result.unwrap_err().is(Code::NOT_FOUND, &["\"e\""]);
    }
    shim.end("c1");
}

#[test]
fn calls_in_the_wrong_state_answer_failed_precondition() {
    let shim = Shim::start("states");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    shim.create("c1", &Bundle::probe(&[])).unwrap_err().is(Code::ALREADY_EXISTS, &["c1"]);
    shim.start_process("c1", "").unwrap_err().is(Code::FAILED_PRECONDITION, &["running"]);
    shim.delete("c1", "").unwrap_err().is(Code::FAILED_PRECONDITION, &["running"]);
    shim.exec("c1", "e", &["/probe", "sleep", "1000"], None).unwrap();
    shim.exec("c1", "e", &["/probe"], None).unwrap_err().is(Code::ALREADY_EXISTS, &["\"e\""]);
    shim.kill("c1", "e", 9, false).unwrap_err().is(Code::FAILED_PRECONDITION, &[]);
    shim.resize("c1", "e", 80, 25).unwrap();
    shim.start_process("c1", "e").unwrap();
    shim.start_process("c1", "e").unwrap_err().is(Code::FAILED_PRECONDITION, &["\"e\""]);
    shim.delete("c1", "e").unwrap_err().is(Code::FAILED_PRECONDITION, &["running"]);
    shim.kill("c1", "e", 9, false).unwrap();
    assert_eq!(shim.status("c1", "e"), 137);
    shim.kill("c1", "e", 9, false).unwrap_err().is(Code::NOT_FOUND, &["finished"]);
    shim.resize("c1", "e", 80, 25).unwrap_err().is(Code::FAILED_PRECONDITION, &["stopped"]);
    shim.delete("c1", "e").unwrap();
    shim.delete("c1", "e").unwrap_err().is(Code::NOT_FOUND, &["\"e\""]);
    shim.exec("c1", "late", &["/probe"], None).unwrap();
    shim.kill("c1", "", 9, false).unwrap();
    assert_eq!(shim.status("c1", ""), 137);
    shim.kill("c1", "", 9, false).unwrap_err().is(Code::NOT_FOUND, &["finished"]);
    shim.start_process("c1", "late").unwrap_err().is(Code::FAILED_PRECONDITION, &["stopped"]);
    shim.exec("c1", "later", &["/probe"], None).unwrap_err().is(Code::FAILED_PRECONDITION, &["stopped"]);
    shim.delete("c1", "").unwrap();
}

#[test]
fn signals_out_of_range_are_refused() {
    let shim = Shim::start("range");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    for signal in [65, 1000, u32::MAX] {
        shim.kill("c1", "", signal, false).unwrap_err().is(Code::INVALID_ARGUMENT, &[&signal.to_string()]);
    }
    assert_eq!(shim.phase("c1", ""), "RUNNING");
    shim.end("c1");
}

#[test]
fn bad_exec_ids_and_specs_are_refused() {
    let shim = Shim::start("badexec");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    shim.exec("c1", "a/b", &["/probe"], None).unwrap_err().is(Code::INVALID_ARGUMENT, &["a/b"]);
    let mut request = exec_request("c1", "e", &process(&["/probe"]), None);
    request.spec = Some(any::json(any::OCI_PROCESS, b"{\"cwd\":".to_vec())).into();
    shim.exec_as(request.clone()).unwrap_err().is(Code::INVALID_ARGUMENT, &["exec spec"]);
    request.spec = None.into();
    shim.exec_as(request).unwrap_err().is(Code::INVALID_ARGUMENT, &["exec spec"]);
    for (args, words) in
        [(&["/nowhere"][..], "no such file or directory"), (&["nowhere"], "executable file not found in $PATH")]
    {
        shim.exec("c1", "e", args, None).unwrap();
        let failure = shim.start_process("c1", "e").unwrap_err();
        assert!(failure.message.starts_with("OCI runtime exec failed: exec failed: "), "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
        assert_eq!((shim.phase("c1", "e").as_str(), shim.status("c1", "e")), ("STOPPED", 255));
        shim.delete("c1", "e").unwrap();
    }
    assert_eq!((shim.events.count("exec-started"), shim.events.count("exit")), (0, 0));
    shim.end("c1");
}

#[test]
fn create_without_a_fifo_reader_fails_and_blocks_no_other_call() {
    let shim = Shim::start("noreader");
    let path = stdio::fifo(shim.work(), "lonely");
    let mut request = shim.request("c1", &Bundle::probe(&["exit", "0"]));
    request.stdout = path.to_str().unwrap().into();
    let connection = shim.connection();
    let start = Instant::now();
    let mut waiting = Box::pin(connection.create(context::with_duration(CALL), &request));
    let connect = ConnectRequest::default();
    shim.runtime().block_on(async {
        tokio::select! {
            biased;
            answer = &mut waiting => panic!("{answer:?}"),
            // The answer on the same connection shows that the create has begun.
            _ = connection.connect(context::with_duration(CALL), &connect) => (),
        }
    });
    // Meanwhile the shim serves other calls, and the id is taken.
    shim.create_as(CreateTaskRequest { stdout: String::new(), ..request.clone() })
        .unwrap_err()
        .is(Code::ALREADY_EXISTS, &["c1"]);
    shim.run("c2", &Bundle::probe(&["sleep", "1000"]));
    shim.end("c2");
    let failure = berth_integration::shim::failure(shim.runtime().block_on(waiting).unwrap_err());
    assert!(failure.message.contains(path.to_str().unwrap()), "{failure:?}");
    assert!(start.elapsed() > Duration::from_secs(25), "{:?}", start.elapsed());
    shim.state("c1", "").unwrap_err().is(Code::NOT_FOUND, &["c1"]);
    shim.assert_clean();
}

#[test]
fn one_of_two_concurrent_shim_calls_wins() {
    let shim = Shim::start("twice");
    for round in 0..10 {
        let id = format!("c{round}");
        let request = shim.request(&id, &Bundle::probe(&["exit", "0"]));
        let connections = [shim.connection(), shim.connection()];
        let created: Vec<_> = shim.runtime().block_on(async {
            let [a, b] = connections.each_ref().map(|c| c.create(context::with_duration(CALL), &request));
            vec![a.await, b.await]
        });
        assert_eq!(created.iter().filter(|r| r.is_ok()).count(), 1, "{created:?}");
        let start = StartRequest { id: id.clone(), ..Default::default() };
        shim.call(CALL, async |c, ctx| c.start(ctx, &start).await).unwrap();
        shim.wait(&id, "").unwrap();
        let delete = berth_proto::task::DeleteRequest { id: id.clone(), ..Default::default() };
        let deleted: Vec<_> = shim.runtime().block_on(async {
            let tasks = connections.map(|c| {
                let delete = delete.clone();
                tokio::spawn(async move { c.delete(context::with_duration(CALL), &delete).await })
            });
            let mut results = Vec::new();
            for task in tasks {
                results.push(task.await.unwrap().map_err(berth_integration::shim::failure));
            }
            results
        });
        assert_eq!(deleted.iter().filter(|r| r.is_ok()).count(), 1, "{deleted:?}");
        let loser = deleted.into_iter().find_map(Result::err).unwrap();
        assert_eq!(loser.code, Code::NOT_FOUND);
    }
    shim.assert_clean();
}

/// Sends one ttrpc frame and reads the frame of the answer.
fn frame(stream: &mut UnixStream, id: u32, payload: &[u8]) -> Response {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(id.to_be_bytes());
    bytes.extend([1, 0]);
    bytes.extend(payload);
    stream.write_all(&bytes).unwrap();
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    assert_eq!((&header[4..8], header[8]), (&id.to_be_bytes()[..], 2), "{header:?}");
    let mut answer = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
    stream.read_exact(&mut answer).unwrap();
    Response::parse_from_bytes(&answer).unwrap()
}

#[test]
fn oversized_frame_is_refused_and_the_connection_lives_on() {
    for kind in [Kind::Berth, Kind::Runc] {
        let shim = Shim::start_as(kind, "frames");
        let mut stream = shim.stream();
        stream.set_read_timeout(Some(CALL)).unwrap();
        let connect = |id: &str| Request {
            service: TASK_V3.into(),
            method: "Connect".into(),
            payload: ConnectRequest { id: id.into(), ..Default::default() }.write_to_bytes().unwrap(),
            ..Default::default()
        };
        let connect = |id: &str| connect(id).write_to_bytes().unwrap();
        // The largest frame that fits is answered like any other.
        let (most, least) = (4 << 20, connect("").len());
        let fits = connect(&"x".repeat(most - least - 16));
        assert!(fits.len() <= most && fits.len() > most - 100);
        assert_ne!(frame(&mut stream, 1, &fits).status.code(), Code::RESOURCE_EXHAUSTED);
        for (id, length) in [(3, most + 1), (7, 16 << 20)] {
            let status = frame(&mut stream, id, &vec![0; length]).status;
            assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{kind:?}: {status:?}");
            let words = format!("message length {length} exceed maximum message size of {most}");
            assert!(status.message.contains(&words), "{kind:?}: {status:?}");
            assert_eq!(frame(&mut stream, id + 2, &connect("none")).status.code(), Code::OK, "{kind:?}");
        }
    }
}
