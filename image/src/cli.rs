//! The command line of `berth-image`: one table of flags, from which parser and help come.

use std::{ffi::OsString, io::IsTerminal, path::PathBuf};

use berth_runtime::{Error, Result};

use crate::{
    config::{Asked, Capabilities},
    ids::{Range, Ranges},
    limits::Limits,
    source::Platform,
    unpack::{self, Request},
};

/// A flag of `unpack`.
struct Flag {
    name: &'static str,
    /// The word for its value in the help; empty for a switch.
    value: &'static str,
    help: &'static str,
    set: fn(&mut Request, &str) -> Result<()>,
}

const FLAGS: &[Flag] = &[
    Flag {
        name: "caps",
        value: "SET",
        help: "capabilities: 'default' (of berth spec), 'docker', 'none', or names between commas",
        set: |r, v| {
            r.config.capabilities = Capabilities::parse(v);
            Ok(())
        },
    },
    Flag {
        name: "cwd",
        value: "DIR",
        help: "working directory, instead of the image's",
        set: |r, v| {
            r.config.cwd = Some(v.into());
            Ok(())
        },
    },
    Flag {
        name: "devices",
        value: "",
        help: "make the image's device nodes, which are left out otherwise",
        set: |r, _| {
            r.devices = true;
            Ok(())
        },
    },
    Flag {
        name: "entrypoint",
        value: "PROGRAM",
        help: "program, instead of the image's entrypoint and command",
        set: |r, v| {
            r.config.entrypoint = Some(v.into());
            Ok(())
        },
    },
    Flag {
        name: "env",
        value: "NAME=VALUE",
        help: "set a variable; NAME alone takes the caller's value",
        set: |r, v| set_env(&mut r.config, v),
    },
    Flag {
        name: "gid-map",
        value: "C:H:N",
        help: "map N groups from C on to the host's from H on (as root)",
        set: |r, v| {
            r.ranges.get_or_insert_default().gids.push(Range::parse(v)?);
            Ok(())
        },
    },
    Flag {
        name: "hostname",
        value: "NAME",
        help: "host name of the container",
        set: |r, v| {
            r.config.hostname = Some(v.into());
            Ok(())
        },
    },
    Flag {
        name: "max-entries",
        value: "N",
        help: "most entries of all layers (default 2000000)",
        set: |r, v| {
            r.limits.entries = number(v)?;
            Ok(())
        },
    },
    Flag {
        name: "max-size",
        value: "BYTES",
        help: "most bytes of all layers, uncompressed (default 32 GiB)",
        set: |r, v| {
            r.limits.bytes = number(v)?;
            Ok(())
        },
    },
    Flag {
        name: "platform",
        value: "OS/ARCH",
        help: "which image of an index (default: this machine's)",
        set: |r, v| {
            r.platform = Platform::parse(v)?;
            Ok(())
        },
    },
    Flag {
        name: "quiet",
        value: "",
        help: "show no progress",
        set: |r, _| {
            r.quiet = true;
            Ok(())
        },
    },
    Flag {
        name: "readonly",
        value: "",
        help: "mount the root filesystem read-only",
        set: |r, _| {
            r.config.readonly = true;
            Ok(())
        },
    },
    Flag {
        name: "rootless",
        value: "",
        help: "write a config.json for a user without privilege (always so for one)",
        set: |r, _| {
            r.rootless = true;
            Ok(())
        },
    },
    Flag {
        name: "terminal",
        value: "BOOL",
        help: "the process has a terminal (default: whether stdin is one)",
        set: |r, v| {
            r.config.terminal =
                v.parse().map_err(|_| Error::invalid(format!("--terminal: {v:?} is neither true nor false")))?;
            Ok(())
        },
    },
    Flag {
        name: "uid-map",
        value: "C:H:N",
        help: "map N users from C on to the host's from H on (as root)",
        set: |r, v| {
            r.ranges.get_or_insert_default().uids.push(Range::parse(v)?);
            Ok(())
        },
    },
    Flag {
        name: "user",
        value: "USER[:GROUP]",
        help: "user, instead of the image's",
        set: |r, v| {
            r.config.user = Some(v.into());
            Ok(())
        },
    },
    Flag {
        name: "volumes",
        value: "",
        help: "mount an empty tmpfs at each volume of the image",
        set: |r, _| {
            r.config.volumes = true;
            Ok(())
        },
    },
];

const ABOUT: &str = "\
berth unpack [FLAGS] IMAGE[:NAME] BUNDLE [-- ARGS]

Makes a bundle that `berth run` starts out of a saved image: a file of podman save
or docker save, or an OCI image layout as a directory or a tar. ARGS replace the
image's command.

EXAMPLE:
    podman save -o busybox.tar busybox
    berth unpack busybox.tar box
    berth run --bundle box demo
";

