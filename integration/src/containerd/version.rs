//! The containerd and the runtime that a test runs on.

/// The generations of containerd that the tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian 12's containerd, or a 1.x on PATH: plain addresses, task API 2, configuration 2.
    V1_6,
    /// The pinned 2.3, or a 2.x on PATH.
    V2_3,
}

/// The forms in which a runtime is named to containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `io.containerd.runc.v2` with the path of the shim.
    ByPath,
    /// A runtime type of its own, found on containerd's PATH.
    ByName,
    /// As `ByName`, with `sandboxer = "shim"`: pods have no pause container. containerd 2.x alone.
    WithoutPause,
}

/// The runtime of the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// berth's shim, named in one of the forms.
    Berth(Form),
    /// containerd's Go shim with runc, which tests the tests (`RUNTIME=runc`).
    Runc,
}

impl Runtime {
    /// Returns the runtime that the environment variable `RUNTIME` names: `berth` (the default) or `runc`.
    pub fn under_test(form: Form) -> Self {
        match std::env::var("RUNTIME").as_deref() {
            Err(_) | Ok("berth") => Self::Berth(form),
            Ok("runc") => Self::Runc,
            Ok(other) => panic!("RUNTIME={other}: neither berth nor runc"),
        }
    }

    /// Returns the name of the handler in containerd's configuration.
    pub fn handler(self) -> &'static str {
        match self {
            Self::Berth(Form::ByPath) => "berth",
            Self::Berth(Form::ByName) => "berth-own",
            Self::Berth(Form::WithoutPause) => "berth-pod",
            Self::Runc => "runc",
        }
    }

    /// Returns the file name of the shim.
    pub fn shim(self) -> &'static str {
        match self {
            Self::Berth(_) => "containerd-shim-berth-v2",
            Self::Runc => "containerd-shim-runc-v2",
        }
    }
}
