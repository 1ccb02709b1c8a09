//! A runtime error on the wire: its kind as a ttrpc code, and the words in front of it that callers match on.
//!
//! What went wrong is worded where it went wrong (`berth_runtime::Error`); nothing here changes that text.

use berth_proto::{failure, ttrpc};
use berth_runtime::{Error, Kind};

/// The code a client sees, and that containerd turns into its own error class.
pub fn code(kind: Kind) -> ttrpc::Code {
    match kind {
        Kind::InvalidArgument | Kind::Unsupported => ttrpc::Code::INVALID_ARGUMENT,
        Kind::NotFound => ttrpc::Code::NOT_FOUND,
        Kind::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
        Kind::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
        Kind::NotExecuted | Kind::Internal => ttrpc::Code::UNKNOWN,
    }
}

/// Whether a system call failed for want of something that may be there again later: a thread or process, a descriptor,
/// memory, room on a disk.
pub fn is_shortage(error: &Error) -> bool {
    let wants = [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT];
    error.kind() == Kind::Internal && error.errno().is_some_and(|errno| wants.contains(&errno))
}

/// The error as an answer to a call.
#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
pub fn status(error: Error) -> ttrpc::Error {
    let code = if is_shortage(&error) { ttrpc::Code::RESOURCE_EXHAUSTED } else { code(error.kind()) };
    failure(code, error.to_string())
}

/// A create that failed. nerdctl, moby and critest look for `OCI runtime create failed: `.
pub fn create_failed(error: Error) -> Error {
    error.context("OCI runtime create failed: runc create failed")
}

/// A start of init that failed.
pub fn start_failed(error: Error) -> Error {
    error.context("OCI runtime start failed")
}

/// An exec whose process did not come to be. moby tells exit status 126 from 127 by the text behind this.
pub fn exec_failed(error: Error) -> Error {
    error.context("OCI runtime exec failed: exec failed")
}

/// No such container.
pub fn no_container(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("container {id:?} does not exist"))
}

/// No such exec in the container.
pub fn no_process(id: &str, exec: &str) -> Error {
    Error::new(Kind::NotFound, format!("process {exec:?} does not exist in container {id:?}"))
}

/// The process is gone already; `kill` counts on NOT_FOUND.
pub fn finished() -> Error {
    Error::new(Kind::NotFound, "process already finished")
}

/// The shim is shutting down, so the work was cut off.
pub fn shutting_down() -> Error {
    Error::new(Kind::Internal, "the shim is shutting down")
}

/// The container or process is in a state that does not allow `what`.
pub fn precondition(what: impl Into<String>) -> Error {
    Error::new(Kind::FailedPrecondition, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(error: Error) -> (ttrpc::Code, String) {
        match status(error) {
            ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_kind_has_its_code() {
        for (kind, code) in [
            (Kind::InvalidArgument, ttrpc::Code::INVALID_ARGUMENT),
            (Kind::Unsupported, ttrpc::Code::INVALID_ARGUMENT),
            (Kind::NotFound, ttrpc::Code::NOT_FOUND),
            (Kind::AlreadyExists, ttrpc::Code::ALREADY_EXISTS),
            (Kind::FailedPrecondition, ttrpc::Code::FAILED_PRECONDITION),
            (Kind::NotExecuted, ttrpc::Code::UNKNOWN),
            (Kind::Internal, ttrpc::Code::UNKNOWN),
        ] {
            assert_eq!(parts(Error::new(kind, "x")), (code, "x".to_owned()));
        }
    }

    #[test]
    fn what_was_wanting_is_told_apart() {
        for errno in [libc::EAGAIN, libc::EMFILE, libc::ENOMEM, libc::ENOSPC] {
            let error = Error::from_errno(errno).context("create");
            assert_eq!(parts(error).0, ttrpc::Code::RESOURCE_EXHAUSTED);
        }
        let refused = Error::from_errno(libc::ENOSPC).with_kind(Kind::InvalidArgument);
        assert_eq!(parts(refused).0, ttrpc::Code::INVALID_ARGUMENT);
    }

    #[test]
    fn create_errors_begin_as_callers_expect() {
        let inner = Error::invalid("exec: \"x\": executable file not found in $PATH");
        let (_, text) = parts(create_failed(inner));
        assert_eq!(
            text,
            "OCI runtime create failed: runc create failed: exec: \"x\": executable file not found in $PATH"
        );
    }

    #[test]
    fn prefix_keeps_the_kind() {
        assert_eq!(parts(exec_failed(Error::from_errno(libc::ENOENT))).0, ttrpc::Code::UNKNOWN);
        assert_eq!(exec_failed(precondition("x")).kind(), Kind::FailedPrecondition);
    }
}
