//! The server: its clients, malformed input, and its end.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use berth_proto::{TASK_V2, TASK_V3, ttrpc::proto::Code};

use crate::harness::*;

#[test]
fn both_versions_of_the_task_service_answer() {
    let world = World::new();
    let socket = world.bundle("c1", "{}").start();
    let answers = [TASK_V2, TASK_V3].map(|service| call(&socket, service, "Connect").unwrap());
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn an_unknown_method_or_service_is_an_error() {
    let world = World::new();
    let socket = world.bundle("c1", "{}").start();
    assert_eq!(call(&socket, TASK_V2, "Reboot").unwrap_err().0, Code::UNIMPLEMENTED);
    assert_eq!(call(&socket, "containerd.task.v9.Task", "Connect").unwrap_err().0, Code::INVALID_ARGUMENT);
    server_pid(&socket);
}

#[test]
fn malformed_frames_on_one_connection_harm_no_other() {
    let world = World::new();
    let socket = world.bundle("c1", "{}").start();
    let pid = server_pid(&socket);
    // Makes a frame: length, stream, type, flags, payload.
    let frame = |length: u32, stream: u32, kind: u8, payload: &[u8]| {
        [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
    };
    let patience = Duration::from_millis(200);
    for bytes in [
        vec![],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        frame(u32::MAX, 1, 1, b"x"),     // Longer than any message may be.
        frame(5 << 20, 1, 1, b"x"),      // Over the limit of 4 MiB.
        frame(100, 1, 1, b"cut"),        // Truncated.
        frame(3, 2, 1, b"\xff\xff\xff"), // An even stream number belongs to the server.
        frame(3, 1, 1, b"\xff\xff\xff"), // Not a request.
        frame(0, 1, 2, b""),             // A response without a request.
        frame(0, 1, 3, b""),             // Data without a stream.
        frame(0, 1, 99, b""),            // An unknown type.
    ] {
        raw(&socket, &bytes, patience);
        assert_eq!(server_pid(&socket), pid, "after {bytes:?}");
    }
    assert_eq!(world.servers(), [pid]);
}

#[test]
fn closed_connections_leave_no_descriptor() {
    let world = World::new();
    let socket = world.bundle("c1", "{}").start();
    let pid = server_pid(&socket);
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // Ten descriptors are the reserve.
    eventually("the first connection to go", || descriptors() <= 19);
    let before = descriptors();
    let idle: Vec<_> = (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    eventually("all to be accepted", || descriptors() >= 200);
    assert_eq!(server_pid(&socket), pid, "among idle ones");
    drop(idle);
    // `before` may include a connection that was being closed.
    eventually("all to be closed", || descriptors() <= before);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    const LIMIT: usize = 512;
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    let pid = server_pid(&socket);
    let mut kept: Vec<_> = (0..LIMIT + 8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    bundle.await_log("refused a connection: 512 are open");
    // A connection that the server keeps has nothing to read, and one that it has closed is at its end.
    kept.retain(|stream| {
        stream.set_nonblocking(true).unwrap();
        !matches!((&mut &*stream).read(&mut [0]), Ok(0))
    });
    eventually("the others to be closed", || {
        kept.retain(|stream| !matches!((&mut &*stream).read(&mut [0]), Ok(0)));
        kept.len() <= LIMIT
    });
    // The connection of `server_pid` may still have had a place.
    assert!(kept.len() >= LIMIT - 1, "{} connections", kept.len());
    drop(kept);
    eventually("a place to be free", || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() < 100);
    assert_eq!(server_pid(&socket), pid);
}

#[test]
fn a_connection_of_another_user_is_refused() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    // First the modes refuse the user.
    let error = as_nobody(|| UnixStream::connect(&socket).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    // Then, without the modes, the server does.
    for (path, mode) in [(socket.as_path(), 0o666), (&world.sockets(), 0o755), (&world.dir, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let answer = as_nobody(|| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let _ = stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
        let mut byte = [0];
        stream.read(&mut byte)
    });
    // The connection is closed, by a reset if the bytes were not read.
    assert!(matches!(&answer, Ok(0)) || answer.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    bundle.await_log("refused a connection of uid 65534");
    server_pid(&socket);
}

/// Runs `work` in a thread with uid 65534 (nobody). The raw system call changes the credentials of the calling thread
/// alone.
#[allow(unsafe_code)]
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: setresuid(2) takes three numbers and changes the credentials of this thread, which ends soon.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn sigterm_and_sigint_end_the_server_cleanly() {
    let world = World::new();
    for (n, signal) in [libc::SIGTERM, libc::SIGINT].into_iter().enumerate() {
        let bundle = world.bundle(&format!("c{n}"), "{}");
        let socket = bundle.start();
        let pid = server_pid(&socket);
        kill(pid, signal);
        eventually("the server to exit", || !is_alive(pid));
        assert!(!socket.exists());
        bundle.await_log("stopping on a signal");
    }
}

#[test]
fn shutdown_is_answered_before_the_exit() {
    let world = World::new();
    let socket = world.bundle("c1", "{}").start();
    let pid = server_pid(&socket);
    call(&socket, TASK_V2, "Shutdown").unwrap();
    eventually("the server to exit", || !is_alive(pid));
    assert!(!socket.exists());
}

#[test]
fn an_exiting_server_leaves_the_socket_of_a_newer_one() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    let first = server_pid(&socket);
    std::fs::rename(&socket, socket.with_extension("old")).unwrap();
    assert_eq!(bundle.start(), socket);
    kill(first, libc::SIGTERM);
    eventually("the first to exit", || !is_alive(first));
    assert_ne!(server_pid(&socket), first);
}

#[test]
fn sigusr1_writes_a_dump_to_the_log() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let pid = server_pid(&bundle.start());
    kill(pid, libc::SIGUSR1);
    let log = bundle.await_log("events undelivered");
    for line in log.lines() {
        assert!(line.starts_with("time=\"2") && line.contains("Z\" level=") && line.ends_with('"'), "{line}");
    }
    assert!(log.contains(&format!("level=info msg=\"dump: berth {} pid {pid} group c1", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_full_log_does_not_block_the_server() {
    let world = World::new();
    let bundle = world.bundle("c1", "{}");
    let socket = bundle.start();
    let pid = server_pid(&socket);
    while (&bundle.log).write(&[b'x'; 4096]).is_ok() {}
    for _ in 0..200 {
        kill(pid, libc::SIGUSR1);
    }
    assert_eq!(server_pid(&socket), pid);
    let mut rest = vec![0; 1 << 20];
    while (&bundle.log).read(&mut rest).is_ok() {}
    kill(pid, libc::SIGUSR1);
    bundle.await_log("events undelivered");
}

#[test]
fn the_server_runs_without_a_reader_of_its_log_and_without_a_log() {
    let world = World::new();
    let gone = world.bundle("c1", "{}");
    let socket = gone.start();
    let pid = server_pid(&socket);
    // containerd restarts.
    drop(gone.log);
    kill(pid, libc::SIGUSR1);
    assert_eq!(server_pid(&socket), pid);
    let none = world.bundle("c2", "{}");
    std::fs::remove_file(none.dir.join("log")).unwrap();
    let pid = server_pid(&none.start());
    kill(pid, libc::SIGUSR1);
    assert!(is_alive(pid));
}

#[test]
fn an_idle_server_uses_little_memory() {
    let world = World::new();
    let pid = server_pid(&world.bundle("c1", "{}").start());
    let rollup = || std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup")).unwrap();
    let own = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    // The limit is generous: a build that is dynamic and not optimised has hundreds of kilobytes of relocations.
    let measured = own(&rollup());
    assert!(measured < 2000, "{measured} kB of its own memory");
}
