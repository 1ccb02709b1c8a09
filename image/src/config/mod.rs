//! config.json out of three inputs: the image's configuration, the runtime's defaults, and the caller's flags.
//!
//! The rules are those of the image specification's conversion.md. The defaults are what `berth spec` writes.

pub mod image;
mod json;
pub mod user;

use std::collections::BTreeMap;

use berth_runtime::{Error, Kind, Result};
use serde_json::{Value, json};

use self::{
    image::ImageConfig,
    user::{Accounts, User},
};
use crate::ids::{Range, Ranges};

/// The capabilities of docker's containers, which images of ordinary services are made for.
const DOCKER: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Capabilities {
    /// The capabilities of `berth spec`.
    #[default]
    Default,
    /// Docker's, with set-user-ID programs allowed.
    Docker,
    /// The named ones.
    Named(Vec<String>),
}

impl Capabilities {
    /// Reads `default`, `docker`, `none`, or names between commas, with or without `CAP_`.
    pub fn parse(text: &str) -> Self {
        match text {
            "default" => Self::Default,
            "docker" => Self::Docker,
            "none" => Self::Named(Vec::new()),
            names => Self::Named(names.split(',').map(capability_name).collect()),
        }
    }
}

fn capability_name(text: &str) -> String {
    let upper = text.trim().to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The caller's flags for config.json.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Arguments, instead of the image's `Cmd`.
    pub args: Vec<String>,
    /// The program, instead of the image's `Entrypoint` and `Cmd`.
    pub entrypoint: Option<String>,
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// The user, instead of the image's.
    pub user: Option<String>,
    /// The working directory, instead of the image's.
    pub cwd: Option<String>,
    /// The host name.
    pub hostname: Option<String>,
    /// The process has a terminal.
    pub terminal: bool,
    /// The root filesystem is read-only.
    pub readonly: bool,
    /// The capabilities.
    pub capabilities: Capabilities,
    /// The image's volumes are empty tmpfs mounts.
    pub volumes: bool,
}

/// The facts of the host that config.json depends on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// All cgroups are v2.
    pub unified: bool,
    /// The caller's ids, if the container is to run without privilege.
    pub rootless: Option<(u32, u32)>,
    /// The mappings of the container's user namespace.
    pub ranges: Option<Ranges>,
}

/// Makes the text of config.json.
///
/// # Errors
/// There is no command, a user is unknown, or a path is not absolute.
pub fn make(image: &ImageConfig, accounts: &Accounts, asked: &Asked, host: &Host) -> Result<Vec<u8>> {
    let defaults = berth_runtime::default_spec::default_spec(host.unified, host.rootless);
    let mut spec = serde_json::to_value(defaults).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let user = accounts.resolve(asked.user.as_deref().unwrap_or(&image.config.user))?;
    set_process(&mut spec, image, &user, asked)?;
    put(&mut spec, "/root/readonly", json!(asked.readonly));
    if let Some(hostname) = &asked.hostname {
        put(&mut spec, "/hostname", json!(hostname));
    }
    if asked.volumes {
        add_volumes(&mut spec, image)?;
    }
    if let Some(ranges) = &host.ranges {
        set_mappings(&mut spec, ranges);
    }
    let annotations = annotations(image);
    if let (Some(spec), false) = (spec.as_object_mut(), annotations.is_empty()) {
        spec.insert("annotations".into(), json!(annotations));
    }
    json::text(&spec)
}

/// Replaces a value that the defaults have.
fn put(spec: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = spec.pointer_mut(pointer) {
        *place = value;
    }
}

fn set_process(spec: &mut Value, image: &ImageConfig, user: &User, asked: &Asked) -> Result<()> {
    let mut ids = json!({"uid": user.uid, "gid": user.gid});
    if let (Some(ids), false) = (ids.as_object_mut(), user.additional_gids.is_empty()) {
        ids.insert("additionalGids".into(), json!(user.additional_gids));
    }
    put(spec, "/process/user", ids);
    let (args, env, cwd) = (args(image, asked)?, env(image, user, asked), cwd(image, asked));
    check_env(&env)?;
    for text in args.iter().chain(&env).chain([&cwd]) {
        check_text(text)?;
    }
    put(spec, "/process/args", json!(args));
    put(spec, "/process/env", json!(env));
    put(spec, "/process/cwd", json!(cwd));
    put(spec, "/process/terminal", json!(asked.terminal));
    let names: Vec<String> = match &asked.capabilities {
        Capabilities::Default => return Ok(()),
        Capabilities::Docker => DOCKER.map(str::to_owned).into(),
        Capabilities::Named(names) => names.clone(),
    };
    if asked.capabilities == Capabilities::Docker {
        put(spec, "/process/noNewPrivileges", json!(false));
    }
    put(spec, "/process/capabilities", json!({"bounding": names, "effective": names, "permitted": names}));
    Ok(())
}

