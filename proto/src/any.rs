//! `google.protobuf.Any` as containerd uses it: the type's bare full name for protobuf messages (with or without a host
//! before a slash), and a `types.containerd.io/…` URL with a JSON value for OCI types.

use protobuf::{Message, well_known_types::any::Any};

use crate::{events, metrics, runc, runtime_options::RuntimeOptions};

/// The features document of the runtime spec, as JSON.
pub const OCI_FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// A whole config.json, as JSON.
pub const OCI_SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The `process` object of an exec, as JSON.
pub const OCI_PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// `linux.resources` of an update, as JSON.
pub const OCI_RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A message whose full name is known without descriptors: looking a name up by reflection would build the
/// descriptors of its whole file on the heap of every shim.
pub trait Named {
    /// The full name, which is containerd's type URL.
    const TYPE_URL: &'static str;
}

macro_rules! named {
    ($($message:ty = $name:literal,)*) => { $(impl Named for $message { const TYPE_URL: &'static str = $name; })* };
}

named! {
    runc::Options = "containerd.runc.v1.Options",
    runc::CheckpointOptions = "containerd.runc.v1.CheckpointOptions",
    runc::ProcessDetails = "containerd.runc.v1.ProcessDetails",
    RuntimeOptions = "runtimeoptions.v1.Options",
    metrics::v1::Metrics = "io.containerd.cgroups.v1.Metrics",
    metrics::v2::Metrics = "io.containerd.cgroups.v2.Metrics",
    events::TaskCreate = "containerd.events.TaskCreate",
    events::TaskStart = "containerd.events.TaskStart",
    events::TaskExit = "containerd.events.TaskExit",
    events::TaskDelete = "containerd.events.TaskDelete",
    events::TaskExecAdded = "containerd.events.TaskExecAdded",
    events::TaskExecStarted = "containerd.events.TaskExecStarted",
    events::TaskOOM = "containerd.events.TaskOOM",
    events::TaskPaused = "containerd.events.TaskPaused",
    events::TaskResumed = "containerd.events.TaskResumed",
    events::TaskCheckpointed = "containerd.events.TaskCheckpointed",
}

/// Packs a message under its name.
///
/// # Errors
/// A message larger than 2 GiB.
pub fn pack<M: Message + Named>(message: &M) -> protobuf::Result<Any> {
    Ok(json(M::TYPE_URL, message.write_to_bytes()?))
}

/// Packs a value that is encoded already: JSON, for the `OCI_…` types.
pub fn json(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.to_owned(), value, ..Any::default() }
}

/// The type's full name: what stands behind the last slash of a protobuf type's URL; the whole of an OCI type's.
pub fn name(any: &Any) -> &str {
    if any.type_url.starts_with("types.containerd.io/") {
        return &any.type_url;
    }
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether `any` says it holds an `M`.
pub fn is<M: Named>(any: &Any) -> bool {
    name(any) == M::TYPE_URL
}

/// The message, if `any` says it holds an `M`.
///
/// # Errors
/// The bytes are no `M`.
pub fn unpack<M: Message + Named>(any: &Any) -> protobuf::Result<Option<M>> {
    if is::<M>(any) { M::parse_from_bytes(&any.value).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back() {
        let options = runc::Options { root: "/r".into(), ..Default::default() };
        let mut any = pack(&options).unwrap();
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        assert_eq!(unpack::<runc::Options>(&any).unwrap().unwrap(), options);
        assert!(unpack::<runc::ProcessDetails>(&any).unwrap().is_none());
        any.type_url = "type.googleapis.com/containerd.runc.v1.Options".into();
        assert_eq!(unpack::<runc::Options>(&any).unwrap().unwrap(), options);
    }

    #[test]
    fn names_are_those_of_the_descriptors() {
        use protobuf::MessageFull;
        fn check<M: MessageFull + Named>() {
            assert_eq!(M::descriptor().full_name(), M::TYPE_URL);
        }
        check::<runc::Options>();
        check::<runc::CheckpointOptions>();
        check::<runc::ProcessDetails>();
        check::<metrics::v1::Metrics>();
        check::<metrics::v2::Metrics>();
        check::<events::TaskCreate>();
        check::<events::TaskStart>();
        check::<events::TaskExit>();
        check::<events::TaskDelete>();
        check::<events::TaskExecAdded>();
        check::<events::TaskExecStarted>();
        check::<events::TaskOOM>();
        check::<events::TaskPaused>();
        check::<events::TaskResumed>();
        check::<events::TaskCheckpointed>();
    }

    #[test]
    fn an_oci_url_is_its_own_name() {
        assert_eq!(name(&json(OCI_PROCESS, b"{}".to_vec())), OCI_PROCESS);
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        assert!(unpack::<runc::Options>(&json("containerd.runc.v1.Options", vec![0xff])).is_err());
    }
}
