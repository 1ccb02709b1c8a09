//! The law of test names: the name of a test is a sentence that asserts, and no two tests have the same one.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    /// The folders with crates.
    const FOLDERS: [&str; 5] = ["runtime", "shim", "proto", "image", "integration"];
    /// The macros that make a test of each function that they name.
    const MACROS: [&str; 3] = ["matrix!(", "by_path!(", "on_every_containerd!("];
    /// Words that begin a relative clause or a phrase without a verb, and never a sentence.
    const NO_SUBJECT: [&str; 22] = [
        "what", "which", "who", "whose", "whoever", "those", "that", "how", "where", "when", "whether", "of", "in",
        "with", "without", "by", "for", "to", "as", "from", "on", "at",
    ];

    /// The names of the tests in a source file.
    fn names(source: &str) -> Vec<&str> {
        let identifier =
            |text: &'static str, line: &'_ str| -> Option<usize> { line.find(text).map(|at| at + text.len()) };
        let word = |text: &'_ str| text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        let mut found = vec![];
        let mut attribute = false;
        for line in source.lines() {
            let start = line.trim_start();
            attribute |= start.starts_with("#[test]") || start.starts_with("#[tokio::test");
            if let Some(at) = identifier("fn ", line).filter(|_| attribute && !start.starts_with("//")) {
                found.push(&line[at..at + word(&line[at..])]);
                attribute = false;
            }
        }
        for start in MACROS.iter().filter_map(|name| Some(source.find(&format!("\n{name}"))? + name.len() + 1)) {
            let list = source[start..].split(')').next().unwrap_or_default();
            found.extend(list.split(',').map(str::trim).filter(|name| !name.is_empty()));
        }
        found
    }

    /// The reason for which a name is not a sentence.
    fn fault(name: &str) -> Option<&'static str> {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default();
        if words.count() < 2 {
            return Some("it has fewer than three words");
        }
        NO_SUBJECT.contains(&first).then_some("it does not begin with a subject")
    }

    fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, visit);
            } else if path.extension().is_some_and(|end| end == "rs") {
                visit(&path);
            }
        }
    }

    #[test]
    fn names_of_tests_are_unique_sentences() {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for folder in FOLDERS {
            walk(&Path::new(ROOT).join(folder), &mut |path| {
                let source = fs::read_to_string(path).unwrap();
                let file = path.strip_prefix(ROOT).unwrap().display().to_string();
                names(&source).iter().for_each(|name| all.entry((*name).to_owned()).or_default().push(file.clone()));
            });
        }
        assert!(all.len() > 1000, "only {} tests are found", all.len());
        let mut faults = vec![];
        for (name, files) in &all {
            faults.extend(fault(name).map(|fault| format!("{name} in {files:?}: {fault}")));
            if files.len() > 1 {
                faults.push(format!("{name} is the name of several tests: {files:?}"));
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
    }

    #[test]
    fn control_name_check_finds_bad_names() {
        let source =
            "#[test]\n/// fn text().\nfn one_two_three() {\n}\nfn helper() {}\n\nmatrix!(\n    a_b_c,\n    d\n);\n";
        assert_eq!(names(source), ["one_two_three", "a_b_c", "d"]);
        assert_eq!(fault("ids_with_slash_are_rejected"), None);
        for bad in ["ids", "bad_ids", "what_is_not_there", "of_init_and_execs"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }
}
