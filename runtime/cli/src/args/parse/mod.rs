//! The grammar of the command line: words become values of flags, and operands.
//!
//! Callers of runc know urfave/cli v1 over Go's package `flag`, so this is that grammar:
//!
//! - `-name` and `--name` are the same flag;
//! - a value stands in the next word or behind `=`; a switch takes `=true` and `=false`;
//! - `--` ends the flags;
//! - flags may follow operands, unless the command hands its operands to another program ([`Order::FlagsFirst`]).
//!
//! The error texts are those of Go and urfave/cli.

use berth_runtime::go_bool;

use super::{
    Flag, HELP, Order, Takes,
    near::suggestion,
    numbers::{self, Base, IntError},
};

/// The value of one flag that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The value of a switch.
    Switch(bool),
    /// The value of a flag with a text.
    Text(String),
    /// The value of a flag with an integer or a duration (in nanoseconds).
    Int(i64),
}

/// A command line that the grammar allows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The index of each flag that was given, with its value, in the order of the command line.
    pub values: Vec<(usize, Value)>,
    /// The operands, in order.
    pub operands: Vec<String>,
    /// `--help` was given.
    pub help: bool,
}

/// Reads `words` against `flags`.
///
/// # Errors
/// Fails if a flag is not known, has no value or has a malformed one. The error text is Go's.
pub fn parse(flags: &[&'static Flag], words: &[String], order: Order) -> Result<Parsed, String> {
    if order == Order::OtherProgram {
        return Ok(Parsed { operands: words.to_vec(), ..Parsed::default() });
    }
    let mut parsed = Parsed::default();
    let mut spellings: Vec<(&'static str, &'static str)> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.operands.extend(words.cloned());
            break;
        }
        let Some(body) = flag_body(flags, word, &parsed.operands)? else {
            parsed.operands.push(word.clone());
            if order == Order::FlagsFirst {
                parsed.operands.extend(words.cloned());
                break;
            }
            continue;
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(Found { index, flag, spelling }) = find(flags, name) else {
            let names =
                flags.iter().copied().chain([&HELP]).filter(|flag| !flag.help.is_empty()).map(|flag| flag.name());
            return Err(format!("flag provided but not defined: -{name}{}", suggestion(name, "--", names)));
        };
        if spellings.iter().any(|(n, s)| *n == flag.name() && *s != spelling) {
            let short = flag.names.last().copied().unwrap_or_default();
            return Err(format!("Cannot use two forms of the same flag: {short} {}", flag.name()));
        }
        spellings.push((flag.name(), spelling));
        let text = match (flag.takes, inline) {
            (Takes::Nothing, None) => "true",
            (_, Some(text)) => text,
            (_, None) => words.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        match (index, value(flag.takes, name, text)?) {
            (Some(index), value) => parsed.values.push((index, value)),
            (None, value) => parsed.help = value == Value::Switch(true),
        }
    }
    Ok(parsed)
}

/// Returns the part of a word behind the dashes of a flag, or `None` for an operand. Behind an operand, a word that names no known
/// flag is an operand too.
fn flag_body<'a>(flags: &[&'static Flag], word: &'a str, operands: &[String]) -> Result<Option<&'a str>, String> {
    let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
        return Ok(None);
    };
    if body.is_empty() {
        return Ok(None); // "-" alone; the caller has taken "--".
    }
    if !operands.is_empty() {
        let name = body.split('=').next().unwrap_or_default();
        return Ok(find(flags, name).map(|_| body));
    }
    if body.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: {word}"));
    }
    Ok(Some(body))
}

struct Found {
    /// The flag's index in the table; `None` for [`HELP`].
    index: Option<usize>,
    flag: &'static Flag,
    /// The name by which the flag was given.
    spelling: &'static str,
}

fn find(flags: &[&'static Flag], name: &str) -> Option<Found> {
    let known = flags.iter().enumerate().map(|(index, flag)| (Some(index), *flag)).chain([(None, &HELP)]);
    known.into_iter().find_map(|(index, flag)| {
        let spelling = flag.names.iter().find(|spelling| **spelling == name)?;
        Some(Found { index, flag, spelling })
    })
}

/// Reads the value of the flag that was given as `name`.
fn value(takes: Takes, name: &str, text: &str) -> Result<Value, String> {
    let invalid = |why: &str| format!("invalid value {text:?} for flag -{name}: {why}");
    match takes {
        Takes::Nothing => go_bool::parse_bool(text)
            .map(Value::Switch)
            .ok_or_else(|| format!("invalid boolean value {text:?} for -{name}: parse error")),
        Takes::Text | Takes::Texts => Ok(Value::Text(text.to_owned())),
        Takes::Int => numbers::int(text, Base::Prefixed).map(Value::Int).map_err(|e| match e {
            IntError::Syntax => invalid("parse error"),
            IntError::Range => invalid("value out of range"),
        }),
        Takes::Ints => numbers::int(text, Base::Decimal).map(Value::Int).map_err(|e| {
            let why = match e {
                IntError::Syntax => "invalid syntax",
                IntError::Range => "value out of range",
            };
            invalid(&format!("strconv.ParseInt: parsing {text:?}: {why}"))
        }),
        Takes::Duration => numbers::duration(text).map(Value::Int).ok_or_else(|| invalid("parse error")),
    }
}

#[cfg(test)]
mod tests;
