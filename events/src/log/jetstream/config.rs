//! Settings of the log on JetStream.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::nats::{NatsConfig, monitor};

/// The fewest bytes that may wait: one commit of the largest size fits.
const WAITING_BYTES_MIN: usize = 2 << 20;

/// What has to be known of the servers' acknowledgements, or a node is not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledged {
    /// That what was acknowledged is synced.
    #[default]
    Synced,
    /// Nothing to the contrary: nobody can see it.
    Unverified,
    /// Nothing: a loss of power may take what was acknowledged.
    Unsynced,
}

/// Settings of the log on JetStream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct JetstreamLogConfig {
    /// Where the servers are.
    pub nats: NatsConfig,
    /// The stream. Made if it is missing; one with other settings is refused.
    pub stream: String,
    /// The object store bucket of modules and large payloads. Made if it is missing; one with other settings is refused.
    pub bucket: String,
    /// What the subjects begin with: `<prefix>.<shard>.<tenant>`.
    pub subject_prefix: String,
    /// Servers that keep a copy: 1, 3 or 5. With 1, what it acknowledged is as safe as that server's disk.
    pub replicas: usize,
    /// Where the servers are monitored, each at its own address, such as `["http://one:8222", "http://two:8222"]`. Only there they
    /// say whether they sync what they acknowledge (`sync_interval: always`). `nats.tls_ca_file` is for those of https, too.
    pub monitor_urls: Vec<String>,
    /// What has to be known of that, or the node is not ready: `synced`, that they do; `unverified`, nothing to the contrary, for
    /// servers that nobody can ask; `unsynced`, nothing: a loss of power may take what was acknowledged.
    pub acknowledged: Acknowledged,
    /// Milliseconds that one request may take to be answered.
    pub answer_within_ms: u64,
    /// Milliseconds to find out what becomes of an append. Shorter than `region.answer_within_ms`, so that callers are told.
    pub append_within_ms: u64,
    /// Milliseconds that a read may take, whatever is in the way.
    pub read_within_ms: u64,
    /// Milliseconds that a start waits for the servers.
    pub connect_within_ms: u64,
    /// Seconds for which the stream recognises a commit that it has by its id alone. Afterwards it does so by its place.
    pub duplicate_window_s: u64,
    /// Bytes of commits that may wait or be under way; above it appends are turned away.
    pub waiting_bytes_max: usize,
    /// Tenants whose end is remembered, so that an append needs no read. About 200 bytes each.
    pub heads_max: usize,
}

impl Default for JetstreamLogConfig {
    fn default() -> Self {
        Self {
            nats: NatsConfig::default(),
            stream: "WASMWIZ_LOG".to_owned(),
            bucket: "WASMWIZ_BLOBS".to_owned(),
            subject_prefix: "wasmwiz.log".to_owned(),
            replicas: 1,
            monitor_urls: Vec::new(),
            acknowledged: Acknowledged::Synced,
            answer_within_ms: 2_000,
            append_within_ms: 8_000,
            read_within_ms: 8_000,
            connect_within_ms: 30_000,
            duplicate_window_s: 120,
            waiting_bytes_max: 64 << 20,
            heads_max: 65_536,
        }
    }
}

impl JetstreamLogConfig {
    pub(super) const fn answer_within(&self) -> Duration {
        Duration::from_millis(self.answer_within_ms)
    }

    pub(super) const fn append_within(&self) -> Duration {
        Duration::from_millis(self.append_within_ms)
    }

    pub(super) const fn read_within(&self) -> Duration {
        Duration::from_millis(self.read_within_ms)
    }

    pub(super) const fn connect_within(&self) -> Duration {
        Duration::from_millis(self.connect_within_ms)
    }

    /// The key that is wrong, and what would be right.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        let bad = |key: &str, problem| Err((key.to_owned(), problem));
        if let Err((key, problem)) = self.nats.check() {
            return Err((format!("nats.{key}"), problem));
        }
        if !self.nats.is_on() {
            return bad("nats.url", "is missing; a log on JetStream needs its servers, such as nats://one:4222");
        }
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        for (key, name) in [("stream", &self.stream), ("bucket", &self.bucket)] {
            if !(1..=64).contains(&name.len()) || !name.bytes().all(inner) {
                return bad(key, "is 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'");
            }
        }
        let tokens = self.subject_prefix.split('.').all(|token| !token.is_empty() && token.bytes().all(inner));
        if self.subject_prefix.len() > 64 || !tokens {
            return bad(
                "subject_prefix",
                "is up to 64 characters: words of A-Z, a-z, 0-9, '_' and '-', with dots between",
            );
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return bad("replicas", "is 1, 3 or 5");
        }
        let urls = &self.monitor_urls;
        if urls.len() > monitor::ADDRESSES_MAX || !urls.iter().all(|url| monitor::is_address(url)) {
            return bad("monitor_urls", "are up to 16 addresses such as http://one:8222, without a password");
        }
        if self.answer_within_ms == 0 || self.append_within_ms < self.answer_within_ms {
            return bad("append_within_ms", "is at least answer_within_ms, which is not 0");
        }
        if self.waiting_bytes_max < WAITING_BYTES_MIN || self.heads_max == 0 {
            return bad("waiting_bytes_max and heads_max", "are at least 2097152 and 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_range_is_named() {
        let good = || JetstreamLogConfig {
            nats: NatsConfig { url: "nats://127.0.0.1:4222".to_owned(), ..Default::default() },
            ..Default::default()
        };
        assert_eq!(good().check(), Ok(()));
        let key = |config: JetstreamLogConfig| config.check().unwrap_err().0;
        assert_eq!(key(JetstreamLogConfig::default()), "nats.url");
        assert_eq!(key(JetstreamLogConfig { replicas: 2, ..good() }), "replicas");
        assert_eq!(key(JetstreamLogConfig { stream: "a b".to_owned(), ..good() }), "stream");
        assert_eq!(key(JetstreamLogConfig { bucket: String::new(), ..good() }), "bucket");
        assert_eq!(key(JetstreamLogConfig { subject_prefix: "a..b".to_owned(), ..good() }), "subject_prefix");
        assert_eq!(key(JetstreamLogConfig { append_within_ms: 1, ..good() }), "append_within_ms");
        let monitors = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let monitored = |urls: &[&str]| JetstreamLogConfig { monitor_urls: monitors(urls), ..good() };
        assert_eq!(monitored(&["http://one:8222", "https://two:8222"]).check(), Ok(()));
        for wrong in [&["nats://one:4222"][..], &["http://one:8222", ""], &["http://a:b@one:8222"], &["http://one"; 17]]
        {
            assert_eq!(key(monitored(wrong)), "monitor_urls", "{wrong:?}");
        }
    }
}
