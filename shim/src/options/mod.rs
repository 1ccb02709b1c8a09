//! The options of a task, from the runtime handler's table in containerd's configuration.
//!
//! They arrive as `containerd.runc.v1.Options` if the handler's type is `io.containerd.runc.v2` (with berth as its
//! path), and as TOML inside `runtimeoptions.v1.Options` under any other type. `start` uses them for the shim's cgroup
//! and Create for the container. Create also writes them into the bundle for [`delete`](crate::delete).

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use berth_proto::{Message, any, runc, runtime_options::RuntimeOptions, wkt::Any};
use berth_runtime::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::bundle;

/// The state root without an option. The state of a container is in `<root>/<namespace>/<id>`.
pub const DEFAULT_ROOT: &str = "/run/containerd/berth";
/// The largest configuration file, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// The file in the bundle with the options.
const FILE: &str = "options.json";

/// The options that the shim uses. `Default` holds when containerd sends none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskOptions {
    /// `Some(true)` selects the systemd cgroup driver; otherwise it is cgroupfs.
    pub systemd_cgroup: Option<bool>,
    /// The absolute state root; see [`TaskOptions::state_root`].
    pub root: Option<PathBuf>,
    /// The OCI runtime that a runc shim would execute. berth has its own; the option is logged and has no effect.
    pub binary_name: Option<String>,
    /// Enter the rootfs by MS_MOVE and chroot(2), for a rootfs on the initramfs.
    pub no_pivot_root: bool,
    /// Keep the session keyring of the shim.
    pub no_new_keyring: bool,
    /// An existing cgroup that the server joins.
    pub shim_cgroup: Option<String>,
    /// The uid that owns the stdio pipes (pods with a user namespace).
    pub io_uid: u32,
    /// The gid that owns the stdio pipes.
    pub io_gid: u32,
    /// The directory of CRIU's files.
    pub criu_work_path: Option<PathBuf>,
}

impl TaskOptions {
    /// Decodes the options of a request. Absent options are the defaults. A message of unknown type is logged and
    /// ignored.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`]: the message or the TOML is malformed, a value has the wrong type, or the state root
    /// is not absolute. Or a configuration file cannot be read. The message names the field.
    pub fn decode(options: Option<&Any>) -> Result<Self> {
        let Some(options) = options.filter(|any| !any.type_url.is_empty() || !any.value.is_empty()) else {
            return Ok(Self::default());
        };
        let what = || format!("options {}", any::name(options));
        let decoded = if any::is::<runc::Options>(options) {
            let message = runc::Options::parse_from_bytes(&options.value).map_err(malformed).with_context(what)?;
            Self::from_runc(message)
        } else if any::is::<RuntimeOptions>(options) {
            let message = RuntimeOptions::parse_from_bytes(&options.value).map_err(malformed).with_context(what)?;
            Self::from_toml(&message).with_context(what)?
        } else {
            ::log::warn!("options of unknown type {:?} are ignored", options.type_url);
            Self::default()
        };
        if let Some(root) = decoded.root.as_ref().filter(|root| !root.is_absolute()) {
            return Err(Error::invalid(format!("Root {} is not absolute", root.display())).context(what()));
        }
        if let Some(name) = decoded.binary_name.as_deref().filter(|name| *name != "runc") {
            ::log::warn!("option BinaryName {name:?} is ignored: the runtime is built in");
        }
        Ok(decoded)
    }

    /// The directory of the container states of one namespace.
    pub fn state_root(&self, namespace: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT)).join(namespace)
    }

    /// Writes the options into the bundle, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        bundle::write(bundle, FILE, &json)
    }

    /// Reads the options that [`save`](Self::save) wrote. Without the file they are the defaults.
    ///
    /// # Errors
    /// The file cannot be read or is malformed.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&json).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
    }

    fn from_runc(message: runc::Options) -> Self {
        Self {
            // In protobuf, false cannot be told from absent.
            systemd_cgroup: message.systemd_cgroup.then_some(true),
            root: non_empty(message.root).map(PathBuf::from),
            binary_name: non_empty(message.binary_name),
            no_pivot_root: message.no_pivot_root,
            no_new_keyring: message.no_new_keyring,
            shim_cgroup: non_empty(message.shim_cgroup),
            io_uid: message.io_uid,
            io_gid: message.io_gid,
            criu_work_path: non_empty(message.criu_work_path).map(PathBuf::from),
        }
    }

    fn from_toml(message: &RuntimeOptions) -> Result<Self> {
        if message.config_path.is_empty() {
            let text = std::str::from_utf8(&message.config_body)
                .map_err(|e| Error::invalid(e.to_string()))
                .context("config_body")?;
            return Self::from_text(text).context("config_body");
        }
        let text = read_limited(Path::new(&message.config_path));
        text.and_then(|text| Self::from_text(&text)).with_context(|| format!("config_path {}", message.config_path))
    }

    /// The keys are the Go names of runc's option fields. As in containerd their case does not matter, and underscores
    /// are skipped.
    fn from_text(text: &str) -> Result<Self> {
        let table = text.parse::<Table>().map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            Error::invalid(format!("line {}: {}", before.matches('\n').count() + 1, e.message().trim_end()))
        })?;
        let mut options = Self::default();
        for (key, value) in &table {
            let name: String = key.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect();
            match name.as_str() {
                "systemdcgroup" => options.systemd_cgroup = Some(boolean(key, value)?),
                "root" => options.root = non_empty(string(key, value)?).map(PathBuf::from),
                "binaryname" => options.binary_name = non_empty(string(key, value)?),
                "nopivotroot" => options.no_pivot_root = boolean(key, value)?,
                "nonewkeyring" => options.no_new_keyring = boolean(key, value)?,
                "shimcgroup" => options.shim_cgroup = non_empty(string(key, value)?),
                "iouid" => options.io_uid = id(key, value)?,
                "iogid" => options.io_gid = id(key, value)?,
                "criuworkpath" => options.criu_work_path = non_empty(string(key, value)?).map(PathBuf::from),
                // containerd uses these itself, or they are gone since 2.0.
                "typeurl" | "configpath" | "criupath" | "criuimagepath" | "taskapiaddress" | "taskapiversion" => {}
                _ => ::log::warn!("option {key:?} is unknown and ignored"),
            }
        }
        Ok(options)
    }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn malformed(e: berth_proto::protobuf::Error) -> Error {
    Error::invalid(format!("malformed message: {e}"))
}

fn read_limited(path: &Path) -> Result<String> {
    // The size of a device or of a file in procfs is 0, whatever it has to read.
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Error::invalid(format!("file is larger than {FILE_LIMIT} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| Error::invalid(e.to_string()))
}

fn boolean(key: &str, value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| wrong_type(key, "a boolean", value))
}

fn string(key: &str, value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong_type(key, "a string", value))
}

fn id(key: &str, value: &Value) -> Result<u32> {
    value.as_integer().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| wrong_type(key, "an id", value))
}

fn wrong_type(key: &str, want: &str, value: &Value) -> Error {
    Error::invalid(format!("{key}: want {want}, not a {}", value.type_str()))
}

#[cfg(test)]
mod tests;
