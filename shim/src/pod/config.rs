//! The configuration of a pod: the request CreateSandbox, checked, with the defaults that containerd applies itself to a
//! pod with a pause container.

use std::{collections::HashMap, path::PathBuf};

use berth_proto::{
    any::{self, Named},
    pod_config::{IdMapping, NamespaceMode, PodSandboxConfig, UserNamespace},
    sandbox::CreateSandboxRequest,
};
use berth_runtime::{Context, Error, Ids, Result, pod};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

/// Whose pid namespace the containers of a pod may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidNamespace {
    /// The pod's, with an init of its own.
    Pod,
    /// Each container has its own.
    Container,
    /// The host's.
    Host,
}

/// The parts of a CreateSandbox request that make a pod.
#[derive(Debug)]
pub struct PodConfig {
    /// The id of the sandbox.
    pub id: String,
    /// The directory that containerd has made for it.
    pub bundle: PathBuf,
    /// The file of the network namespace; `None` for the host's network, and with it the host's name.
    pub network: Option<PathBuf>,
    /// The pod has an ipc namespace of its own, and a `/dev/shm`.
    pub own_ipc: bool,
    /// The pid namespace.
    pub pid: PidNamespace,
    /// The mappings of the user namespace, if the pod has one.
    pub users: Option<Ids>,
    /// The name in `/etc/hostname`, and of the uts namespace if the pod has one.
    pub hostname: String,
    /// Kernel parameters.
    pub sysctls: HashMap<String, String>,
    /// The rest of the CRI's configuration.
    pub cri: PodSandboxConfig,
}

impl PodConfig {
    /// Checks a request. A request without options, as `ctr sandboxes run` makes it, is that of a pod with an ipc
    /// namespace.
    ///
    /// # Errors
    /// [`berth_runtime::Kind::InvalidArgument`] with the name of the field. Nothing is made.
    pub fn parse(request: CreateSandboxRequest) -> Result<Self> {
        let bundle = PathBuf::from(&request.bundle_path);
        if !bundle.is_absolute() {
            return Err(Error::invalid(format!("bundle_path {:?} is not absolute", request.bundle_path)));
        }
        let cri = match request.options.as_ref().filter(|options| !options.type_url.is_empty()) {
            None => None,
            Some(options) if any::name(options) == PodSandboxConfig::TYPE_URL => {
                let malformed = |e| Error::invalid(format!("options: malformed message: {e}"));
                Some(PodSandboxConfig::parse_from_bytes(&options.value).map_err(malformed)?)
            }
            Some(options) => {
                return Err(Error::invalid(format!("options: unknown type {:?}", options.type_url)));
            }
        };
        let has_config = cri.is_some();
        let mut cri = cri.unwrap_or_default();
        let namespaces = &cri.linux.namespaces;
        let network = match (namespaces.network, request.netns_path.as_str()) {
            (NamespaceMode::Node, _) => None,
            (_, "") if has_config => return Err(Error::invalid("netns_path is empty, and the network is the pod's")),
            (_, "") => None,
            (_, path) => Some(PathBuf::from(path)),
        };
        let pid = match namespaces.pid {
            NamespaceMode::Pod if has_config => PidNamespace::Pod,
            NamespaceMode::Pod | NamespaceMode::Container => PidNamespace::Container,
            NamespaceMode::Node => PidNamespace::Host,
            NamespaceMode::Target | NamespaceMode::Unknown => {
                return Err(Error::invalid("linux.security_context.namespace_options.pid: not a mode of a pod"));
            }
        };
        let users = namespaces.users.as_ref().map(user_namespace).transpose()?.flatten();
        let mut sysctls: HashMap<_, _> = std::mem::take(&mut cri.linux.sysctls).into_iter().collect();
        if network.is_some() {
            add_defaults(&mut sysctls, users.is_some());
        }
        let own_ipc = cri.linux.namespaces.ipc != NamespaceMode::Node;
        let hostname = if cri.hostname.is_empty() { host_name() } else { cri.hostname.clone() };
        let config = Self { id: request.sandbox_id, bundle, network, own_ipc, pid, users, hostname, sysctls, cri };
        pod::check(&config.namespaces())?;
        Ok(config)
    }

    /// The namespaces to make.
    pub fn namespaces(&self) -> pod::Request<'_> {
        pod::Request {
            network: self.network.as_deref(),
            ipc: self.own_ipc,
            hostname: self.network.is_some().then_some(&self.hostname),
            users: self.users.as_ref(),
            sysctls: &self.sysctls,
        }
    }

    /// The owner of the pod's files on the host: root of its user namespace.
    pub fn owner(&self) -> Result<(u32, u32)> {
        self.users.as_ref().map_or(Ok((0, 0)), |ids| Ok((ids.host_uid(0, "uids")?, ids.host_gid(0, "gids")?)))
    }
}

