//! How long a client may keep us waiting: a budget of time that it spends by taking nothing and earns back by taking bytes.
//!
//! One rule for three clients: who takes nothing is given up after the grace; who takes less than the rate is given up
//! once the grace is spent on the difference; who takes more is waited for as long as it likes.

use std::time::Duration;

use tokio::time::Instant;

/// What one client has left.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    grace: Duration,
    rate_bytes: u64,
    left: Duration,
    /// Since when it is waited for; `None` while it is not.
    since: Option<Instant>,
}

impl Patience {
    /// For a client that must take `rate_bytes` a second, less a grace.
    pub(super) fn new(grace: Duration, rate_bytes: u64) -> Self {
        Self { grace, rate_bytes: rate_bytes.max(1), left: grace, since: None }
    }

    /// The client is waited for, from now on if it was not before. Gives when that ends.
    pub(super) fn wait(&mut self) -> Instant {
        let since = *self.since.get_or_insert_with(Instant::now);
        since + self.left
    }

    /// The client took `bytes`, and is no longer waited for.
    pub(super) fn took(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        } else if self.left == self.grace {
            // A healthy client costs no look at the clock.
            return;
        }
        let earned_us = (bytes as u64).saturating_mul(1_000_000) / self.rate_bytes;
        self.left = self.left.saturating_add(Duration::from_micros(earned_us)).min(self.grace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    /// For how many seconds a client is waited for that takes `bytes` once a second, of at most an hour.
    async fn waited_s(bytes: usize) -> u64 {
        let (mut patience, begun) = (Patience::new(GRACE, 1_000), Instant::now());
        while begun.elapsed() < Duration::from_secs(3_600) {
            let deadline = patience.wait();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if Instant::now() >= deadline {
                break;
            }
            patience.took(bytes);
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_waited_for_as_long_as_the_grace() {
        assert_eq!(waited_s(0).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_less_than_the_rate_spends_the_grace_on_the_difference() {
        assert_eq!(waited_s(500).await, 19);
        assert_eq!(waited_s(900).await, 91);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_rate_is_waited_for_without_end() {
        assert_eq!(waited_s(1_000).await, 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_earned_in_advance() {
        let mut patience = Patience::new(GRACE, 1_000);
        patience.took(1 << 30);
        assert_eq!(patience.wait(), Instant::now() + GRACE);
    }
}
