//! Requests of a long series: a node that is busy, or a rate that is used up, is waited for.

use std::time::Duration;

use reqwest::RequestBuilder;

use super::{
    failure::Failure,
    http::{Answer, Api},
};

/// How often one is sent that the node had no place or no token for.
const TRIES: u32 = 60;

/// How long to wait then.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers that pass by themselves. After some of them nobody knows what was done: what is sent again does no harm, or has a key.
const PASSING: [&str; 5] = ["rate-limited", "node-busy", "too-many-concurrent", "too-many-bodies", "unavailable"];

/// Sends a request that may be sent twice until the answer is none of those.
pub(super) async fn send(
    api: &Api,
    request: impl Fn() -> RequestBuilder,
    (deadline, answer_bytes): (Duration, usize),
) -> Result<Answer, Failure> {
    for _ in 1..TRIES {
        match api.send(request(), deadline, answer_bytes).await {
            Err(failure) if PASSING.iter().any(|slug| failure.is_about(slug)) => tokio::time::sleep(PAUSE).await,
            answered => return answered,
        }
    }
    api.send(request(), deadline, answer_bytes).await
}
