//! `berth shims` and `berth upgrade`: the calls of the command line to the running shims. The program `berth` executes this
//! one for them (`shims …`, `upgrade …`), since the protocol is here; it has checked the flags.

use std::{
    ffi::OsString,
    io::Write,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use berth_proto::{
    admin::{AdminMessage, SERVICE, StatusRequest, StatusResponse, UpgradeRequest, UpgradeResponse},
    ttrpc::{
        self, Request,
        asynchronous::{Client, transport::Socket},
    },
};
use berth_runtime::{Context, Error, Kind, Result};
use serde::Serialize;
use tokio::net::UnixStream;

use crate::{link::UPGRADE, socket};

/// The time that a shim has to tell what it runs.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that an upgrade may take: two waits for a quiet moment, and a trial and its end, of 5 s each, with some to spare.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

/// The words behind the command.
#[derive(Debug, Default)]
struct Words {
    all: bool,
    ids: Vec<String>,
    binary: String,
    check: bool,
    json: bool,
    quiet: bool,
    directories: Vec<PathBuf>,
}

/// A shim that answers.
struct Shim {
    client: Client,
    status: StatusResponse,
}

/// A shim in the listing, as JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    namespace: &'a str,
    version: &'a str,
    pid: u32,
    containers: u32,
    /// Bytes.
    memory: u64,
    program: &'a str,
}

/// Runs the command if the first argument is one; returns its exit status.
pub fn run(arguments: &[OsString]) -> Option<ExitCode> {
    let command = arguments.first()?.to_str().filter(|word| ["shims", "upgrade"].contains(word))?;
    let outcome = Words::parse(arguments.get(1..)?).and_then(|words| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.context("make the runtime")?;
        runtime.block_on(async {
            match command {
                "shims" => list(&words).await,
                _ => upgrade(&words).await,
            }
        })
    });
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "berth: {command}: {e}");
            ExitCode::FAILURE
        }
    })
}

impl Words {
    fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut words = Self::default();
        for word in arguments {
            let word = word.to_str().ok_or_else(|| Error::invalid(format!("{} is not UTF-8", word.display())))?;
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "--all" => words.all = true,
                "--check" => words.check = true,
                "--json" => words.json = true,
                "--quiet" => words.quiet = true,
                "--id" => words.ids.push(value.to_owned()),
                "--binary" => words.binary = value.to_owned(),
                "--socket-dir" => words.directories.push(value.into()),
                other => return Err(Error::invalid(format!("unknown flag {other}"))),
            }
        }
        if words.directories.is_empty() {
            words.directories.push(socket::DIRECTORY.into());
        }
        Ok(words)
    }

    /// The shims that answer, sorted by namespace and id. Sockets of other shims are left out.
    async fn shims(&self) -> Result<Vec<Shim>> {
        let mut found = Vec::new();
        for directory in &self.directories {
            let entries = match std::fs::read_dir(directory) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.with_context(|| format!("read {}", directory.display()))?,
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                    found.extend(Shim::connect(&entry.path()).await);
                }
            }
        }
        let key = |shim: &Shim| (shim.status.namespace.clone(), shim.status.id.clone());
        found.sort_by_key(key);
        Ok(found)
    }
}

impl Shim {
    /// Asks the shim behind a socket. Returns `None` if no shim of berth with this service answers in time.
    async fn connect(path: &Path) -> Option<Self> {
        let asked = async {
            let client = Client::new(Socket::from(UnixStream::connect(path).await.ok()?));
            let status = call(&client, "Status", &StatusRequest {}, STATUS_TIMEOUT).await.ok()?;
            Some(Self { client, status })
        };
        tokio::time::timeout(STATUS_TIMEOUT, asked).await.ok().flatten()
    }

    fn row(&self) -> Row<'_> {
        let StatusResponse { version, pid, id, namespace, containers, memory, program, .. } = &self.status;
        Row { id, namespace, version, pid: *pid, containers: *containers, memory: *memory, program }
    }

    async fn upgrade(&self, words: &Words) -> Result<UpgradeResponse> {
        let request = UpgradeRequest { path: words.binary.clone(), check: words.check };
        call(&self.client, UPGRADE.1, &request, UPGRADE_TIMEOUT).await
    }
}

