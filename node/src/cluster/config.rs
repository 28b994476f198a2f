//! Settings of membership and placement.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmwiz_actors::bus::BusConfig;
use wasmwiz_events::{id::NodeId, nats::NatsConfig};

use super::placement::Rules;

/// The shortest and the longest lease, in milliseconds. A shorter one ends with every hiccup of the bus.
const LEASE_TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;

/// How many nodes share the shards, and how they are moved. A node without a cluster owns everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// The cluster's name, the same on all its nodes. Empty: this node is alone.
    pub name: String,
    /// Where its members meet.
    pub nats: NatsConfig,
    /// Servers that keep a copy of its buckets: 1, 3 or 5.
    pub replicas: usize,
    /// Milliseconds that a lease lasts without renewal; all nodes have the same. What a lost node owned is elsewhere soon
    /// after that. Renewed three times meanwhile. Shorter than an election of the NATS servers (some seconds), every one of
    /// those stops all nodes for a moment.
    pub lease_ttl_ms: u64,
    /// Milliseconds before its lease ends that a node stops deciding: for clocks that run apart, and for what is under way.
    /// At most a third of the lease, or it would stop before its renewal.
    pub lease_margin_ms: u64,
    /// This node's part of the shards, in comparison with the others' weights: 1 to 100.
    pub weight: u32,
    /// The most shards under way from one living owner to another.
    pub moves_max: usize,
    /// Percent that a node's part may differ from its fair one before shards move.
    pub imbalance_percent: u32,
    /// Milliseconds that a shard stays where it is before it moves for balance.
    pub tenure_ms: u64,
    /// Milliseconds that a node that was lost waits before it is given shards of living nodes; doubled with each loss.
    pub flap_backoff_ms: u64,
    /// Milliseconds for what is under way in a shard to end before it is freed.
    pub drain_ms: u64,
    /// Milliseconds for a node that stops to hand over what it owns.
    pub leave_ms: u64,
    /// Bounds of the commands between nodes.
    pub bus: BusConfig,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            nats: NatsConfig::default(),
            replicas: 1,
            lease_ttl_ms: 3_000,
            lease_margin_ms: 500,
            weight: 1,
            moves_max: 32,
            imbalance_percent: 10,
            tenure_ms: 30_000,
            flap_backoff_ms: 30_000,
            drain_ms: 5_000,
            leave_ms: 30_000,
            bus: BusConfig::default(),
        }
    }
}

impl ClusterConfig {
    /// Is there a cluster to be a member of?
    pub const fn is_on(&self) -> bool {
        !self.name.is_empty()
    }

    /// How plans go about it.
    pub const fn rules(&self) -> Rules {
        Rules {
            moves_max: self.moves_max,
            imbalance_percent: self.imbalance_percent,
            tenure_ms: self.tenure_ms,
            flap_backoff_ms: self.flap_backoff_ms,
        }
    }

    /// How long a lease lasts.
    pub const fn ttl(&self) -> Duration {
        Duration::from_millis(self.lease_ttl_ms)
    }

    /// How long before its end a node stops deciding.
    pub const fn margin(&self) -> Duration {
        Duration::from_millis(self.lease_margin_ms)
    }

    /// How often a lease is renewed: three times while it lasts.
    pub fn renew_every(&self) -> Duration {
        self.ttl() / 3
    }

    /// How long one answer of the bus may take: a renewal that is lost can be repeated in time.
    pub fn answer_within(&self) -> Duration {
        self.ttl() / 4
    }

    /// The key that is wrong, and what would be right.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<(), (String, String)> {
        let bad = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
        if let Err((key, problem)) = self.nats.check() {
            return bad(&format!("nats.{key}"), problem);
        }
        if !self.is_on() {
            return Ok(());
        }
        if NodeId::new(self.name.as_str()).is_err() {
            return bad("name", "is 1 to 63 characters of a-z, 0-9 and inner hyphens");
        }
        if !self.nats.is_on() {
            return bad("nats.url", "is missing; members of a cluster meet on NATS");
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return bad("replicas", "is 1, 3 or 5");
        }
        if !LEASE_TTL_MS.contains(&self.lease_ttl_ms) {
            return bad("lease_ttl_ms", "is 1000 to 60000");
        }
        if self.lease_margin_ms * 10 < self.lease_ttl_ms || self.lease_margin_ms * 3 > self.lease_ttl_ms {
            return bad("lease_margin_ms", "is a tenth to a third of cluster.lease_ttl_ms");
        }
        if !(1..=100).contains(&self.weight) {
            return bad("weight", "is 1 to 100");
        }
        if self.moves_max == 0 || self.moves_max > wasmwiz_events::shard::SHARDS {
            return bad("moves_max", "is 1 to 256");
        }
        if !(5..=100).contains(&self.imbalance_percent) {
            return bad("imbalance_percent", "is 5 to 100");
        }
        if self.bus.asks_per_node_max == 0 || self.bus.serving_max == 0 || self.bus.try_within_ms == 0 {
            return bad("bus.asks_per_node_max, bus.serving_max and bus.try_within_ms", "are at least 1");
        }
        if [self.tenure_ms, self.flap_backoff_ms, self.drain_ms, self.leave_ms].iter().any(|ms| *ms > 3_600_000) {
            return bad("tenure_ms, flap_backoff_ms, drain_ms and leave_ms", "are at most an hour, 3600000");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on() -> ClusterConfig {
        let nats = NatsConfig { url: "nats://one:4222".into(), ..Default::default() };
        ClusterConfig { name: "one".into(), nats, ..Default::default() }
    }

    #[test]
    fn the_default_is_alone_and_a_name_and_a_bus_make_a_member() {
        assert!(!ClusterConfig::default().is_on());
        assert_eq!((ClusterConfig::default().check(), on().check()), (Ok(()), Ok(())));
    }

    #[test]
    fn what_would_break_the_inequality_of_leases_is_refused() {
        let wrong = |config: ClusterConfig| config.check().unwrap_err().0;
        assert_eq!(wrong(ClusterConfig { lease_margin_ms: 299, ..on() }), "lease_margin_ms");
        assert_eq!(wrong(ClusterConfig { lease_margin_ms: 1_001, ..on() }), "lease_margin_ms");
        assert_eq!(wrong(ClusterConfig { lease_ttl_ms: 999, ..on() }), "lease_ttl_ms");
        assert_eq!(wrong(ClusterConfig { name: "Not a name".into(), ..on() }), "name");
        assert_eq!(wrong(ClusterConfig { nats: NatsConfig::default(), ..on() }), "nats.url");
        assert_eq!(wrong(ClusterConfig { replicas: 2, ..on() }), "replicas");
    }
}
