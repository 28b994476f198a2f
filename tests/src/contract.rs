//! What the HTTP contract promises of every answer, checked on one.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::Value;

use crate::client::Answer;

/// Headers of every answer, with what they hold at least.
const SECURITY: [(&str, &str); 4] = [
    ("content-security-policy", "default-src"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", ""),
    ("x-frame-options", "DENY"),
];

/// What a text has that says what to do: a second sentence, a second clause, or what would be right. A bare statement of
/// the fault has none of these.
const REMEDIES: [&str; 8] = [". ", "; ", "Send ", " takes", " must ", " needs ", " at most ", " has "];

impl Answer {
    /// What every answer has: a request's id and the security headers.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn conforms(&self) -> anyhow::Result<&Self> {
        let request_id = self.header("x-request-id").unwrap_or_default();
        ensure!(!request_id.is_empty(), "no X-Request-Id: {self:?}");
        for (name, part) in SECURITY {
            let value = self.header(name).with_context(|| format!("no {name}: {self:?}"))?;
            ensure!(value.contains(part), "{name}: {value} has no {part}");
        }
        Ok(self)
    }

    /// An answer of this status, with all that every answer has, and its JSON.
    ///
    /// # Errors
    /// When it is another.
    pub fn is(&self, status: u16) -> anyhow::Result<Value> {
        ensure!(self.status.as_u16() == status, "expected {status}, got {}: {}", self.status, self.text());
        self.conforms()?;
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }

    /// A problem document of this status and slug, complete, with all that every answer has. Gives the document.
    ///
    /// # Errors
    /// When it is another, or one that lacks something.
    pub fn refuses(&self, status: u16, slug: &str) -> anyhow::Result<Value> {
        let shown = || format!("{} {}", self.status, self.text());
        ensure!(self.status.as_u16() == status, "expected {status} {slug}, got {}", shown());
        self.conforms()?;
        let kind = self.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("application/problem+json"), "the type is {kind}: {}", shown());
        let problem: Value = self.json()?;
        let type_uri = format!("https://wasmwiz.dev/problems/{slug}");
        ensure!(problem["type"] == type_uri, "the type is not {type_uri}: {}", shown());
        ensure!(problem["status"] == status, "the status in the body differs: {}", shown());
        let text = |member: &str| problem[member].as_str().unwrap_or_default();
        ensure!(!text("title").is_empty() && !text("instance").is_empty(), "a member is missing: {}", shown());
        let remedy = REMEDIES.iter().any(|word| text("detail").contains(word));
        ensure!(remedy, "the detail names no remedy: {}", shown());
        ensure!(
            self.status != StatusCode::UNAUTHORIZED || self.header("www-authenticate").is_some(),
            "no WWW-Authenticate: {}",
            shown()
        );
        let pauses = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status);
        ensure!(!pauses || self.header("retry-after").is_some(), "no Retry-After: {}", shown());
        Ok(problem)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    const HEADERS: [(&str, &str); 7] = [
        ("x-request-id", "r-1"),
        ("content-security-policy", "default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("content-type", "application/problem+json"),
        ("www-authenticate", "Bearer"),
    ];

    const BODY: &str = r#"{"type":"https://wasmwiz.dev/problems/unauthenticated","title":"Not authenticated","status":401,
        "detail":"No key. Send one.","instance":"/v1/keys"}"#;

    fn answer(without: &str, body: &str) -> Answer {
        let headers: HeaderMap = HEADERS
            .into_iter()
            .filter(|(name, _)| *name != without)
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        Answer { status: StatusCode::UNAUTHORIZED, headers, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn a_complete_problem_passes() {
        answer("", BODY).refuses(401, "unauthenticated").unwrap();
    }

    #[test]
    fn whatever_is_missing_is_noticed() {
        for (name, _) in HEADERS {
            answer(name, BODY).refuses(401, "unauthenticated").expect_err(name);
        }
        for part in ["unauthenticated", "Not authenticated", "401", " Send one.", "/v1/keys"] {
            answer("", &BODY.replace(part, "")).refuses(401, "unauthenticated").expect_err(part);
        }
        answer("", BODY).refuses(403, "unauthenticated").unwrap_err();
    }
}