/// Entrypoint and Cmd, of which the caller's arguments replace the second, and the caller's program both.
fn args(image: &ImageConfig, asked: &Asked) -> Result<Vec<String>> {
    let mut args = match &asked.entrypoint {
        Some(program) => Some(program.clone()).filter(|program| !program.is_empty()).into_iter().collect(),
        None => image.config.entrypoint.clone(),
    };
    if !asked.args.is_empty() {
        args.extend_from_slice(&asked.args);
    } else if asked.entrypoint.is_none() {
        args.extend_from_slice(&image.config.cmd);
    }
    if args.is_empty() {
        return Err(Error::invalid("the image has no command: give one after --"));
    }
    Ok(args)
}

/// The image's variables as they are and in their order, then those that are missing: the caller's, PATH, TERM and HOME.
fn env(image: &ImageConfig, user: &User, asked: &Asked) -> Vec<String> {
    let mut env = image.config.env.clone();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    for variable in &asked.env {
        env.retain(|other| name(other) != name(variable));
        env.push(variable.clone());
    }
    let home = format!("HOME={}", user.home.as_deref().unwrap_or("/"));
    let terminal = asked.terminal.then_some("TERM=xterm");
    for default in [Some(PATH), terminal, Some(home.as_str())].into_iter().flatten() {
        if !env.iter().any(|variable| name(variable) == name(default)) {
            env.push(default.to_owned());
        }
    }
    env
}

/// Refuses a variable without a name or a value, as umoci does: no runtime starts a container with one.
fn check_env(env: &[String]) -> Result<()> {
    match env.iter().find(|variable| variable.find('=').is_none_or(|at| at == 0)) {
        Some(variable) => {
            Err(Error::invalid(format!("variable {} is not NAME=VALUE", crate::text::escaped(variable.as_bytes()))))
        }
        None => Ok(()),
    }
}

/// Refuses a text that the kernel would cut short.
fn check_text(text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!("{} has a NUL byte", crate::text::escaped(text.as_bytes()))));
    }
    Ok(())
}

fn cwd(image: &ImageConfig, asked: &Asked) -> String {
    match asked.cwd.as_deref().unwrap_or(&image.config.working_dir) {
        "" => "/".into(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        // Docker takes a relative directory from the root, too.
        relative => format!("/{relative}"),
    }
}

/// Mounts an empty tmpfs at each volume. It hides what the image has there, so it is not done unless asked for.
fn add_volumes(spec: &mut Value, image: &ImageConfig) -> Result<()> {
    let Some(mounts) = spec.pointer_mut("/mounts").and_then(Value::as_array_mut) else { return Ok(()) };
    for path in image.config.volumes.keys() {
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("volume {} is not absolute", crate::text::escaped(path.as_bytes()))));
        }
        check_text(path)?;
        let options = ["rw", "nosuid", "nodev", "relatime"];
        mounts.push(json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}));
    }
    Ok(())
}

/// Gives the container a user namespace with these mappings.
fn set_mappings(spec: &mut Value, ranges: &Ranges) {
    let list = |ranges: &[Range]| -> Value {
        let one = |r: &Range| json!({"containerID": r.container, "hostID": r.host, "size": r.size});
        ranges.iter().map(one).collect()
    };
    let Some(linux) = spec.pointer_mut("/linux").and_then(Value::as_object_mut) else { return };
    linux.insert("uidMappings".into(), list(&ranges.uids));
    linux.insert("gidMappings".into(), list(&ranges.gids));
    if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
        let user = json!({"type": "user"});
        if !namespaces.contains(&user) {
            namespaces.push(user);
        }
    }
}

/// The prefixes of annotations that runtimes obey: properties of systemd units, and crun's. An image's author must not
/// command the host by a label.
const OBEYED: [&str; 2] = ["org.systemd.property.", "run.oci."];

/// The implicit annotations of conversion.md, and the labels, which win. Labels that a runtime would obey are left out.
fn annotations(image: &ImageConfig) -> BTreeMap<String, String> {
    let ports: Vec<_> = image.config.exposed_ports.keys().map(String::as_str).collect();
    let implicit = [
        ("os", image.os.clone()),
        ("architecture", image.architecture.clone()),
        ("variant", image.variant.clone()),
        ("os.version", image.os_version.clone()),
        ("os.features", image.os_features.join(",")),
        ("author", image.author.clone()),
        ("created", image.created.clone()),
        ("stopSignal", image.config.stop_signal.clone()),
        ("exposedPorts", ports.join(",")),
    ];
    let mut annotations: BTreeMap<_, _> = implicit
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value))
        .collect();
    let is_obeyed = |key: &str| OBEYED.iter().any(|prefix| key.starts_with(prefix));
    annotations.extend(image.config.labels.clone().into_iter().filter(|(key, _)| !is_obeyed(key)));
    annotations
}

#[cfg(test)]
mod tests;
