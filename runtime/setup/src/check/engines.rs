//! The engines: their versions, and the place that berth has in their configuration.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Finding;
use crate::{
    containerd::{self, Config, Handler},
    host::{self, Host},
    install::engine::Engine,
};

const AREA: &str = "engines";
/// The oldest containerd that berth is tested with.
const OLDEST: (u32, u32) = (1, 6);

/// The findings.
pub fn findings(host: &Host) -> Vec<Finding> {
    let mut all = vec![shim(host)];
    all.extend(containerd(host));
    for engine in [Engine::Docker, Engine::Podman, Engine::Crio, Engine::K3s, Engine::Rke2] {
        all.push(registered(host, engine));
    }
    all
}

fn shim(host: &Host) -> Finding {
    const SHIM: &str = "containerd-shim-berth-v2";
    match host.program(SHIM) {
        Some(place) => Finding::ok(AREA, "shim", place.display().to_string()),
        None => Finding::warning(AREA, "shim", "not in PATH")
            .because("containerd finds runtime type io.containerd.berth.v2 by PATH only", "install berth into PATH"),
    }
}

fn containerd(host: &Host) -> Vec<Finding> {
    let engine = Engine::Containerd;
    if !engine.is_present(host) {
        return vec![Finding::absent(AREA, engine.name(), "not installed")];
    }
    let words = host.output("containerd", "--version").unwrap_or_default();
    let mut all = vec![match host::version(&words) {
        Some(version) if version < OLDEST => Finding::warning(AREA, "containerd", words.trim().to_owned())
            .because("berth is tested with containerd 1.6 and later", "update containerd"),
        Some((major, minor)) => Finding::ok(AREA, "containerd", format!("{major}.{minor}")),
        None if host.program("containerd").is_none() => {
            Finding::ok(AREA, "containerd", "only its configuration is there")
        }
        None => Finding::ok(AREA, "containerd", "version unknown"),
    }];
    let config = match Config::read(host, Path::new(engine.config())) {
        Ok(config) => config,
        Err(e) => {
            let broken = Finding::warning(AREA, "containerd's configuration", e.to_string());
            all.push(broken.because("containerd does not start with it", "repair the file"));
            return all;
        }
    };
    if config.cri_is_disabled() {
        let off = Finding::warning(AREA, "CRI plugin", "in disabled_plugins");
        all.push(off.because("kubelet and crictl cannot use this containerd", "remove \"cri\" from disabled_plugins"));
    }
    let handlers = config.handlers();
    let own: Vec<&Handler> = handlers.iter().filter(|handler| is_own(handler)).collect();
    if own.is_empty() {
        let none = Finding::warning(AREA, "containerd's handlers", "none is berth");
        all.push(none.because("pods cannot choose berth", "berth install --containerd"));
    }
    all.extend(
        own.into_iter().map(|handler| judge(host, handler, &handlers, config.main().map_or(3, containerd::version))),
    );
    all
}

fn is_own(handler: &Handler) -> bool {
    let names = |text: &str| text.contains("containerd-shim-berth-v2") || text == "io.containerd.berth.v2";
    names(&handler.kind) || handler.path.as_deref().is_some_and(names)
}

/// Judges a handler of berth beside the others.
fn judge(host: &Host, handler: &Handler, all: &[Handler], version: i64) -> Finding {
    let name = format!("handler {}", handler.name);
    let place = handler.path.as_deref().or_else(|| Some(handler.kind.as_str()).filter(|kind| kind.starts_with('/')));
    let found = format!("{} {}", handler.kind, handler.path.as_deref().unwrap_or_default()).trim_end().to_owned();
    if let Some(place) = place.filter(|place| !host.has(place)) {
        return Finding::warning(AREA, &name, format!("{place} is not there")).because(
            "no pod of this handler starts",
            "berth install --containerd, from the directory of the programs",
        );
    }
    if handler.kind == "io.containerd.berth.v2" && version >= 3 {
        return Finding::warning(AREA, &name, found).because(
            "containerd passes the cgroup driver and the owner of a pod's pipes to the type io.containerd.runc.v2 only",
            "set runtime_type to io.containerd.runc.v2 and runtime_path to the shim, or berth install --containerd",
        );
    }
    let runc = all.iter().find(|other| other.name == "runc").and_then(|runc| runc.systemd).unwrap_or(false);
    if handler.systemd.unwrap_or(false) != runc && handler.kind == "io.containerd.runc.v2" {
        return Finding::warning(AREA, &name, format!("SystemdCgroup = {}, and runc's is {runc}", !runc)).because(
            "two managers of one cgroup tree undo each other's limits",
            "give both handlers the value that kubelet's cgroupDriver has",
        );
    }
    Finding::ok(AREA, &name, found)
}