/// The mappings of the CRI's user namespace, `None` for that of the host.
fn user_namespace(users: &UserNamespace) -> Result<Option<Ids>> {
    let lines = |list: &[IdMapping]| list.iter().map(line).collect::<Result<Vec<_>>>();
    let field = "linux.security_context.namespace_options.userns_options";
    match users.mode {
        NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => Ids::new(&lines(&users.uids)?, &lines(&users.gids)?, "").context(field).map(Some),
        _ => Err(Error::invalid(format!("{field}.mode: not a mode of a pod"))),
    }
}

fn line(mapping: &IdMapping) -> Result<LinuxIdMapping> {
    let line = LinuxIdMappingBuilder::default();
    let line = line.host_id(mapping.host).container_id(mapping.inside).size(mapping.length).build();
    line.map_err(|e| Error::invalid(format!("id mapping: {e}")))
}

/// containerd sets these for a pod with a pause container (`enable_unprivileged_ports` and `enable_unprivileged_icmp`,
/// true since 2.0), and does not send them. A group outside of the user namespace cannot be named in it.
fn add_defaults(sysctls: &mut HashMap<String, String>, has_users: bool) {
    let mut add = |key: &str, value: &str| {
        sysctls.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    };
    add("net.ipv4.ip_unprivileged_port_start", "0");
    if !has_users {
        add("net.ipv4.ping_group_range", "0 2147483647");
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_proto::wkt::Any;

    fn request(options: &[u8], netns_path: &str) -> CreateSandboxRequest {
        CreateSandboxRequest {
            sandbox_id: "pod".into(),
            bundle_path: "/bundle".into(),
            netns_path: netns_path.into(),
            options: Some(any::json(PodSandboxConfig::TYPE_URL, options.to_vec())).into(),
            ..Default::default()
        }
    }

    /// `linux.security_context.namespace_options` with these bytes.
    fn namespaces(options: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).unwrap()], inner].concat();
        wrap(0x42, &wrap(0x12, &wrap(0x0a, options)))
    }

    #[test]
    fn a_pod_of_the_cri_has_a_network_and_its_default_parameters() {
        let config = PodConfig::parse(request(b"\x12\x04name", "/netns/1")).unwrap();
        assert_eq!((config.network.as_deref(), config.own_ipc), (Some("/netns/1".as_ref()), true));
        assert_eq!((config.pid, config.hostname.as_str()), (PidNamespace::Pod, "name"));
        assert_eq!(config.sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
        assert_eq!(config.sysctls["net.ipv4.ping_group_range"], "0 2147483647");
        assert_eq!(config.namespaces().hostname, Some("name"));
    }

    #[test]
    fn a_pod_in_the_network_of_the_host_has_its_name_and_no_parameters() {
        let config = PodConfig::parse(request(&namespaces(b"\x08\x02\x10\x02\x18\x02"), "")).unwrap();
        assert_eq!((config.network.as_deref(), config.own_ipc, config.pid), (None, false, PidNamespace::Host));
        assert!(config.sysctls.is_empty() && config.namespaces().hostname.is_none() && !config.hostname.is_empty());
    }

    #[test]
    fn a_pod_without_options_has_an_ipc_namespace() {
        let mut bare = request(b"", "");
        bare.options = Some(Any::default()).into();
        let config = PodConfig::parse(bare).unwrap();
        assert_eq!((config.network, config.own_ipc, config.pid), (None, true, PidNamespace::Container));
    }

    #[test]
    fn a_user_namespace_gets_no_group_range_and_owns_the_files() {
        let users = b"\x08\x00\x12\x08\x08\xa0\x8d\x06\x10\x00\x18\x05\x1a\x08\x08\xa1\x8d\x06\x10\x00\x18\x05";
        let options = [&[0x2a, u8::try_from(users.len()).unwrap()], &users[..]].concat();
        let config = PodConfig::parse(request(&namespaces(&options), "/netns/1")).unwrap();
        assert_eq!(config.owner().unwrap(), (100_000, 100_001));
        assert!(!config.sysctls.contains_key("net.ipv4.ping_group_range"));
    }

    #[test]
    fn a_request_for_a_pod_that_cannot_be_is_refused_by_field() {
        let sysctl = b"\x42\x13\x1a\x11\x0a\x0d\x76m.swappiness\x12\x00";
        for (request, says) in [
            (request(b"", ""), "netns_path"),
            (request(b"\x12\x09x", "/netns/1"), "options: malformed"),
            (request(&namespaces(b"\x10\x03"), "/netns/1"), "namespace_options.pid"),
            (request(&namespaces(b"\x2a\x02\x08\x01"), "/netns/1"), "userns_options.mode"),
            (request(&namespaces(b"\x2a\x02\x08\x00"), "/netns/1"), "no uid mappings"),
            (request(sysctl, "/netns/1"), "vm.swappiness"),
            (CreateSandboxRequest { bundle_path: "b".into(), ..request(b"", "/n") }, "bundle_path"),
        ] {
            let error = PodConfig::parse(request).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let mut other = request(b"", "/n");
        other.options.mut_or_insert_default().type_url = "x.y".into();
        assert!(PodConfig::parse(other).unwrap_err().to_string().contains("unknown type"));
    }
}