/// Runs the command line without the program's name, and returns the exit status.
pub fn main(words: Vec<OsString>) -> i32 {
    let done = text(words).and_then(|words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["unpack", rest @ ..] => run_unpack(rest),
            #[cfg(feature = "registry")]
            ["tags", rest @ ..] => crate::tags::run(rest),
            ["--version"] => {
                println!("berth-image version {}", berth_version::VERSION);
                Ok(())
            }
            _ => Err(Error::invalid("usage: berth-image unpack or tags; each has --help")),
        }
    });
    match done {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("berth-image: {e}");
            1
        }
    }
}

fn text(words: Vec<OsString>) -> Result<Vec<String>> {
    let text = |word: OsString| {
        word.into_string().map_err(|word| Error::invalid(format!("argument {} is not UTF-8", word.display())))
    };
    words.into_iter().map(text).collect()
}

fn run_unpack(words: &[&str]) -> Result<()> {
    let Some(request) = parse(words)? else {
        print!("{}", help());
        return Ok(());
    };
    for warning in unpack::unpack(&request)? {
        eprintln!("berth-image: warning: {warning}");
    }
    Ok(())
}

/// Reads the words of `unpack`; `None` if help is asked for.
fn parse(words: &[&str]) -> Result<Option<Request>> {
    let mut request = Request {
        image: String::new(),
        bundle: PathBuf::new(),
        platform: Platform::own(),
        limits: Limits::default(),
        devices: false,
        rootless: false,
        ranges: None,
        config: Asked { terminal: std::io::stdin().is_terminal(), ..Asked::default() },
        quiet: false,
    };
    let mut operands = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix('-').map(|flag| flag.strip_prefix('-').unwrap_or(flag)) {
            Some("help" | "h") => return Ok(None),
            Some("") if *word == "--" => {
                request.config.args = words.by_ref().map(|word| (*word).to_owned()).collect();
            }
            Some(text) if !text.is_empty() => {
                let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
                let flag = FLAGS
                    .iter()
                    .find(|flag| flag.name == name)
                    .ok_or_else(|| Error::invalid(format!("flag {word} is unknown; see --help")))?;
                let value = value_of(flag, value, &mut words)?;
                (flag.set)(&mut request, value)?;
            }
            _ => operands.push(*word),
        }
    }
    let [image, bundle] = operands.as_slice() else {
        return Err(Error::invalid("unpack needs an IMAGE and a BUNDLE; see --help"));
    };
    (request.image, request.bundle) = ((*image).to_owned(), PathBuf::from(bundle));
    if request.ranges.as_ref().is_some_and(|Ranges { uids, gids }| uids.is_empty() || gids.is_empty()) {
        return Err(Error::invalid("--uid-map and --gid-map go together"));
    }
    Ok(Some(request))
}

/// The value of a flag: behind `=`, else the next word. Switches have none, and `--terminal` may stand alone.
fn value_of<'a>(flag: &Flag, value: Option<&'a str>, words: &mut std::slice::Iter<'_, &'a str>) -> Result<&'a str> {
    match (flag.name, value) {
        ("terminal", None) => Ok("true"),
        (_, None) if flag.value.is_empty() => Ok(""),
        (name, Some(_)) if flag.value.is_empty() => Err(Error::invalid(format!("--{name} takes no value"))),
        (_, Some(value)) => Ok(value),
        (name, None) => words.next().copied().ok_or_else(|| Error::invalid(format!("--{name} needs a value"))),
    }
}

fn set_env(config: &mut Asked, text: &str) -> Result<()> {
    let variable = match text.split_once('=') {
        Some(("", _)) => return Err(Error::invalid(format!("--env: {text:?} has no name"))),
        Some(_) => text.to_owned(),
        None => match std::env::var(text) {
            Ok(value) => format!("{text}={value}"),
            // As docker: a variable that the caller does not have is not set.
            Err(_) => return Ok(()),
        },
    };
    config.env.push(variable);
    Ok(())
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is no number")))
}

fn help() -> String {
    let mut text = format!("{ABOUT}\nFLAGS:\n");
    for flag in FLAGS {
        let left =
            if flag.value.is_empty() { format!("--{}", flag.name) } else { format!("--{} {}", flag.name, flag.value) };
        text.push_str(&format!("    {left:<26} {}\n", flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_operands_may_stand_in_any_order() {
        let words =
            ["a.tar:x", "--env", "A=1", "-env=B=2", "out", "--terminal=false", "--uid-map=0:1:2", "--gid-map", "0:1:2"];
        let request = parse(&[&words[..], &["--", "ls", "--help"]].concat()).unwrap().unwrap();
        assert_eq!((request.image.as_str(), request.bundle.to_str()), ("a.tar:x", Some("out")));
        assert_eq!(request.config.env, ["A=1", "B=2"]);
        assert_eq!(request.config.args, ["ls", "--help"]);
        assert_eq!(request.ranges.unwrap().uids.len(), 1);
        assert!(parse(&["--help"]).unwrap().is_none());
        for wrong in
            [&["a"][..], &["a", "b", "c"], &["a", "b", "--none"], &["a", "b", "--env"], &["a", "b", "--quiet=1"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&["a", "b", "--uid-map", "0:1:2"]).is_err());
    }
}
