use super::*;

fn parse(line: &[&str]) -> Result<Args> {
    Args::parse(line.iter().map(OsString::from))
}

#[test]
fn containerds_command_line_parses() {
    let line = ["-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary", "/bin/c", "-id", "a", "start"];
    let args = parse(&line).unwrap();
    let want = Args {
        namespace: "k8s.io".into(),
        id: "a".into(),
        address: "/run/c.sock".into(),
        action: Action::Start,
        ..Args::default()
    };
    assert_eq!(args, want);
}

#[test]
fn flags_take_one_or_two_dashes_and_both_forms_of_value() {
    for line in [["-namespace", "n", "--id", "a", "-debug"], ["--namespace=n", "-id=a", "-debug=true", "-x", "y"]] {
        let args = parse(&line).unwrap();
        assert_eq!((args.namespace.as_str(), args.id.as_str(), args.debug), ("n", "a", true), "{line:?}");
        assert_eq!(args.action, Action::Serve);
    }
    assert!(!parse(&["-namespace", "n", "-id", "a", "-debug=F"]).unwrap().debug);
}

#[test]
fn a_boolean_flag_does_not_take_the_next_word() {
    let args = parse(&["-namespace", "n", "-id", "a", "-debug", "delete"]).unwrap();
    assert_eq!((args.debug, args.action), (true, Action::Delete));
}

#[test]
fn flags_after_the_action_are_ignored() {
    let args = parse(&["-namespace", "n", "-id", "a", "delete", "-id", "b"]).unwrap();
    assert_eq!((args.id.as_str(), args.action), ("a", Action::Delete));
    assert_eq!(parse(&["-namespace", "n", "-id", "a", "--", "start"]).unwrap().action, Action::Start);
}

#[test]
fn unknown_flags_are_skipped() {
    for unknown in [&["-tracing"][..], &["-tracing=on"], &["--shim-mode", "fast"], &["-tracing", "--shim-mode", "x"]] {
        let line = [&["-namespace", "n"], unknown, &["-id", "a", "start"]].concat();
        let args = parse(&line).unwrap();
        assert_eq!((args.id.as_str(), args.action), ("a", Action::Start), "{line:?}");
        let line = [&["-namespace", "n", "-id", "a"], unknown, &["start"]].concat();
        assert_eq!(parse(&line).unwrap().action, Action::Start, "{line:?}");
    }
}

#[test]
fn info_and_version_need_no_namespace() {
    assert_eq!(parse(&["-info"]).unwrap().action, Action::Info);
    assert_eq!(parse(&["-v"]).unwrap().action, Action::Version);
    assert_eq!(parse(&["--help"]).unwrap().action, Action::Help);
    assert_eq!(parse(&["--version"]).unwrap().action, Action::Version);
}

#[test]
fn a_malformed_command_line_is_refused_by_name() {
    let long = "x".repeat(256);
    for (line, word) in [
        (&["-id", "a", "start"][..], "-namespace is empty"),
        (&["-namespace", "n", "start"], "-id is empty"),
        (&["-namespace", "n"], "-id is empty"),
        (&["-namespace", "../n", "-id", "a", "start"], "\"../n\""),
        (&["-namespace", "n", "-id", "..", "delete"], "\"..\""),
        (&["-namespace", "n", "-id", "a\nb", "start"], "\"a\\nb\""),
        (&["-namespace", "n", "-id", &long, "start"], "-id: invalid"),
        (&["-namespace", "n", "-id", "a", "stop"], "unknown action \"stop\""),
        (&["-namespace", "n", "-id"], "-id"),
        (&["-namespace", "n", "-id", "a", "-debug=maybe"], "\"maybe\""),
    ] {
        let message = parse(line).unwrap_err().to_string();
        assert!(message.contains(word), "{line:?}: {message}");
    }
}
