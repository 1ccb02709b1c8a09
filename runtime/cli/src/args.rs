//! The grammar of the command line: what a flag and a command are, and how words become them.
//!
//! Callers of an OCI runtime grew up with urfave/cli v1 over Go's `flag` package, so this is that grammar: `-name`
//! and `--name` alike, `--name=value` or `--name value`, `--bool=false`, `--` ends the flags, flags may follow
//! operands unless the command passes its operands on (`exec`, `ps`). The words of its complaints are kept too.
//! What the flags mean is left to the commands; which commands there are, to [`super::table`].

use std::fmt::Write;

use super::{Globals, Outcome};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true`/`=false`.
    Nothing,
    /// One text; the last one given counts.
    Text,
    /// A text that may be given many times.
    Texts,
    /// A whole number, decimal or with a Go prefix (`0x`, `0o`, `0b`, `0`).
    Int,
    /// A decimal whole number that may be given many times.
    Ints,
    /// A Go duration: `5s`, `1m30s`, `250ms`.
    Duration,
}

/// One flag of a command, or of the program.
pub struct Flag {
    /// The long name first, then the short one if there is one, without dashes.
    pub names: &'static [&'static str],
    /// What follows it.
    pub takes: Takes,
    /// The value when it is not given, as `--help` shows it; empty for none.
    pub default: &'static str,
    /// One line for `--help`; empty hides the flag.
    pub help: &'static str,
}

impl Flag {
    /// A flag that is on or off.
    pub const fn switch(names: &'static [&'static str], help: &'static str) -> Self {
        Self { names, takes: Takes::Nothing, default: "", help }
    }

    /// A flag with a value.
    pub const fn value(names: &'static [&'static str], takes: Takes, help: &'static str) -> Self {
        Self { names, takes, default: "", help }
    }

    /// The same flag with a default that `--help` shows.
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// The long name, by which [`Parsed`] knows it.
    fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }
}

/// How many operands a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// This many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// Between the two, both included.
    Between(usize, usize),
}

impl Count {
    /// runc's complaint about `given` operands, without the program and command before it.
    pub fn complaint(self, given: usize) -> Option<String> {
        let (bound, n) = match self {
            Self::Exactly(n) if given != n => ("exactly", n),
            Self::AtLeast(n) | Self::Between(n, _) if given < n => ("a minimum of", n),
            Self::Between(_, n) if given > n => ("a maximum of", n),
            _ => return None,
        };
        Some(format!("requires {bound} {n} argument(s)"))
    }
}

/// One command.
pub struct Command {
    /// The word that names it.
    pub name: &'static str,
    /// One line, shown in the list of commands.
    pub summary: &'static str,
    /// The operands as the usage line shows them, and what is to be said about them below it.
    pub operands: &'static str,
    /// More about it, or nothing.
    pub about: &'static str,
    /// Its own flags (`--help` comes by itself).
    pub flags: &'static [Flag],
    /// How many operands it takes.
    pub count: Count,
    /// Whether the first operand ends the flags, because the rest belongs to another program.
    pub operands_last: bool,
    /// Does it.
    pub run: fn(&Globals, &Parsed) -> Outcome,
}

/// Every command and the program itself have this one.
pub static HELP: Flag = Flag::switch(&["help", "h"], "show help");

/// The value of one flag that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    Switch(bool),
    Text(String),
    Int(i64),
}

/// The flags that were given, checked, and the operands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    given: Vec<(&'static str, Given)>,
    /// What is not a flag, in order.
    pub operands: Vec<String>,
}

impl Parsed {
    /// Whether the flag was given at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// Whether the switch is on.
    pub fn on(&self, name: &str) -> bool {
        matches!(self.last(name), Some(Given::Switch(true)))
    }

    /// The text given last; an empty one counts as none, as it does for runc.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.last(name) {
            Some(Given::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Every text given, in order.
    pub fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter_map(move |(n, given)| match given {
            Given::Text(text) if *n == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// The number given last; of a duration, its nanoseconds.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.last(name) {
            Some(Given::Int(n)) => Some(*n),
            _ => None,
        }
    }

    /// Every number given, in order.
    pub fn ints<'a>(&'a self, name: &'a str) -> impl Iterator<Item = i64> + 'a {
        self.given.iter().filter_map(move |(n, given)| match given {
            Given::Int(int) if *n == name => Some(*int),
            _ => None,
        })
    }

    /// The operand at `index`, empty when there is none.
    pub fn operand(&self, index: usize) -> &str {
        self.operands.get(index).map_or("", String::as_str)
    }

    fn last(&self, name: &str) -> Option<&Given> {
        self.given.iter().rev().find(|(n, _)| *n == name).map(|(_, given)| given)
    }
}

/// Reads `words` against `flags`. `operands_last` ends the flags at the first operand.
///
/// # Errors
/// The complaint, in the words of Go's `flag` package.
pub fn parse(flags: &'static [Flag], words: &[String], operands_last: bool) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut spellings: Vec<(&'static str, &'static str)> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.operands.extend(words.cloned());
            break;
        }
        let Some(body) = flag_body(word, !parsed.operands.is_empty(), flags)? else {
            parsed.operands.push(word.clone());
            if operands_last {
                parsed.operands.extend(words.cloned());
                break;
            }
            continue;
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some((flag, spelling)) = find(flags, name) else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        if spellings.iter().any(|(n, s)| *n == flag.name() && *s != spelling) {
            let short = flag.names.last().copied().unwrap_or_default();
            return Err(format!("Cannot use two forms of the same flag: {short} {}", flag.name()));
        }
        spellings.push((flag.name(), spelling));
        let value = match (flag.takes, inline) {
            (Takes::Nothing, None) => "true",
            (_, Some(value)) => value,
            (_, None) => words.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        parsed.given.push((flag.name(), check(flag.takes, name, value)?));
    }
    Ok(parsed)
}

/// What follows the dashes of a flag; nothing for an operand. Behind an operand only known flags are flags.
fn flag_body<'a>(word: &'a str, behind: bool, flags: &'static [Flag]) -> Result<Option<&'a str>, String> {
    let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
        return Ok(None);
    };
    if body.is_empty() {
        return Ok(None); // "-" alone; "--" was taken before
    }
    if behind {
        let name = body.split('=').next().unwrap_or_default();
        return Ok(find(flags, name).map(|_| body));
    }
    if body.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: {word}"));
    }
    Ok(Some(body))
}

/// The flag of this name, and the spelling that matched.
fn find(flags: &'static [Flag], name: &str) -> Option<(&'static Flag, &'static str)> {
    flags
        .iter()
        .chain([&HELP])
        .find_map(|flag| flag.names.iter().find(|spelling| **spelling == name).map(|spelling| (flag, *spelling)))
}

/// The value, checked, or the complaint about it.
fn check(takes: Takes, name: &str, value: &str) -> Result<Given, String> {
    let invalid = |why: &str| format!("invalid value {value:?} for flag -{name}: {why}");
    match takes {
        Takes::Nothing => match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Given::Switch(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Given::Switch(false)),
            _ => Err(format!("invalid boolean value {value:?} for -{name}: parse error")),
        },
        Takes::Text | Takes::Texts => Ok(Given::Text(value.to_owned())),
        Takes::Int => int(value, true).map(Given::Int).map_err(|e| {
            invalid(match e {
                NotInt::Syntax => "parse error",
                NotInt::Range => "value out of range",
            })
        }),
        Takes::Ints => int(value, false).map(Given::Int).map_err(|e| {
            let mut why = format!("strconv.ParseInt: parsing {value:?}: ");
            let _ = why.write_str(match e {
                NotInt::Syntax => "invalid syntax",
                NotInt::Range => "value out of range",
            });
            invalid(&why)
        }),
        Takes::Duration => duration(value).map(Given::Int).ok_or_else(|| invalid("parse error")),
    }
}

enum NotInt {
    Syntax,
    Range,
}

/// A number as Go's `strconv.ParseInt` reads it, with base prefixes if `prefixes`.
fn int(text: &str, prefixes: bool) -> Result<i64, NotInt> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..).unwrap_or_default()),
        [b'+', ..] => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = if !prefixes {
        (lower.as_str(), 10)
    } else if let Some(hex) = lower.strip_prefix("0x") {
        (hex, 16)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (binary, 2)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (octal, 8)
    } else if let Some(octal) = lower.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        (octal, 8)
    } else {
        (lower.as_str(), 10)
    };
    // from_str_radix would take a second sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NotInt::Syntax);
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| NotInt::Range)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NotInt::Range)
}

/// The nanoseconds of a Go duration.
fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits_end)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.len() > 18 {
            return None;
        }
        let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total += parse(whole)? * scale + parse(fraction)? * scale / divisor;
        rest = tail;
    }
    i64::try_from(total * sign).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: &[Flag] = &[
        Flag::switch(&["detach", "d"], "x"),
        Flag::switch(&["keep"], "x"),
        Flag::value(&["bundle", "b"], Takes::Text, "x"),
        Flag::value(&["env", "e"], Takes::Texts, "x"),
        Flag::value(&["preserve-fds"], Takes::Int, "x"),
        Flag::value(&["additional-gids", "g"], Takes::Ints, "x"),
        Flag::value(&["interval"], Takes::Duration, "x"),
    ];

    fn words(line: &str) -> Vec<String> {
        line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    }

    fn ok(line: &str, operands_last: bool) -> Parsed {
        parse(FLAGS, &words(line), operands_last).unwrap()
    }

    #[test]
    fn one_dash_and_two_mean_the_same() {
        for line in ["-detach c", "--detach c", "-d c", "--d c", "-d=true c", "--detach=1 c", "c -d"] {
            let p = ok(line, false);
            assert!(p.on("detach") && p.operands == ["c"], "{line}");
        }
        assert!(!ok("--detach=false c", false).on("detach"));
        assert!(ok("--detach=false c", false).is_set("detach"));
    }

    #[test]
    fn values_stand_beside_or_behind_an_equals_sign() {
        for line in ["-b /x c", "--bundle /x c", "--bundle=/x c", "-b=/x c", "c --bundle /x"] {
            assert_eq!(ok(line, false).text("bundle"), Some("/x"), "{line}");
        }
        assert_eq!(ok("-b a=b c", false).text("bundle"), Some("a=b"));
        assert_eq!(ok("--bundle=a=b c", false).text("bundle"), Some("a=b"));
        assert_eq!(ok("-b -- c", false).text("bundle"), Some("--"));
        assert_eq!(ok("-b 1 -b 2", false).text("bundle"), Some("2"));
        assert_eq!(ok("--bundle= c", false).text("bundle"), None);
    }

    #[test]
    fn slices_keep_their_order_and_their_commas() {
        let p = ok("-e A=1,2 -e B -g 5 -g -7 c", true);
        assert_eq!(p.texts("env").collect::<Vec<_>>(), ["A=1,2", "B"]);
        assert_eq!(p.ints("additional-gids").collect::<Vec<_>>(), [5, -7]);
    }

    #[test]
    fn words_behind_the_operands_of_exec_are_its_own() {
        let p = ok("-d c ls -l --env x -- y", true);
        assert_eq!(p.operands, ["c", "ls", "-l", "--env", "x", "--", "y"]);
        assert_eq!(p.texts("env").count(), 0);
    }

    #[test]
    fn two_dashes_end_the_flags() {
        assert_eq!(ok("-- -d", false).operands, ["-d"]);
        assert_eq!(ok("c -- -d", false).operands, ["c", "-d"]);
        assert_eq!(ok("-- c -x", true).operands, ["c", "-x"]);
    }

    #[test]
    fn unknown_flags_are_refused_before_an_operand_and_are_operands_behind_one() {
        assert_eq!(parse(FLAGS, &words("--nope c"), false).unwrap_err(), "flag provided but not defined: -nope");
        assert_eq!(ok("c -9", false).operands, ["c", "-9"]);
        assert_eq!(ok("-", false).operands, ["-"]);
        assert_eq!(parse(FLAGS, &words("---d"), false).unwrap_err(), "bad flag syntax: ---d");
        assert_eq!(parse(FLAGS, &words("-=d"), false).unwrap_err(), "bad flag syntax: -=d");
    }

    #[test]
    fn complaints_are_those_of_go() {
        for (line, complaint) in [
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
            assert_eq!(parse(FLAGS, &words(line), false).unwrap_err(), complaint, "{line}");
        }
    }

    #[test]
    fn numbers_and_durations_are_read_as_go_reads_them() {
        for (text, value) in [("0x10", Some(16)), ("010", Some(8)), ("-3", Some(-3)), ("0b11", Some(3)), ("--3", None)]
        {
            assert_eq!(int(text, true).ok(), value, "{text}");
        }
        for (text, ns) in [
            ("5s", Some(5_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5ms", Some(1_500_000)),
            ("-1s", Some(-1_000_000_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("5", None),
            (".s", None),
            ("5x", None),
        ] {
            assert_eq!(duration(text), ns, "{text}");
        }
    }

    #[test]
    fn counts_complain_in_runcs_words() {
        assert_eq!(Count::Exactly(1).complaint(2).unwrap(), "requires exactly 1 argument(s)");
        assert_eq!(Count::AtLeast(1).complaint(0).unwrap(), "requires a minimum of 1 argument(s)");
        assert_eq!(Count::Between(1, 2).complaint(3).unwrap(), "requires a maximum of 2 argument(s)");
        assert_eq!(Count::Between(1, 2).complaint(0).unwrap(), "requires a minimum of 1 argument(s)");
        assert_eq!(Count::Between(1, 2).complaint(2), None);
    }
}
