//! `spec`: writes a starter config.json.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::Path,
};

use berth_runtime::{Context, Error, Kind, default_spec};
use serde::Serialize;

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed, Takes},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "spec",
    summary: "create a new specification file",
    operands: "",
    about: "Writes a config.json to start from: it runs sh in a terminal, in the root
filesystem that lies in the directory rootfs beside it. Edit it to taste.

EXAMPLE:
    mkdir -p bundle/rootfs
    cd bundle
    berth spec
    sed -i 's;\"sh\";\"/hello\";' config.json
    berth run container1

With --rootless, the file describes a container that a user without privilege
can run.",
    flags: &[
        Flag::value(&["bundle", "b"], Takes::Text, "directory to write to, instead of the current one"),
        Flag::switch(&["rootless"], "describe a container for a user without privilege"),
    ],
    count: Count::Exactly(0),
    operands_last: false,
    run,
};

fn run(_: &Globals, parsed: &Parsed) -> Outcome {
    let bundle = Path::new(parsed.text("bundle").unwrap_or("."));
    if let Err(e) = std::fs::metadata(bundle) {
        return Err(Error::from(e).context(format!("chdir {}", bundle.display())).into());
    }
    let ids = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let text = text(&default_spec::default_spec(unified(), parsed.on("rootless").then(ids)))?;
    let path = bundle.join("config.json");
    // create_new: the check and the creation are one step, so that no file is ever overwritten.
    let mut file = match File::create_new(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::AlreadyExists, "File config.json exists. Remove it first").into());
        }
        Err(e) => return Err(Error::from(e).context(format!("open {}", path.display())).into()),
    };
    file.write_all(&text).with_context(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// The file's text, indented by tabs.
fn text(spec: &default_spec::Spec) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    spec.serialize(&mut serializer).map_err(|e| Error::new(Kind::Internal, format!("encode config.json: {e}")))?;
    Ok(text)
}

/// Whether the host's cgroups are all v2.
fn unified() -> bool {
    /// `CGROUP2_SUPER_MAGIC` of statfs(2).
    const CGROUP2: i128 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| i128::from(stat.f_type) == CGROUP2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_as_runcs() {
        let text = String::from_utf8(text(&default_spec::default_spec(false, None)).unwrap()).unwrap();
        assert!(text.starts_with("{\n\t\"ociVersion\": \"1.3.0\",\n\t\"process\": {\n\t\t\"terminal\": true,\n"));
        assert!(text.ends_with("\n\t}\n}"));
    }
}
