//! `runtime.v1.PodSandboxConfig` of the CRI: the options of a CreateSandbox call.
//!
//! `containerd-shim-protos` lacks the messages of the CRI. The parts that a pod is made of are decoded here by hand from
//! the field numbers of cri-api 1.36; each struct lists its numbers. Unknown fields are skipped.

use std::collections::BTreeMap;

use crate::{
    any::Named,
    fields::{self, Field},
};

/// The configuration of a pod: 1 `metadata`, 2 `hostname`, 3 `log_directory`, 4 `dns_config`, 8 `linux`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxConfig {
    /// The pod's name, uid and namespace.
    pub metadata: Metadata,
    /// The host name; empty for a pod in the host's network.
    pub hostname: String,
    /// The directory of the containers' logs.
    pub log_directory: String,
    /// The resolver's configuration. Without it the pod gets the host's.
    pub dns: Option<Dns>,
    /// The part for Linux.
    pub linux: Linux,
}

/// `PodSandboxMetadata`: 1 `name`, 2 `uid`, 3 `namespace`, 4 `attempt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The pod's name.
    pub name: String,
    /// The pod's uid in Kubernetes.
    pub uid: String,
    /// The pod's namespace in Kubernetes.
    pub namespace: String,
    /// Counts the sandboxes of the pod.
    pub attempt: u32,
}

/// `DNSConfig`: 1 `servers`, 2 `searches`, 3 `options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// `LinuxPodSandboxConfig`: 1 `cgroup_parent`, 2 `security_context`, 3 `sysctls`, 5 `resources`. Of the security context
/// field 1 `namespace_options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linux {
    /// The pod's cgroup: a path, or the name of a systemd slice.
    pub cgroup_parent: String,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The namespaces.
    pub namespaces: NamespaceOptions,
    /// The limits of the pod.
    pub resources: Resources,
}

/// `NamespaceOption`: 1 `network`, 2 `pid`, 3 `ipc`, 5 `userns_options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOptions {
    /// The network namespace, and with it that of the host name.
    pub network: NamespaceMode,
    /// The pid namespace.
    pub pid: NamespaceMode,
    /// The ipc namespace.
    pub ipc: NamespaceMode,
    /// The user namespace.
    pub users: Option<UserNamespace>,
}

/// Whose namespace a container of the pod gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// The pod's.
    #[default]
    Pod,
    /// Its own.
    Container,
    /// The host's.
    Node,
    /// The namespace of another container.
    Target,
    /// A value that this version of the CRI does not have.
    Unknown,
}

/// `UserNamespace`: 1 `mode`, 2 `uids`, 3 `gids`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNamespace {
    /// Whose user namespace.
    pub mode: NamespaceMode,
    /// The mapping of uids.
    pub uids: Vec<IdMapping>,
    /// The mapping of gids.
    pub gids: Vec<IdMapping>,
}

/// `IDMapping`: 1 `host_id`, 2 `container_id`, 3 `length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdMapping {
    /// The first id on the host.
    pub host: u32,
    /// The first id in the pod.
    pub inside: u32,
    /// The number of ids.
    pub length: u32,
}

/// `LinuxContainerResources`: 1 `cpu_period`, 2 `cpu_quota`, 3 `cpu_shares`, 4 `memory_limit_in_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// µs.
    pub cpu_period: i64,
    /// µs of a period.
    pub cpu_quota: i64,
    /// The relative weight.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory_limit: i64,
}

impl Named for PodSandboxConfig {
    const TYPE_URL: &'static str = "runtime.v1.PodSandboxConfig";
}

