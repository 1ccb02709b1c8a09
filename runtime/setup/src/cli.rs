//! The words that `berth check`, `berth completion`, `berth install` and `berth uninstall` pass on. The flags and their help are in the table
//! of the program `berth`, which has checked them: each arrives as `--flag` or `--flag=VALUE`.

use std::{ffi::OsString, path::PathBuf, process::Command};

use berth_runtime::{Context, Error, Result};
use rustix::process::geteuid;

use crate::{
    check::{self, Caller},
    host::{self, Host},
    install::{
        self, Work,
        engine::{self, Engine, Options},
        record::Store,
    },
};

/// A command line.
#[derive(Debug, Default)]
struct Request {
    engines: Vec<Engine>,
    all: bool,
    json: bool,
    dry_run: bool,
    restart: bool,
    force: bool,
    shim: bool,
    name: Option<String>,
    bin_dir: Option<PathBuf>,
    destdir: Option<PathBuf>,
    containerd: Option<(u32, u32)>,
}

/// Runs the words after the program's name; returns the exit status.
pub fn main(words: Vec<OsString>) -> i32 {
    let texts: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (command, rest) = texts.split_first().map_or(("", [].as_slice()), |(first, rest)| (first.as_str(), rest));
    let done = match command {
        check::TRIAL => return check::try_namespace(),
        "check" => Request::parse(rest).map(|request| run_check(&request)),
        "install" => Request::parse(rest).and_then(|request| run_install(&request)).map(|()| 0),
        "uninstall" => Request::parse(rest).and_then(|request| run_uninstall(&request)).map(|()| 0),
        "completion" => completion(rest.first().map_or("", String::as_str)).map(|()| 0),
        "--version" => {
            println!("berth-setup version {}", berth_version::VERSION);
            Ok(0)
        }
        _ => Err(Error::invalid("usage: berth check, berth install or berth uninstall; each has --help")),
    };
    done.unwrap_or_else(|e| {
        eprintln!("berth: {command}: {e}");
        1
    })
}

impl Request {
    fn parse(words: &[String]) -> Result<Self> {
        let mut request = Self::default();
        for word in words {
            let (flag, value) = word.split_once('=').map_or((word.as_str(), ""), |(flag, value)| (flag, value));
            match flag.trim_start_matches('-') {
                "all" => request.all = true,
                "json" => request.json = true,
                "dry-run" => request.dry_run = true,
                "restart" => request.restart = true,
                "force" => request.force = true,
                "shim" => request.shim = true,
                "name" => request.name = Some(name(value)?),
                "bin-dir" => request.bin_dir = Some(value.into()),
                "destdir" => request.destdir = Some(value.into()),
                "containerd-version" => {
                    let found = host::version(value);
                    let wrong = || Error::invalid(format!("--containerd-version {value}: not a version such as 2.3"));
                    request.containerd = Some(found.ok_or_else(wrong)?);
                }
                other => match engine::ALL.into_iter().find(|engine| engine.name() == other) {
                    Some(engine) => request.engines.push(engine),
                    None => return Err(Error::invalid(format!("{word}: unknown; see --help"))),
                },
            }
        }
        Ok(request)
    }

    fn host(&self) -> Result<Host> {
        match &self.destdir {
            Some(dir) if !dir.is_dir() => Err(Error::invalid(format!("--destdir {}: not a directory", dir.display()))),
            dir => Ok(Host::new(dir.as_deref())),
        }
    }

    /// The engines that are named, all of them with `--all`.
    fn engines(&self) -> Result<&[Engine]> {
        match (self.engines.as_slice(), self.all) {
            ([], true) => Ok(&engine::ALL),
            ([], false) => {
                Err(Error::invalid("name an engine: --containerd, --docker, --podman, --crio, --k3s or --rke2"))
            }
            (engines, _) => Ok(engines),
        }
    }

    /// The choices of an installation. The programs have to be in their directory, of one version, and whole.
    fn options(&self, host: &Host) -> Result<Options> {
        let bin_dir = match &self.bin_dir {
            Some(dir) => dir.clone(),
            None => own_directory()?,
        };
        for program in ["berth", "containerd-shim-berth-v2"] {
            let path = host.path(bin_dir.join(program));
            let out = Command::new(&path).arg("--version").output();
            let out = out.with_context(|| format!("execute {} --version", path.display()))?;
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            if !out.status.success() || !said.contains(berth_version::VERSION) {
                let text =
                    format!("{}: is not berth {}: it said {:?}", path.display(), berth_version::VERSION, said.trim());
                return Err(Error::invalid(text));
            }
        }
        let name = self.name.clone().unwrap_or_else(|| "berth".to_owned());
        Ok(Options { name, bin_dir, shim: self.shim, containerd: self.containerd })
    }
}

