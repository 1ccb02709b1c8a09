//! `linux.netDevices`: moves network devices of the host into the container (config-linux.md, "Network Devices", 1.3).
//!
//! They move while init waits before its hooks. At that point the network namespace exists, and init has not written
//! its kernel parameters. If the create fails, they move back with the same name, state and addresses.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::rtnetlink::{Address, Link, Socket};
use crate::{Context, Error, Result};

const FIELD: &str = "linux.netDevices";
/// Longest device name in bytes, `IFNAMSIZ` of if.h without the NUL.
const NAME_MAX: usize = 15;

/// A device of config.json.
struct Device {
    name: String,
    /// Its name in the container.
    new: String,
}

/// The devices of a container that is being created. Dropping this moves them back to the host.
pub struct NetDevices {
    requested: Vec<Device>,
    moved: Vec<Moved>,
    namespace: Option<OwnedFd>,
}

/// A device that has left the host, with its former state.
struct Moved {
    name: String,
    new: String,
    up: bool,
    addresses: Vec<Address>,
}

/// Checks the devices of a config.json.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the device.
pub fn check(linux: &Linux) -> Result<()> {
    let devices = requested(linux);
    if devices.is_empty() {
        return Ok(());
    }
    if !linux.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::Network) {
        let text = format!("{FIELD}: unable to move network devices without a NET namespace");
        return Err(Error::invalid(text));
    }
    for (n, Device { name, new }) in devices.iter().enumerate() {
        for name in [name, new] {
            if !is_name(name) {
                return Err(Error::invalid(format!("{FIELD}: invalid network device name {name:?}")));
            }
        }
        if name == "lo" {
            return Err(Error::invalid(format!("{FIELD}.lo: every network namespace has its own")));
        }
        if devices.iter().take(n).any(|other| other.new == *new) {
            return Err(Error::invalid(format!("{FIELD}.{name}: another device is to be called {new:?}")));
        }
    }
    Ok(())
}

/// Returns true for a name that the kernel accepts (dev_valid_name). `%` is excluded: the kernel would choose a number.
fn is_name(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_ascii_whitespace() || c == '\0';
    !name.is_empty() && name.len() <= NAME_MAX && name != "." && name != ".." && !name.contains(bad)
}

/// Returns the devices sorted by name, so that the order is the same each time.
fn requested(linux: &Linux) -> Vec<Device> {
    let mut devices: Vec<_> = linux
        .net_devices()
        .iter()
        .flatten()
        .map(|(name, device)| {
            let new = device.name().clone().filter(|new| !new.is_empty()).unwrap_or_else(|| name.clone());
            Device { name: name.clone(), new }
        })
        .collect();
    devices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    devices
}

impl NetDevices {
    /// Returns the devices of a config.json.
    pub fn of(linux: Option<&Linux>) -> Self {
        Self { requested: linux.map(requested).unwrap_or_default(), moved: Vec::new(), namespace: None }
    }

    /// Returns true if config.json names devices.
    pub fn any(linux: &Linux) -> bool {
        linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())
    }

    /// Moves the devices into the network namespace of process `pid`, gives them their permanent global addresses
    /// again, and brings them up.
    ///
    /// # Errors
    /// Names the first device that could not be moved. That device stays on the host, unchanged.
    pub fn move_to(&mut self, pid: i32) -> Result<()> {
        if self.requested.is_empty() {
            return Ok(());
        }
        let path = format!("/proc/{pid}/ns/net");
        let what = || format!("could not get network namespace from path {path}");
        let namespace = self.namespace.insert(File::open(&path).with_context(what)?.into());
        let (host, inside) = (Socket::open()?, Socket::open_in(namespace.as_fd()).with_context(what)?);
        for device in std::mem::take(&mut self.requested) {
            let what = format!("{FIELD}: move netDevice {} to namespace {path}", device.name);
            let moved = move_out(&host, &device, namespace).map_err(|e| e.context(what.clone()))?;
            let Moved { new, addresses, .. } = &*self.moved.push_mut(moved);
            configure(&inside, new, addresses.iter().filter(|a| a.is_global()), true).map_err(|e| e.context(what))?;
        }
        Ok(())
    }

    /// Leaves the devices in the container.
    pub fn keep(mut self) {
        self.moved.clear();
    }
}

