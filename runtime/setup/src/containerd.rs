//! containerd's configuration (containerd-config.toml(5)): the file, the files that it imports, and its handlers.
//!
//! Two facts decide where berth's handler goes. From containerd 2.0 on, tables of imported files are merged; before, the
//! table of a plugin in an imported file replaces the one of the main file. And a file may not import one of a higher
//! version: containerd 2.3.4 does not start then.

use std::path::{Path, PathBuf};

use berth_runtime::{Error, Result};
use toml::{Table, Value};

use crate::host::Host;

/// A configuration: the main file first, then the imported ones.
#[derive(Debug, Default)]
pub struct Config {
    files: Vec<(PathBuf, Table)>,
}

/// A handler of the CRI plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Handler {
    /// The name.
    pub name: String,
    /// `runtime_type`
    pub kind: String,
    /// `runtime_path`
    pub path: Option<String>,
    /// `SystemdCgroup` among the options.
    pub systemd: Option<bool>,
}

/// Parses a file.
///
/// # Errors
/// Fails with the place and the fault, if the text is not TOML.
pub fn parse(path: &Path, text: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|e| {
        let fault = e.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Error::invalid(format!("{}: {fault}", path.display()))
    })
}

/// The version of a file; 1 if it names none.
pub fn version(file: &Table) -> i64 {
    file.get("version").and_then(Value::as_integer).unwrap_or(1)
}

/// The patterns that a file imports, as absolute paths. A relative one counts from the directory of the file.
pub fn imports(path: &Path, file: &Table) -> Vec<PathBuf> {
    let list = file.get("imports").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(|value| value.as_str());
    texts.map(|text| path.parent().unwrap_or(Path::new("/")).join(text)).collect()
}

/// The name of the plugin that has the handlers, in a file of this version.
pub fn plugin(version: i64) -> &'static str {
    if version >= 3 { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" }
}

impl Config {
    /// Reads the main file `path` and its imports.
    ///
    /// # Errors
    /// Fails if a file is not TOML.
    pub fn read(host: &Host, path: &Path) -> Result<Self> {
        let mut config = Self::default();
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            let Some(text) = host.text(&path) else { continue };
            if config.files.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let file = parse(&path, &text)?;
            for pattern in imports(&path, &file).into_iter().rev() {
                pending.extend(matches(host, &pattern).into_iter().rev());
            }
            config.files.push((path, file));
        }
        Ok(config)
    }

    /// The main file.
    pub fn main(&self) -> Option<&Table> {
        self.files.first().map(|(_, file)| file)
    }

    /// The file that has a handler of this name.
    pub fn place(&self, name: &str) -> Option<&Path> {
        let found = self.files.iter().find(|(_, file)| handlers(file).iter().any(|handler| handler.name == name));
        found.map(|(path, _)| path.as_path())
    }

    /// All handlers. A later file changes the fields that it names.
    pub fn handlers(&self) -> Vec<Handler> {
        let mut all: Vec<Handler> = Vec::new();
        for handler in self.files.iter().flat_map(|(_, file)| handlers(file)) {
            match all.iter_mut().find(|known| known.name == handler.name) {
                Some(known) => {
                    known.kind = if handler.kind.is_empty() { std::mem::take(&mut known.kind) } else { handler.kind };
                    known.path = handler.path.or_else(|| known.path.take());
                    known.systemd = handler.systemd.or(known.systemd);
                }
                None => all.push(handler),
            }
        }
        all
    }

    /// Returns whether the CRI plugin is switched off, as Docker's package of containerd does.
    pub fn cri_is_disabled(&self) -> bool {
        let lists = self.files.iter().filter_map(|(_, file)| file.get("disabled_plugins")?.as_array());
        lists.flatten().filter_map(|value| value.as_str()).any(|name| name == "cri" || name.contains(".cri"))
    }
}

/// The handlers of one file.
pub fn handlers(file: &Table) -> Vec<Handler> {
    let mut all = Vec::new();
    for plugin in [plugin(2), plugin(3)] {
        let path = ["plugins", plugin, "containerd", "runtimes"];
        let runtimes = path.into_iter().try_fold(file, |table, key| table.get(key)?.as_table());
        let rows = runtimes.into_iter().flatten();
        all.extend(rows.filter_map(|(name, value)| Some(handler(name, value.as_table()?))));
    }
    all
}

fn handler(name: &str, table: &Table) -> Handler {
    let text = |key: &str| Some(table.get(key)?.as_str()?.to_owned()).filter(|text| !text.is_empty());
    let options = table.get("options").and_then(Value::as_table);
    Handler {
        name: name.to_owned(),
        kind: text("runtime_type").unwrap_or_default(),
        path: text("runtime_path"),
        systemd: options.and_then(|options| options.get("SystemdCgroup")?.as_bool()),
    }
}

/// The files that a pattern with one `*` in its last part matches.
fn matches(host: &Host, pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(last)) = (pattern.parent(), pattern.file_name().and_then(|last| last.to_str())) else {
        return vec![];
    };
    let names = host.names(directory).into_iter().filter(|name| fits(last, name));
    names.map(|name| directory.join(name)).collect()
}

/// Returns whether `pattern` imports the file `path`.
pub fn is_imported(pattern: &Path, path: &Path) -> bool {
    let last = |path: &Path| path.file_name().and_then(|last| last.to_str()).map(ToOwned::to_owned);
    let (Some(pattern_last), Some(name)) = (last(pattern), last(path)) else { return false };
    pattern.parent() == path.parent() && fits(&pattern_last, &name)
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, behind)) => {
            name.len() >= before.len() + behind.len() && name.starts_with(before) && name.ends_with(behind)
        }
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Table {
        parse(Path::new("/etc/containerd/config.toml"), text).unwrap()
    }

    #[test]
    fn handlers_of_both_forms_are_found() {
        let text = |plugin: &str| {
            format!(
                "[plugins.\"{plugin}\".containerd.runtimes.a]\nruntime_type = 'x'\n[plugins.'{plugin}'.containerd.runtimes.a.options]\nSystemdCgroup = true\n"
            )
        };
        for version in [2, 3] {
            let found = handlers(&document(&text(plugin(version))));
            let want = Handler { name: "a".into(), kind: "x".into(), path: None, systemd: Some(true) };
            assert_eq!(found, [want]);
        }
    }

    #[test]
    fn patterns_of_imports_match_names_in_one_directory() {
        let is = |pattern: &str, path: &str| is_imported(Path::new(pattern), Path::new(path));
        assert!(is("/etc/containerd/conf.d/*.toml", "/etc/containerd/conf.d/berth.toml"));
        assert!(!is("/etc/containerd/conf.d/*.toml", "/etc/containerd/x/berth.toml"));
        assert!(!is("/a/*.toml", "/a/toml") && is("/a/b.toml", "/a/b.toml") && !is("/a/b.toml", "/a/c.toml"));
        let file = document("imports = ['conf.d/*.toml', '/x/y.toml']");
        let found = imports(Path::new("/etc/containerd/config.toml"), &file);
        assert_eq!(found, [Path::new("/etc/containerd/conf.d/*.toml"), Path::new("/x/y.toml")]);
    }

    #[test]
    fn broken_configuration_is_named_with_the_line() {
        let error = parse(Path::new("/etc/c.toml"), "version = 2\n[plugins\n").unwrap_err().to_string();
        assert!(error.starts_with("/etc/c.toml: TOML parse error at line 2"), "{error}");
    }
}
