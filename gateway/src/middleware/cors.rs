//! Cross-origin requests: a browser lets pages of other origins read our answers only if we name their origin.
//!
//! Off unless origins are listed. Credentials of the browser (cookies) are never asked for: a caller sends its key itself.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Request, Response};

use crate::config::CorsConfig;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");

/// Headers of a request that a page may set, beside those that every page may.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, accept, idempotency-key, if-match, if-none-match, last-event-id, prefer, traceparent, \
     wasmwiz-min-position, x-request-id",
);

/// Headers of an answer that a page may read, beside those that every page may.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "etag, idempotency-replayed, link, location, preference-applied, ratelimit, ratelimit-policy, retry-after, server-timing, \
     traceparent, wasmwiz-execution-id, wasmwiz-exit-code, wasmwiz-outcome, wasmwiz-position, www-authenticate, \
     x-request-id",
);

/// The origins that may call from a browser.
#[derive(Debug, Clone)]
pub(crate) struct Cors {
    allowed: Vec<HeaderValue>,
    max_age_s: u32,
}

impl Cors {
    pub(crate) fn of(config: &CorsConfig) -> Self {
        let allowed = config.allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
        Self { allowed, max_age_s: config.max_age_s }
    }

    /// The request's origin, if it is one that is listed.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.allowed.contains(origin).then(|| origin.clone())
    }

    /// The answer to a browser that asks beforehand. Others that ask for OPTIONS go on to the routes.
    pub(super) fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || request.method() != Method::OPTIONS || self.origin(request.headers()).is_none() {
            return None;
        }
        let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age_s.into());
        Some(response)
    }

    /// Lets a page of `origin` read the answer. Whoever keeps an answer must keep it by origin, also of those without one.
    pub(super) fn mark(&self, response: &mut Response, origin: Option<HeaderValue>) {
        if self.allowed.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "https://console.example";

    fn cors(origins: &[&str]) -> Cors {
        let allowed_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        Cors::of(&CorsConfig { allowed_origins, ..Default::default() })
    }

    fn preflight(origin: &str) -> Request {
        let request = Request::builder().method(Method::OPTIONS).header("origin", origin);
        request.header("access-control-request-method", "PUT").finish()
    }

    fn marked(cors: &Cors, origin: &str) -> HeaderMap {
        let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        let mut response = Response::builder().finish();
        cors.mark(&mut response, cors.origin(&headers));
        response.headers().clone()
    }

    #[test]
    fn a_listed_origin_is_named_and_no_other() {
        let cors = cors(&[OURS]);
        assert_eq!(marked(&cors, OURS)["access-control-allow-origin"], OURS);
        assert!(!marked(&cors, OURS).contains_key("access-control-allow-credentials"));
        for foreign in
            ["https://evil.example", "null", "https://console.example.evil.example", "http://console.example"]
        {
            let headers = marked(&cors, foreign);
            assert!(!headers.contains_key("access-control-allow-origin"), "{foreign}");
            assert_eq!(headers["vary"], "origin");
            assert!(cors.preflight(&preflight(foreign)).is_none());
        }
        assert_eq!(cors.preflight(&preflight(OURS)).unwrap().status(), 204);
    }

    #[test]
    fn a_page_can_change_only_what_it_has_seen() {
        let cors = cors(&[OURS]);
        let has = |headers: &HeaderMap, name: &str, word: &str| {
            headers[name].to_str().unwrap().split(", ").any(|listed| listed == word)
        };
        assert!(has(&marked(&cors, OURS), "access-control-expose-headers", "etag"), "a page cannot read the tag");
        let asked = cors.preflight(&preflight(OURS)).unwrap();
        for word in ["if-match", "if-none-match"] {
            assert!(has(asked.headers(), "access-control-allow-headers", word), "a page cannot send {word}");
        }
    }

    #[test]
    fn without_a_list_nothing_is_said() {
        assert!(marked(&cors(&[]), OURS).is_empty());
        assert!(cors(&[]).preflight(&preflight(OURS)).is_none());
    }
}
