//! `spec`: writes a config.json to start from.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Kind, cgroup, default_spec};
use serde::Serialize;

use crate::{
    Globals, Outcome,
    args::{Binding, Command, Count, Usage, path},
};

/// The arguments of `spec`.
#[derive(Debug, Default)]
pub struct SpecArgs {
    bundle: Option<PathBuf>,
    rootless: bool,
}

/// The command.
pub static COMMAND: Command<SpecArgs> = Command {
    usage: Usage {
        name: "spec",
        summary: "write a config.json to start from",
        description: "The new config.json runs sh in a terminal. Its root filesystem is the directory
rootfs beside it.

EXAMPLE:
    mkdir -p web/rootfs
    tar -C web/rootfs -xf image.tar
    berth spec --bundle web
    berth run --bundle web web

With --rootless, the config.json suits a user without privileges.",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        Binding::text(
            &["bundle", "b"],
            "directory to write config.json to; by default the current directory",
            |args, text| args.bundle = path(text),
        ),
        Binding::switch(&["rootless"], "write a config.json for a user without privileges", |args, on| {
            args.rootless = on;
        }),
    ],
    operands: |_, _| {},
    run,
};

fn run(_: &Globals, args: SpecArgs) -> Outcome {
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    if let Err(e) = std::fs::metadata(bundle) {
        return Err(Error::from(e).context(format!("chdir {}", bundle.display())).into());
    }
    let ids = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let text = text(&default_spec::default_spec(cgroup::usual_mount_is_v2(), args.rootless.then(ids)))?;
    let path = bundle.join("config.json");
    // create_new (O_EXCL) checks and creates in one step, so no existing file is overwritten.
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

/// The text of the file, indented with tabs.
fn text(spec: &default_spec::Spec) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    spec.serialize(&mut serializer).map_err(|e| Error::new(Kind::Internal, format!("encode config.json: {e}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_writes_the_layout_of_runc() {
        let text = String::from_utf8(text(&default_spec::default_spec(false, None)).unwrap()).unwrap();
        assert!(text.starts_with("{\n\t\"ociVersion\": \"1.3.0\",\n\t\"process\": {\n\t\t\"terminal\": true,\n"));
        assert!(text.ends_with("\n\t}\n}"));
    }
}
