//! Everything that can be wrong with a request, as RFC 9457 problem documents.
//!
//! [`Kind`] is the catalogue: slug, status and title of every problem there is. `domain` is the one place that maps
//! the refusals and errors of the other crates to it. A handler returns a [`Problem`]; the outermost layer writes it
//! down, because only that knows the path and the request's id.

use std::{borrow::Cow, fmt};

use http::{HeaderValue, StatusCode, header};
use poem::Response;
use serde::Serialize;
use wasmwiz_events::id::RequestId;

mod catalogue;
mod domain;

pub use catalogue::Kind;
pub(crate) use domain::UNAUTHENTICATED;

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Where problem types are named.
pub const TYPE_PREFIX: &str = "https://wasmwiz.dev/problems/";

/// When to try again where nothing better is known, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// One thing that is wrong with one part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where: a JSON pointer, or `query:<name>`, `header:<name>`, `part:<name>`.
    pub at: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

/// Why a request has no other answer.
pub struct Problem(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    faults: Vec<Fault>,
    /// A stable name within the kind, for programs.
    reason: Option<Cow<'static, str>>,
    retry_after_ms: Option<u64>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    /// For the operator's log, never for the caller.
    cause: Option<String>,
}

impl Problem {
    /// A problem and what to do about it, in one or two sentences.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            faults: Vec::new(),
            reason: None,
            retry_after_ms: None,
            headers: Vec::new(),
            cause: None,
        }))
    }

    /// The host's fault. The caller is told an id, the log is told the cause.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Kind::Internal, "The platform failed. Tell its operator the request_id of this answer.")
            .caused_by(cause)
    }

    /// Names the parts of the request that are wrong.
    #[must_use]
    pub fn with_faults(mut self, faults: Vec<Fault>) -> Self {
        self.0.faults = faults;
        self
    }

    /// Names one part of the request that is wrong.
    #[must_use]
    pub fn at(mut self, at: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.faults.push(Fault { at: at.into(), detail: detail.into() });
        self
    }

    /// When to try again.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self
    }

    /// A stable name within the kind.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.0.reason = Some(reason.into());
        self
    }

    /// A header of the answer. A value that is no header value is left out.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// What the operator's log is to say, once.
    #[must_use]
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// Which of the catalogue it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What is said about it.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The parts of the request that are wrong.
    pub fn faults(&self) -> &[Fault] {
        &self.0.faults
    }

    /// The cause, for the operator's log.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The problem that an error of poem's own stands for: its texts are for developers of servers, not for callers.
    pub(crate) fn from_poem(error: &poem::Error) -> Self {
        Self::from_status(error.status(), error)
    }

    /// The problem that a bare status stands for.
    pub(crate) fn from_status(status: StatusCode, cause: impl fmt::Display) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::no_such_route(),
            StatusCode::METHOD_NOT_ALLOWED => Self::method_not_allowed("GET"),
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(Kind::BodyTooLarge, "The body is too large. Send less."),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::new(Kind::UnsupportedMediaType, "The Content-Type is not one that this resource takes.")
            }
            status if status.is_client_error() => {
                Self::new(Kind::MalformedRequest, "The request is malformed. Compare it with /openapi.json.")
                    .caused_by(cause)
            }
            _ => Self::internal(cause),
        }
    }

    /// No resource has this path.
    pub(crate) fn no_such_route() -> Self {
        Self::new(Kind::NoSuchRoute, "No resource has this path. /docs lists those that exist.")
    }

    /// The resource has other methods.
    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("This resource takes {allow}.")).header(header::ALLOW, allow)
    }

    /// The answer, complete but for what only the outermost layer knows: see [`Problem::write`].
    pub(crate) fn into_response(self) -> Response {
        let mut response = Response::builder().status(self.0.kind.status()).body(());
        response.set_data(Carried(self.0));
        response
    }

    /// Takes a problem out of an answer that carries one.
    pub(crate) fn of(response: &mut Response) -> Option<Self> {
        response.extensions_mut().remove::<Carried>().map(|carried| Self(carried.0))
    }

    /// Writes the problem down.
    pub(crate) fn write(&self, instance: &str, request_id: &RequestId) -> Response {
        let Inner { kind, detail, faults, reason, retry_after_ms, headers, .. } = &*self.0;
        let document = Document {
            type_uri: kind.type_uri(),
            title: kind.title(),
            status: kind.status().as_u16(),
            detail,
            instance,
            request_id,
            reason: reason.as_deref(),
            errors: faults,
        };
        // Plain data: serialising it does not fail.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::builder().status(kind.status()).content_type(MEDIA_TYPE).body(body);
        let into = response.headers_mut();
        // Nobody is sent away for a while without being told for how long. What a tenant stores does not become less by waiting; what is
        // kept free for its open executions does, and says so itself.
        let is_passing = match kind.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => true,
            StatusCode::INSUFFICIENT_STORAGE => *kind != Kind::StorageQuotaExceeded,
            _ => false,
        };
        let retry_after_ms = retry_after_ms.or(is_passing.then_some(RETRY_MS));
        if let Some(ms) = retry_after_ms {
            into.insert(header::RETRY_AFTER, ms.div_ceil(1_000).max(1).into());
        }
        if kind.status() == StatusCode::UNAUTHORIZED {
            into.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="wasmwiz""#));
        }
        for (name, value) in headers {
            into.insert(name.clone(), value.clone());
        }
        response
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.slug(), self.0.detail)?;
        self.0.cause.iter().try_for_each(|cause| write!(f, " ({cause})"))
    }
}

