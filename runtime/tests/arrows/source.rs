//! The modules of a crate and the paths that each names, read from the text of its files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The path of a module from the root of its crate, which is empty itself.
pub type Module = Vec<String>;

/// What a crate consists of: its modules, and the modules that each of them names.
#[derive(Default)]
pub struct Crate {
    modules: BTreeSet<Module>,
    named: Vec<(Module, Module)>,
    /// `pub use` of the root: name → path.
    reexports: BTreeMap<String, Module>,
}

impl Crate {
    /// Reads all files below `src`, but for test code.
    pub fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        collect(src, &mut Vec::new(), &mut files);
        Self::of(files.iter().map(|(module, text)| (module.clone(), text.as_str())))
    }

    /// Takes modules with their texts.
    pub fn of<'t>(files: impl Iterator<Item = (Module, &'t str)>) -> Self {
        let mut found = Self::default();
        for (module, text) in files {
            let (uses, paths) = paths(text);
            if module.is_empty() {
                let own = uses.iter().filter(|path| path.len() > 1 && !is_foreign(path));
                found.reexports.extend(own.filter_map(|path| Some((path.last()?.clone(), path.clone()))));
            }
            for path in uses.into_iter().chain(paths) {
                found.named.extend(absolute(&module, path).map(|path| (module.clone(), path)));
            }
            found.modules.insert(module);
        }
        found
    }

    /// The arrows between different modules, sorted.
    pub fn arrows(&self) -> BTreeSet<(Module, Module)> {
        let resolved = self.named.iter().map(|(from, path)| (from.clone(), self.resolve(path)));
        resolved.filter(|(from, to)| from != to).collect()
    }

    /// All modules.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter()
    }

    /// The module that a path leads into: the longest part of it that is one.
    fn resolve(&self, path: &[String]) -> Module {
        let path = match path.first().and_then(|name| self.reexports.get(name)) {
            Some(long) if !self.modules.contains(&path[..1]) => long.as_slice(),
            _ => path,
        };
        let longest = (0..=path.len()).rev().map(|n| &path[..n]).find(|part| self.modules.contains(*part));
        longest.unwrap_or_default().to_vec()
    }
}

fn collect(dir: &Path, module: &mut Module, files: &mut Vec<(Module, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            module.push(stem);
            collect(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&stem) {
            let own = !matches!(stem.as_str(), "mod" | "lib" | "main");
            let module = module.iter().cloned().chain(own.then_some(stem)).collect();
            files.push((module, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn is_test(stem: &str) -> bool {
    matches!(stem, "tests" | "testing") || stem.ends_with("_tests")
}

fn is_foreign(path: &[String]) -> bool {
    matches!(path.first().map(String::as_str), Some("std" | "core"))
}

/// A path as written in `module`, from the root of the crate; `None` when it starts with another crate, or with a name that
/// is in scope.
fn absolute(module: &[String], path: Vec<String>) -> Option<Module> {
    let mut at = module.to_vec();
    let mut rest = path.iter().peekable();
    match rest.peek()?.as_str() {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            at.pop();
        }
        _ => return None,
    }
    rest.next();
    while rest.next_if(|name| *name == "super").is_some() {
        at.pop();
    }
    at.extend(rest.filter(|name| !matches!(name.as_str(), "self" | "*")).cloned());
    Some(at)
}

/// The paths of all `use` declarations, each written out, and all other paths in the code that begin at the crate, the module
/// or the one above it.
fn paths(text: &str) -> (Vec<Module>, Vec<Module>) {
    let tokens = tokens(text);
    let (mut uses, mut others) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token == "use" {
            at = tree(&tokens, at + 1, &[], &mut uses);
        } else if matches!(token.as_str(), "crate" | "super" | "self") && tokens.get(at + 1).is_some_and(|t| t == "::")
        {
            let mut path = vec![token.clone()];
            while tokens.get(at + 1).is_some_and(|t| t == "::") && tokens.get(at + 2).is_some_and(|t| is_name(t)) {
                path.push(tokens[at + 2].clone());
                at += 2;
            }
            others.push(path);
        }
        at += 1;
    }
    (uses, others)
}

/// Reads one tree of a `use` declaration, and returns where it ends.
fn tree(tokens: &[String], mut at: usize, prefix: &[String], paths: &mut Vec<Module>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    at = tree(tokens, at, &path, paths);
                    at += usize::from(tokens.get(at).is_some_and(|t| t == ","));
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            "as" => at += 1,
            "::" => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    paths.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The names and marks of the code before the tests at the end of a file, without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let end = text.find("#[cfg(test)]\nmod ").or_else(|| text.find("#[cfg(test)]\npub(crate) mod "));
    let mut rest = &text[..end.unwrap_or(text.len())];
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            literal(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest.find("\"'").map_or(1, |at| at + 2)
        } else if is_name(rest) {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..len].to_owned());
            len
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if "{},;*".contains(first) {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    tokens
}

/// The length of the string literal that a text begins with, in bytes.
fn literal(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}
