//! The process of `exec`: the one of config.json with the flags laid over it.

use std::path::{Path, PathBuf};

use berth_runtime::{
    Error, Result,
    bundle::{Bundle, load_process},
};
use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Process};

use super::args::Parsed;

/// The process to execute: that of `--process`, or that of the bundle with the flags and operands laid over it.
///
/// # Errors
/// Names the flag, file or field that is malformed.
pub fn find(bundle: &Path, parsed: &Parsed) -> Result<Process> {
    if let Some(path) = parsed.text("process") {
        return load_process(Path::new(path));
    }
    let mut spec = Bundle::load(bundle)?.spec;
    let mut process =
        spec.process_mut().take().ok_or_else(|| Error::invalid("config.json: process property must not be empty"))?;
    overlay(&mut process, parsed)?;
    Ok(process)
}

fn overlay(process: &mut Process, parsed: &Parsed) -> Result<()> {
    let Some(args) = parsed.operands.get(1..).filter(|args| !args.is_empty()) else {
        return Err(Error::invalid("exec args cannot be empty"));
    };
    process.set_args(Some(args.to_vec()));
    if let Some(cwd) = parsed.text("cwd") {
        if !cwd.starts_with('/') {
            return Err(Error::invalid(format!("--cwd {cwd}: Cwd must be an absolute path")));
        }
        process.set_cwd(PathBuf::from(cwd));
    }
    if let Some(profile) = parsed.text("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = parsed.text("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    add_capabilities(process, parsed);
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(parsed.texts("env").map(str::to_owned));
    process.set_env(Some(env));
    // The container's own process may have a terminal; this one only has it if asked for.
    process.set_terminal(Some(parsed.on("tty")));
    if parsed.is_set("no-new-privs") {
        process.set_no_new_privileges(Some(parsed.on("no-new-privs")));
    }
    set_user(process, parsed)
}

/// Ambient capabilities need inheritable ones, which no flag adds; so they are only added to a process that has some.
fn add_capabilities(process: &mut Process, parsed: &Parsed) {
    let mut sets = None;
    for name in parsed.texts("cap") {
        let Ok(capability) = serde_json::from_value::<Capability>(name.into()) else {
            log::warn!("ignoring unknown or unavailable capabilities: [{name}]");
            continue;
        };
        let sets = sets.get_or_insert_with(|| match process.capabilities() {
            Some(sets) => sets.clone(),
            None => LinuxCapabilitiesBuilder::default().build().unwrap_or_default(),
        });
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
        if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            sets.set_ambient(with(sets.ambient()));
        }
    }
    if sets.is_some() {
        process.set_capabilities(sets);
    }
}

fn set_user(process: &mut Process, parsed: &Parsed) -> Result<()> {
    let mut user = process.user().clone();
    if let Some(text) = parsed.text("user") {
        let (uid, gid) = ids(text)?;
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in parsed.ints("additional-gids") {
        let invalid = || Error::invalid(format!("additional-gids must be a positive number {gid}"));
        groups.push(u32::try_from(gid).ok().filter(|gid| *gid != u32::MAX).ok_or_else(invalid)?);
    }
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}

/// Reads `uid` or `uid:gid`. Nothing but decimal digits passes, and -1, which means "unchanged" to the kernel, does
/// not: reading `4294967296` or a trailing word as some other id once gave root (CVE-2026-30892).
fn ids(text: &str) -> Result<(u32, Option<u32>)> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let gid = gid.map(|gid| id("gid", gid)).transpose()?;
    Ok((id("uid", uid)?, gid))
}

fn id(what: &str, text: &str) -> Result<u32> {
    let invalid = |why| Error::invalid(format!("bad {what}: parsing {text:?}: {why}"));
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid("invalid syntax"));
    }
    text.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(|| invalid("value out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args, exec};

    fn process(words: &[&str]) -> Result<Process> {
        let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        let parsed = args::parse(exec::COMMAND.flags, &words, true).unwrap();
        let json = r#"{"terminal":true,"user":{"uid":5,"gid":6,"additionalGids":[7]},"args":["sh"],"env":["A=1"],
            "cwd":"/w","capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]},
            "noNewPrivileges":true}"#;
        let mut process = berth_runtime::bundle::parse_process(json.as_bytes())?;
        overlay(&mut process, &parsed)?;
        Ok(process)
    }

    #[test]
    fn users_are_read_strictly() {
        for (text, result) in [
            ("1", Some((1, None))),
            ("1:2", Some((1, Some(2)))),
            ("0:0", Some((0, Some(0)))),
            ("4294967294", Some((4_294_967_294, None))),
            ("4294967295", None),
            ("4294967296", None),
            ("1:4294967295", None),
            ("1:4294967296", None),
            ("-1", None),
            ("+1", None),
            ("1:", None),
            (":1", None),
            ("", None),
            ("1:2:3", None),
            ("0x1", None),
            (" 1", None),
            ("1 ", None),
            ("1x", None),
            ("1:x", None),
            ("root", None),
            ("1_0", None),
            ("\u{661}", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(ids(text).ok(), result, "{text:?}");
        }
        assert_eq!(ids("0x1").unwrap_err().to_string(), "bad uid: parsing \"0x1\": invalid syntax");
        assert_eq!(ids("1:4294967296").unwrap_err().to_string(), "bad gid: parsing \"4294967296\": value out of range");
    }

    #[test]
    fn exec_without_flags_is_the_containers_process_without_its_terminal() {
        let p = process(&["c", "id", "-u"]).unwrap();
        assert_eq!(p.args().as_ref().unwrap(), &["id", "-u"]);
        assert_eq!((p.terminal(), p.no_new_privileges()), (Some(false), Some(true)));
        assert_eq!((p.user().uid(), p.user().gid()), (5, 6));
        assert_eq!(p.cwd(), Path::new("/w"));
    }

    #[test]
    fn flags_lie_over_it() {
        let p = process(&[
            "-t",
            "-e",
            "A=2",
            "-e=B=3",
            "-u",
            "8",
            "-g",
            "9",
            "--cwd",
            "/x",
            "-c",
            "CAP_CHOWN",
            "-c",
            "CAP_WARP",
            "--no-new-privs=false",
            "--apparmor",
            "prof",
            "--process-label",
            "lab",
            "c",
            "ls",
        ])
        .unwrap();
        assert_eq!(p.env().as_ref().unwrap(), &["A=1", "A=2", "B=3"]);
        assert_eq!((p.user().uid(), p.user().gid()), (8, 6));
        assert_eq!(p.user().additional_gids().as_ref().unwrap(), &[7, 9]);
        assert_eq!((p.terminal(), p.no_new_privileges()), (Some(true), Some(false)));
        assert_eq!((p.apparmor_profile().as_deref(), p.selinux_label().as_deref()), (Some("prof"), Some("lab")));
        let sets = p.capabilities().as_ref().unwrap();
        for set in [sets.bounding(), sets.effective(), sets.permitted()] {
            let set = set.as_ref().unwrap();
            assert!(set.len() == 2 && set.contains(&Capability::Chown), "{set:?}");
        }
        assert!(sets.ambient().as_ref().is_none_or(|set| set.is_empty()));
    }

    #[test]
    fn bad_words_are_named() {
        assert_eq!(process(&["c"]).unwrap_err().to_string(), "exec args cannot be empty");
        assert_eq!(
            process(&["-g=-1", "c", "ls"]).unwrap_err().to_string(),
            "additional-gids must be a positive number -1"
        );
        assert!(process(&["--cwd", "x", "c", "ls"]).is_err());
    }
}