/// A name that all engines take.
fn name(text: &str) -> Result<String> {
    let fits = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits && !text.is_empty() && text.len() <= 63 && text != "runc" {
        return Ok(text.to_owned());
    }
    Err(Error::invalid(format!("--name {text:?}: want lower-case letters, digits and dashes, and not runc")))
}

/// The directory of the programs: this one's, or `../../bin` from `libexec/berth`.
fn own_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the directory of this program")?;
    let directory = own.parent().unwrap_or(&own);
    if directory.ends_with("libexec/berth") {
        return Ok(directory.ancestors().nth(2).unwrap_or(directory).join("bin"));
    }
    Ok(directory.to_owned())
}

/// Prints the script of a shell, which `make docs` has written.
fn completion(shell: &str) -> Result<()> {
    let script = match shell {
        "bash" => include_str!("../../../docs/cli/completions/berth.bash"),
        "zsh" => include_str!("../../../docs/cli/completions/_berth"),
        "fish" => include_str!("../../../docs/cli/completions/berth.fish"),
        _ => return Err(Error::invalid(format!("{shell:?}: want bash, zsh or fish"))),
    };
    print!("{script}");
    Ok(())
}

fn run_check(request: &Request) -> i32 {
    let host = Host::new(request.destdir.as_deref());
    let caller = if geteuid().is_root() { Caller::Root } else { Caller::User };
    let findings = check::run(&host, caller);
    let answer = if request.json { check::json(&findings) } else { check::text(&findings) };
    print!("{answer}");
    check::status(&findings)
}

fn run_install(request: &Request) -> Result<()> {
    let host = request.host()?;
    let engines = request.engines()?;
    let options = request.options(&host)?;
    let store = if request.dry_run { Store::open(&host)? } else { Store::make(&host)? };
    for engine in engines.iter().filter(|engine| !request.engines.is_empty() || engine.is_present(&host)) {
        let work = install::install(&host, &store, *engine, &options, request.force)?;
        print!("{}", work.show());
        finish(request, &host, &store, *engine, work)?;
    }
    Ok(())
}

fn run_uninstall(request: &Request) -> Result<()> {
    let host = request.host()?;
    let engines = request.engines()?;
    let store = Store::open(&host)?;
    for engine in engines {
        match install::uninstall(&host, &store, *engine, request.force)? {
            Some(work) => {
                print!("{}", work.show());
                finish(request, &host, &store, *engine, work)?;
            }
            None if request.all => {}
            None => println!("{}: berth is not installed", engine.name()),
        }
    }
    Ok(())
}

/// Carries the work out, and restarts the engine or says that it has to be restarted.
fn finish(request: &Request, host: &Host, store: &Store, engine: Engine, work: Work) -> Result<()> {
    let changed = work.changes_files();
    if request.dry_run {
        return Ok(());
    }
    work.carry_out(host, store)?;
    let Some(first) = engine.units().first().filter(|_| changed && host.is_own()) else { return Ok(()) };
    if request.restart {
        for unit in Work::restart(engine)? {
            println!("{}: restarted {unit}", engine.name());
        }
    } else {
        println!("{}: the change counts after: systemctl restart {first}", engine.name());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Request> {
        Request::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_of_the_command_line_become_a_request() {
        let request =
            parse(&["--docker", "--name=b-1", "--destdir=/x", "--containerd-version=2.3.4", "--dry-run"]).unwrap();
        assert_eq!((request.engines().unwrap(), request.name.as_deref()), (&[Engine::Docker][..], Some("b-1")));
        assert_eq!((request.containerd, request.dry_run, request.restart), (Some((2, 3)), true, false));
        assert_eq!(parse(&["--all"]).unwrap().engines().unwrap().len(), 6);
    }

    #[test]
    fn words_that_cannot_be_meant_are_refused() {
        assert!(completion("csh").is_err());
        for word in ["--name=runc", "--name=a.b", "--name=", "--name=A", "--containerd-version=new", "--lxc"] {
            assert!(parse(&[word]).is_err(), "{word}");
        }
        assert!(parse(&[]).unwrap().engines().is_err());
    }
}
