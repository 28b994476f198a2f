//! Until when a node may decide, by its own clock alone.
//!
//! What must never be true: that a node decides after another has been given its shards. The others wait for a whole time
//! to live after they *heard* a renewal; this node counts it from before it *sent* that, and stops a margin earlier.

use std::time::Duration;

use super::clock::Mono;

/// A node's lease, as the node itself counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    margin: Duration,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// There is none, or it is over: nothing renews it, it has to begin again.
    None,
    /// Good before this moment.
    Until(Mono),
}

impl Lease {
    /// None yet. `margin` is for clocks that run apart and for decisions under way when it ends.
    pub const fn new(ttl: Duration, margin: Duration) -> Self {
        Self { ttl, margin, standing: Standing::None }
    }

    /// It begins with a record that was sent not before `sent`, and was accepted.
    pub const fn begin(&mut self, sent: Mono) {
        self.standing = Standing::Until(self.end(sent));
    }

    /// A renewal that was sent not before `sent` has been accepted, however late the answer came. It renews no lease that
    /// is over, and never shortens one.
    pub fn renewed(&mut self, sent: Mono) {
        if let Standing::Until(until) = self.standing {
            self.standing = Standing::Until(until.max(self.end(sent)));
        }
    }

    /// It is over: the record is gone, or somebody else's.
    pub const fn end_now(&mut self) {
        self.standing = Standing::None;
    }

    /// May this node decide at `now`?
    pub fn holds(&self, now: Mono) -> bool {
        matches!(self.standing, Standing::Until(until) if now < until)
    }

    /// Until when it holds. A moment that has passed is that of a node that must not decide, and may still renew.
    pub const fn until(&self) -> Option<Mono> {
        match self.standing {
            Standing::None => None,
            Standing::Until(until) => Some(until),
        }
    }

    const fn end(&self, sent: Mono) -> Mono {
        sent.plus(self.ttl.saturating_sub(self.margin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const MARGIN: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Mono {
        Mono::since_start(Duration::from_millis(ms))
    }

    fn begun(ms: u64) -> Lease {
        let mut lease = Lease::new(TTL, MARGIN);
        lease.begin(at(ms));
        lease
    }

    #[test]
    fn a_node_without_a_record_may_not_decide() {
        assert!(!Lease::new(TTL, MARGIN).holds(at(0)));
    }

    #[test]
    fn it_ends_a_margin_before_the_others_may_act_counted_from_the_sending() {
        let lease = begun(1_000);
        assert!(lease.holds(at(8_999)));
        assert!(!lease.holds(at(9_000)));
    }

    #[test]
    fn a_suspended_process_wakes_up_fenced_and_may_renew() {
        // Nothing ran between 2 s and 60 s: no timer either. The clock alone says so.
        let mut lease = begun(1_000);
        assert!(!lease.holds(at(60_000)));
        // Its record was still there, so nobody had been given its shards.
        lease.renewed(at(60_001));
        assert!(lease.holds(at(60_002)));
    }

    #[test]
    fn a_renewal_whose_answer_is_late_counts_from_its_sending() {
        let mut lease = begun(0);
        // Sent at 3 s; the answer came at 12 s, when it was of no more use.
        lease.renewed(at(3_000));
        assert!(!lease.holds(at(12_000)));
        assert_eq!(lease.until(), Some(at(11_000)));
    }

    #[test]
    fn an_older_answer_that_comes_later_does_not_shorten_it() {
        let mut lease = begun(0);
        lease.renewed(at(6_000));
        lease.renewed(at(3_000));
        assert_eq!(lease.until(), Some(at(14_000)));
    }

    #[test]
    fn what_is_over_is_not_renewed_by_an_answer_that_was_under_way() {
        let mut lease = begun(0);
        lease.end_now();
        lease.renewed(at(3_000));
        assert!(!lease.holds(at(3_001)));
        lease.begin(at(4_000));
        assert!(lease.holds(at(4_001)));
    }

    #[test]
    fn the_wall_clock_has_no_part_in_it() {
        // A moment is only ever compared with one of the same clock; one that has not come yet gives no time back.
        let mut lease = begun(50_000);
        lease.renewed(at(10));
        assert_eq!(lease.until(), Some(at(58_000)));
        assert!(lease.holds(at(0)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_order_of_answers_the_end_is_that_of_the_last_sent(sent in proptest::collection::vec(0_u64..100_000, 1..20)) {
            let mut lease = begun(sent[0]);
            for ms in &sent {
                lease.renewed(at(*ms));
            }
            let last = sent.iter().max().unwrap();
            proptest::prop_assert_eq!(lease.until(), Some(at(last + 8_000)));
        }
    }
}
