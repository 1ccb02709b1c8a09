//! `google.protobuf.Any` as containerd uses it. For a protobuf message the type URL is the full name, with or without a
//! host before a slash. For an OCI type it is a `types.containerd.io/…` URL, and the value is JSON.

use protobuf::{Message, well_known_types::any::Any};

use crate::{events, metrics, runc, runtime_options::RuntimeOptions};

/// The features document of the runtime specification, as JSON.
pub const OCI_FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// A whole config.json, as JSON.
pub const OCI_SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The `process` object of an exec, as JSON.
pub const OCI_PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// `linux.resources` of an update, as JSON.
pub const OCI_RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A message with a constant full name. A lookup by reflection would build the descriptors of the whole file on the
/// heap of each shim.
pub trait Named {
    /// The full name, which containerd uses as type URL.
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

/// Packs a message.
///
/// # Errors
/// The message is larger than 2 GiB.
pub fn pack<M: Message + Named>(message: &M) -> protobuf::Result<Any> {
    Ok(json(M::TYPE_URL, message.write_to_bytes()?))
}

/// Packs an encoded value: JSON, for the `OCI_…` types.
pub fn json(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.to_owned(), value, ..Any::default() }
}

/// The full name of the type: the part of a protobuf type URL after the last slash, or the whole URL of an OCI type.
pub fn name(any: &Any) -> &str {
    if any.type_url.starts_with("types.containerd.io/") {
        return &any.type_url;
    }
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Reports whether the type of `any` is `M`.
pub fn is<M: Named>(any: &Any) -> bool {
    name(any) == M::TYPE_URL
}

/// Unpacks the message if the type of `any` is `M`.
///
/// # Errors
/// The bytes do not decode as `M`.
pub fn unpack<M: Message + Named>(any: &Any) -> protobuf::Result<Option<M>> {
    if is::<M>(any) { M::parse_from_bytes(&any.value).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_message_unpacks_to_itself() {
        let options = runc::Options { root: "/r".into(), ..Default::default() };
        let mut any = pack(&options).unwrap();
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        assert_eq!(unpack::<runc::Options>(&any).unwrap().unwrap(), options);
        assert!(unpack::<runc::ProcessDetails>(&any).unwrap().is_none());
        any.type_url = "type.googleapis.com/containerd.runc.v1.Options".into();
        assert_eq!(unpack::<runc::Options>(&any).unwrap().unwrap(), options);
    }

    #[test]
    fn type_urls_equal_the_descriptors_full_names() {
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
    fn the_name_of_an_oci_type_is_its_whole_url() {
        assert_eq!(name(&json(OCI_PROCESS, b"{}".to_vec())), OCI_PROCESS);
    }

    #[test]
    fn unpacking_malformed_bytes_fails() {
        assert!(unpack::<runc::Options>(&json("containerd.runc.v1.Options", vec![0xff])).is_err());
    }
}
