//! Parses the GVariant text format (GLib, "GVariant Text Format"), in which annotations give the properties of a unit:
//! `'inactive-or-failed'`, `uint64 123456`, `['a', 'b']`, `@as []`.
//!
//! A number without a type is an int32, or a double if it has a fraction. No property of a unit has a dictionary, a maybe
//! type or a byte string, so these are refused.

use super::value::{Value, first_type};

/// The maximal depth of nested containers.
const DEPTH: u32 = 16;

/// The words for a type, and its signature.
const KEYWORDS: [(&str, &str); 13] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
    ("handle", "h"),
];

/// Parses one value.
///
/// # Errors
/// Says what is wrong with the text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { left: text };
    let value = parser.value(None, 0)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(format!("{:?} is left over", parser.left)),
    }
}

struct Parser<'a> {
    left: &'a str,
}

impl Parser<'_> {
    /// Skips spaces and returns the next character, without consuming it.
    fn peek(&mut self) -> Option<char> {
        self.left = self.left.trim_start();
        self.left.chars().next()
    }

    fn accept(&mut self, c: char) -> bool {
        self.peek();
        self.left.strip_prefix(c).map(|left| self.left = left).is_some()
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.accept(c) { Ok(()) } else { Err(format!("{c:?} is missing before {:?}", self.left)) }
    }

    /// Consumes a word: letters, digits and the characters of numbers.
    fn word(&mut self) -> &str {
        let end = self.left.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (word, left) = self.left.split_at(end.unwrap_or(self.left.len()));
        self.left = left;
        word
    }

    /// Parses a value; of the type `wanted` if the type is known.
    fn value(&mut self, wanted: Option<&str>, depth: u32) -> Result<Value, String> {
        if depth > DEPTH {
            return Err("it is nested too deep".to_owned());
        }
        match self.peek() {
            None => Err("a value is missing".to_owned()),
            Some('@') => {
                self.left = self.left.get(1..).unwrap_or_default();
                let Some((given, left)) = first_type(self.left) else {
                    return Err(format!("{:?} is no type", self.word()));
                };
                self.left = left;
                agree(wanted, given)?;
                self.value(Some(given), depth + 1)
            }
            Some('\'' | '"') => self.string(wanted),
            Some('[') => self.array(wanted, depth),
            Some('(') => self.tuple(wanted, depth),
            Some('<') => {
                agree(wanted, "v")?;
                self.expect('<')?;
                let inner = self.value(None, depth + 1)?;
                self.expect('>')?;
                Ok(Value::Variant(Box::new(inner)))
            }
            Some(_) => {
                let word = self.word().to_owned();
                if let Some((_, signature)) = KEYWORDS.iter().find(|(keyword, _)| *keyword == word) {
                    agree(wanted, signature)?;
                    return self.value(Some(signature), depth + 1);
                }
                match word.as_str() {
                    "true" => agree(wanted, "b").map(|()| Value::Bool(true)),
                    "false" => agree(wanted, "b").map(|()| Value::Bool(false)),
                    "" => Err(format!("{:?} begins no value", self.left)),
                    number => scalar(number, wanted),
                }
            }
        }
    }

    fn string(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        let mut chars = self.left.chars();
        let quote = chars.next();
        let mut text = String::new();
        loop {
            let c = chars.next().ok_or("the closing quote is missing")?;
            match c {
                c if Some(c) == quote => break,
                '\\' => text.push(escape(&mut chars)?),
                '\0' => return Err("a null byte in a string".to_owned()),
                c => text.push(c),
            }
        }
        self.left = chars.as_str();
        match wanted.unwrap_or("s") {
            "s" => Ok(Value::Text(text)),
            "o" => Ok(Value::Path(text)),
            "g" => Ok(Value::Signature(text)),
            other => Err(format!("a string where the type is {other}")),
        }
    }

    fn array(&mut self, wanted: Option<&str>, depth: u32) -> Result<Value, String> {
        let mut element = match wanted {
            None => None,
            Some(w) => Some(w.strip_prefix('a').ok_or_else(|| format!("an array where the type is {w}"))?.to_owned()),
        };
        self.expect('[')?;
        let mut values = Vec::new();
        while !self.accept(']') {
            if !values.is_empty() {
                self.expect(',')?;
            }
            let value = self.value(element.as_deref(), depth + 1)?;
            // The first element determines the type of all.
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
        let element = element.ok_or("an empty array needs a type, as in @as []")?;
        Ok(Value::Array(element, values))
    }

    fn tuple(&mut self, wanted: Option<&str>, depth: u32) -> Result<Value, String> {
        let inside = |w: &str| w.strip_prefix('(').and_then(|w| w.strip_suffix(')')).map(str::to_owned);
        let mut types = match wanted {
            None => None,
            Some(w) => Some(inside(w).ok_or_else(|| format!("a tuple where the type is {w}"))?),
        };
        self.expect('(')?;
        let mut fields = Vec::new();
        while !self.accept(')') {
            if !fields.is_empty() {
                self.expect(',')?;
                // (1,) is a tuple of one field.
                if self.accept(')') {
                    break;
                }
            }
            let field = match types.take() {
                None => self.value(None, depth + 1)?,
                Some(all) => {
                    let (one, rest) = first_type(&all).ok_or("more fields than the type has")?;
                    let field = self.value(Some(one), depth + 1)?;
                    types = Some(rest.to_owned());
                    field
                }
            };
            fields.push(field);
        }
        match types {
            Some(left) if !left.is_empty() => Err("fewer fields than the type has".to_owned()),
            _ if fields.is_empty() => Err("D-Bus has no empty tuple".to_owned()),
            _ => Ok(Value::Struct(fields)),
        }
    }
}

