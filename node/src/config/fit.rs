//! Settings that are in their ranges and do not fit each other: a node starts with them, and says so.

use wasmwiz_events::tenant::Tier;

use super::Config;

impl Config {
    /// What a tenant is promised and never gets on this node, in a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let most_bytes = self.executor.most_bytes_per_tenant();
        let too_wide = |tier: Tier| {
            let limits = self.tiers.of(tier);
            let wide = limits.memory_bytes.saturating_add(limits.stdout_bytes).saturating_add(limits.stderr_bytes);
            (wide > most_bytes).then(|| {
                format!(
                    "tiers.{}.memory_bytes, stdout_bytes and stderr_bytes are {wide} together, and the guests of one \
                     tenant never have more than {most_bytes} here: lower them, or raise executor.memory_budget_bytes",
                    tier.as_str()
                )
            })
        };
        Tier::ALL.into_iter().filter_map(too_wide).collect()
    }

    /// Says them in the node's log.
    pub(crate) fn warn(&self) {
        for warning in self.warnings() {
            tracing::warn!("{warning}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_allows_a_guest_more_than_it_ever_gets_is_named() {
        let mut config = Config::default();
        assert_eq!(config.warnings(), Vec::<String>::new());
        // Two thirds of fifteen sixteenths of 1_696 MiB are 1_060 MiB, and the widest tier allows 1_056 MiB.
        config.executor.memory_budget_bytes = 1_696 << 20;
        assert_eq!(config.warnings(), Vec::<String>::new());
        config.executor.memory_budget_bytes = 1_680 << 20;
        let warnings = config.warnings();
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(warning.starts_with("tiers.enterprise.memory_bytes, stdout_bytes and stderr_bytes are 1107296256"));
        assert!(warning.contains("executor.memory_budget_bytes"), "{warning}");
    }
}
