//! Shards: what is owned by a node, and moves between nodes, as one.
//!
//! A tenant belongs to one of [`SHARDS`] shards for ever, by its id alone; which node owns a shard changes. Shards are few
//! so that one table names all owners, and many so that they spread evenly.

use std::{fmt, str::FromStr};

use crate::{
    digest::Digest,
    id::{InvalidId, TenantId},
};

/// How many shards there are. It is part of subjects of the log, hence fixed for the life of a cluster.
pub const SHARDS: usize = 256;

/// One of [`SHARDS`] groups of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// The shard with this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// The shard of a tenant: the first byte of the SHA-256 of its id.
    pub fn of(tenant: &TenantId) -> Self {
        let [first, ..] = *Digest::of(tenant.as_str().as_bytes()).as_bytes();
        Self(first)
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Shard {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { kind: "shard", rule: "a number from 0 to 255, without leading zeros" };
        match text.parse::<u8>() {
            Ok(number) if number.to_string() == text => Ok(Self(number)),
            _ => Err(invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tenant: &str) -> u8 {
        Shard::of(&TenantId::new(tenant).unwrap()).get()
    }

    #[test]
    fn the_shard_of_a_tenant_never_changes() {
        // Subjects of stored commits have it in them.
        assert_eq!([of("dev"), of("system"), of("t-4k2m"), of("a")], [239, 187, 206, 202]);
    }

    #[test]
    fn tenants_spread_over_all_shards() {
        let mut tenants = [0_u32; SHARDS];
        for number in 0..25_600 {
            tenants[usize::from(of(&format!("t-{number}")))] += 1;
        }
        // 100 on average, with a standard deviation of 10.
        assert!(tenants.iter().all(|tenants| (50..150).contains(tenants)), "{tenants:?}");
        assert_eq!(Shard::all().count(), SHARDS);
    }

    #[test]
    fn only_the_shortest_text_is_a_shard() {
        assert_eq!("7".parse(), Ok(Shard::new(7)));
        for text in ["", "07", "+7", "256", "-1", "a", " 7"] {
            assert!(text.parse::<Shard>().is_err(), "{text:?}");
        }
        assert_eq!(Shard::new(255).to_string().parse(), Ok(Shard::new(255)));
    }
}
