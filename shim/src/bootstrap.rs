//! What containerd says to `start` on standard input, and how `start` answers.
//!
//! ```text
//! containerd     standard input                     answer that it can read
//! 1.6            Any(options) or nothing            address
//! 1.7 … 2.2      the same                           address, or JSON
//! 2.3 …          BootstrapParams                    BootstrapResult (also JSON, address)
//! ```
//!
//! The answer always names version 2 of the task API. Version 3 is the same service under another name, and both are
//! served; but to a version 3 shim containerd 2.x gives the containers of a pod without an onClose of their own: when
//! the shim dies they get no `delete` call and no exit event, and their processes live on. 1.7 refuses version 3
//! outright, and cannot be told from 2.0–2.2 by anything that it sends.

use std::path::PathBuf;

use berth_proto::bootstrap::{BootstrapParams, BootstrapResult};
use berth_proto::{Message, wkt::Any};
use berth_runtime::{Error, Kind, Result};

use crate::args::Args;
use crate::options::TaskOptions;

/// The version of the task API that we ask to be called by.
const VERSION: i32 = 2;
/// The transport below it.
const PROTOCOL: &str = "ttrpc";

/// What `start` was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The form of the answer.
    pub form: Form,
    /// The options of the runtime handler.
    pub options: TaskOptions,
    /// Where the socket is to be, when not in the usual directory.
    pub socket_dir: Option<PathBuf>,
    /// containerd's ttrpc address, when said here and not in the environment.
    pub ttrpc_address: Option<String>,
    /// Log at debug level.
    pub debug: bool,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The bare address: version 2 and ttrpc are understood. containerd 1.6 reads nothing else.
    #[default]
    Address,
    /// `{"version":2,"address":…,"protocol":"ttrpc"}`: 1.7 and newer.
    Json,
    /// `BootstrapResult`: 2.3 and newer.
    Message,
}

impl Request {
    /// Decodes standard input. `reads_json` says whether containerd is 1.7 or newer (it then sets MAX_SHIM_VERSION).
    ///
    /// An `Any` also decodes as `BootstrapParams` when its value is valid UTF-8 (`{systemd_cgroup: true}` is), so
    /// the params count only when they name the very container and namespace of the command line.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`]: bytes that are neither message, or options that are malformed.
    pub fn decode(input: &[u8], args: &Args, reads_json: bool) -> Result<Self> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(input)
            && params.instance_id == args.id
            && params.namespace == args.namespace
        {
            return Self::from_params(params, args);
        }
        let form = if reads_json { Form::Json } else { Form::Address };
        let options = match Any::parse_from_bytes(input) {
            Ok(any) if input.is_empty() || !any.type_url.is_empty() => TaskOptions::decode(Some(&any))?,
            _ => {
                let start: Vec<_> = input.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
                let text = "standard input is neither bootstrap parameters for this container nor options";
                return Err(Error::invalid(format!("{text}: {} bytes, {}…", input.len(), start.join(" "))));
            }
        };
        Ok(Self { form, options, debug: args.debug, ..Self::default() })
    }

    fn from_params(params: BootstrapParams, args: &Args) -> Result<Self> {
        // containerd puts the handler's options among the extensions; the others are for whoever knows them
        let known = params.extensions.iter().map(|extension| &*extension.value).find(|any| is_options(any));
        Ok(Self {
            form: Form::Message,
            options: TaskOptions::decode(known)?,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
            // negative is more talkative than INFO
            debug: args.debug || params.log_level.value() < 0,
        })
    }
}

impl Form {
    /// The answer's bytes.
    ///
    /// # Errors
    /// None in practice: both encoders fail only on messages of gigabytes.
    pub fn answer(self, address: &str) -> Result<Vec<u8>> {
        match self {
            Self::Address => Ok(address.into()),
            Self::Json => {
                let value = serde_json::json!({ "version": VERSION, "address": address, "protocol": PROTOCOL });
                Ok(value.to_string().into_bytes())
            }
            Self::Message => {
                let (address, protocol) = (address.to_owned(), PROTOCOL.to_owned());
                let result = BootstrapResult { version: VERSION, address, protocol, ..Default::default() };
                result.write_to_bytes().map_err(|e| Error::new(Kind::Internal, e.to_string()))
            }
        }
    }
}

