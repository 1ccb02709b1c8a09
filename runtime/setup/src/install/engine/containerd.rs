//! containerd's handler: in a file of its own where the main file imports one, else at the end of the main file. k3s and
//! RKE2 write the main file from a template.

use std::path::{Path, PathBuf};

use berth_runtime::{Error, Result};
use toml::Table;

use super::{Base, CONTAINERD, Engine, Kind, Options, Wanted, drop_in::HEAD, program, with_part};
use crate::{
    containerd::{Config, handlers, imports, is_imported, parse, plugin, version},
    host::{self, Host},
};

/// The first containerd that merges the tables of imported files.
const MERGES: (u32, u32) = (2, 0);
/// The first containerd that knows `runtime_path`.
const KNOWS_PATH: (u32, u32) = (1, 7);
/// The template with which k3s begins one of the administrator's.
const K3S_BASE: &str = "{{ template \"base\" . }}\n";

/// The file for containerd.
pub fn plan(host: &Host, options: &Options, base: Base<'_>) -> Result<Vec<Wanted>> {
    let path = Path::new(CONTAINERD.config);
    let text = base(path)?.unwrap_or_default();
    let file = parse(path, &text)?;
    let known = options.containerd.or_else(|| host::version(&host.output("containerd", "--version")?));
    let form = form(path, &file, known)?;
    let systemd = driver(host, path)?;
    let own = PathBuf::from(format!("{}/{}.toml", CONTAINERD.directory, options.name));
    if known.is_none_or(|known| known >= MERGES)
        && imports(path, &file).iter().any(|pattern| is_imported(pattern, &own))
    {
        let text = format!("{HEAD}\nversion = {}\n\n{}", form.version, form.table(options, systemd)?);
        return Ok(vec![Wanted { path: own, text, kind: Kind::Own }]);
    }
    let found = handlers(&file);
    if let Some(other) = found.iter().find(|handler| handler.name == options.name) {
        let text = format!("{}: handler {}: is another runtime; choose --name", path.display(), other.name);
        return Err(Error::invalid(text));
    }
    let head = if file.contains_key("version") { String::new() } else { format!("version = {}\n\n", form.version) };
    // Before 2.0 a table of handlers replaces the built-in one, which has runc.
    let runc = match known {
        Some(known) if known < MERGES && found.is_empty() => form.runc(),
        _ => String::new(),
    };
    let text = with_part(&text, &format!("{head}{runc}{}", form.table(options, systemd)?));
    parse(path, &text).map_err(|e| e.context("cannot add a handler; see berth install --help for its lines"))?;
    Ok(vec![Wanted { path: path.to_owned(), text, kind: Kind::Shared }])
}

/// The file for k3s or RKE2: beside the file that it generates.
pub fn plan_template(host: &Host, options: &Options, engine: Engine, base: Base<'_>) -> Result<Vec<Wanted>> {
    let path = Path::new(engine.config());
    let file = host.text(path).map_or_else(|| Ok(Table::new()), |text| parse(path, &text))?;
    let form = Form { version: if file.contains_key("version") { version(&file) } else { 3 }, path: true };
    let table = form.table(options, driver(host, path)?)?;
    let directory = engine.directory();
    let stem = if form.version >= 3 { "config-v3.toml" } else { "config.toml" };
    let own = PathBuf::from(format!("{directory}/{stem}.d/{}.toml", options.name));
    if form.version >= 3 && imports(path, &file).iter().any(|pattern| is_imported(pattern, &own)) {
        let text = format!("{HEAD}\nversion = {}\n\n{table}", form.version);
        return Ok(vec![Wanted { path: own, text, kind: Kind::Own }]);
    }
    let template = PathBuf::from(format!("{directory}/{stem}.tmpl"));
    let text = base(&template)?.unwrap_or_else(|| K3S_BASE.to_owned());
    Ok(vec![Wanted { path: template, text: with_part(&text, &table), kind: Kind::Shared }])
}

/// The form of a handler's table.
#[derive(Debug, PartialEq, Eq)]
struct Form {
    /// The version of the file.
    version: i64,
    /// `runtime_path` is known.
    path: bool,
}

