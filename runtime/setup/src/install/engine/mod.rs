//! The engines: where their configuration is, and the texts that register berth in it.
//!
//! The functions here read and compute. They change nothing.

mod containerd;
mod docker;
mod drop_in;

use std::path::{Path, PathBuf};

use berth_runtime::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::host::Host;

/// The lines around a part that berth adds to a file of others.
const BEGIN: &str = "# berth install: begin";
const END: &str = "# berth install: end";

/// An engine that can use berth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// containerd, and so kubelet, crictl, nerdctl and ctr.
    Containerd,
    /// dockerd
    Docker,
    /// podman and buildah
    Podman,
    /// CRI-O
    Crio,
    /// k3s, which writes the configuration of its own containerd.
    K3s,
    /// RKE2, as k3s.
    Rke2,
}

/// All engines.
pub const ALL: [Engine; 6] =
    [Engine::Containerd, Engine::Docker, Engine::Podman, Engine::Crio, Engine::K3s, Engine::Rke2];

/// The facts about one engine.
struct Facts {
    name: &'static str,
    program: &'static str,
    units: &'static [&'static str],
    config: &'static str,
    directory: &'static str,
    home: &'static str,
}

const CONTAINERD: Facts = Facts {
    name: "containerd",
    program: "containerd",
    units: &["containerd"],
    config: "/etc/containerd/config.toml",
    directory: "/etc/containerd/conf.d",
    home: "/etc/containerd",
};
const DOCKER: Facts = Facts {
    name: "docker",
    program: "dockerd",
    units: &["docker"],
    config: "/etc/docker/daemon.json",
    directory: "/etc/docker/daemon.json.d",
    home: "/etc/docker",
};
const PODMAN: Facts = Facts {
    name: "podman",
    program: "podman",
    units: &[],
    config: "/etc/containers/containers.conf",
    directory: "/etc/containers/containers.conf.d",
    home: "/etc/containers/containers.conf.d",
};
const CRIO: Facts = Facts {
    name: "crio",
    program: "crio",
    units: &["crio"],
    config: "/etc/crio/crio.conf",
    directory: "/etc/crio/crio.conf.d",
    home: "/etc/crio",
};
const K3S: Facts = Facts {
    name: "k3s",
    program: "k3s",
    units: &["k3s", "k3s-agent"],
    config: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    directory: "/var/lib/rancher/k3s/agent/etc/containerd",
    home: "/var/lib/rancher/k3s",
};
const RKE2: Facts = Facts {
    name: "rke2",
    program: "rke2",
    units: &["rke2-server", "rke2-agent"],
    config: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    directory: "/var/lib/rancher/rke2/agent/etc/containerd",
    home: "/var/lib/rancher/rke2",
};

/// The choices of the caller.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the runtime or handler.
    pub name: String,
    /// The directory of berth's programs on the host.
    pub bin_dir: PathBuf,
    /// docker calls the shim, not the command line.
    pub shim: bool,
    /// containerd's version, where the program cannot be asked.
    pub containerd: Option<(u32, u32)>,
}

/// The owner of a file.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// berth's alone.
    Own,
    /// Of the engine's administrator, with a part that is berth's.
    Shared,
}

/// A file as it has to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The absolute path on the host.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    /// The owner.
    pub kind: Kind,
}

/// Returns the text of a file without the part that berth has added before.
pub type Base<'a> = &'a dyn Fn(&Path) -> Result<Option<String>>;

impl Engine {
    const fn facts(self) -> &'static Facts {
        match self {
            Self::Containerd => &CONTAINERD,
            Self::Docker => &DOCKER,
            Self::Podman => &PODMAN,
            Self::Crio => &CRIO,
            Self::K3s => &K3S,
            Self::Rke2 => &RKE2,
        }
    }

    /// The name, which is that of the flag too.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The program whose version is the engine's.
    pub fn program(self) -> &'static str {
        self.facts().program
    }

    /// The units that read the configuration at their start, of which a node has one; none if each command reads it.
    pub fn units(self) -> &'static [&'static str] {
        self.facts().units
    }

    /// The main file of the configuration.
    pub fn config(self) -> &'static str {
        self.facts().config
    }

    /// The directory of further files.
    pub fn directory(self) -> &'static str {
        self.facts().directory
    }

    /// Returns whether the engine is on the host: its program, or the directory of its configuration.
    pub fn is_present(self, host: &Host) -> bool {
        host.program(self.program()).is_some() || host.has(self.facts().home)
    }

    /// The files that register berth.
    ///
    /// # Errors
    /// Fails if a file is malformed, or has another runtime of the name.
    pub fn plan(self, host: &Host, options: &Options, base: Base<'_>) -> Result<Vec<Wanted>> {
        match self {
            Self::Containerd => containerd::plan(host, options, base),
            Self::Docker => docker::plan(options, base),
            Self::Podman => Ok(vec![drop_in::podman(options)]),
            Self::Crio => Ok(vec![drop_in::crio(options)]),
            Self::K3s | Self::Rke2 => containerd::plan_template(host, options, self, base),
        }
    }

    /// Takes berth's part out of the text of a shared file that was edited since.
    ///
    /// # Errors
    /// Fails if the text is malformed.
    pub fn strip(self, path: &Path, text: &str, name: &str) -> Result<String> {
        if self == Self::Docker { docker::strip(path, text, name) } else { Ok(without_part(text)) }
    }

    /// Returns whether both texts of a shared file have the same part of berth's.
    pub fn same_part(self, a: &str, b: &str, name: &str) -> bool {
        if self == Self::Docker { docker::same(a, b, name) } else { part(a).is_some() && part(a) == part(b) }
    }
}

/// The part that [`with_part`] has added.
fn part(text: &str) -> Option<&str> {
    Some(text.split_once(&format!("{BEGIN}\n"))?.1.split_once(&format!("{END}\n"))?.0)
}

/// Adds a part behind a text.
fn with_part(text: &str, part: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{BEGIN}\n{part}{END}\n")
}

/// Removes the part that [`with_part`] has added.
fn without_part(text: &str) -> String {
    let Some((before, rest)) = text.split_once(&format!("{BEGIN}\n")) else { return text.to_owned() };
    let behind = rest.split_once(&format!("{END}\n")).map_or("", |(_, behind)| behind);
    format!("{before}{behind}")
}

/// The path of a program, for a text between double quotes.
fn program(options: &Options, name: &str) -> Result<String> {
    let path = options.bin_dir.join(name);
    let text = path.to_str().filter(|text| text.starts_with('/') && !text.contains(['"', '\'', '\\', '\n']));
    text.map(ToOwned::to_owned).ok_or_else(|| {
        Error::invalid(format!("--bin-dir {}: not an absolute path without quotes", options.bin_dir.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_file_is_removed_without_a_trace() {
        for text in ["", "a = 1\n", "a = 1\n\n\n"] {
            assert_eq!(without_part(&with_part(text, "b = 2\n")), text);
        }
        let edited = format!("{}c = 3\n", with_part("a = 1\n", "b = 2\n"));
        assert_eq!(without_part(&edited), "a = 1\nc = 3\n");
        assert_eq!(without_part("a = 1\n"), "a = 1\n");
    }
}
