//! Why a node did not do what it was asked, and the exit codes that tell scripts so.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::render::plain;

/// What is known of a problem document (RFC 9457). Every member may be missing: a proxy answers too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    #[serde(rename = "type")]
    type_uri: Option<String>,
    title: Option<String>,
    detail: Option<String>,
    reason: Option<String>,
    request_id: Option<String>,
    errors: Option<Vec<Fault>>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    at: String,
    detail: String,
}

/// A request that was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The node, or something before it, answered with a problem.
    #[error("{}", said(*.status, .problem, .retry_after.as_deref()))]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// What it said.
        problem: Box<Problem>,
        /// When to ask again: seconds, or a date.
        retry_after: Option<String>,
    },
    /// Nobody answered, or not to the end.
    #[error("{url} does not answer; is a node running there? `wasmwiz status --url {url}` asks it")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer took too long.
    #[error(
        "{url} has not answered in {seconds} s; whether the request took effect is not known: look before you repeat it"
    )]
    TooSlow {
        /// Where.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The answer is larger than is read.
    #[error("the answer is larger than {most_bytes} bytes, which is all that is read; ask for less")]
    TooLarge {
        /// The bound.
        most_bytes: usize,
    },
    /// The answer is none of the API.
    #[error("{url} answered what no node does; is it one?")]
    Strange {
        /// Where.
        url: String,
    },
}

impl Failure {
    /// The exit code that this is.
    pub fn code(&self) -> u8 {
        match self {
            Self::Refused { status, .. } => match status.as_u16() {
                401 | 403 => NOT_ALLOWED,
                404 => NOT_THERE,
                400..=499 => REFUSED,
                500..=599 => UNAVAILABLE,
                // A node never redirects: something else is there.
                _ => FAILED,
            },
            Self::Unreachable { .. } | Self::TooSlow { .. } => UNAVAILABLE,
            Self::TooLarge { .. } | Self::Strange { .. } => FAILED,
        }
    }

    /// Is it a refusal of this status?
    pub(super) fn is_refused_with(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// When to ask again, if a refusal says so in seconds.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let Self::Refused { retry_after, .. } = self else { return None };
        retry_after.as_deref()?.parse().ok().map(Duration::from_secs)
    }

    /// The kind of a refusal, and its reason if it has one, in words that programs compare.
    pub(super) fn kind(&self) -> Option<String> {
        let Self::Refused { problem, .. } = self else { return None };
        let slug = problem.type_uri.as_deref().and_then(|uri| uri.rsplit('/').next())?;
        Some(
            problem
                .reason
                .as_deref()
                .map_or_else(|| plain(slug), |reason| format!("{}: {}", plain(slug), plain(reason))),
        )
    }

    /// Is it a refusal of this kind? The kind is the last word of a problem's type.
    pub(super) fn is_about(&self, slug: &str) -> bool {
        let Self::Refused { problem, .. } = self else { return false };
        problem.type_uri.as_deref().and_then(|uri| uri.rsplit('/').next()) == Some(slug)
    }
}

/// Anything that has no code of its own.
const FAILED: u8 = 1;
/// 401 and 403.
const NOT_ALLOWED: u8 = 3;
/// 404.
const NOT_THERE: u8 = 4;
/// Any other 4xx: the request is wrong, over a limit, or against a rule.
const REFUSED: u8 = 5;
/// No answer, or 5xx: the same request may do later.
const UNAVAILABLE: u8 = 6;

/// What `--help` says of exit codes.
pub(in crate::cli) const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not allowed (401, 403), 4 not there \
                                     (404), 5 refused (other 4xx), 6 no answer or 5xx: try again later.";

/// The exit code of an error: a failure's own, or 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(FAILED, Failure::code)
}

/// The problem with its remedy, in lines. What a server says is shown without its control characters.
fn said(status: StatusCode, problem: &Problem, retry_after: Option<&str>) -> String {
    let title = problem.title.as_deref().unwrap_or_else(|| status.canonical_reason().unwrap_or("a problem"));
    let mut text = format!("{} ({})", plain(title), status.as_u16());
    if let Some(detail) = &problem.detail {
        text.push_str(&format!(": {}", plain(detail)));
    }
    for Fault { at, detail } in problem.errors.iter().flatten() {
        text.push_str(&format!("\n  {}: {}", plain(at), plain(detail)));
    }
    if let Some(after) = retry_after {
        text.push_str(&format!("\n  try again after {} s", plain(after)));
    }
    if let Some(id) = &problem.request_id {
        text.push_str(&format!("\n  request {}", plain(id)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Failure {
        let problem = Box::new(serde_json::from_str(body).unwrap());
        Failure::Refused { status: StatusCode::from_u16(status).unwrap(), problem, retry_after: Some("7".to_owned()) }
    }

    #[test]
    fn a_problem_is_shown_with_its_remedy_and_without_escape_sequences() {
        let body = r#"{"title":"Invalid query","detail":"Send by=day.\u001b[2J","request_id":"r-1",
                       "errors":[{"at":"query:by","detail":"is one of hour and day"}]}"#;
        let shown = refused(400, body).to_string();
        let lines: Vec<_> = shown.lines().collect();
        let expected = [
            "Invalid query (400): Send by=day.\\u{1b}[2J",
            "  query:by: is one of hour and day",
            "  try again after 7 s",
            "  request r-1",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn every_status_has_its_exit_code_and_an_answer_without_a_problem_too() {
        for (status, code) in [(302, 1), (400, 5), (401, 3), (403, 3), (404, 4), (409, 5), (429, 5), (500, 6), (503, 6)]
        {
            assert_eq!(refused(status, "{}").code(), code, "{status}");
            assert!(!refused(status, "{}").to_string().is_empty());
        }
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 1);
        assert_eq!(exit_code(&anyhow::Error::from(refused(404, "{}")).context("of a module")), 4);
    }
}
