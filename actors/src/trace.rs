//! Spans of the way of a request: what a trace shows of it, where somebody collects traces.
//!
//! ```text
//! http.request ─┬─ slot
//!               ├─ entity (execute) ─► decide ─► log.append ◄─ of one commit, with links to all that are in it
//!               ├─ guest
//!               └─ entity (finish) ──► decide ─► log.append
//! ```
//! They have a target of their own, which no log line has: where no collector is configured they are disabled, and cost a
//! comparison each. Between nodes, and from an acceptance to a run that comes later, a trace goes on by the W3C context that
//! a command carries and its events keep.

use std::sync::Arc;

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Target of the spans that make a trace.
pub const TARGET: &str = "wasmwiz::trace";

/// Makes a span a part of the trace that a `traceparent` names. One that is none begins a trace of its own.
pub fn adopt(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = traceparent.filter(|_| !span.is_disabled()).and_then(parse) {
        // It fails where nobody collects traces, and then there is nothing to be part of.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// The `traceparent` of what follows from a span; `None` where nobody collects traces.
pub fn traceparent(span: &Span) -> Option<Arc<str>> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let spans = context.span();
    let context = spans.span_context();
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    context.is_valid().then(|| format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8()).into())
}

/// Says in a trace that what a span is about has failed, and that it was ours to do.
pub fn failed(span: &Span) {
    span.set_status(Status::error(""));
}

/// `00-<trace id>-<parent id>-<flags>` of W3C Trace Context, level 1. What a later version adds at its end is left out.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (_version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, parent) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?);
    let context = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_as_it_is_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parse(text).unwrap();
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
        assert!(context.is_sampled() && context.is_remote());
        assert!(!parse(&text.replace("-01", "-00")).unwrap().is_sampled());
    }

    #[test]
    fn what_is_no_parent_begins_nothing() {
        for text in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            assert!(parse(text).is_none(), "{text}");
        }
        let nobody_collects = Span::none();
        adopt(&nobody_collects, Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert_eq!(traceparent(&nobody_collects), None);
    }
}
