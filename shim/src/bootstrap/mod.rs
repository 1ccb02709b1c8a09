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

use berth_proto::{
    Message,
    bootstrap::{BootstrapParams, BootstrapResult},
    wkt::Any,
};
use berth_runtime::{Error, Kind, Result};

use crate::{args::Args, options::TaskOptions};

/// The version of the task API that we ask to be called by.
const VERSION: i32 = 2;
/// The transport below it.
const PROTOCOL: &str = "ttrpc";

/// What `start` was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartRequest {
    /// The form of the answer.
    pub form: AnswerForm,
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
pub enum AnswerForm {
    /// The bare address: version 2 and ttrpc are understood. containerd 1.6 reads nothing else.
    #[default]
    Address,
    /// `{"version":2,"address":…,"protocol":"ttrpc"}`: 1.7 and newer.
    Json,
    /// `BootstrapResult`: 2.3 and newer.
    Message,
}

impl StartRequest {
    /// Decodes standard input. `reads_json` says whether containerd is 1.7 or newer (it then sets MAX_SHIM_VERSION).
    ///
    /// An `Any` also decodes as `BootstrapParams` when its value is valid UTF-8 (`{systemd_cgroup: true}` is), so
    /// the params count only when they name the very container and namespace of the command line.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`]: bytes that are neither message, or options that are malformed.
    pub fn decode(input: &[u8], args: &Args, form: AnswerForm) -> Result<Self> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(input)
            && params.instance_id == args.id
            && params.namespace == args.namespace
        {
            return Self::from_params(params, args);
        }
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
            form: AnswerForm::Message,
            options: TaskOptions::decode(known)?,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
            // negative is more talkative than INFO
            debug: args.debug || params.log_level.value() < 0,
        })
    }
}

impl AnswerForm {
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
mod tests;
