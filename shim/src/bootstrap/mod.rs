//! The input and the answer of `start`.
//!
//! ```text
//! containerd     standard input                     answers that it can read
//! 1.6            Any(options) or nothing            address
//! 1.7 … 2.2      the same                           address, or JSON
//! 2.3 …          BootstrapParams                    BootstrapResult (also JSON, address)
//! ```
//!
//! The answer always names version 2 of the task API. Version 3 is the same service under another name, and the server
//! serves both. But containerd 2.x gives the containers of a pod no onClose of their own when the shim says version 3:
//! when the shim dies, they get no `delete` call and no exit event, and their processes live on. containerd 1.7 refuses
//! version 3, and its input does not differ from that of 2.0 to 2.2.

use std::path::PathBuf;

use berth_proto::{
    Message,
    bootstrap::{BootstrapParams, BootstrapResult},
    wkt::Any,
};
use berth_runtime::{Error, Kind, Result};

use crate::{args::Args, options::TaskOptions};

/// The version of the task API in the answer.
const VERSION: i32 = 2;
/// The transport protocol in the answer.
const PROTOCOL: &str = "ttrpc";

/// The decoded input of `start`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartRequest {
    /// The form of the answer.
    pub form: AnswerForm,
    /// The options of the runtime handler.
    pub options: TaskOptions,
    /// The directory of the socket, if containerd names one.
    pub socket_dir: Option<PathBuf>,
    /// containerd's ttrpc address, if it is in the input and not in the environment.
    pub ttrpc_address: Option<String>,
    /// Log at debug level.
    pub debug: bool,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerForm {
    /// The bare address, which means version 2 over ttrpc. containerd 1.6 reads nothing else.
    #[default]
    Address,
    /// `{"version":2,"address":…,"protocol":"ttrpc"}`, for 1.7 and newer.
    Json,
    /// `BootstrapResult`, for 2.3 and newer.
    Message,
}

impl StartRequest {
    /// Decodes standard input. `form` is the form of the answer to input that is no `BootstrapParams`.
    ///
    /// An `Any` whose value is valid UTF-8 also decodes as `BootstrapParams` (`{systemd_cgroup: true}` does). So the
    /// parameters count only if they name the container and the namespace of the command line.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`]: the bytes are neither message, or the options are malformed.
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
        // The options of the handler are one of the extensions. Unknown extensions are skipped.
        let known = params.extensions.iter().map(|extension| &*extension.value).find(|any| is_options(any));
        Ok(Self {
            form: AnswerForm::Message,
            options: TaskOptions::decode(known)?,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
            // Levels below INFO (0) are negative.
            debug: args.debug || params.log_level.value() < 0,
        })
    }
}

impl AnswerForm {
    /// Encodes the answer.
    ///
    /// # Errors
    /// Only a message of gigabytes fails to encode.
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
