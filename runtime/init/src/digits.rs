//! Numbers as text, without allocation.

/// A number that is not negative, such as a pid or an fd, in decimal digits.
pub(crate) fn decimal(mut number: i32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    for (n, slot) in digits.iter_mut().enumerate().rev() {
        *slot = b'0' + u8::try_from(number.rem_euclid(10)).unwrap_or(0);
        number /= 10;
        start = n;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

/// Permission bits in octal, as the option `mode` of a tmpfs takes them: four digits and a NUL.
pub(crate) fn octal_mode(mode: u32) -> [u8; 5] {
    let [a, b, c, d] = [9, 6, 3, 0].map(|shift| b'0' + u8::try_from(mode >> shift & 7).unwrap_or(0));
    [a, b, c, d, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_decimal_digits() {
        for (number, text) in [(0, "0"), (1, "1"), (10, "10"), (4_194_304, "4194304"), (i32::MAX, "2147483647")] {
            assert_eq!(decimal(number, &mut [0; 10]), text.as_bytes());
        }
    }

    #[test]
    fn modes_become_octal_digits() {
        assert_eq!([octal_mode(0o1777), octal_mode(0o55)], [*b"1777\0", *b"0055\0"]);
    }
}