/// How a problem travels from the handler to the outermost layer.
#[derive(Clone)]
struct Carried(Box<Inner>);

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    type_uri: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    request_id: &'a RequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(problem: Problem) -> (http::HeaderMap, serde_json::Value) {
        let mut response = problem.write("/v1/x", &RequestId::new("r-1").unwrap());
        let body = response.take_body().into_bytes().await.unwrap();
        (response.headers().clone(), serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_problem_says_what_is_wrong_where_and_who_to_ask() {
        let problem = Problem::new(Kind::InvalidBody, "Look.").at("/name", "is missing");
        let (headers, body) = written(problem).await;
        assert_eq!(headers[header::CONTENT_TYPE], MEDIA_TYPE);
        assert_eq!(body["type"], "https://wasmwiz.dev/problems/invalid-body");
        assert_eq!((body["status"].as_u64(), body["instance"].as_str()), (Some(400), Some("/v1/x")));
        assert_eq!(body["request_id"], "r-1");
        assert_eq!(body["errors"][0]["at"], "/name");
    }

    #[tokio::test]
    async fn the_cause_of_a_failure_stays_with_the_operator() {
        let problem = Problem::internal("disk /var/lib is full");
        assert_eq!(problem.cause(), Some("disk /var/lib is full"));
        let (_, body) = written(problem).await;
        assert!(!body.to_string().contains("disk"), "{body}");
    }

    #[tokio::test]
    async fn a_pause_is_told_in_whole_seconds_never_too_short() {
        for (ms, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2")] {
            let (headers, _) = written(Problem::new(Kind::NodeBusy, "").retry_after_ms(ms)).await;
            assert_eq!(headers[header::RETRY_AFTER], seconds, "{ms}");
        }
    }

    #[tokio::test]
    async fn whoever_is_sent_away_for_a_while_is_told_for_how_long() {
        let lasting = [Kind::InvalidBody, Kind::StorageQuotaExceeded];
        let is_passing = |kind: &&Kind| matches!(kind.status().as_u16(), 429 | 503 | 507) && !lasting.contains(kind);
        for kind in Kind::ALL.iter().filter(is_passing) {
            let (headers, _) = written(Problem::new(*kind, "")).await;
            assert_eq!(headers[header::RETRY_AFTER], "1", "{kind:?}");
        }
        for kind in lasting {
            let (headers, _) = written(Problem::new(kind, "")).await;
            assert!(!headers.contains_key(header::RETRY_AFTER), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn who_is_not_known_is_told_how_to_be() {
        let (headers, _) = written(Problem::new(Kind::Unauthenticated, "")).await;
        assert!(headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }

    #[test]
    fn errors_of_the_framework_are_problems_of_the_catalogue() {
        for (status, kind) in [
            (StatusCode::NOT_FOUND, Kind::NoSuchRoute),
            (StatusCode::METHOD_NOT_ALLOWED, Kind::MethodNotAllowed),
            (StatusCode::PAYLOAD_TOO_LARGE, Kind::BodyTooLarge),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Kind::UnsupportedMediaType),
            (StatusCode::BAD_REQUEST, Kind::MalformedRequest),
            (StatusCode::INTERNAL_SERVER_ERROR, Kind::Internal),
        ] {
            assert_eq!(Problem::from_poem(&poem::Error::from_status(status)).kind(), kind);
        }
    }
}
