//! The paths of programs: those in the env file that `integration/tools/setup` writes, and those of this workspace.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Returns the absolute path of a tool by its name in the env file, such as `CRICTL`.
pub fn tool(name: &str) -> &'static Path {
    find(name).unwrap_or_else(|| panic!("no {name} among the tools; run integration/tools/setup"))
}

/// Like [`tool`], for a tool that an installed containerd may lack.
pub fn find(name: &str) -> Option<&'static Path> {
    static TOOLS: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    TOOLS.get_or_init(read).get(name).map(PathBuf::as_path)
}

/// Returns a program of this workspace, from `BERTH_BIN_DIR` or `target/release`.
pub fn built(name: &str) -> PathBuf {
    let path = built_dir().join(name);
    assert!(path.exists(), "{} is not there; run make build", path.display());
    path
}

/// Returns the directory of this workspace's programs.
pub fn built_dir() -> PathBuf {
    std::env::var_os("BERTH_BIN_DIR").map_or_else(|| workspace().join("target/release"), PathBuf::from)
}

/// Returns the root of the workspace, or `BERTH_WORKSPACE` on a machine without the workspace.
pub fn workspace() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is inside the workspace");
        std::env::var_os("BERTH_WORKSPACE").map_or_else(|| here().to_owned(), PathBuf::from)
    })
}

fn read() -> BTreeMap<String, PathBuf> {
    let file = std::env::var_os("BERTH_TOOLS").map_or_else(set_up, PathBuf::from);
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, path)| (name.to_owned(), path.into())).collect()
}

fn set_up() -> PathBuf {
    let setup = workspace().join("integration/tools/setup");
    let output =
        Command::new(&setup).stderr(std::process::Stdio::inherit()).output().expect("run integration/tools/setup");
    assert!(output.status.success(), "{} failed", setup.display());
    String::from_utf8(output.stdout).expect("a path").trim().into()
}
