//! Runs the manager against a fake bus and systemd at the other end of a socket, which records all calls.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use super::*;
use crate::cgroup::systemd::message::Kind as Type;

/// A uid that is not that of the tests: inside a user namespace the two differ.
const UID: u32 = 1234;
const UNIT: &str = "p-n.scope";
const JOB: &str = "/org/freedesktop/systemd1/job/7";
/// Long enough for a machine under load.
const LONG: Duration = Duration::from_secs(60);
/// For a message that never arrives.
const SHORT: Duration = Duration::from_millis(100);

/// The reaction of the other end to a call.
enum Reaction {
    Say(Vec<Message>),
    HangUp,
}

use Reaction::{HangUp, Say};

/// A manager, and the thread at the other end. The thread ends with the connection and returns all calls.
fn peer(
    patience: Duration,
    mut react: impl FnMut(&Message) -> Reaction + Send + 'static,
) -> (Manager, JoinHandle<Vec<Message>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let other = thread::spawn(move || serve(theirs, &mut react));
    let bus = Bus::begin(OwnedFd::from(ours), false, UID, Instant::now() + LONG).unwrap_or_else(|e| panic!("{e:?}"));
    (Manager::over(bus, patience), other)
}

fn serve(mut stream: UnixStream, react: &mut dyn FnMut(&Message) -> Reaction) -> Vec<Message> {
    let mut inbox = Vec::new();
    let more = |inbox: &mut Vec<u8>, stream: &mut UnixStream| {
        let mut bytes = [0; 512];
        let n = stream.read(&mut bytes).unwrap_or(0);
        inbox.extend(&bytes[..n]);
        n > 0
    };
    let uid = UID.to_string();
    let auth = format!("\0AUTH EXTERNAL {}\r\n", uid.bytes().map(|b| format!("{b:02x}")).collect::<String>());
    while inbox.len() < auth.len() && more(&mut inbox, &mut stream) {}
    assert_eq!(inbox, auth.as_bytes());
    stream.write_all(b"OK 00112233445566778899aabbccddeeff\r\n").unwrap();
    inbox.clear();
    while inbox.len() < 7 && more(&mut inbox, &mut stream) {}
    assert_eq!(inbox.drain(..7).collect::<Vec<_>>(), b"BEGIN\r\n");
    let mut calls = Vec::new();
    loop {
        match Message::size(&inbox).unwrap() {
            Some(size) if inbox.len() >= size => {
                let call = Message::decode(&inbox.drain(..size).collect::<Vec<_>>()).unwrap();
                let reaction = match call.member.as_deref() {
                    Some("Hello") => Say(vec![answer(&call, vec![Value::text(":1.9")]), noise()]),
                    Some("AddMatch") => Say(vec![answer(&call, vec![])]),
                    Some("RemoveMatch") => Say(vec![]),
                    _ => react(&call),
                };
                calls.push(call);
                match reaction {
                    HangUp => return calls,
                    // In small pieces: a message may arrive in any number of reads.
                    Say(messages) => {
                        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
                        bytes.chunks(13).for_each(|piece| drop(stream.write_all(piece)));
                    }
                }
            }
            _ if !more(&mut inbox, &mut stream) => return calls,
            _ => {}
        }
    }
}

fn answer(call: &Message, body: Vec<Value>) -> Message {
    Message { serial: 1, answers: Some(call.serial), body, ..Message::new(Type::Return) }
}

fn refuse(call: &Message, name: &str, text: &str) -> Message {
    let body = vec![Value::text(text)];
    Message { serial: 1, answers: Some(call.serial), error: Some(name.into()), body, ..Message::new(Type::Error) }
}

fn signal(member: &str, body: Vec<Value>) -> Message {
    Message {
        serial: 1,
        path: Some(PATH.into()),
        interface: Some(MANAGER.into()),
        member: Some(member.into()),
        body,
        ..Message::new(Type::Signal)
    }
}

/// An unrequested signal, as the bus sends one after Hello.
fn noise() -> Message {
    signal("NameAcquired", vec![Value::text(":1.9")])
}

fn removed(job: &str, result: &str) -> Message {
    signal("JobRemoved", vec![Value::U32(7), Value::Path(job.into()), Value::text(UNIT), Value::text(result)])
}

fn job(call: &Message) -> Message {
    answer(call, vec![Value::Path(JOB.into())])
}

fn properties() -> Vec<Property> {
    vec![
        ("Slice".to_owned(), Value::text("a.slice")),
        ("PIDs".to_owned(), Value::Array("u".into(), vec![Value::U32(42)])),
        ("TasksMax".to_owned(), Value::U64(9)),
    ]
}

fn members(calls: &[Message]) -> Vec<&str> {
    calls.iter().filter_map(|c| c.member.as_deref()).filter(|m| *m != "Hello").collect()
}

