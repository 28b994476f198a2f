//! Headers that tell browsers to be careful with our answers.

use http::{HeaderName, HeaderValue, header};
use poem::Response;

/// For everything that is not a page: nothing may be loaded, nobody may frame it.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");

/// Adds the headers that an answer does not have yet.
pub(super) fn harden(response: &mut Response, tls: bool) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NOTHING);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if tls {
        headers
            .insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains"));
    }
}

/// Gives an answer a policy of its own.
pub(crate) fn content_security_policy(response: &mut Response, policy: &str) {
    if let Ok(policy) = HeaderValue::from_str(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}
