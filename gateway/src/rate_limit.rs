//! `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers: the one place that writes them.

use http::{HeaderName, HeaderValue};
use poem::Response;
use wasmwiz_actors::{dispatch::Done, limits::TierLimits};

use crate::problem::Problem;

/// What is left of a limit, and the limits there are.
const LEFT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const MINUTE_SECONDS: u64 = 60;

/// One limit, and how much of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// The limit's name.
    pub(crate) policy: &'static str,
    /// How much it allows.
    pub(crate) quota: u64,
    /// In how many seconds; what is counted while it lasts has no window.
    pub(crate) window_seconds: Option<u64>,
    /// How much is left now.
    pub(crate) left: u64,
    /// When there is more again, in milliseconds.
    pub(crate) more_in_ms: u64,
}

impl RateLimit {
    /// Nothing is left.
    pub(crate) const fn used_up(
        policy: &'static str,
        quota: u64,
        window_seconds: Option<u64>,
        retry_after_ms: u64,
    ) -> Self {
        Self { policy, quota, window_seconds, left: 0, more_in_ms: retry_after_ms }
    }

    /// What an admission has left of its tenant's executions: the bucket's state as its event records it. `None` when the
    /// tier has no rate.
    pub(crate) fn of_executions(done: &Done, limits: &TierLimits) -> Option<Self> {
        let (rate, full_at) = (limits.executions_rate()?, done.accepted.bucket_full_at?);
        let (left, more_in_ms) = rate.left(full_at, done.accepted_at);
        let (quota, window_seconds) = (u64::from(rate.per_minute()), Some(MINUTE_SECONDS));
        Some(Self { policy: "executions", quota, window_seconds, left, more_in_ms })
    }

    fn written(&self) -> (String, String) {
        let Self { policy, quota, window_seconds, left, more_in_ms } = self;
        let window = window_seconds.map(|seconds| format!(";w={seconds}")).unwrap_or_default();
        let seconds = more_in_ms.div_ceil(1_000).max(1);
        (format!("\"{policy}\";q={quota}{window}"), format!("\"{policy}\";r={left};t={seconds}"))
    }

    /// Writes it into an answer.
    pub(crate) fn mark(&self, response: &mut Response) {
        let (policy, left) = self.written();
        for (name, text) in [(POLICY, policy), (LEFT, left)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().insert(name, value);
            }
        }
    }

    /// Writes it into a refusal, with when to come back.
    pub(crate) fn refuse(&self, problem: Problem) -> Problem {
        let (policy, left) = self.written();
        problem.retry_after_ms(self.more_in_ms).header(POLICY, &policy).header(LEFT, &left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_written_as_the_draft_says() {
        let limit = RateLimit { policy: "executions", quota: 10, window_seconds: Some(60), left: 4, more_in_ms: 5_400 };
        let (policy, left) = limit.written();
        assert_eq!((policy.as_str(), left.as_str()), ("\"executions\";q=10;w=60", "\"executions\";r=4;t=6"));
        let (policy, left) = RateLimit::used_up("at-once", 4, None, 0).written();
        assert_eq!((policy.as_str(), left.as_str()), ("\"at-once\";q=4", "\"at-once\";r=0;t=1"));
    }
}
