//! Trying again within a bound, whatever connections come and go meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{link::Link, session::Session};

/// The pause after the first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Tries that end at a moment.
pub(super) struct Tries<'a> {
    link: &'a Link,
    end: Instant,
    pause: Duration,
    /// What was in the way last.
    why: Arc<str>,
}

impl<'a> Tries<'a> {
    pub(super) fn within(link: &'a Link, bound: Duration) -> Self {
        let why = "there was no time to try".into();
        Self { link, end: Instant::now() + bound, pause: FIRST_PAUSE, why }
    }

    /// When they end.
    pub(super) const fn end(&self) -> Instant {
        self.end
    }

    /// A session for the next try. `None`: the time is over, and [`Self::why`] says what was in the way.
    pub(super) async fn session(&mut self) -> Option<Arc<Session>> {
        if Instant::now() >= self.end {
            return None;
        }
        match self.link.session_until(self.end).await {
            Ok(session) => Some(session),
            Err(why) => {
                self.why = why;
                None
            }
        }
    }

    /// Takes note of a failure, and lets a moment pass.
    pub(super) async fn failed(&mut self, why: impl Into<Arc<str>>) {
        self.why = why.into();
        sleep_until((Instant::now() + self.pause).min(self.end)).await;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }

    /// What was in the way last.
    pub(super) fn why(self) -> Arc<str> {
        self.why
    }
}
