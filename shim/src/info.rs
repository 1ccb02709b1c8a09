//! `-info`, `-v` and `-help`: the features and the version of the runtime, and a text for a human.

use std::io::Write;

use berth_proto::{
    Message, MessageField, any,
    info::{RuntimeInfo, RuntimeVersion},
    wkt::Any,
};
use berth_runtime::{Context, Error, Kind, Result, features::features};
use berth_version::{COMMIT, VERSION};

/// The runtime type by which containerd finds this binary on its PATH.
const NAME: &str = "io.containerd.berth.v2";

/// The text of `-help`. docs/cli/man has it as a manual page.
const HELP: &str = "\
containerd-shim-berth-v2 - containerd's shim for berth

containerd starts this program; a human needs it only to see that it is there.

USAGE:
   containerd-shim-berth-v2 [flags] start    find or start the server of a pod, print its address
   containerd-shim-berth-v2 [flags] delete   clean up after a server that has died
   containerd-shim-berth-v2 [flags]          serve on the listener that descriptor 3 is

FLAGS:
   -namespace value        containerd's namespace
   -id value               the container, or the pod for a server
   -address value          containerd's socket
   -bundle value           the bundle, for delete
   -publish-binary value   accepted and not used: events go over ttrpc
   -debug                  log at debug level
   -info                   print the features of the runtime as a protobuf message
   -v, -version            print the version and the commit
   -h, -help               show this help

berth check tells whether containerd finds this program and how it is registered.
";

/// Prints `RuntimeInfo` as a protobuf message. containerd asks once for each handler and at the first container of a
/// pod, so nothing is read or probed beyond the features. The options on standard input do not change the answer and
/// are not read.
///
/// # Errors
/// The answer cannot be written.
pub fn run() -> Result<()> {
    write(&encode(&message()?)?)
}

/// Prints the version as text.
///
/// # Errors
/// The text cannot be written.
pub fn print_version() -> Result<()> {
    let (name, commit) = (env!("CARGO_PKG_NAME"), COMMIT.unwrap_or("unknown"));
    write(format!("{name}: berth {VERSION}, commit {commit}, task API v2 and v3 over ttrpc\n").as_bytes())
}

/// Prints the help.
///
/// # Errors
/// The text cannot be written.
pub fn print_help() -> Result<()> {
    write(HELP.as_bytes())
}

fn message() -> Result<RuntimeInfo> {
    let features = serde_json::to_vec(&features(VERSION, COMMIT))
        .map_err(|e| Error::new(Kind::Internal, format!("features: {e}")))?;
    let version = RuntimeVersion {
        version: VERSION.to_owned(),
        revision: COMMIT.unwrap_or_default().to_owned(),
        ..RuntimeVersion::default()
    };
    Ok(RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(version),
        features: MessageField::some(features_any(features)),
        ..RuntimeInfo::default()
    })
}

fn features_any(json: Vec<u8>) -> Any {
    any::json(any::OCI_FEATURES, json)
}

fn encode(info: &RuntimeInfo) -> Result<Vec<u8>> {
    info.write_to_bytes().map_err(|e| Error::new(Kind::Internal, e.to_string()))
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("write the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_answers_with_a_message_with_json_features() {
        let info = RuntimeInfo::parse_from_bytes(&encode(&message().unwrap()).unwrap()).unwrap();
        assert_eq!((info.name.as_str(), info.version.version.as_str()), (NAME, VERSION));
        assert_eq!(info.features.type_url, any::OCI_FEATURES);
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert!(features["ociVersionMax"].is_string());
        assert!(features["linux"]["namespaces"].as_array().unwrap().iter().any(|ns| ns == "user"));
    }
}
