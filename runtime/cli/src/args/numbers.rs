//! Integers and durations in Go's notation.

/// The notations that an integer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Decimal digits only.
    Decimal,
    /// The prefixes `0x`, `0o`, `0b` and `0` choose the base.
    Prefixed,
}

/// The reason why a text is no integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntError {
    /// The text has another form.
    Syntax,
    /// The number does not fit 64 bits.
    Range,
}

/// Reads an integer as Go's `strconv.ParseInt` does.
///
/// # Errors
/// [`IntError`].
pub fn int(text: &str, base: Base) -> Result<i64, IntError> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..).unwrap_or_default()),
        [b'+', ..] => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = if base == Base::Decimal {
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
    // from_str_radix accepts a second sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(IntError::Syntax);
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| IntError::Range)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| IntError::Range)
}

/// Reads a duration as Go's `time.ParseDuration` does; returns nanoseconds, or `None` for another form.
pub fn duration(text: &str) -> Option<i64> {
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

    #[test]
    fn integers_are_read_as_by_go() {
        for (text, value) in [("0x10", Some(16)), ("010", Some(8)), ("-3", Some(-3)), ("0b11", Some(3)), ("--3", None)]
        {
            assert_eq!(int(text, Base::Prefixed).ok(), value, "{text}");
        }
        assert_eq!((int("010", Base::Decimal), int("0x1", Base::Decimal)), (Ok(10), Err(IntError::Syntax)));
    }

    #[test]
    fn durations_are_read_as_by_go() {
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
}