fn is_options(any: &Any) -> bool {
    berth_proto::any::is::<berth_proto::runc::Options>(any)
        || berth_proto::any::is::<berth_proto::runtime_options::RuntimeOptions>(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_proto::bootstrap::{Extension, LogLevel};
    use berth_proto::{MessageField, any, runc};

    fn args() -> Args {
        Args { namespace: "k8s.io".into(), id: "c1".into(), ..Args::default() }
    }

    fn systemd() -> Any {
        any::pack(&runc::Options { systemd_cgroup: true, ..Default::default() }).unwrap()
    }

    fn params() -> BootstrapParams {
        BootstrapParams { instance_id: "c1".into(), namespace: "k8s.io".into(), ..Default::default() }
    }

    fn decode(input: &[u8]) -> Result<Request> {
        Request::decode(input, &args(), true)
    }

    #[test]
    fn nothing_is_the_defaults() {
        assert_eq!(decode(b"").unwrap(), Request { form: Form::Json, ..Request::default() });
        assert_eq!(Request::decode(b"", &args(), false).unwrap().form, Form::Address);
    }

    #[test]
    fn options_that_also_decode_as_params_are_options() {
        let bytes = systemd().write_to_bytes().unwrap();
        let trap = BootstrapParams::parse_from_bytes(&bytes).unwrap();
        assert_eq!(trap.instance_id, "containerd.runc.v1.Options", "the trap is there");
        let request = decode(&bytes).unwrap();
        assert_eq!((request.form, request.options.systemd_cgroup), (Form::Json, Some(true)));
    }

    #[test]
    fn options_that_decode_as_nothing_else() {
        let message = runc::Options { io_uid: 70_000, ..Default::default() };
        let bytes = any::pack(&message).unwrap().write_to_bytes().unwrap();
        assert!(BootstrapParams::parse_from_bytes(&bytes).is_err(), "its value is no UTF-8");
        assert_eq!(decode(&bytes).unwrap().options.io_uid, 70_000);
    }

    #[test]
    fn params_bring_everything() {
        let foreign = Extension { value: MessageField::some(any::json("x.v1.Pod", vec![1])), ..Default::default() };
        let extension = Extension { value: MessageField::some(systemd()), ..Default::default() };
        let mut params = params();
        params.extensions = vec![foreign, extension];
        params.socket_dir = Some("/run/x".into());
        params.containerd_ttrpc_address = "/run/c.ttrpc".into();
        params.log_level = LogLevel::LOG_LEVEL_DEBUG.into();
        let request = decode(&params.write_to_bytes().unwrap()).unwrap();
        let options = TaskOptions { systemd_cgroup: Some(true), ..TaskOptions::default() };
        let (socket_dir, ttrpc_address) = (Some("/run/x".into()), Some("/run/c.ttrpc".into()));
        assert_eq!(request, Request { form: Form::Message, options, socket_dir, ttrpc_address, debug: true });
    }

    #[test]
    fn params_without_anything_else() {
        let request = decode(&params().write_to_bytes().unwrap()).unwrap();
        assert_eq!(request, Request { form: Form::Message, ..Request::default() });
    }

    #[test]
    fn params_of_another_container_are_not_ours() {
        let other = BootstrapParams { instance_id: "c2".into(), ..params() };
        assert_eq!(decode(&other.write_to_bytes().unwrap()).unwrap().form, Form::Json);
    }

    #[test]
    fn garbage_is_refused() {
        for input in [&b"\xff\xff\xff"[..], b"H\x01", b"{}", b"\x12\x01x"] {
            let e = decode(input).unwrap_err();
            assert!(e.to_string().starts_with("standard input is neither"), "{input:?}: {e}");
        }
        let bad = any::json("containerd.runc.v1.Options", vec![0x0a, 0x7f]).write_to_bytes().unwrap();
        assert!(decode(&bad).unwrap_err().to_string().contains("options containerd.runc.v1.Options: malformed"));
    }

    #[test]
    fn the_three_answers() {
        assert_eq!(Form::Address.answer("unix:///s").unwrap(), b"unix:///s");
        let json: serde_json::Value = serde_json::from_slice(&Form::Json.answer("unix:///s").unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"version": 2, "address": "unix:///s", "protocol": "ttrpc"}));
        let result = BootstrapResult::parse_from_bytes(&Form::Message.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((result.version, result.address.as_str(), result.protocol.as_str()), (2, "unix:///s", "ttrpc"));
    }

    #[test]
    fn an_address_is_not_taken_for_a_message() {
        // containerd 2.3 tries the protobuf message first
        for form in [Form::Address, Form::Json] {
            assert!(BootstrapResult::parse_from_bytes(&form.answer("unix:///run/containerd/s/ab").unwrap()).is_err());
        }
    }
}
