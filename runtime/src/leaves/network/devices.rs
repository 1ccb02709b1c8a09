//! `linux.netDevices`: devices of the host become the container's (config-linux.md, "Network Devices", 1.3).
//!
//! They are moved while init waits before its hooks: its namespace is there, and no kernel parameter of it has been
//! written. A container that comes to nothing gives them back, as they were.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::rtnetlink::{Address, Link, Socket};
use crate::{Context, Error, Result};

const FIELD: &str = "linux.netDevices";
/// if.h `IFNAMSIZ`, without the NUL.
const NAME_MAX: usize = 15;

/// A device as config.json has it.
struct Wanted {
    name: String,
    /// In the container.
    new: String,
}

/// The devices of a container under way; dropped, those that were moved go back.
pub struct NetDevices {
    wanted: Vec<Wanted>,
    moved: Vec<Moved>,
    namespace: Option<OwnedFd>,
}

/// What is known of a device that has left the host.
struct Moved {
    name: String,
    new: String,
    up: bool,
    addresses: Vec<Address>,
}

/// What is wrong with the devices of a config.json.
///
/// # Errors
/// Names the device.
pub fn check(linux: &Linux) -> Result<()> {
    let devices = wanted(linux);
    if devices.is_empty() {
        return Ok(());
    }
    if !linux.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::Network) {
        let text = format!("{FIELD}: unable to move network devices without a NET namespace");
        return Err(Error::invalid(text));
    }
    for (n, Wanted { name, new }) in devices.iter().enumerate() {
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

/// What the kernel takes (dev_valid_name), but for `%`, by which it would choose a name itself.
fn is_name(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_ascii_whitespace() || c == '\0';
    !name.is_empty() && name.len() <= NAME_MAX && name != "." && name != ".." && !name.contains(bad)
}

/// By their names, so that the same config.json does the same each time.
fn wanted(linux: &Linux) -> Vec<Wanted> {
    let mut devices: Vec<_> = linux
        .net_devices()
        .iter()
        .flatten()
        .map(|(name, device)| {
            let new = device.name().clone().filter(|new| !new.is_empty()).unwrap_or_else(|| name.clone());
            Wanted { name: name.clone(), new }
        })
        .collect();
    devices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    devices
}

impl NetDevices {
    /// Those of a config.json.
    pub fn of(linux: Option<&Linux>) -> Self {
        Self { wanted: linux.map(wanted).unwrap_or_default(), moved: Vec::new(), namespace: None }
    }

    /// There are some.
    pub fn any(linux: &Linux) -> bool {
        linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())
    }

    /// Moves them into the network namespace of the process `pid`, with their permanent global addresses, and brings them
    /// up.
    ///
    /// # Errors
    /// Names the first device that could not be moved, and why; it is on the host, as it was.
    pub fn hand_over(&mut self, pid: i32) -> Result<()> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let path = format!("/proc/{pid}/ns/net");
        let what = || format!("could not get network namespace from path {path}");
        let namespace = self.namespace.insert(File::open(&path).with_context(what)?.into());
        let (host, inside) = (Socket::here()?, Socket::inside(namespace.as_fd()).with_context(what)?);
        for device in std::mem::take(&mut self.wanted) {
            let what = format!("{FIELD}: move netDevice {} to namespace {path}", device.name);
            let moved = take(&host, &device, namespace).map_err(|e| e.context(what.clone()))?;
            let Moved { new, addresses, .. } = &*self.moved.push_mut(moved);
            settle(&inside, new, addresses.iter().filter(|a| a.is_global()), true).map_err(|e| e.context(what))?;
        }
        Ok(())
    }

    /// They are the container's from now on.
    pub fn keep(mut self) {
        self.moved.clear();
    }
}

/// Out of the host, in one step with its new name: whatever hinders that, the device stays as it is.
fn take(host: &Socket, device: &Wanted, namespace: &OwnedFd) -> Result<Moved> {
    let Wanted { name, new } = device;
    let Link { index, up } =
        host.link(name).with_context(|| format!("link not found for interface {name} on runtime namespace"))?;
    // A device that goes down or away loses them.
    let addresses = host.addresses(index).context("fail to get ip addresses")?;
    host.move_link(index, new, namespace.as_fd())
        .with_context(|| format!("fail to move network device {name}, as {new}"))?;
    Ok(Moved { name: name.clone(), new: new.clone(), up, addresses })
}

/// Makes a device that has just come what it was.
fn settle<'a>(here: &Socket, name: &str, addresses: impl Iterator<Item = &'a Address>, up: bool) -> Result<()> {
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
            let (host, inside) = (Socket::here()?, Socket::inside(namespace.as_fd())?);
            let home = File::open("/proc/thread-self/ns/net").context("open own network namespace")?;
            inside.move_link(inside.link(&moved.new)?.index, &moved.name, home.as_fd())?;
            settle(&host, &moved.name, moved.addresses.iter().filter(|a| !a.is_made_by_kernel()), moved.up)
        };
        for moved in self.moved.iter().rev() {
            if let Err(e) = give_back(moved) {
                log::warn!("{FIELD}.{}: give it back to the host: {e}", moved.name);
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
    fn names_are_those_that_the_kernel_takes() {
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
    fn they_come_by_name_and_keep_it_unless_told() {
        let devices = wanted(&linux(r#"{"b":{"name":"x"},"a":{}}"#, "[]"));
        let names: Vec<_> = devices.iter().map(|d| (d.name.as_str(), d.new.as_str())).collect();
        assert_eq!(names, [("a", "a"), ("b", "x")]);
    }
}
