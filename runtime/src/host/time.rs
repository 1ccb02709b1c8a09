//! Time: timestamps for the state JSON, and a stopwatch for the debug log.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Measures the duration of a step for the debug log. It reads no clock unless debug messages are logged.
pub struct Stopwatch(Option<Instant>);

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Self(log::log_enabled!(log::Level::Debug).then(Instant::now))
    }
}

impl fmt::Display for Stopwatch {
    /// Writes the time since the start, such as `0.4 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.map_or(0, |start| start.elapsed().as_micros());
        write!(f, "{}.{} ms", micros / 1000, micros % 1000 / 100)
    }
}

/// Returns the current time in RFC 3339, UTC, with nanoseconds.
pub fn now_rfc3339() -> String {
    rfc3339(since_1970(SystemTime::now()))
}

/// Returns the time since 1970. A clock that was set before 1970 counts as 1970.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Formats a duration since 1970 as RFC 3339 in UTC.
pub fn rfc3339(since: Duration) -> String {
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Converts days since 1970 to year, month and day of the Gregorian calendar.
///
/// It counts in cycles of 400 years that begin in March, so that the leap day is the last day of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097;
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / CYCLE, shifted % CYCLE);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + cycle * 400, if month < 10 { month + 3 } else { month - 9 });
    (if month <= 2 { year + 1 } else { year }, month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_formatted_as_rfc3339() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (0, 7, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, 7, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199, 0, "2024-02-29T23:59:59.000000000Z"),
            (1_735_689_599, 7, "2024-12-31T23:59:59.000000007Z"),
            (1_735_689_600, 0, "2025-01-01T00:00:00.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, nanos)), text);
        }
        assert_eq!(rfc3339(since_1970(UNIX_EPOCH - Duration::from_secs(5))), "1970-01-01T00:00:00.000000000Z");
    }
}
