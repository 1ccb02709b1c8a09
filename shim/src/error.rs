//! The errors of the runtime as ttrpc errors: the code for each kind, and the prefixes that callers match on.
//!
//! The code that fails words the error (`berth_runtime::Error`). The text is not changed here.

use berth_proto::{failure, ttrpc};
use berth_runtime::{Error, Kind};

/// The ttrpc code of a kind. containerd makes its own error class of it.
pub fn code(kind: Kind) -> ttrpc::Code {
    match kind {
        Kind::InvalidArgument | Kind::Unsupported => ttrpc::Code::INVALID_ARGUMENT,
        Kind::NotFound => ttrpc::Code::NOT_FOUND,
        Kind::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
        Kind::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
        Kind::NotExecuted | Kind::Internal => ttrpc::Code::UNKNOWN,
    }
}

/// Reports whether a system call failed for want of a resource that may be free again later: a thread or process, a
/// descriptor, memory, disk space.
pub fn is_shortage(error: &Error) -> bool {
    let wants = [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT];
    error.kind() == Kind::Internal && error.errno().is_some_and(|errno| wants.contains(&errno))
}

/// Turns an error into the answer to a call.
#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
pub fn status(error: Error) -> ttrpc::Error {
    let code = if is_shortage(&error) { ttrpc::Code::RESOURCE_EXHAUSTED } else { code(error.kind()) };
    failure(code, error.to_string())
}

/// A failed Create. nerdctl, moby and critest look for `OCI runtime create failed: `.
pub fn create_failed(error: Error) -> Error {
    error.context("OCI runtime create failed: runc create failed")
}

/// A failed Start of init.
pub fn start_failed(error: Error) -> Error {
    error.context("OCI runtime start failed")
}

/// A failed Start of an exec. moby tells exit status 126 from 127 by the text behind this prefix.
pub fn exec_failed(error: Error) -> Error {
    error.context("OCI runtime exec failed: exec failed")
}

/// The container does not exist.
pub fn no_container(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("container {id:?} does not exist"))
}

/// The exec does not exist in the container.
pub fn no_process(id: &str, exec: &str) -> Error {
    Error::new(Kind::NotFound, format!("process {exec:?} does not exist in container {id:?}"))
}

/// The process has exited. containerd relies on NOT_FOUND from Kill.
pub fn finished() -> Error {
    Error::new(Kind::NotFound, "process already finished")
}

/// The shim is shutting down and drops the work.
pub fn shutting_down() -> Error {
    Error::new(Kind::Internal, "the shim is shutting down")
}

/// The phase of the container or process does not allow the call.
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
    fn each_error_kind_maps_to_its_ttrpc_code() {
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
    fn a_shortage_is_resource_exhausted() {
        for errno in [libc::EAGAIN, libc::EMFILE, libc::ENOMEM, libc::ENOSPC] {
            let error = Error::from_errno(errno).context("create");
            assert_eq!(parts(error).0, ttrpc::Code::RESOURCE_EXHAUSTED);
        }
        let refused = Error::from_errno(libc::ENOSPC).with_kind(Kind::InvalidArgument);
        assert_eq!(parts(refused).0, ttrpc::Code::INVALID_ARGUMENT);
    }

    #[test]
    fn create_errors_begin_with_the_prefix_that_callers_match() {
        let inner = Error::invalid("exec: \"x\": executable file not found in $PATH");
        let (_, text) = parts(create_failed(inner));
        assert_eq!(
            text,
            "OCI runtime create failed: runc create failed: exec: \"x\": executable file not found in $PATH"
        );
    }

    #[test]
    fn a_prefix_keeps_the_error_kind() {
        assert_eq!(parts(exec_failed(Error::from_errno(libc::ENOENT))).0, ttrpc::Code::UNKNOWN);
        assert_eq!(exec_failed(precondition("x")).kind(), Kind::FailedPrecondition);
    }
}
