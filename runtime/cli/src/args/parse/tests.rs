use super::{
    super::{Binding, fill, flags, non_empty},
    *,
};

#[derive(Debug, Default, PartialEq)]
struct Args {
    detach: Option<bool>,
    bundle: Option<String>,
    env: Vec<String>,
    gids: Vec<i64>,
}

static FLAGS: &[Binding<Args>] = &[
    Binding::switch(&["detach", "d"], "x", |args, on| args.detach = Some(on)),
    Binding::text(&["bundle", "b"], "x", |args, text| args.bundle = non_empty(text)),
    Binding::texts(&["env", "e"], "x", |args, text| args.env.push(text)),
    Binding::int(&["preserve-fds"], "x", |_, _| {}),
    Binding::ints(&["additional-gids", "g"], "x", |args, gid| args.gids.push(gid)),
    Binding::duration(&["interval"], "x", |_, _| {}),
];

fn read(line: &str, order: Order) -> Result<Parsed, String> {
    let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    parse(&flags(FLAGS), &words, order)
}

fn args(line: &str, order: Order) -> Args {
    fill(FLAGS, read(line, order).unwrap().values)
}

fn operands(line: &str, order: Order) -> Vec<String> {
    read(line, order).unwrap().operands
}

#[test]
fn one_dash_and_two_dashes_mean_the_same() {
    for line in ["-detach c", "--detach c", "-d c", "--d c", "-d=true c", "--detach=1 c", "c -d"] {
        assert_eq!(args(line, Order::Mixed).detach, Some(true), "{line}");
        assert_eq!(operands(line, Order::Mixed), ["c"], "{line}");
    }
    assert_eq!(args("--detach=false c", Order::Mixed).detach, Some(false));
}

#[test]
fn value_follows_the_flag_or_an_equals_sign() {
    let bundle = |line| args(line, Order::Mixed).bundle;
    for line in ["-b /x c", "--bundle /x c", "--bundle=/x c", "-b=/x c", "c --bundle /x"] {
        assert_eq!(bundle(line).as_deref(), Some("/x"), "{line}");
    }
    for (line, value) in [
        ("-b a=b c", Some("a=b")),
        ("--bundle=a=b c", Some("a=b")),
        ("-b -- c", Some("--")),
        ("-b 1 -b 2", Some("2")),
        ("--bundle= c", None),
    ] {
        assert_eq!(bundle(line).as_deref(), value, "{line}");
    }
}

#[test]
fn repeated_flags_keep_their_order_and_their_commas() {
    let args = args("-e A=1,2 -e B -g 5 -g -7 c", Order::FlagsFirst);
    assert_eq!((args.env, args.gids), (vec!["A=1,2".to_owned(), "B".to_owned()], vec![5, -7]));
}

#[test]
fn first_operand_ends_the_flags_of_exec() {
    let line = "-d c ls -l --env x -- y";
    assert_eq!(operands(line, Order::FlagsFirst), ["c", "ls", "-l", "--env", "x", "--", "y"]);
    assert!(args(line, Order::FlagsFirst).env.is_empty());
}

#[test]
fn words_of_another_program_are_operands() {
    let parsed = read("--help -d -- x", Order::OtherProgram).unwrap();
    assert_eq!((parsed.operands, parsed.help), (["--help", "-d", "--", "x"].map(str::to_owned).to_vec(), false));
}

#[test]
fn two_dashes_alone_end_the_flags() {
    assert_eq!(operands("-- -d", Order::Mixed), ["-d"]);
    assert_eq!(operands("c -- -d", Order::Mixed), ["c", "-d"]);
    assert_eq!(operands("-- c -x", Order::FlagsFirst), ["c", "-x"]);
}

#[test]
fn help_is_a_flag_of_every_table() {
    for (line, help) in [("-h", true), ("--help c", true), ("--help=false", false), ("c", false)] {
        assert_eq!(read(line, Order::Mixed).unwrap().help, help, "{line}");
    }
}

#[test]
fn unknown_flag_is_an_error_before_an_operand_and_an_operand_behind_one() {
    assert_eq!(read("--nope c", Order::Mixed).unwrap_err(), "flag provided but not defined: -nope");
    assert_eq!(read("--hlp c", Order::Mixed).unwrap_err(), "flag provided but not defined: -hlp; did you mean --help?");
    assert_eq!(operands("c -9", Order::Mixed), ["c", "-9"]);
    assert_eq!(operands("-", Order::Mixed), ["-"]);
    assert_eq!(read("---d", Order::Mixed).unwrap_err(), "bad flag syntax: ---d");
    assert_eq!(read("-=d", Order::Mixed).unwrap_err(), "bad flag syntax: -=d");
}

#[test]
fn parse_errors_are_worded_as_by_go() {
    for (line, error) in [
        ("-b", "flag needs an argument: -b"),
        ("--detach=abc x", "invalid boolean value \"abc\" for -detach: parse error"),
        ("--preserve-fds=x a", "invalid value \"x\" for flag -preserve-fds: parse error"),
        (
            "--preserve-fds=99999999999999999999 a",
            "invalid value \"99999999999999999999\" for flag -preserve-fds: value out of range",
        ),
        ("-g 0x1 a", "invalid value \"0x1\" for flag -g: strconv.ParseInt: parsing \"0x1\": invalid syntax"),
        ("--interval=1 a", "invalid value \"1\" for flag -interval: parse error"),
        ("-d --detach x", "Cannot use two forms of the same flag: d detach"),
    ] {
        assert_eq!(read(line, Order::Mixed).unwrap_err(), error, "{line}");
    }
}