/// The form for a main file and a containerd. A file of no lines gets the newest version that containerd reads.
fn form(path: &Path, file: &Table, known: Option<(u32, u32)>) -> Result<Form> {
    let version = match known {
        _ if file.contains_key("version") => version(file),
        Some(known) if file.is_empty() => {
            if known >= MERGES {
                3
            } else {
                2
            }
        }
        None if file.is_empty() => 0,
        _ => 1,
    };
    match (version, known) {
        (0 | 2, None) => Err(Error::invalid("the version of containerd is not known: give it by --containerd-version")),
        (1, _) => Err(Error::invalid(format!(
            "{}: has version 1, which has no handlers by path; containerd config migrate makes a newer version",
            path.display()
        ))),
        (version, known) => Ok(Form { version, path: known.is_none_or(|known| known >= KNOWS_PATH) }),
    }
}

/// `SystemdCgroup` of runc's handler: all handlers of a node have the cgroup driver of kubelet.
fn driver(host: &Host, path: &Path) -> Result<Option<bool>> {
    let handlers = Config::read(host, path)?.handlers();
    Ok(handlers.iter().find(|handler| handler.name == "runc").and_then(|runc| runc.systemd))
}

impl Form {
    fn at(&self, name: &str) -> String {
        format!("plugins.'{}'.containerd.runtimes.{name}", plugin(self.version))
    }

    fn table(&self, options: &Options, systemd: Option<bool>) -> Result<String> {
        let (at, shim) = (self.at(&options.name), program(options, "containerd-shim-berth-v2")?);
        Ok(match (self.path, systemd) {
            (false, _) => format!("[{at}]\n  runtime_type = '{shim}'\n"),
            (true, driver) => {
                let table = format!("[{at}]\n  runtime_type = 'io.containerd.runc.v2'\n  runtime_path = '{shim}'\n");
                let options = driver.map(|on| format!("  [{at}.options]\n    SystemdCgroup = {on}\n"));
                table + &options.unwrap_or_default()
            }
        })
    }

    fn runc(&self) -> String {
        format!("[{}]\n  runtime_type = 'io.containerd.runc.v2'\n", self.at("runc"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str, containerd: Option<(u32, u32)>) -> Result<Wanted> {
        let options = Options { name: "berth".into(), bin_dir: "/usr/bin".into(), shim: false, containerd };
        let host = Host::new(Some(Path::new("/nonexistent")));
        let base = |path: &Path| Ok((path == Path::new(CONTAINERD.config)).then(|| text.to_owned()));
        Ok(plan(&host, &options, &base)?.remove(0))
    }

    #[test]
    fn handler_goes_where_containerd_reads_it() {
        let own = Path::new("/etc/containerd/conf.d/berth.toml");
        let import = "imports = ['/etc/containerd/conf.d/*.toml']\n";
        // The file, containerd's version, the place, and words of the text.
        for (text, containerd, to_own, words) in [
            (
                format!("version = 3\n{import}"),
                Some((2, 3)),
                true,
                "version = 3\n\n[plugins.'io.containerd.cri.v1.runtime'",
            ),
            (
                format!("version = 2\n{import}"),
                Some((2, 3)),
                true,
                "version = 2\n\n[plugins.'io.containerd.grpc.v1.cri'",
            ),
            (format!("version = 2\n{import}"), Some((1, 7)), false, "runtimes.runc]"),
            ("version = 3\n".into(), Some((2, 3)), false, "runtime_path = '/usr/bin/containerd-shim-berth-v2'"),
            (String::new(), Some((2, 1)), false, "version = 3\n"),
            (String::new(), Some((1, 7)), false, "version = 2\n"),
            ("version = 2".into(), Some((1, 6)), false, "runtime_type = '/usr/bin/containerd-shim-berth-v2'"),
            (format!("version = 3\n{import}"), None, true, "version = 3\n"),
        ] {
            let wanted = planned(&text, containerd).unwrap();
            assert_eq!(wanted.path == own, to_own, "{text}");
            assert!(wanted.text.contains(words), "{text}: {}", wanted.text);
            parse(own, &wanted.text).unwrap();
        }
    }

    #[test]
    fn configuration_that_cannot_have_the_handler_is_refused() {
        let taken = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.berth]\n";
        let closed = "version = 3\nplugins = {}\n";
        for (text, containerd, word) in [
            ("disabled_plugins = ['cri']\n", Some((1, 7)), "has version 1"),
            ("version = 2\n", None, "--containerd-version"),
            ("", None, "--containerd-version"),
            (taken, Some((2, 3)), "is another runtime"),
            (closed, Some((2, 3)), "cannot add a handler"),
            ("version = [\n", Some((2, 3)), "TOML parse error"),
        ] {
            let error = planned(text, containerd).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
