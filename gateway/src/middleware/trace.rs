//! W3C Trace Context: a request's `traceparent` is passed on as it came, or begun here. Where somebody collects traces, the
//! request is a span of that trace, and what is passed on names that span.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, StatusCode};
use rand::RngExt as _;
use tracing::{Span, field::Empty};
use wasmwiz_actors::trace;
use wasmwiz_events::id::RequestId;

/// Header of the trace context, in and out.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The span of a request. Its fields are named as OpenTelemetry's conventions for HTTP name them.
pub(super) fn span(method: &Method, request_id: &RequestId) -> Span {
    tracing::debug_span!(
        target: trace::TARGET,
        "http.request",
        otel.kind = "server",
        http.request.method = %method,
        http.route = Empty,
        http.response.status_code = Empty,
        request.id = %request_id,
    )
}

/// Says in a span how its request was answered. Only what is the node's fault makes it an error.
pub(super) fn answered(span: &Span, route: &'static str, status: StatusCode) {
    span.record("http.route", route).record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        trace::failed(span);
    }
}

/// The request's trace context, of which `span` becomes a part.
pub(super) fn of(headers: &HeaderMap, span: &Span) -> Arc<str> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let given = match (given.next().and_then(|value| value.to_str().ok()), given.next()) {
        (Some(text), None) if is_valid(text) => Some(text),
        _ => None,
    };
    trace::adopt(span, given);
    trace::traceparent(span).unwrap_or_else(|| given.map_or_else(begin, Into::into))
}

/// `00-<trace id>-<parent id>-<flags>`, lower-case hexadecimal, neither id all zeros.
fn is_valid(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    let (Some(version), Some(trace), Some(parent), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && some(trace)
        && hex(parent, 16)
        && some(parent)
        && hex(flags, 2)
}

#[expect(clippy::disallowed_methods, reason = "the edge is where traces begin")]
fn begin() -> Arc<str> {
    let mut rng = rand::rng();
    // The lowest bit is set: an id of zeros means none.
    let (trace, parent) = (rng.random::<u128>() | 1, rng.random::<u64>() | 1);
    format!("00-{trace:032x}-{parent:016x}-00").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_is_valid() {
        assert!(is_valid(&begin()));
    }

    #[test]
    fn other_texts_are_not_passed_on() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_valid(good));
        for bad in [
            "",
            &good[..54],
            &good.to_uppercase(),
            &good.replace("00-", "ff-"),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &format!("{good}-00"),
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
