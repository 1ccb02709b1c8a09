//! The counts in `docs/decisions`: crates in the tree of each program, and lines with `unsafe`. `make conformance` writes the
//! table of docs/decisions/README.md, and a test compares it and every other claim with the tree.

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fmt::Write as _,
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    /// The product's crates: package and folder of the sources.
    const CRATES: [(&str, &str); 8] = [
        ("containerd-shim-berth-v2", "shim/src"),
        ("berth-cli", "runtime/cli/src"),
        ("berth-runtime", "runtime/src"),
        ("berth-init", "runtime/init/src"),
        ("berth-image", "image/src"),
        ("berth-setup", "runtime/setup/src"),
        ("berth-proto", "proto/src"),
        ("berth-version", "runtime/version/src"),
    ];
    /// Claims in other records: the file, the text before the number, and the package.
    const CLAIMS: [(&str, &str, &str); 2] = [
        ("cgroups-rs.md", "the whole command line has ", "berth-cli"),
        ("containerd-shim.md", "the whole shim with the runtime inside has ", "containerd-shim-berth-v2"),
    ];
    const BEGIN: &str = "<!-- counts -->\n";
    const END: &str = "<!-- end of counts -->\n";

    /// The number of crates in the normal dependency tree of a package, with the package itself.
    fn crates(package: &str) -> usize {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let words = ["tree", "--offline", "--locked", "-p", package, "-e", "normal", "--prefix", "none"];
        let out = Command::new(cargo).args(words).current_dir(ROOT).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().map(|line| line.trim_end_matches(" (*)")).collect::<BTreeSet<_>>().len()
    }

    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
        let all = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
        all.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
    }

    /// Whether a line of code has the keyword `unsafe`.
    fn is_unsafe(line: &str) -> bool {
        let code = line.split("//").next().unwrap_or_default();
        code.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).any(|word| word == "unsafe")
    }

    /// The number of lines with `unsafe`, and of files with such lines, without tests.
    fn unsafe_lines(folder: &str) -> (usize, usize) {
        let product = |path: &PathBuf| !path.ends_with("tests.rs") && !path.iter().any(|part| part == "tests");
        let counts = sources(&Path::new(ROOT).join(folder)).into_iter().filter(product).map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).filter(|line| is_unsafe(line)).count()
        });
        counts.filter(|count| *count > 0).fold((0, 0), |(lines, files), count| (lines + count, files + 1))
    }

    fn table() -> String {
        let mut table =
            "| package | crates in its tree | lines with `unsafe` | in files |\n|---|---|---|---|\n".to_owned();
        for (package, folder) in CRATES {
            let (lines, files) = unsafe_lines(folder);
            let _ = writeln!(table, "| {package} | {} | {lines} | {files} |", crates(package));
        }
        table
    }

    #[test]
    fn counts_in_the_decisions_are_those_of_the_tree() {
        let decisions = Path::new(ROOT).join("docs/decisions");
        let page = decisions.join("README.md");
        let text = fs::read_to_string(&page).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("a mark before the counts");
        let (written, after) = rest.split_once(END).expect("a mark after the counts");
        let table = table();
        if std::env::var("BERTH_CONFORMANCE").is_ok_and(|what| what == "write") {
            fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        } else {
            assert!(written == table, "`make conformance` writes the counts anew:\n{table}");
        }
        for (file, words, package) in CLAIMS {
            let text = fs::read_to_string(decisions.join(file)).unwrap();
            let claim = format!("{words}{} ", crates(package));
            assert!(text.contains(&claim), "docs/decisions/{file} does not say: {claim}");
        }
    }

    #[test]
    fn control_unsafe_count_skips_comments_and_attributes() {
        let lines =
            ["    unsafe { f() }", "unsafe extern \"C\" {", "// unsafe", "#![allow(unsafe_code)]", "let unsafely = 1;"];
        assert_eq!(lines.map(is_unsafe), [true, true, false, false, false]);
    }
}