/// Makes a call of the admin service.
async fn call<M: AdminMessage>(
    client: &Client,
    method: &str,
    request: &impl AdminMessage,
    limit: Duration,
) -> Result<M> {
    let internal = |e: String| Error::new(Kind::Internal, e);
    let request = Request {
        service: SERVICE.into(),
        method: method.into(),
        payload: request.encode().map_err(|e| internal(e.to_string()))?,
        timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        ..Request::default()
    };
    let answer = client.request(request).await.map_err(|e| match e {
        ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::UNIMPLEMENTED => {
            Error::unsupported(status.message)
        }
        ttrpc::Error::RpcStatus(status) => internal(status.message),
        // The connection has ended, and with it the shim.
        other => Error::new(Kind::NotFound, other.to_string()),
    })?;
    M::decode(&answer.payload).map_err(|e| internal(e.to_string()))
}

async fn list(words: &Words) -> Result<()> {
    let shims = words.shims().await?;
    let rows: Vec<_> = shims.iter().map(Shim::row).collect();
    let text = if words.json {
        serde_json::to_string(&rows).map_err(|e| Error::new(Kind::Internal, e.to_string()))? + "\n"
    } else if words.quiet {
        rows.iter().map(|row| format!("{}\n", row.id)).collect()
    } else {
        let mut cells = vec![["ID", "NAMESPACE", "VERSION", "PID", "CONTAINERS", "MEMORY"].map(str::to_owned)];
        cells.extend(rows.iter().map(|row| {
            let memory = format!("{} kB", row.memory / 1024);
            let numbers = [row.pid.to_string(), row.containers.to_string(), memory];
            let [pid, containers, memory] = numbers;
            [row.id.to_owned(), row.namespace.to_owned(), row.version.to_owned(), pid, containers, memory]
        }));
        table(&cells)
    };
    print(&text)
}

/// Upgrades the shims that are named, one after another. The first one is the canary: none is touched after a failure.
async fn upgrade(words: &Words) -> Result<()> {
    if words.all != words.ids.is_empty() {
        return Err(Error::invalid("name shims with --id, or all of them with --all"));
    }
    let mut shims = words.shims().await?;
    if !words.all {
        if let Some(missing) = words.ids.iter().find(|id| !shims.iter().any(|shim| shim.status.id == **id)) {
            return Err(Error::new(Kind::NotFound, format!("no shim with the id {missing:?} answers")));
        }
        shims.retain(|shim| words.ids.contains(&shim.status.id));
    }
    let (mut done, mut left, count) = (0, 0, shims.len());
    for shim in &shims {
        let StatusResponse { id, pid, .. } = &shim.status;
        let answer = match shim.upgrade(words).await {
            Ok(answer) => answer,
            // Others can do it, and pods end at any time.
            Err(e) if words.all && matches!(e.kind(), Kind::Unsupported | Kind::NotFound) => {
                print(&format!("{id}: pid {pid}: not upgraded: {e}\n"))?;
                left += 1;
                continue;
            }
            Err(e) => {
                let rest = count - done - left - 1;
                return Err(e.context(format!("shim {id} (pid {pid}); {done} of {count} done, {rest} not tried")));
            }
        };
        let UpgradeResponse { from, to, pause, unchanged } = answer;
        print(&match (unchanged, words.check) {
            (true, _) => format!("{id}: pid {pid}: {from} runs already\n"),
            (_, true) => format!("{id}: pid {pid}: {from} can be replaced by {to}\n"),
            _ => format!("{id}: pid {pid}: {from} -> {to}, pause {pause} µs\n"),
        })?;
        done += 1;
    }
    match left {
        0 => Ok(()),
        _ => Err(Error::new(Kind::FailedPrecondition, format!("{left} of {count} shims are not upgraded"))),
    }
}

/// A table whose columns are at least 12 characters wide and 3 apart, as in `berth list`.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count() + 3).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0).max(12)).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("write the output")
}