/// Checks that a value of type `is` is allowed here.
fn agree(wanted: Option<&str>, is: &str) -> Result<(), String> {
    match wanted {
        Some(w) if w != is => Err(format!("the type is {is} where it must be {w}")),
        _ => Ok(()),
    }
}

/// Decodes the characters after a backslash: an escape as in C, or a code point in hexadecimal.
fn escape(chars: &mut std::str::Chars<'_>) -> Result<char, String> {
    let c = chars.next().ok_or("a backslash at the end")?;
    let digits = match c {
        'a' => return Ok('\x07'),
        'b' => return Ok('\x08'),
        'f' => return Ok('\x0c'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\x0b'),
        'u' => 4,
        'U' => 8,
        other => return Ok(other),
    };
    let code: String = chars.by_ref().take(digits).collect();
    let point = (code.len() == digits).then(|| u32::from_str_radix(&code, 16).ok()).flatten();
    point.and_then(char::from_u32).filter(|c| *c != '\0').ok_or_else(|| format!("\\{c}{code} is no character"))
}

fn scalar(text: &str, wanted: Option<&str>) -> Result<Value, String> {
    let float = text.contains('.') || matches!(text.trim_start_matches(['+', '-']), "inf" | "nan");
    let wanted = wanted.unwrap_or(if float { "d" } else { "i" });
    if wanted == "d" {
        return text.parse().map(Value::F64).map_err(|_| format!("{text:?} is no number"));
    }
    let number = integer(text).ok_or_else(|| format!("{text:?} is no value"))?;
    let value = match wanted {
        "y" => number.try_into().map(Value::Byte),
        "n" => number.try_into().map(Value::I16),
        "q" => number.try_into().map(Value::U16),
        "i" => number.try_into().map(Value::I32),
        "u" => number.try_into().map(Value::U32),
        "x" => number.try_into().map(Value::I64),
        "t" => number.try_into().map(Value::U64),
        other => return Err(format!("{text:?} where the type is {other}")),
    };
    value.map_err(|_| format!("{text} is out of range for the type {wanted}"))
}

/// Parses an integer with the prefixes of C: 0x for hexadecimal, 0 for octal.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    // from_str_radix would accept a second sign.
    digits.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    let number = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(hex), _) => i128::from_str_radix(hex, 16),
        (_, Some(octal)) if !octal.is_empty() => i128::from_str_radix(octal, 8),
        _ => digits.parse(),
    };
    number.ok().map(|n| if negative { -n } else { n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_with_their_types() {
        let texts = |words: &[&str]| Value::Array("s".into(), words.iter().map(|w| Value::text(*w)).collect());
        let rows = [
            ("true", Value::Bool(true)),
            (" false ", Value::Bool(false)),
            ("123", Value::I32(123)),
            ("-5", Value::I32(-5)),
            ("1.5", Value::F64(1.5)),
            ("uint64 123456", Value::U64(123_456)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@t 7", Value::U64(7)),
            ("byte 0xff", Value::Byte(255)),
            ("int16 -010", Value::I16(-8)),
            ("double 3", Value::F64(3.0)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            ("\"it's\"", Value::text("it's")),
            (r"'a\tb\'\u00e9'", Value::text("a\tb'é")),
            ("objectpath '/a'", Value::Path("/a".into())),
            ("['a', 'b']", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            ("[uint32 1, 2]", Value::Array("u".into(), vec![Value::U32(1), Value::U32(2)])),
            ("('a', uint64 1)", Value::Struct(vec![Value::text("a"), Value::U64(1)])),
            ("(true,)", Value::Struct(vec![Value::Bool(true)])),
            (
                "@a(st) [('a', 1)]",
                Value::Array("(st)".into(), vec![Value::Struct(vec![Value::text("a"), Value::U64(1)])]),
            ),
            ("<'x'>", Value::Variant(Box::new(Value::text("x")))),
        ];
        for (text, value) in rows {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn error_says_what_is_wrong() {
        let rows = [
            ("", "a value is missing"),
            ("inactive", "\"inactive\" is no value"),
            ("'a", "the closing quote is missing"),
            ("'a' 'b'", "is left over"),
            ("[]", "an empty array needs a type"),
            ("[1, 'a']", "a string where the type is i"),
            ("@x 'a'", "a string where the type is x"),
            ("@z 1", "\"z\" is no type"),
            ("@ 1", "\"\" is no type"),
            ("uint64 -1", "out of range"),
            ("99999999999", "out of range"),
            ("byte uint16 1", "the type is q where it must be y"),
            ("(1, 2", "',' is missing"),
            ("()", "no empty tuple"),
            ("@(ss) ('a',)", "fewer fields"),
            ("{'a': 1}", "begins no value"),
            ("--1", "is no value"),
            ("handle 1", "where the type is h"),
            (r"'\u00'", "is no character"),
            ("[1 2]", "',' is missing"),
        ];
        for (text, why) in rows {
            let e = parse(text).unwrap_err();
            assert!(e.contains(why), "{text}: {e}");
        }
        assert!(parse(&"<".repeat(100)).unwrap_err().contains("too deep"));
    }
}