impl PodSandboxConfig {
    /// Decodes the message. Unknown fields are skipped.
    ///
    /// # Errors
    /// The bytes are truncated or malformed, or a string is not UTF-8.
    pub fn parse_from_bytes(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut config = Self::default();
        fields::read(bytes, |field| {
            match field {
                (1, Field::Bytes(value)) => config.metadata.merge(value)?,
                (2, Field::Bytes(value)) => config.hostname = fields::text(value)?,
                (3, Field::Bytes(value)) => config.log_directory = fields::text(value)?,
                (4, Field::Bytes(value)) => config.dns.get_or_insert_default().merge(value)?,
                (8, Field::Bytes(value)) => config.linux.merge(value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(config)
    }
}

impl Metadata {
    fn merge(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields::read(bytes, |field| {
            match field {
                (1, Field::Bytes(value)) => self.name = fields::text(value)?,
                (2, Field::Bytes(value)) => self.uid = fields::text(value)?,
                (3, Field::Bytes(value)) => self.namespace = fields::text(value)?,
                (4, Field::Number(value)) => self.attempt = low(value),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Dns {
    fn merge(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields::read(bytes, |field| {
            match field {
                (1, Field::Bytes(value)) => self.servers.push(fields::text(value)?),
                (2, Field::Bytes(value)) => self.searches.push(fields::text(value)?),
                (3, Field::Bytes(value)) => self.options.push(fields::text(value)?),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Linux {
    fn merge(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields::read(bytes, |field| {
            match field {
                (1, Field::Bytes(value)) => self.cgroup_parent = fields::text(value)?,
                (2, Field::Bytes(context)) => fields::read(context, |field| match field {
                    (1, Field::Bytes(value)) => self.namespaces.merge(value),
                    _ => Ok(()),
                })?,
                (3, Field::Bytes(entry)) => {
                    let (key, value) = map_entry(entry)?;
                    self.sysctls.insert(key, value);
                }
                (5, Field::Bytes(value)) => self.resources.merge(value)?,
                _ => {}
            }
            Ok(())
        })
    }
}

impl NamespaceOptions {
    fn merge(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields::read(bytes, |field| {
            match field {
                (1, Field::Number(value)) => self.network = NamespaceMode::of(value),
                (2, Field::Number(value)) => self.pid = NamespaceMode::of(value),
                (3, Field::Number(value)) => self.ipc = NamespaceMode::of(value),
                (5, Field::Bytes(value)) => self.users.get_or_insert_default().merge(value)?,
                _ => {}
            }
            Ok(())
        })
    }
}

impl NamespaceMode {
    fn of(value: u64) -> Self {
        match value {
            0 => Self::Pod,
            1 => Self::Container,
            2 => Self::Node,
            3 => Self::Target,
            _ => Self::Unknown,
        }
    }
}

impl UserNamespace {
    fn merge(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields::read(bytes, |field| {
            match field {
                (1, Field::Number(value)) => self.mode = NamespaceMode::of(value),
                (2, Field::Bytes(value)) => self.uids.push(IdMapping::parse(value)?),
                (3, Field::Bytes(value)) => self.gids.push(IdMapping::parse(value)?),
                _ => {}
            }
            Ok(())
        })
    }
}

impl IdMapping {
    fn parse(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut mapping = Self::default();
        fields::read(bytes, |field| {
            match field {
                (1, Field::Number(value)) => mapping.host = low(value),
                (2, Field::Number(value)) => mapping.inside = low(value),
                (3, Field::Number(value)) => mapping.length = low(value),
                _ => {}
            }
            Ok(())
        })?;
        Ok(mapping)
    }
}

impl Resources {
    fn merge(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields::read(bytes, |field| {
            match field {
                (1, Field::Number(value)) => self.cpu_period = value.cast_signed(),
                (2, Field::Number(value)) => self.cpu_quota = value.cast_signed(),
                (3, Field::Number(value)) => self.cpu_shares = value.cast_signed(),
                (4, Field::Number(value)) => self.memory_limit = value.cast_signed(),
                _ => {}
            }
            Ok(())
        })
    }
}

/// An entry of a `map<string, string>`: 1 the key, 2 the value.
fn map_entry(bytes: &[u8]) -> protobuf::Result<(String, String)> {
    let mut entry = (String::new(), String::new());
    fields::read(bytes, |field| {
        match field {
            (1, Field::Bytes(value)) => entry.0 = fields::text(value)?,
            (2, Field::Bytes(value)) => entry.1 = fields::text(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

/// A `uint32` of a varint: the low half counts (encoding of protobuf 3).
fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of a message, by its number.
    fn message(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        bytes.extend(content);
        bytes
    }

    #[test]
    fn a_pod_config_is_decoded_by_its_field_numbers() {
        let users = [message(2, b"\x08\x80\xc2\xd7\x2f\x18\x80\x80\x04"), message(3, b"\x08\x07\x10\x01\x18\x05")];
        let options = [b"\x08\x02\x10\x01\x18\x02\x22\x01t".to_vec(), message(5, &users.concat())].concat();
        let linux = [
            message(1, b"/kubepods/pod1"),
            message(2, &[message(1, &options), message(7, b"ignored")].concat()),
            message(3, &[message(1, b"net.core.somaxconn"), message(2, b"512")].concat()),
            message(5, b"\x08\xa0\x8d\x06\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x18\x02\x20\x40"),
        ];
        let bytes = [
            message(1, b"\x0a\x01n\x12\x01u\x1a\x01s\x20\x03"),
            message(2, b"host"),
            message(3, b"/logs"),
            message(4, b"\x0a\x011\x0a\x012\x12\x01d\x1a\x01o"),
            message(6, b"\x0a\x01k\x12\x01v"),
            message(8, &linux.concat()),
            b"\x7d\x01\x02\x03\x04".to_vec(),
        ];
        let config = PodSandboxConfig::parse_from_bytes(&bytes.concat()).unwrap();
        let metadata = Metadata { name: "n".into(), uid: "u".into(), namespace: "s".into(), attempt: 3 };
        assert_eq!((&config.metadata, config.hostname.as_str()), (&metadata, "host"));
        let dns = Dns { servers: vec!["1".into(), "2".into()], searches: vec!["d".into()], options: vec!["o".into()] };
        assert_eq!((config.dns, config.log_directory.as_str()), (Some(dns), "/logs"));
        assert_eq!(config.linux.cgroup_parent, "/kubepods/pod1");
        assert_eq!(config.linux.sysctls, BTreeMap::from([("net.core.somaxconn".into(), "512".into())]));
        let resources = Resources { cpu_period: 100_000, cpu_quota: -1, cpu_shares: 2, memory_limit: 64 };
        assert_eq!(config.linux.resources, resources);
        let NamespaceOptions { network, pid, ipc, users } = config.linux.namespaces;
        assert_eq!([network, pid, ipc], [NamespaceMode::Node, NamespaceMode::Container, NamespaceMode::Node]);
        let users = users.unwrap();
        assert_eq!(users.uids, [IdMapping { host: 100_000_000, inside: 0, length: 65536 }]);
        assert_eq!((users.mode, users.gids), (NamespaceMode::Pod, vec![IdMapping { host: 7, inside: 1, length: 5 }]));
    }

    #[test]
    fn an_empty_pod_config_is_the_default() {
        assert_eq!(PodSandboxConfig::parse_from_bytes(b"").unwrap(), PodSandboxConfig::default());
    }

    #[test]
    fn parsing_a_malformed_pod_config_fails() {
        for bytes in [&b"\x12\x09/p"[..], b"\x12", b"\x12\x01\xff", b"\x42\x02\x0a\x05", b"\x1f", b"\x0e"] {
            assert!(PodSandboxConfig::parse_from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }
}
