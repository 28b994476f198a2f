//! What a member says of itself in its lease, and whether two may be members of one cluster.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmwiz_events::id::{BootId, NodeId};

use super::placement::table::Founding;

/// Which protocol of membership and commands this build speaks. Neighbours understand each other, so that a cluster can be
/// upgraded node by node.
pub const PROTOCOL: u32 = 1;

/// One lease of one life of a node: what owns shards. A later lease owns nothing of what an earlier one did, so whatever is
/// known to have ended stays so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Life {
    /// Its name.
    pub node: NodeId,
    /// Which life of its process.
    pub boot: BootId,
    /// Which lease of that life: 1 for the first.
    pub lease: u32,
}

impl Life {
    /// Is this the same life of the same node, by an earlier lease?
    pub fn is_before(&self, later: &Self) -> bool {
        (&self.node, self.boot) == (&later.node, later.boot) && self.lease < later.lease
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, lease {})", self.node, self.boot, self.lease)
    }
}

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has a lease and does not know the table yet: it is given nothing.
    Joining,
    /// It owns what it is given.
    Live,
    /// It is about to stop: what it owns moves to others.
    Leaving,
}

/// The record of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster that it means.
    pub cluster: String,
    /// Who it is.
    #[serde(flatten)]
    pub life: Life,
    /// Its version, for people.
    pub version: String,
    /// Its [`PROTOCOL`].
    pub protocol: u32,
    /// Where its API is, for people.
    pub address: String,
    /// How far it is.
    pub standing: Standing,
    /// Its part of the shards, in comparison with the others' weights.
    pub weight: u32,
    /// Milliseconds that its lease lasts.
    pub lease_ttl_ms: u64,
    /// The founding of the table that it goes by, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<Founding>,
}

/// Why a node may not be a member. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody alive has its name.
    #[error(
        "a node named {name} is alive in this cluster; give this one a name of its own (node.name), or stop that one"
    )]
    NameTaken {
        /// The name.
        name: NodeId,
    },
    /// The buckets are another cluster's.
    #[error(
        "the buckets of this NATS account are those of the cluster {there:?}, and cluster.name is {here:?}; correct it, or \
         give this cluster an account of its own"
    )]
    OtherCluster {
        /// The name here.
        here: String,
        /// The name there.
        there: String,
    },
    /// A member, or the table, is of a version too far from this one.
    #[error(
        "the cluster speaks protocol {there} and this version ({here}) does not; upgrade one version at a time, all nodes \
         before the next"
    )]
    Version {
        /// The protocol here.
        here: u32,
        /// The protocol there.
        there: u32,
    },
    /// The bucket keeps fewer copies than it should.
    #[error(
        "cluster.replicas is {here}, and the bucket {bucket} keeps {there} copies; set cluster.replicas to {there}, or the \
         replicas of the stream KV_{bucket} to {here}"
    )]
    Replicas {
        /// The bucket.
        bucket: &'static str,
        /// Copies that are wanted here.
        here: usize,
        /// Copies that there are.
        there: usize,
    },
    /// Leases of two lengths in one cluster: a short one would be outlived by a belief.
    #[error(
        "cluster.lease_ttl_ms is {here} here and {there} in the cluster; give all nodes the same. To change it, stop all \
         nodes and delete the bucket WASMWIZ_MEMBERS"
    )]
    LeaseTtl {
        /// Milliseconds here.
        here: u64,
        /// Milliseconds there.
        there: u64,
    },
}

/// May a node be a member beside one that is there?
///
/// # Errors
/// [`Refusal`] says what is in the way. Two nodes of one name are not told apart here: see the roster.
pub fn admit(new: &Record, there: &Record) -> Result<(), Refusal> {
    if new.cluster != there.cluster {
        return Err(Refusal::OtherCluster { here: new.cluster.clone(), there: there.cluster.clone() });
    }
    if new.protocol.abs_diff(there.protocol) > 1 {
        return Err(Refusal::Version { here: new.protocol, there: there.protocol });
    }
    if new.lease_ttl_ms != there.lease_ttl_ms {
        return Err(Refusal::LeaseTtl { here: new.lease_ttl_ms, there: there.lease_ttl_ms });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A life of a node, by its number: later lives have larger numbers.
    pub(crate) fn life(node: &str, boot: u32) -> Life {
        let boot = format!("0193{boot:04x}-0000-7000-8000-000000000000").parse().unwrap();
        Life { node: NodeId::new(node).unwrap(), boot, lease: 1 }
    }

    pub(crate) fn record(life: Life, standing: Standing) -> Record {
        Record {
            cluster: "one".into(),
            life,
            version: "0.1.0".into(),
            protocol: PROTOCOL,
            address: "127.0.0.1:1".into(),
            standing,
            weight: 1,
            lease_ttl_ms: 10_000,
            founding: None,
        }
    }

    #[test]
    fn another_cluster_a_far_version_and_another_length_of_leases_are_refused_with_words() {
        let there = record(life("a", 1), Standing::Live);
        let new = || record(life("b", 1), Standing::Joining);
        assert_eq!(admit(&new(), &there), Ok(()));
        assert_eq!(admit(&Record { protocol: 2, ..new() }, &there), Ok(()));
        let other = admit(&Record { cluster: "two".into(), ..new() }, &there).unwrap_err();
        assert!(other.to_string().contains("those of the cluster \"one\", and cluster.name is \"two\""), "{other}");
        let far = admit(&Record { protocol: 3, ..new() }, &there).unwrap_err();
        assert_eq!(far, Refusal::Version { here: 3, there: 1 });
        let ttl = admit(&Record { lease_ttl_ms: 1, ..new() }, &there).unwrap_err();
        assert_eq!(ttl, Refusal::LeaseTtl { here: 1, there: 10_000 });
    }

    #[test]
    fn a_record_keeps_its_form_and_later_fields_do_no_harm() {
        let written = serde_json::to_value(record(life("a", 1), Standing::Live)).unwrap();
        let mut expected = serde_json::json!({
            "cluster": "one", "node": "a", "boot": "01930001-0000-7000-8000-000000000000", "lease": 1, "version": "0.1.0",
            "protocol": 1, "address": "127.0.0.1:1", "standing": "live", "weight": 1, "lease_ttl_ms": 10_000
        });
        assert_eq!(written, expected);
        expected["later"] = 1.into();
        assert_eq!(serde_json::from_value::<Record>(expected).unwrap(), record(life("a", 1), Standing::Live));
    }
}
