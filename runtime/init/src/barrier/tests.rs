//! The children here run [`crate::finish`] under filters that kill for each system call that is not listed.

extern crate std;

use std::{time::Duration, vec, vec::Vec};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, waitid},
};

use super::*;
use crate::{
    payload::Remaining,
    plan::{
        Capabilities, Hooks, Process, Rlimit, SchedulerAttributes, Scheduling, Seccomp,
        SeccompWhen::{self, BeforeBarrier, BeforeVisible},
    },
    sys::Side,
    wire::{Failure, LEN},
};

/// The errno with which the filters answer execve(2): a failure with it shows that all steps before execve were allowed.
const REACHED: i32 = libc::ENOTNAM;

/// A filter that allows `calls`, answers execve with [`REACHED`], and kills for all others. write(2) is allowed for the
/// message on standard error that follows a failed execve. In a debug build std calls fcntl(2) before it closes an fd.
fn filter(calls: impl Iterator<Item = libc::c_long>) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jt, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf: 0, k };
    let calls = calls.filter(|nr| *nr != libc::SYS_execve).chain([libc::SYS_write]);
    let calls: Vec<_> = calls.chain(cfg!(debug_assertions).then_some(libc::SYS_fcntl)).collect();
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let count = u8::try_from(calls.len()).unwrap();
    program.push(instruction(equals, count + 2, u32::try_from(libc::SYS_execve).unwrap()));
    for (nr, left) in calls.iter().zip((1..=count).rev()) {
        program.push(instruction(equals, left, u32::try_from(*nr).unwrap()));
    }
    for action in
        [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ERRNO | REACHED.unsigned_abs()]
    {
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, action));
    }
    program
}

/// Clones a child that runs [`crate::finish`] with `filter`, which is loaded at `when`.
fn child(filter: &[libc::sock_filter], when: SeccompWhen, barrier: Barrier<'_>) -> (OwnedFd, OwnedFd) {
    let (ours, theirs) =
        net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let policy = SchedulerAttributes { flags: 1, ..SchedulerAttributes::default() };
    let rlimits = [Rlimit { resource: libc::RLIMIT_NPROC, soft: 1000, hard: 1000 }];
    let process = Process {
        args: &[],
        env: &[],
        find_home: false,
        executables: &[],
        from_path: false,
        cwd: c"/",
        uid: 0,
        gid: 0,
        groups: &[],
        keep_groups: false,
        groups_buffer: &[],
        umask: None,
        capabilities: Capabilities::default(),
        rlimits: &rlimits,
        ignored_signals: 1 << (libc::SIGUSR1 - 1),
        no_new_privs: true,
        labels: &[],
        seccomp: Some(Seccomp { filter, flags: 0, when, state_readable: false, dumpable_for_agent: false }),
        scheduling: Some(Scheduling {
            cpus: None,
            policy: Some(policy),
            io_priority: None,
            personality: None,
            memory: None,
        }),
        chown_stdio: false,
    };
    let remaining = Remaining {
        process,
        executable: c"/bin/payload",
        start_container: Hooks::NONE,
        barrier: Some(barrier),
        enters_pid: when == BeforeVisible,
        terminal: false,
    };
    match sys::clone_hook().unwrap() {
        Side::Child => {
            let mut report = Report::new(theirs.as_fd());
            // The children of other tests must not inherit this channel, nor this child theirs.
            let socket = if let Barrier::Listen(socket) = barrier { socket.as_raw_fd() } else { -1 };
            let keep = [socket.min(theirs.as_raw_fd()), socket.max(theirs.as_raw_fd())];
            let closed = crate::fds::close_all_but(0, &keep);
            let loaded = closed
                .and_then(|()| sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivs))
                .and_then(|_| crate::seccomp::load_at(BeforeVisible, &remaining.process, &report));
            let Err(failure) = loaded.and_then(|()| crate::finish(&remaining, &mut report));
            report.fail(failure)
        }
        Side::Parent(_, pidfd) => {
            set_timeout(&ours);
            (ours, pidfd)
        }
    }
}

/// Limits the wait for a message: a child that was killed must not hang the test.
fn set_timeout(socket: &OwnedFd) {
    set_socket_timeout(socket, Timeout::Recv, Some(Duration::from_secs(20))).unwrap();
}

/// The next message of a child; `None` if it has died.
fn receive(channel: &OwnedFd) -> Option<Message> {
    let mut buffer = [0; LEN];
    let length = net::recv(channel, &mut buffer[..], RecvFlags::empty()).map_or(0, |(length, _)| length);
    Message::decode(&buffer[..length])
}

fn send(channel: &OwnedFd, byte: u8) {
    net::send(channel, &[byte], SendFlags::NOSIGNAL).unwrap();
}

