//! Wall-clock time for messages.

use std::time::{SystemTime, UNIX_EPOCH};

use berth_proto::wkt::Timestamp;

/// Now, for a message.
pub fn timestamp() -> Timestamp {
    let (seconds, nanos) = since_epoch(SystemTime::now());
    Timestamp { seconds, nanos, ..Timestamp::default() }
}

/// Seconds and nanoseconds since 1970; a clock set before that counts as 1970.
fn since_epoch(time: SystemTime) -> (i64, i32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i32::try_from(since.subsec_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_before_1970_is_1970() {
        assert_eq!(since_epoch(UNIX_EPOCH - Duration::from_secs(5)), (0, 0));
        assert_eq!(since_epoch(UNIX_EPOCH + Duration::new(5, 7)), (5, 7));
    }
}
