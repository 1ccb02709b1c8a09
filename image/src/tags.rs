//! The command line of `tags`.

use std::io::{BufRead, Write};

use berth_runtime::{Context, Error, Result};

use crate::registry::{self, Request};

const HELP: &str = "\
berth tags [FLAGS] REPOSITORY

Prints the tags of a repository, one a line, as its registry has them. Credentials
are those of docker's or containers' files and helpers.

EXAMPLE:
    berth tags busybox

FLAGS:
    --authfile FILE            file of credentials, instead of the user's
    --ca FILE                  certificates (PEM) to trust beside the system's
    --json                     print one object {\"Repository\": …, \"Tags\": […]}
    --password-stdin           read the password of --username from standard input
    --plain-http               the registry speaks http (one on this machine always does)
    --username USER            user, with --password-stdin
";

/// Reads the words of `tags` and carries them out.
///
/// # Errors
/// The words are not understood, or as [`registry::list`].
pub fn run(words: &[&str]) -> Result<()> {
    let Some((request, json)) = parse(words, &mut std::io::stdin().lock())? else {
        print!("{HELP}");
        return Ok(());
    };
    let mut out = std::io::stdout().lock();
    if !json {
        return registry::list(&request, &mut |tags| {
            let text: String = tags.iter().flat_map(|tag| [tag.as_str(), "\n"]).collect();
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write")
        });
    }
    let mut all = Vec::new();
    registry::list(&request, &mut |tags| {
        all.extend_from_slice(tags);
        Ok(())
    })?;
    let object = serde_json::json!({"Repository": request.repository, "Tags": all});
    writeln!(out, "{object:#}").context("write")
}

/// The request, and whether JSON is asked for; `None` if help is.
fn parse(words: &[&str], stdin: &mut dyn BufRead) -> Result<Option<(Request, bool)>> {
    let (mut request, mut json) = (Request::default(), false);
    let (mut user, mut password_stdin, mut operands) = (None, false, Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-').map(|flag| flag.strip_prefix('-').unwrap_or(flag)) else {
            operands.push(*word);
            continue;
        };
        let (name, given) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let mut value =
            || given.or_else(|| words.next().copied()).ok_or_else(|| Error::invalid(format!("--{name} needs a value")));
        match name {
            "help" | "h" => return Ok(None),
            "authfile" => request.authfile = Some(value()?.into()),
            "ca" => request.ca = Some(value()?.into()),
            "username" => user = Some(value()?.to_owned()),
            _ if given.is_some() => return Err(Error::invalid(format!("flag {word} is unknown or takes no value"))),
            "json" => json = true,
            "password-stdin" => password_stdin = true,
            "plain-http" => request.plain_http = true,
            _ => return Err(Error::invalid(format!("flag {word} is unknown; see --help"))),
        }
    }
    let [repository] = operands.as_slice() else {
        return Err(Error::invalid("tags needs a REPOSITORY; see --help"));
    };
    request.repository = (*repository).to_owned();
    request.login = match (user, password_stdin) {
        (Some(user), true) => {
            let mut password = String::new();
            stdin.read_line(&mut password).context("read the password")?;
            Some((user, password.trim_end_matches(['\r', '\n']).to_owned()))
        }
        (None, false) => None,
        _ => return Err(Error::invalid("--username and --password-stdin go together")),
    };
    Ok(Some((request, json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_by_standard_input_alone() {
        let parse = |words: &[&str]| parse(words, &mut &b"secret\nmore"[..]);
        let (request, json) = parse(&["--username", "me", "--password-stdin", "a/b", "--json"]).unwrap().unwrap();
        assert_eq!((request.login, json), (Some(("me".into(), "secret".into())), true));
        for wrong in
            [&["a", "--username", "me"][..], &["a", "--password-stdin"], &[], &["a", "b"], &["a", "--password=x"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