fn end(process: WaitId<'_>) -> WaitIdStatus {
    waitid(process, WaitIdOptions::EXITED).unwrap().unwrap()
}

/// The message of a child that has done everything up to execve.
const AT_EXEC: Option<Message> = Some(Message::Failure(Failure { step: Step::Exec, index: 0, errno: REACHED }));

#[test]
fn wait_on_the_channel_makes_the_listed_calls_only() {
    let filter = filter(AT_BARRIER.iter().copied());
    let (channel, pidfd) = child(&filter, BeforeBarrier, Barrier::Channel);
    assert_eq!(receive(&channel), Some(Message::Ready), "AT_BARRIER lacks a system call");
    send(&channel, wire::START);
    assert_eq!(receive(&channel), AT_EXEC, "AT_BARRIER lacks a system call");
    assert_eq!(end(WaitId::PidFd(pidfd.as_fd())).exit_status(), Some(1));
}

#[test]
fn wait_on_the_socket_makes_the_listed_calls_only() {
    let filter = filter(AT_BARRIER.iter().copied());
    let socket = || net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let name = rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes();
    let address = SocketAddrUnix::new_abstract_name(&[&b"berth-barrier-"[..], &name].concat()).unwrap();
    let listener = socket();
    net::bind(&listener, &address).unwrap();
    net::listen(&listener, 4).unwrap();
    let connect = || {
        let peer = socket();
        set_timeout(&peer);
        net::connect(&peer, &address).unwrap();
        peer
    };
    let (channel, pidfd) = child(&filter, BeforeBarrier, Barrier::Listen(listener.as_fd()));
    assert_eq!(receive(&channel), Some(Message::Ready), "AT_BARRIER lacks a system call");
    drop(connect());
    // A peer that sends nothing does not keep the others waiting.
    let _silent = connect();
    let peer = connect();
    send(&peer, wire::GET_NAMESPACES);
    assert_eq!(receive(&peer), Some(Message::Namespaces), "AT_BARRIER lacks a system call");
    let peer = connect();
    send(&peer, wire::START);
    assert_eq!(receive(&peer), AT_EXEC, "AT_BARRIER lacks a system call");
    assert_eq!(end(WaitId::PidFd(pidfd.as_fd())).exit_status(), Some(1));
}

#[test]
fn signal_at_the_barrier_makes_the_listed_calls_only() {
    let filter = filter(AT_BARRIER.iter().copied());
    let (channel, pidfd) = child(&filter, BeforeBarrier, Barrier::Channel);
    assert_eq!(receive(&channel), Some(Message::Ready), "AT_BARRIER lacks a system call");
    rustix::process::pidfd_send_signal(&pidfd, Signal::TERM).unwrap();
    assert_eq!(end(WaitId::PidFd(pidfd.as_fd())).exit_status(), Some(128 + libc::SIGTERM));
}

#[test]
fn second_clone_makes_the_listed_calls_only() {
    let filter = filter(AT_BARRIER.iter().chain(AT_PID_CLONE).copied().chain([libc::SYS_clone]));
    let (channel, first) = child(&filter, BeforeVisible, Barrier::Channel);
    let Some(Message::Cloned(pid)) = receive(&channel) else { panic!("AT_PID_CLONE lacks a system call") };
    assert_eq!(end(WaitId::PidFd(first.as_fd())).exit_status(), Some(0));
    send(&channel, wire::ADOPTED);
    assert_eq!(receive(&channel), Some(Message::Ready), "AT_PID_CLONE lacks a system call");
    send(&channel, wire::START);
    assert_eq!(receive(&channel), AT_EXEC, "AT_PID_CLONE lacks a system call");
    assert_eq!(end(WaitId::Pid(Pid::from_raw(pid).unwrap())).exit_status(), Some(1));
}

#[test]
fn message_that_cannot_be_sent_is_an_error() {
    let (_ours, theirs) =
        net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    // Children of other tests may hold copies, so a closed end is not enough.
    net::shutdown(&theirs, net::Shutdown::Both).unwrap();
    let mut report = Report::new(theirs.as_fd());
    let waited = wait(Some(Barrier::Channel), None, &mut report);
    assert_eq!(waited, Err(Failure { step: Step::Channel, index: 0, errno: libc::EPIPE }));
}

#[test]
fn call_that_is_not_listed_kills_the_child() {
    let filter = filter(AT_BARRIER.iter().copied().filter(|nr| *nr != libc::SYS_recvfrom));
    let (channel, pidfd) = child(&filter, BeforeBarrier, Barrier::Channel);
    assert_eq!(receive(&channel), Some(Message::Ready));
    send(&channel, wire::START);
    assert_eq!(receive(&channel), None);
    assert_eq!(end(WaitId::PidFd(pidfd.as_fd())).terminating_signal(), Some(libc::SIGSYS));
}
