//! Requests of a long series: a node that is busy, or a rate that is used up, is waited for.

use std::time::Duration;

use reqwest::RequestBuilder;
use tokio::time::Instant;

use super::{
    failure::Failure,
    http::{Answer, Api},
};

/// How long one is sent again that the node had no place or no token for.
const WITHIN: Duration = Duration::from_secs(600);

/// How long to wait then, where the node does not say; and how long at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Answers that pass by themselves. After some of them nobody knows what was done: what is sent again does no harm, or has a key.
const PASSING: [&str; 7] = [
    "rate-limited",
    "node-busy",
    "node-storage-full",
    "too-many-concurrent",
    "too-many-bodies",
    "request-in-progress",
    "unavailable",
];

/// Sends a request that may be sent twice until the answer is none of those.
pub(super) async fn send(
    api: &Api,
    request: impl Fn() -> RequestBuilder,
    (deadline, answer_bytes): (Duration, usize),
) -> Result<Answer, Failure> {
    let begun = Instant::now();
    loop {
        match api.send(request(), deadline, answer_bytes).await {
            Err(failure) if begun.elapsed() < WITHIN && PASSING.iter().any(|slug| failure.is_about(slug)) => {
                tokio::time::sleep(failure.retry_after().unwrap_or(PAUSE).min(LONGEST_PAUSE)).await;
            }
            answered => return answered,
        }
    }
}
