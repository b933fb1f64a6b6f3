//! Intervals as operators write them: `500ms`, `10s`, `1min`, `1h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units and their milliseconds.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];

/// A time span that is written as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interval {
    number: u64,
    unit: &'static str,
    pub(super) duration: Duration,
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unusable = || "write a number and its unit without a space: 500ms, 10s, 1min, 1h".to_owned();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| unusable())?;
        let (unit, ms) = UNITS.into_iter().find(|(known, _)| *known == unit).ok_or_else(unusable)?;
        let duration = Duration::from_millis(number.checked_mul(ms).ok_or_else(unusable)?);
        Ok(Interval { number, unit, duration })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_they_were_read() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("1min", 60_000), ("90s", 90_000), ("1h", 3_600_000)]
        {
            let interval: Interval = text.parse().unwrap();
            assert_eq!((interval.duration, interval.to_string().as_str()), (Duration::from_millis(ms), text));
        }
    }

    #[test]
    fn other_texts_are_no_intervals() {
        for text in
            ["", "10", "s", "-1s", "1.5s", "1 s", "1d", "1é", "99999999999999999999s", "9999999999999999999h"]
        {
            assert!(text.parse::<Interval>().is_err(), "{text:?}");
        }
    }
}
