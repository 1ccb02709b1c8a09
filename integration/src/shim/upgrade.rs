//! New programs for a running shim, and the calls that hand it over.

use super::{CALL, Failure, Shim, failure};
use crate::{command, executable, tools, wait::LONG};
use berth_proto::{
    admin::{
        AdminMessage, DrainRequest, DrainResponse, SERVICE, StatusRequest, StatusResponse, UpgradeRequest,
        UpgradeResponse,
    },
    ttrpc::{
        Request,
        asynchronous::{Client, transport::Socket},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory of programs that a shim trusts: it and all above it are root's alone. The directory of temporary files is
/// everyone's. Dropping it removes the directory.
pub struct Programs(PathBuf);

impl Default for Programs {
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-test-{}-{}-programs", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/var/lib").join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Programs {
    /// Makes a copy of the shim, which is another file and so another program.
    pub fn shim(&self, name: &str) -> PathBuf {
        self.copy(&tools::built("containerd-shim-berth-v2"), name)
    }

    /// Makes a copy of a program.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        executable::copy(from, &to);
        to
    }

    /// Makes a program that fails in this way (`berth-odd-shim`).
    pub fn odd(&self, mode: &str) -> PathBuf {
        let path = self.copy(&tools::built("berth-odd-shim"), mode);
        // A process of its own writes, as in `executable`.
        let line = format!("printf '\\n{mode}' >> {}", path.display());
        command::run(Command::new("sh").args(["-c", &line]), LONG).ok();
        path
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Shim {
    /// Makes a call of the admin service on a connection of its own.
    pub fn admin<M: AdminMessage>(&self, method: &str, request: &impl AdminMessage) -> Result<M, Failure> {
        let request = Request {
            service: SERVICE.into(),
            method: method.into(),
            payload: request.encode().unwrap(),
            timeout_nano: i64::try_from(CALL.as_nanos()).unwrap(),
            ..Request::default()
        };
        let answer = self.runtime().block_on(async {
            let stream = tokio::net::UnixStream::connect(self.socket()).await.unwrap();
            Client::new(Socket::from(stream)).request(request).await
        });
        answer.map(|answer| M::decode(&answer.payload).unwrap()).map_err(failure)
    }

    /// Calls Status.
    pub fn program(&self) -> StatusResponse {
        self.admin("Status", &StatusRequest {}).unwrap()
    }

    /// Calls Drain.
    pub fn drain(&self) -> Result<DrainResponse, Failure> {
        self.admin("Drain", &DrainRequest {})
    }

    /// Calls Upgrade.
    pub fn upgrade(&self, program: &Path) -> Result<UpgradeResponse, Failure> {
        self.admin("Upgrade", &UpgradeRequest { path: program.to_str().unwrap().into(), check: false })
    }

    /// Calls Upgrade to try only.
    pub fn try_upgrade(&self, program: &Path) -> Result<UpgradeResponse, Failure> {
        self.admin("Upgrade", &UpgradeRequest { path: program.to_str().unwrap().into(), check: true })
    }
}
