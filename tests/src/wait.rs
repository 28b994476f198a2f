//! Waiting for a condition, with a deadline.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How long a scenario waits for something that should happen soon. Generous: it is only spent when a test fails, and the
/// machine may be busy with other tests.
pub const SOON: Duration = Duration::from_secs(20);

/// How long to leave the condition alone between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Looks until `look` gives something, and gives that.
///
/// # Errors
/// What `look` fails with, and when `deadline` passes first; `what` names the condition in that message.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let seen = timeout_at(end, look()).await;
        match seen.with_context(|| format!("waited {deadline:?} for {what}"))?? {
            Some(found) => return Ok(found),
            None if Instant::now() >= end => bail!("waited {deadline:?} for {what}"),
            None => sleep(BETWEEN_LOOKS).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_first_thing_seen() {
        let mut looks = 0;
        let seen = until("the third look", SOON, async || {
            looks += 1;
            Ok((looks == 3).then_some("seen"))
        });
        assert_eq!(seen.await.unwrap(), "seen");
        assert_eq!(looks, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_names_the_condition() {
        let error = until::<()>("a blue moon", SOON, async || Ok(None)).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 20s for a blue moon");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_cut_off_at_the_deadline() {
        let error = until::<()>("an answer", SOON, async || std::future::pending().await).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 20s for an answer");
    }
}