#[test]
fn start_sends_all_properties_in_one_call_and_waits_for_the_job() {
    // The end of another job comes first, and that of this job before the answer that names it.
    let script = |call: &Message| Say(vec![removed("/other", "failed"), removed(JOB, "done"), job(call)]);
    let (mut manager, other) = peer(LONG, script);
    manager.start(UNIT, &properties()).unwrap();
    drop(manager);
    let calls = other.join().unwrap();
    assert_eq!(members(&calls), ["AddMatch", "StartTransientUnit", "RemoveMatch"]);
    let [Value::Text(rule)] = calls[1].body.as_slice() else { panic!("{calls:?}") };
    assert!(rule.contains("member='JobRemoved'") && rule.contains("arg2='p-n.scope'"), "{rule}");
    let start = &calls[2];
    assert_eq!(
        (start.destination.as_deref(), start.path.as_deref(), start.interface.as_deref()),
        (Some(NAME), Some(PATH), Some(MANAGER))
    );
    let [Value::Text(unit), Value::Text(mode), Value::Array(kind, pairs), aux] = start.body.as_slice() else {
        panic!("{start:?}")
    };
    assert_eq!((unit.as_str(), mode.as_str(), kind.as_str()), (UNIT, "fail", "(sv)"));
    assert_eq!(aux, &Value::Array("(sa(sv))".into(), vec![]));
    let sent: Vec<Property> = pairs
        .iter()
        .map(|pair| match pair {
            Value::Struct(pair) => match pair.as_slice() {
                [Value::Text(name), Value::Variant(value)] => (name.clone(), value.as_ref().clone()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sent, properties());
    assert!(calls[3].no_reply);
}

#[test]
fn start_resets_a_failed_unit_and_refuses_a_running_one() {
    for lives in [false, true] {
        let mut forgotten = false;
        let (mut manager, other) = peer(LONG, move |call| match call.member.as_deref() {
            Some("ResetFailedUnit") => {
                forgotten = true;
                Say(vec![answer(call, vec![])])
            }
            _ if forgotten && !lives => Say(vec![job(call), removed(JOB, "done")]),
            _ => Say(vec![refuse(call, UNIT_EXISTS, "Unit p-n.scope was already loaded.")]),
        });
        let started = manager.start(UNIT, &properties());
        drop(manager);
        let calls = other.join().unwrap();
        let want = ["AddMatch", "StartTransientUnit", "ResetFailedUnit", "StartTransientUnit", "RemoveMatch"];
        assert_eq!(members(&calls), want);
        match started {
            Ok(()) => assert!(!lives),
            Err(e) => {
                assert!(lives, "{e}");
                assert_eq!(e.kind(), Kind::FailedPrecondition);
                assert_eq!(e.to_string(), "systemd: start unit p-n.scope: Unit p-n.scope was already loaded.");
            }
        }
    }
}

#[test]
fn error_names_the_refused_property() {
    let rows = [
        ("Cannot set property TasksMax, or unknown property.", "TasksMax, or unknown property."),
        ("No such device or address", "No such device or address (one of Slice, PIDs, TasksMax)"),
    ];
    for (text, ends) in rows {
        let refusal =
            move |call: &Message| Say(vec![refuse(call, "org.freedesktop.DBus.Error.PropertyReadOnly", text)]);
        let (mut manager, _other) = peer(LONG, refusal);
        let e = manager.start(UNIT, &properties()).unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidArgument);
        assert!(e.to_string().starts_with("systemd: start unit p-n.scope: ") && e.to_string().ends_with(ends), "{e}");
        let e = manager.set_properties(UNIT, &properties()).unwrap_err().to_string();
        assert!(e.starts_with("systemd: set properties of unit p-n.scope: ") && e.ends_with(ends), "{e}");
    }
}

#[test]
fn failed_job_is_an_error_and_the_unit_is_reset() {
    let (mut manager, other) = peer(LONG, |call| match call.member.as_deref() {
        Some("StartTransientUnit") => Say(vec![job(call), removed(JOB, "failed")]),
        _ => Say(vec![answer(call, vec![])]),
    });
    let e = manager.start(UNIT, &properties()).unwrap_err();
    assert_eq!(e.to_string(), "systemd: start unit p-n.scope: the job ended as \"failed\"");
    drop(manager);
    assert!(members(&other.join().unwrap()).contains(&"ResetFailedUnit"));
}

#[test]
fn missing_answer_is_an_error_after_the_deadline() {
    let (mut manager, _other) = peer(SHORT, |_| Say(vec![noise()]));
    let e = manager.start(UNIT, &properties()).unwrap_err();
    assert_eq!(e.to_string(), "systemd: start unit p-n.scope: no answer within 0.1 s");
    // The answer alone is not the end of the job.
    let (mut manager, _other) = peer(SHORT, |call| Say(vec![job(call), removed("/other", "done")]));
    let e = manager.start(UNIT, &properties()).unwrap_err();
    assert_eq!(e.to_string(), "systemd: start unit p-n.scope: no answer within 0.1 s");
    let (mut manager, _other) = peer(SHORT, |_| Say(vec![]));
    assert_eq!(
        manager.stop(UNIT, "a.slice").unwrap_err().to_string(),
        "systemd: stop unit p-n.scope: no answer within 0.1 s"
    );
    assert_eq!(manager.version().unwrap_err().to_string(), "systemd: get its version: no answer within 0.1 s");
}

#[test]
fn closed_connection_is_an_error() {
    let (mut manager, _other) = peer(LONG, |_| HangUp);
    let e = manager.start(UNIT, &properties()).unwrap_err();
    assert_eq!(e.to_string(), "systemd: start unit p-n.scope: connection lost: connection reset by peer");
    assert!(!manager.bus.is_alive());
}

#[test]
fn peer_that_speaks_no_dbus_is_an_error() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
    let Err(Failure::Lost(e)) = Bus::begin(ours.into(), false, UID, Instant::now() + LONG) else { panic!() };
    assert_eq!(e.to_string(), "D-Bus authentication refused: REJECTED EXTERNAL");

    // A peer that accepts the connection and sends nothing.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    assert!(matches!(Bus::begin(ours.into(), false, UID, Instant::now() + SHORT), Err(Failure::Late)));

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(b"OK 0\r\nHTTP/1.1 400 Bad Request\r\n").unwrap();
    let Err(Failure::Lost(e)) = Bus::begin(ours.into(), false, UID, Instant::now() + LONG) else { panic!() };
    assert_eq!(e.to_string(), "D-Bus: the other side sent something else than a message");
}

#[test]
fn stop_stops_the_unit_only_in_its_slice() {
    let fake = |slice: &'static str| {
        move |call: &Message| match call.member.as_deref() {
            Some("GetUnit") => Say(vec![answer(call, vec![Value::Path("/org/u".into())])]),
            Some("Get") => Say(vec![answer(call, vec![Value::Variant(Box::new(Value::text(slice)))])]),
            Some("StopUnit") => Say(vec![job(call), removed(JOB, "done")]),
            _ => Say(vec![refuse(call, NO_SUCH_UNIT, "Unit p-n.scope not loaded.")]),
        }
    };
    let (mut manager, other) = peer(LONG, fake("a.slice"));
    assert_eq!(manager.stop(UNIT, "a.slice").unwrap(), Stopped::Now);
    drop(manager);
    let calls = other.join().unwrap();
    assert_eq!(members(&calls), ["GetUnit", "Get", "AddMatch", "StopUnit", "ResetFailedUnit", "RemoveMatch"]);
    assert_eq!(calls[2].path.as_deref(), Some("/org/u"));

    let (mut manager, other) = peer(LONG, fake("b.slice"));
    assert_eq!(manager.stop(UNIT, "a.slice").unwrap(), Stopped::Before);
    drop(manager);
    assert_eq!(members(&other.join().unwrap()), ["GetUnit", "Get"]);

    let (mut manager, other) = peer(LONG, |call| Say(vec![refuse(call, NO_SUCH_UNIT, "Unit p-n.scope not loaded.")]));
    assert_eq!(manager.stop(UNIT, "a.slice").unwrap(), Stopped::Before);
    drop(manager);
    assert_eq!(members(&other.join().unwrap()), ["GetUnit"]);
}

