//! How long a caller waits in lines: as long as it said, from where it entered the first of them, however often it enters others.
//!
//! An execution may be asked for more than once before it is admitted: its entity has moved, or its version has other settings than it was
//! prepared for. Its caller does not wait longer for that.

use wasmwiz_events::time::Timestamp;

/// Of one request.
#[derive(Debug, Default)]
pub(super) struct Patience {
    until: Option<Timestamp>,
}

/// What is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// When the caller stops waiting.
    pub(super) until: Timestamp,
    /// How long that is from now, in milliseconds.
    pub(super) ms: u64,
}

impl Patience {
    /// Enters a line. `None`: who did not say how long waits for ever.
    pub(super) fn enter(&mut self, timeout_ms: Option<u64>, now: Timestamp) -> Option<Left> {
        let until = *self.until.get_or_insert(now.plus_ms(timeout_ms?));
        Some(Left { until, ms: until.ms_since(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_enters_another_line_has_what_is_left() {
        let (mut patience, now) = (Patience::default(), Timestamp::from_unix_ms(1_000));
        let until = Timestamp::from_unix_ms(1_500);
        assert_eq!(patience.enter(Some(500), now), Some(Left { until, ms: 500 }));
        assert_eq!(patience.enter(Some(500), now.plus_ms(300)), Some(Left { until, ms: 200 }));
        assert_eq!(patience.enter(Some(500), now.plus_ms(700)), Some(Left { until, ms: 0 }));
        assert_eq!(Patience::default().enter(None, now), None);
    }
}
