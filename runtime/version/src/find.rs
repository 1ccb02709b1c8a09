//! The search for the commit. The build script and the unit tests share this file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The result of a search.
pub struct Found {
    /// The commit.
    pub id: Option<String>,
    /// The files that change with it.
    pub files: Vec<PathBuf>,
}

/// Finds the commit: `given`, or that of the file `commit` in `own`, or HEAD of the clone `top`.
pub fn commit(given: Option<&str>, own: &Path, top: &Path) -> Found {
    let archived = own.join("commit");
    let id = given.and_then(id).or_else(|| read_id(&archived));
    let mut found = Found { id, files: vec![archived] };
    if found.id.is_none()
        && let Some(git) = directory(&top.join(".git"))
    {
        let common = read(&git.join("commondir")).map_or_else(|| git.clone(), |shared| git.join(shared));
        found.files.extend([git.join("HEAD"), git.join("logs/HEAD"), common.join("packed-refs")]);
        found.id = head(&git, &common, &mut found.files).or_else(|| ask_git(top));
    }
    found.files.retain(|file| file.exists());
    found
}

/// The directory that `.git` is, or that the file `.git` of a worktree names.
fn directory(git: &Path) -> Option<PathBuf> {
    if git.is_dir() {
        return Some(git.to_owned());
    }
    let text = read(git)?;
    Some(git.parent()?.join(text.strip_prefix("gitdir: ")?))
}

/// Resolves HEAD: it is a commit, or names a reference, which has a file or a line in `packed-refs`.
fn head(git: &Path, common: &Path, files: &mut Vec<PathBuf>) -> Option<String> {
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else { return id(&head) };
    let reference = common.join(name);
    files.push(reference.clone());
    read_id(&reference).or_else(|| {
        let packed = read(&common.join("packed-refs"))?;
        packed.lines().filter_map(|line| line.split_once(' ')).find_map(|(hash, of)| (of == name).then(|| id(hash))?)
    })
}

/// A clone whose references are in another form (reftable) is git's to read.
fn ask_git(top: &Path) -> Option<String> {
    let out = Command::new("git").arg("-C").arg(top).args(["rev-parse", "HEAD"]).output().ok()?;
    id(std::str::from_utf8(&out.stdout).ok()?)
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

fn read_id(path: &Path) -> Option<String> {
    id(&read(path)?)
}

/// The text, if it is a hash: SHA-1 or SHA-256 in hexadecimal digits.
fn id(text: &str) -> Option<String> {
    let text = text.trim();
    let hash = [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hash.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";
    const B: &str = "fedcba9876543210fedcba9876543210fedcba98";

    /// A tree of sources below the test's directory, with these files.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let top = std::env::temp_dir().join(format!("berth-version-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = top.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        top
    }

    fn search(name: &str, given: Option<&str>, files: &[(&str, &str)]) -> (Option<String>, usize) {
        let top = tree(name, files);
        let found = commit(given, &top.join("own"), &top.join("clone"));
        fs::remove_dir_all(top).unwrap();
        (found.id, found.files.len())
    }

    #[test]
    fn commit_is_found_in_each_form_of_a_tree() {
        let placeholder = ("own/commit", "$Format:%H$\n");
        let head = ("clone/.git/HEAD", "ref: refs/heads/main\n");
        let (a, b) = (format!("{A}\n"), format!("# pack-refs with: peeled\n{A} refs/heads/x\n{B} refs/heads/main\n"));
        for (name, given, files, id) in [
            ("given", Some(B), vec![("own/commit", a.as_str())], Some(B)),
            ("archive", None, vec![("own/commit", &a), head], Some(A)),
            ("detached", None, vec![placeholder, ("clone/.git/HEAD", &a)], Some(A)),
            ("loose", None, vec![head, ("clone/.git/refs/heads/main", &a), ("clone/.git/packed-refs", &b)], Some(A)),
            ("packed", None, vec![head, ("clone/.git/packed-refs", &b)], Some(B)),
            (
                "worktree",
                None,
                vec![
                    ("clone/.git", "gitdir: ../main/.git/worktrees/w\n"),
                    ("main/.git/worktrees/w/HEAD", "ref: refs/heads/main\n"),
                    ("main/.git/worktrees/w/commondir", "../..\n"),
                    ("main/.git/refs/heads/main", &a),
                ],
                Some(A),
            ),
            ("none", None, vec![placeholder], None),
            ("nonsense", Some("v1.0"), vec![("own/commit", "main\n")], None),
        ] {
            assert_eq!(search(name, given, &files).0.as_deref(), id, "{name}");
        }
    }

    #[test]
    fn build_script_watches_only_files_that_exist() {
        // A file that does not exist makes cargo run the script at each build.
        let files = [("own/commit", "x"), ("clone/.git/HEAD", A), ("clone/.git/logs/HEAD", A)];
        assert_eq!(search("watched", None, &files), (Some(A.to_owned()), 3));
    }
}