#[test]
fn set_properties_is_not_persistent() {
    let (mut manager, other) = peer(LONG, |call| Say(vec![answer(call, vec![])]));
    manager.set_properties(UNIT, &properties()).unwrap();
    // The connection can still be cached.
    assert!(manager.bus.is_alive());
    drop(manager);
    let calls = other.join().unwrap();
    assert_eq!(members(&calls), ["SetUnitProperties"]);
    assert_eq!(calls[1].body[..2], [Value::text(UNIT), Value::Bool(true)]);
}

#[test]
fn version_is_read_from_the_property() {
    for (text, want) in [
        ("257.4-1", Some(257)),
        ("v245", Some(245)),
        ("252 (252.39-1~deb12u1)", Some(252)),
        ("262~rc2", Some(262)),
        ("", None),
        ("x", None),
    ] {
        assert_eq!(version(text), want, "{text}");
    }
    let (mut manager, _other) =
        peer(LONG, |call| Say(vec![answer(call, vec![Value::Variant(Box::new(Value::text("257.4-1")))])]));
    assert_eq!(manager.version().unwrap(), 257);
}

#[test]
fn user_instance_is_asked_for_its_cgroup_and_to_attach_a_process() {
    let (mut manager, other) = peer(LONG, |call| match call.member.as_deref() {
        Some("Get") => Say(vec![answer(call, vec![Value::Variant(Box::new(Value::text("/user.slice/u")))])]),
        _ => Say(vec![answer(call, vec![])]),
    });
    assert_eq!(manager.control_group().unwrap(), "/user.slice/u");
    manager.attach(UNIT, 42).unwrap();
    drop(manager);
    let calls = other.join().unwrap();
    assert_eq!(calls[1].body, [Value::text(MANAGER), Value::text("ControlGroup")]);
    let pids = Value::Array("u".into(), vec![Value::U32(42)]);
    assert_eq!(calls[2].body, [Value::text(UNIT), Value::text(""), pids]);
}
