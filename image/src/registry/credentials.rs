//! Credentials out of docker's and containers' files, and from helpers.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_runtime::{Context, Error, Kind, Result};
use serde::Deserialize;

use super::name::{DEFAULT_KEY, Repository, canonical};
use crate::{names::DEFAULT, source::nullable};

/// The time limit of a helper.
const HELPER: Duration = Duration::from_secs(30);
/// Bytes of a file of credentials, and of a helper's answer.
const BOUND: u64 = 1 << 20;
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// The answer of a helper that has no credentials.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A user's credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Basic(String, String),
    /// An identity token, which a token server changes for others.
    Identity(String),
    /// A token for the registry itself.
    Bearer(String),
}

/// A file of credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    #[serde(deserialize_with = "nullable")]
    auths: BTreeMap<String, Entry>,
    #[serde(deserialize_with = "nullable")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "nullable")]
    auth: String,
    #[serde(deserialize_with = "nullable")]
    username: String,
    #[serde(deserialize_with = "nullable")]
    password: String,
    #[serde(deserialize_with = "nullable")]
    identitytoken: String,
    #[serde(deserialize_with = "nullable")]
    registrytoken: String,
}

/// Finds the credentials for a repository: in the file that the caller names, else in the first that is there of
/// `$REGISTRY_AUTH_FILE`, docker's and containers'.
///
/// # Errors
/// A file that is named is missing, a file is malformed, or a helper fails.
pub fn find(repository: &Repository, named: Option<&Path>) -> Result<Option<Credentials>> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_owned).or_else(|| variable("REGISTRY_AUTH_FILE")) {
        return of_file(repository, &path);
    }
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let candidates = [
        variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker"))).map(|dir| dir.join("config.json")),
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
    ];
    for path in candidates.into_iter().flatten().filter(|path| path.exists()) {
        if let Some(found) = of_file(repository, &path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn of_file(repository: &Repository, path: &Path) -> Result<Option<Credentials>> {
    let read = || -> Result<File> {
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(BOUND).read_to_end(&mut text)?;
        serde_json::from_slice(&text).map_err(|e| Error::invalid(e.to_string()))
    };
    let file = read().with_context(|| format!("credentials {}", path.display()))?;
    let names = [repository.registry.as_str(), DEFAULT_KEY];
    let names = if repository.registry == DEFAULT { &names[..] } else { names.get(..1).unwrap_or_default() };
    if let Some((host, helper)) = names.iter().find_map(|name| file.cred_helpers.get_key_value(*name)) {
        return of_helper(helper, host);
    }
    if !file.creds_store.is_empty() {
        let host = if repository.registry == DEFAULT { DEFAULT_KEY } else { &repository.registry };
        if let Some(found) = of_helper(&file.creds_store, host)? {
            return Ok(Some(found));
        }
    }
    of_entries(repository, &file.auths)
}

/// The entry with the longest key that covers the repository: `host`, `host/namespace`, `https://host/v1/`.
fn of_entries(repository: &Repository, auths: &BTreeMap<String, Entry>) -> Result<Option<Credentials>> {
    let full = format!("{}/{}", repository.registry, repository.path);
    let covers = |key: &str| {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let normal = match bare {
            Some(url) => url.split('/').next().unwrap_or_default(),
            None => key.trim_end_matches('/'),
        };
        let normal = canonical(normal);
        let is_covered = full.strip_prefix(normal).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (is_covered && !normal.is_empty()).then_some(normal.len())
    };
    let best = auths.iter().filter_map(|(key, entry)| covers(key).map(|len| (len, entry))).max_by_key(|(len, _)| *len);
    best.map_or(Ok(None), |(_, entry)| of_entry(entry))
}

fn of_entry(entry: &Entry) -> Result<Option<Credentials>> {
    if !entry.registrytoken.is_empty() {
        return Ok(Some(Credentials::Bearer(entry.registrytoken.clone())));
    }
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Credentials::Identity(entry.identitytoken.clone())));
    }
    if !entry.auth.is_empty() {
        let wrong = || Error::invalid("the field auth of an entry of credentials is malformed");
        let text = STANDARD.decode(entry.auth.trim_end_matches('\0')).map_err(|_| wrong())?;
        let text = String::from_utf8(text).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        return Ok(Some(Credentials::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned())));
    }
    if entry.username.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credentials::Basic(entry.username.clone(), entry.password.clone())))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-NAME get`.
fn of_helper(name: &str, host: &str) -> Result<Option<Credentials>> {
    let is_good =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !is_good {
        return Err(Error::invalid(format!("{name:?} is no name of a helper for credentials")));
    }
    let program = format!("docker-credential-{name}");
    let (is_success, answer) = ask(&program, host).with_context(|| program.clone())?;
    if !is_success {
        if String::from_utf8_lossy(&answer).contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(Error::new(Kind::FailedPrecondition, format!("{program} failed")));
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|_| Error::invalid(format!("{program}: the answer is malformed")))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credentials::Identity(answer.secret),
        _ => Credentials::Basic(answer.username, answer.secret),
    }))
}

/// Runs a helper with the host on its standard input; whether it succeeded, and its output.
#[expect(clippy::disallowed_methods, reason = "the process is not a shim's: it waits for its one child at once")]
fn ask(program: &str, host: &str) -> Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program).arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may end without reading.
        let _ = stdin.write_all(host.as_bytes());
    }
    let stdout = child.stdout.take();
    let (sender, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut answer = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(BOUND).read_to_end(&mut answer)).map(|_| answer);
        let _ = sender.send(read);
    });
    let end = Instant::now() + HELPER;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Err(Error::new(Kind::FailedPrecondition, "it has not answered within 30 s"));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // A process that the helper has left behind may keep the pipe open.
    let left = end.saturating_duration_since(Instant::now());
    let answer = answer
        .recv_timeout(left)
        .map_err(|_| Error::new(Kind::FailedPrecondition, "its output has not ended within 30 s"))??;
    Ok((status.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic(user.into(), password.into()))
    }

    #[test]
    fn the_longest_key_counts() {
        let text = r#"{
            "https://index.docker.io/v1/": {"auth": "ZDpw"},
            "r.example": {"username": "host", "password": "p"},
            "r.example/team": {"username": "team", "password": "p"},
            "https://s.example:5000": {"identitytoken": "i"},
            "t.example": {"registrytoken": "t", "auth": "ZDpw"},
            "u.example": {},
            "r.example.evil": {"username": "evil", "password": "p"}}"#;
        let auths = serde_json::from_str(text).unwrap();
        for (name, expected) in [
            ("busybox", basic("d", "p")),
            ("r.example/a", basic("host", "p")),
            ("r.example/team/a", basic("team", "p")),
            ("r.example/teams/a", basic("host", "p")),
            ("r.example:5000/a", None),
            ("s.example:5000/a", Some(Credentials::Identity("i".into()))),
            ("t.example/a", Some(Credentials::Bearer("t".into()))),
            ("u.example/a", None),
            ("other.example/a", None),
        ] {
            let found = of_entries(&Repository::parse(name, false).unwrap(), &auths).unwrap();
            assert!(found == expected, "{name}");
        }
        let wrong = serde_json::from_str(r#"{"r.example": {"auth": "!"}}"#).unwrap();
        assert!(of_entries(&Repository::parse("r.example/a", false).unwrap(), &wrong).is_err());
    }

    #[test]
    fn names_of_helpers_are_checked() {
        for name in ["", "../x", "a b", "a/b", "x;y"] {
            assert!(of_helper(name, "r.example").is_err(), "{name}");
        }
    }
}
