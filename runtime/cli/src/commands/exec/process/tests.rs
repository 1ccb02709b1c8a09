use super::*;
use crate::{args, commands::exec};

fn process(words: &[&str]) -> Result<Process> {
    let args = args::arguments(&exec::COMMAND, words);
    let json = r#"{"terminal":true,"user":{"uid":5,"gid":6,"additionalGids":[7]},"args":["sh"],"env":["A=1"],
        "cwd":"/w","capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]},
        "noNewPrivileges":true}"#;
    let mut process = berth_runtime::bundle::parse_process(json.as_bytes())?;
    apply(&mut process, &args)?;
    Ok(process)
}

#[test]
fn user_other_than_decimal_ids_is_refused() {
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
fn process_without_flags_is_that_of_config_json_without_its_terminal() {
    let p = process(&["c", "id", "-u"]).unwrap();
    assert_eq!(p.args().as_ref().unwrap(), &["id", "-u"]);
    assert_eq!((p.terminal(), p.no_new_privileges()), (Some(false), Some(true)));
    assert_eq!((p.user().uid(), p.user().gid()), (5, 6));
    assert_eq!(p.cwd(), Path::new("/w"));
}

#[test]
fn flags_change_the_process_of_config_json() {
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
fn malformed_flag_is_named() {
    assert_eq!(process(&["c"]).unwrap_err().to_string(), "exec args cannot be empty");
    assert_eq!(process(&["-g=-1", "c", "ls"]).unwrap_err().to_string(), "additional-gids must be a positive number -1");
    assert!(process(&["--cwd", "x", "c", "ls"]).is_err());
}