/// Judges an engine other than containerd: its presence, and its knowledge of berth.
fn registered(host: &Host, engine: Engine) -> Finding {
    if !engine.is_present(host) {
        return Finding::absent(AREA, engine.name(), "not installed");
    }
    let version = host.output(engine.program(), "--version");
    let version = version.as_deref().and_then(host::version).map(|(major, minor)| format!("{major}.{minor}, "));
    let version = version.unwrap_or_default();
    match runtimes(host, engine) {
        Err(e) => {
            Finding::warning(AREA, engine.name(), e).because("the engine does not start with it", "repair the file")
        }
        Ok(true) => Finding::ok(AREA, engine.name(), format!("{version}berth is registered")),
        Ok(false) => Finding::warning(AREA, engine.name(), format!("{version}berth is not registered"))
            .because("the engine cannot use berth by name", &format!("berth install --{}", engine.name())),
    }
}

/// Returns true if the engine's files name one of berth's programs as a runtime.
fn runtimes(host: &Host, engine: Engine) -> Result<bool, String> {
    let names = |text: &str| {
        text.contains("/berth\"")
            || text.contains("/berth'")
            || text.contains("shim-berth-v2")
            || text.contains("io.containerd.berth.v2")
    };
    let mut files = vec![PathBuf::from(engine.config())];
    let directory = PathBuf::from(engine.directory());
    files.extend(host.names(&directory).into_iter().map(|name| directory.join(name)));
    for file in files {
        let Some(text) = host.text(&file) else { continue };
        let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default();
        if end == "json" && !text.trim().is_empty() {
            serde_json::from_str::<Value>(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        } else if matches!(end, "toml" | "conf") {
            containerd::parse(&file, &text).map_err(|e| e.to_string())?;
        }
        if names(&text) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::Status, *};

    /// The verdicts about containerd with this configuration, on a host with a shim in /usr/bin.
    fn verdicts(name: &str, config: &str) -> Vec<(String, Status)> {
        let root = std::env::temp_dir().join(format!("berth-setup-engines-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("etc/containerd")).unwrap();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/containerd-shim-berth-v2"), "").unwrap();
        fs::write(root.join("etc/containerd/config.toml"), config).unwrap();
        let found = containerd(&Host::new(Some(&root)));
        fs::remove_dir_all(&root).unwrap();
        found.into_iter().skip(1).map(|finding| (finding.name, finding.status)).collect()
    }

    #[test]
    fn handlers_of_containerd_are_judged() {
        let table = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.berth";
        let shim = "runtime_path = '/usr/bin/containerd-shim-berth-v2'";
        let good = format!("version = 3\n{table}]\nruntime_type = 'io.containerd.runc.v2'\n{shim}\n");
        let runc = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
        let handler = |status| vec![("handler berth".to_owned(), status)];
        assert_eq!(verdicts("good", &good), handler(Status::Ok));
        assert_eq!(verdicts("driver", &format!("{good}{runc}")), handler(Status::Warning));
        let both = format!("{good}{table}.options]\nSystemdCgroup = true\n{runc}");
        assert_eq!(verdicts("same-driver", &both), handler(Status::Ok));
        assert_eq!(verdicts("gone", &good.replace("/usr/bin", "/opt")), handler(Status::Warning));
        let by_name = format!("version = 3\n{table}]\nruntime_type = 'io.containerd.berth.v2'\n");
        assert_eq!(verdicts("by-name", &by_name), handler(Status::Warning));
        assert_eq!(verdicts("none", "version = 3\n")[0].0, "containerd's handlers");
        assert_eq!(verdicts("broken", "version = [\n")[0].0, "containerd's configuration");
        let off = format!("disabled_plugins = ['cri']\n{good}");
        assert_eq!(verdicts("off", &off)[0], ("CRI plugin".to_owned(), Status::Warning));
    }
}