/// Moves a device out of the host and renames it, in one request. So on an error the device is unchanged.
fn move_out(host: &Socket, device: &Device, namespace: &OwnedFd) -> Result<Moved> {
    let Device { name, new } = device;
    let Link { index, up } =
        host.link(name).with_context(|| format!("link not found for interface {name} on runtime namespace"))?;
    // The kernel deletes the addresses of a device that goes down or changes its namespace.
    let addresses = host.addresses(index).context("fail to get ip addresses")?;
    host.move_link(index, new, namespace.as_fd())
        .with_context(|| format!("fail to move network device {name}, as {new}"))?;
    Ok(Moved { name: name.clone(), new: new.clone(), up, addresses })
}

/// Restores the addresses and the state of a device after a move.
fn configure<'a>(here: &Socket, name: &str, addresses: impl Iterator<Item = &'a Address>, up: bool) -> Result<()> {
    let link = here.link(name).with_context(|| format!("link not found for interface {name}"))?;
    for address in addresses {
        here.add_address(link.index, address).with_context(|| format!("fail to set up address {address}"))?;
    }
    if up { here.set_up(link.index).with_context(|| format!("fail to set up interface {name}")) } else { Ok(()) }
}

impl Drop for NetDevices {
    fn drop(&mut self) {
        let Some(namespace) = self.namespace.as_ref().filter(|_| !self.moved.is_empty()) else { return };
        let give_back = |moved: &Moved| -> Result<()> {
            let (host, inside) = (Socket::open()?, Socket::open_in(namespace.as_fd())?);
            let home = File::open("/proc/thread-self/ns/net").context("open own network namespace")?;
            inside.move_link(inside.link(&moved.new)?.index, &moved.name, home.as_fd())?;
            configure(&host, &moved.name, moved.addresses.iter().filter(|a| !a.is_kernel_assigned()), moved.up)
        };
        for moved in self.moved.iter().rev() {
            if let Err(e) = give_back(moved) {
                log::warn!("{FIELD}.{}: cannot move the device back to the host: {e}", moved.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(devices: &str, namespaces: &str) -> Linux {
        serde_json::from_str(&format!(r#"{{"netDevices":{devices},"namespaces":{namespaces}}}"#)).unwrap()
    }

    #[test]
    fn device_names_that_the_kernel_refuses_are_refused() {
        let own = r#"[{"type":"network"}]"#;
        for good in [r#"{"eth0":{}}"#, r#"{"eth0":{"name":"fifteen-letters"}}"#, r#"{"eth0.5@x":{"name":""}}"#, "{}"] {
            check(&linux(good, own)).unwrap();
        }
        for (bad, says) in [
            (r#"{"":{}}"#, r#"invalid network device name """#),
            (r#"{"sixteen-letters-":{}}"#, r#"invalid network device name "sixteen-letters-""#),
            (r#"{"eth0":{"name":"a b"}}"#, r#"invalid network device name "a b""#),
            (r#"{"eth0":{"name":"a/b"}}"#, r#"invalid network device name "a/b""#),
            (r#"{"eth0":{"name":"eth%d"}}"#, r#"invalid network device name "eth%d""#),
            (r#"{"..":{}}"#, r#"invalid network device name "..""#),
            (r#"{"a":{"name":"c"},"b":{"name":"c"}}"#, "another device is to be called \"c\""),
            (r#"{"lo":{}}"#, "every network namespace has its own"),
        ] {
            let error = check(&linux(bad, own)).unwrap_err().to_string();
            assert!(error.starts_with("linux.netDevices") && error.ends_with(says), "{bad}: {error}");
        }
        let error = check(&linux(r#"{"eth0":{}}"#, "[]")).unwrap_err().to_string();
        assert_eq!(error, "linux.netDevices: unable to move network devices without a NET namespace");
    }

    #[test]
    fn devices_are_sorted_and_keep_their_name_unless_renamed() {
        let devices = requested(&linux(r#"{"b":{"name":"x"},"a":{}}"#, "[]"));
        let names: Vec<_> = devices.iter().map(|d| (d.name.as_str(), d.new.as_str())).collect();
        assert_eq!(names, [("a", "a"), ("b", "x")]);
    }
}
