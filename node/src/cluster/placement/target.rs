//! Where a shard without an owner goes: rendezvous hashing with weights and bounded loads.
//!
//! Every member draws a score for every shard; the highest that has less than its part is the target. A shard that has an
//! owner stays there, whoever comes and goes: see `balance` for those that move all the same. Weights: score = -weight / ln(hash), after Schindelhauer and Schomaker, "Weighted
//! distributed hash tables" (2005). Room: after Mirrokni et al., "Consistent hashing with bounded loads" (2017).

use std::cmp::Ordering;

use sha2::{Digest as _, Sha256};
use wasmwiz_events::{id::NodeId, shard::Shard};

use super::{Draft, Member};

/// How much this node wants this shard. Larger is more.
pub(super) fn score(node: &NodeId, weight: u32, shard: Shard) -> f64 {
    let hash = Sha256::new_with_prefix([shard.get()]).chain_update(node.as_str()).finalize();
    let bytes = hash.first_chunk::<4>().copied().unwrap_or_default();
    // Strictly between 0 and 1, so that the logarithm is finite and not 0.
    let drawn = (f64::from(u32::from_be_bytes(bytes)) + 0.5) / (f64::from(u32::MAX) + 1.0);
    -f64::from(weight) / drawn.ln()
}

/// Who of two wants the shard more; their names decide if it is the same.
fn prefers(a: &Member, b: &Member, shard: Shard) -> Ordering {
    let by = |member: &Member| score(&member.life.node, member.weight, shard);
    by(a).total_cmp(&by(b)).then_with(|| b.life.node.cmp(&a.life.node))
}

impl Draft<'_> {
    /// Who should be given this shard: the one that wants it most of the steady members that have less than their fair part,
    /// else of any that are given shards at all.
    pub(super) fn best_for(&self, shard: Shard) -> Option<&Member> {
        let loads = self.loads();
        let load = |member: &Member| loads.get(&member.life.node).copied().unwrap_or_default();
        let total = self.steady().map(|member| u64::from(member.weight)).sum::<u64>().max(1);
        let all = self.table.count();
        let fair = |member: &Member| all * u64::from(member.weight);
        let best = |a: &&Member, b: &&Member| prefers(a, b, shard);
        let below = self.steady().filter(|member| load(member) < fair(member) / total).max_by(best);
        let up_to = || self.steady().filter(|member| load(member) < fair(member).div_ceil(total)).max_by(best);
        below.or_else(up_to).or_else(|| self.accepting().max_by(best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId::new(&format!("node-{number}")).unwrap()
    }

    fn wins(weights: &[u32]) -> Vec<usize> {
        let mut wins = vec![0; weights.len()];
        for shard in Shard::all() {
            let scores = weights.iter().enumerate().map(|(number, weight)| score(&node(number), *weight, shard));
            let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            wins[best.0] += 1;
        }
        wins
    }

    #[test]
    fn scores_follow_weights() {
        // A quarter of 256 and its standard deviation: 64 and 7.
        assert!(wins(&[1, 1, 1, 1]).iter().all(|wins| (40..90).contains(wins)), "{:?}", wins(&[1, 1, 1, 1]));
        let double = wins(&[2, 1, 1]);
        assert!((104..152).contains(&double[0]), "{double:?}");
    }

    #[test]
    fn who_leaves_changes_nobody_elses_favourite() {
        for shard in Shard::all() {
            let favourite = |nodes: &[usize]| {
                nodes.iter().copied().max_by(|a, b| score(&node(*a), 1, shard).total_cmp(&score(&node(*b), 1, shard)))
            };
            let of_three = favourite(&[0, 1, 2]).unwrap();
            if of_three != 2 {
                assert_eq!(favourite(&[0, 1]), Some(of_three));
            }
        }
    }
}
