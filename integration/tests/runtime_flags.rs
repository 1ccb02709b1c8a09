//! Flags of the command line that no other file covers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{bundle::Bundle, runtime::Runtime};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::{
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
};

/// Receives a pidfd over this connection and returns its pid, from /proc/self/fdinfo.
fn pid_behind(stream: &UnixStream) -> String {
    let mut buffer = [0u8; 64];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::empty()).unwrap();
    let Some(ControlMessageOwned::ScmRights(fds)) = got.cmsgs().unwrap().next() else { panic!("no fd came") };
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fds[0])).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().to_owned()
}

#[test]
fn pidfd_socket_receives_the_pidfd() {
    let runtime = Runtime::new("flags-pidfd");
    let path = runtime.work().join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let flags = ["--pidfd-socket", path.to_str().unwrap()];
    runtime.on("create", "c1", &Bundle::probe(&["sleep", "100"])).with(&flags).wait().ok();
    assert_eq!(pid_behind(&listener.accept().unwrap().0), runtime.pid("c1").to_string());
    runtime.cmd(&["start", "c1"]).ok();
    let file = runtime.work().join("exec.pid");
    let words = ["--detach", "--pid-file", file.to_str().unwrap()];
    runtime.call(&["exec", "c1", "/probe", "sleep", "100"]).with(&words).with(&flags).wait().ok();
    assert_eq!(pid_behind(&listener.accept().unwrap().0), std::fs::read_to_string(file).unwrap());
}

#[test]
fn no_new_keyring_keeps_the_keyring_of_the_caller() {
    let runtime = Runtime::new("flags-keyring");
    for (flags, own) in [(&[][..], true), (&["--no-new-keyring"], false)] {
        let bundle = Bundle::probe(&["report", "keyring"]);
        let out = runtime.on("run", "c1", &bundle).with(flags).wait().ok().json();
        let description = out["keyring"]["description"].as_str().unwrap();
        assert_eq!(description.ends_with(";_ses.c1"), own, "{flags:?}: {description}");
    }
}
