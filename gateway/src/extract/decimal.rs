//! Whole numbers, written in one way only: two addresses that differ name two things.

use std::{fmt, str::FromStr};

/// A number that was written as decimal digits, without a sign and without leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal<T>(pub(crate) T);

/// The text is no such number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is a whole number within its range, in decimal digits without a sign or leading zeros")]
pub(crate) struct NotDecimal;

impl<T: FromStr> FromStr for Decimal<T> {
    type Err = NotDecimal;

    fn from_str(text: &str) -> Result<Self, NotDecimal> {
        let canonical = text == "0" || !text.starts_with('0');
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if canonical && digits { text.parse().ok() } else { None };
        number.map(Self).ok_or(NotDecimal)
    }
}

impl<T: fmt::Display> fmt::Display for Decimal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_in_one_way() {
        for (text, number) in [("0", 0), ("1", 1), ("10", 10), ("4294967295", u32::MAX)] {
            assert_eq!(text.parse(), Ok(Decimal(number)), "{text}");
        }
        for text in ["", "01", "00", "+1", "-1", "-0", " 1", "1 ", "1.0", "1e1", "0x1", "1_0", "４", "4294967296", "x"]
        {
            assert_eq!(text.parse::<Decimal<u32>>(), Err(NotDecimal), "{text}");
        }
    }
}
