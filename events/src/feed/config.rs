//! The settings of the feed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::nats::NatsConfig;

/// What a stream does with a new message when it is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The oldest message makes room: the feed never waits, and slow subscribers miss some.
    #[default]
    Old,
    /// The new message is refused: the feed waits until there is room.
    New,
}

/// Settings of the feed. It is off while `nats.url` is empty.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedConfig {
    /// Where NATS is, and as whom to speak to it.
    pub nats: NatsConfig,
    /// The stream. Made if it is missing; one with other settings is left alone, and said.
    pub stream: String,
    /// The key-value bucket in which nodes that share a log keep the feed's checkpoint. Made if it is missing.
    pub bucket: String,
    /// Copies of the stream, 1 to 5; with more than one the bus is a cluster.
    pub replicas: usize,
    /// Seconds that a message is kept; 0 is for ever.
    pub max_age_s: u64,
    /// The most bytes of the stream, which JetStream reserves; 0 is without limit, and reserves none.
    pub max_bytes: u64,
    /// What the stream does when it is full.
    pub discard: Discard,
    /// Seconds within which the stream removes duplicates by itself. It holds the ids of that time in memory.
    pub duplicate_window_s: u64,
    /// Milliseconds to wait for a connection or an acknowledgement.
    pub ack_timeout_ms: u64,
    /// The most messages that wait for an acknowledgement.
    pub in_flight_max: usize,
    /// The most commits of one window: read, published, and then behind the checkpoint.
    pub window_commits: usize,
    /// The most body bytes of one window, besides one commit.
    pub window_bytes: usize,
    /// Milliseconds of the longest pause between two attempts.
    pub pause_max_ms: u64,
    /// Is a node without its feed not ready?
    pub in_readiness: bool,
}

impl Default for FeedConfig {
    /// A week and 1 GiB, whichever is less (about a million events); windows small enough to be sent again.
    fn default() -> Self {
        Self {
            nats: NatsConfig::default(),
            stream: "WASMWIZ_FEED".to_owned(),
            bucket: "WASMWIZ_FEED".to_owned(),
            replicas: 1,
            max_age_s: 7 * 24 * 3_600,
            max_bytes: 1 << 30,
            discard: Discard::Old,
            duplicate_window_s: 120,
            ack_timeout_ms: 5_000,
            in_flight_max: 256,
            window_commits: 512,
            window_bytes: 1 << 20,
            pause_max_ms: 5_000,
            in_readiness: false,
        }
    }
}

impl FeedConfig {
    /// Is there a bus to feed?
    pub fn is_on(&self) -> bool {
        self.nats.is_on()
    }

    pub(crate) fn ack_timeout(&self) -> Duration {
        Duration::from_millis(self.ack_timeout_ms)
    }

    pub(crate) fn pause_max(&self) -> Duration {
        Duration::from_millis(self.pause_max_ms)
    }

    /// The key that is out of its range, and what would be right.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        let stream_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if let Err((key, rule)) = self.nats.check() {
            return Err((format!("nats.{key}"), rule));
        }
        if self.stream.is_empty() || self.stream.len() > 64 || !self.stream.bytes().all(stream_ok) {
            return Err(("stream".to_owned(), "is 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'"));
        }
        let within = [
            ("replicas", self.replicas as u64, 1, 5, "is 1 to 5"),
            ("max_age_s", self.max_age_s, 0, 10 * 365 * 86_400, "is at most ten years; 0 is for ever"),
            ("max_bytes", self.max_bytes, 0, 1 << 50, "is at most 1 PiB; 0 is without limit"),
            ("duplicate_window_s", self.duplicate_window_s, 1, 3_600, "is 1 to 3600"),
            ("ack_timeout_ms", self.ack_timeout_ms, 100, 60_000, "is 100 to 60000"),
            ("in_flight_max", self.in_flight_max as u64, 1, 1_024, "is 1 to 1024"),
            ("window_commits", self.window_commits as u64, 1, 4_096, "is 1 to 4096"),
            ("window_bytes", self.window_bytes as u64, 1_024, 16 << 20, "is 1 KiB to 16 MiB"),
            ("pause_max_ms", self.pause_max_ms, 50, 60_000, "is 50 to 60000"),
        ];
        let beyond = within.iter().find(|(_, value, least, most, _)| !(least..=most).contains(&value));
        if let Some((key, .., rule)) = beyond {
            return Err(((*key).to_owned(), rule));
        }
        if self.max_age_s != 0 && self.duplicate_window_s > self.max_age_s {
            return Err(("duplicate_window_s".to_owned(), "is more than max_age_s; lower it"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_off_and_in_range() {
        let config = FeedConfig::default();
        assert_eq!((config.is_on(), config.check()), (false, Ok(())));
    }

    #[test]
    fn a_password_in_the_url_and_what_has_no_bound_are_refused() {
        let key = |config: FeedConfig| config.check().unwrap_err().0;
        let nats = NatsConfig { url: "nats://a:b@c".into(), ..Default::default() };
        assert_eq!(key(FeedConfig { nats, ..Default::default() }), "nats.url");
        assert_eq!(key(FeedConfig { in_flight_max: 0, ..Default::default() }), "in_flight_max");
        assert_eq!(key(FeedConfig { stream: "a.b".into(), ..Default::default() }), "stream");
        assert_eq!(key(FeedConfig { max_age_s: 60, ..Default::default() }), "duplicate_window_s");
    }
}
