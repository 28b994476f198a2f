//! What happens to every request and every answer, whatever the route: the outermost layer.
//!
//! One layer instead of many: each layer of a framework costs every request a future of its own.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use http::{HeaderValue, StatusCode, Uri, Version, header};
use poem::{Endpoint, Request, Response};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    config::GatewayConfig,
    extract::Context,
    gateway::Readiness,
    metrics,
    problem::{self, Kind, Problem},
};

mod cors;
mod guard;
mod measure;
mod request_id;
mod security;
mod trace;

pub(crate) use cors::Cors;
pub(crate) use guard::Guard;
pub(crate) use measure::RouteLabel;
pub(crate) use request_id::REQUEST_ID;
pub(crate) use security::content_security_policy;
pub(crate) use trace::TRACEPARENT;

/// The outermost layer around `inner`.
pub(crate) struct Edge<E> {
    inner: E,
    deadline: Duration,
    tls: bool,
    guard: Guard,
    cors: Cors,
    readiness: Readiness,
}

impl<E> Edge<E> {
    /// A layer for what faces clients, as the settings say.
    pub(crate) fn new(inner: E, config: &GatewayConfig, readiness: Readiness) -> Self {
        let (guard, cors) = (Guard::of(&config.server), Cors::of(&config.cors));
        Self { inner, deadline: config.request_deadline(), tls: config.tls, guard, cors, readiness }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Edge<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let (begun, _in_flight) = (Instant::now(), measure::InFlight::begin());
        let request_id = request_id::of(request.headers());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let traced = trace::span(&method, &request_id);
        let traceparent = trace::of(request.headers(), &traced);
        let context = Context { request_id, traceparent };
        request.set_data(context.clone());
        let span = tracing::info_span!(
            "http.request",
            method = %method,
            request.id = %context.request_id,
            traceparent = %context.traceparent,
            route = tracing::field::Empty,
            status = tracing::field::Empty,
        );
        let origin = self.cors.origin(request.headers());
        let ends_with_answer = request.version() < Version::HTTP_2;
        let answer = AssertUnwindSafe(self.guarded(request)).catch_unwind();
        let answer = tokio::time::timeout(self.deadline, answer).instrument(traced.clone()).instrument(span.clone());
        let answer = answer.await;
        let entered = span.enter();
        let mut response = settle(answer, &uri, &context);
        security::harden(&mut response, self.tls);
        self.cors.mark(&mut response, origin);
        let headers = response.headers_mut();
        for (name, value) in [(REQUEST_ID, context.request_id.as_str()), (TRACEPARENT, &*context.traceparent)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        // A node that stops closes kept connections, and a request that is on its way then is lost: while that is announced,
        // every answer asks for another one. HTTP/2 says it by a frame of its own.
        if ends_with_answer && self.readiness.is_draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let route = response.data::<RouteLabel>().map_or(metrics::UNMATCHED, |label| label.0);
        span.record("route", route).record("status", response.status().as_u16());
        trace::answered(&traced, route, response.status());
        tracing::debug!("answered");
        drop(entered);
        measure::answered(route, response.status(), begun.elapsed());
        Ok(response)
    }
}

impl<E: Endpoint<Output = Response>> Edge<E> {
    /// What the routes answer, to a request that may come to them.
    async fn guarded(&self, request: Request) -> poem::Result<Response> {
        if let Err(problem) = self.guard.check(&request) {
            return Ok(problem.into_response());
        }
        match self.cors.preflight(&request) {
            Some(answer) => Ok(answer),
            None => self.inner.call(request).await,
        }
    }
}

type Answer = Result<Result<poem::Result<Response>, Box<dyn std::any::Any + Send>>, tokio::time::error::Elapsed>;

/// Makes an answer of whatever became of a request; every error becomes a problem document.
fn settle(answer: Answer, uri: &Uri, context: &Context) -> Response {
    let mut response = match answer {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(error))) => Problem::from_poem(&error).into_response(),
        Ok(Err(panic)) => {
            ::metrics::counter!(metrics::PANICS_TOTAL).increment(1);
            Problem::internal(format!("a handler panicked: {}", said(panic.as_ref()))).into_response()
        }
        Err(_) => Problem::new(
            Kind::DeadlinePassed,
            "The request was not answered in time. It may still take effect: read the resource before you try again.",
        )
        .into_response(),
    };
    let label = response.data::<RouteLabel>().copied();
    let problem = Problem::of(&mut response).or_else(|| unspoken(&response));
    let Some(problem) = problem else { return response };
    report(&problem);
    let mut written = problem.write(uri.path(), &context.request_id);
    if let Some(label) = label {
        written.set_data(label);
    }
    written
}

/// The problem of an answer that has the status of one and does not say so.
fn unspoken(response: &Response) -> Option<Problem> {
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let spoken = response
        .content_type()
        .is_some_and(|media_type| media_type == problem::MEDIA_TYPE || media_type.starts_with("application/json"));
    (failed && !spoken).then(|| Problem::from_status(status, format_args!("an answer of the bare status {status}")))
}

/// Logs a cause: here, once.
fn report(problem: &Problem) {
    let Some(cause) = problem.cause() else { return };
    let kind = problem.kind();
    if kind.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(problem = kind.slug(), cause, "a request failed");
    } else if kind.status().is_server_error() {
        tracing::warn!(problem = kind.slug(), cause, "a request could not be served");
    } else {
        tracing::debug!(problem = kind.slug(), cause, "a request was refused");
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use poem::endpoint::make;

    use super::*;

    async fn answered(edge: &impl Endpoint<Output = Response>, request: Request) -> (Response, serde_json::Value) {
        let mut response = edge.get_response(request).await;
        let body = response.take_body().into_bytes().await.unwrap();
        (response, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn request() -> Request {
        Request::builder().header("host", "x").finish()
    }

    fn edge<F, Fut>(handler: F) -> Edge<impl Endpoint<Output = Response>>
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = poem::Result<Response>> + Send + 'static,
    {
        let config = GatewayConfig { request_deadline_ms: 5_000, ..Default::default() };
        Edge::new(make(handler), &config, Readiness::default())
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_with_an_id() {
        let edge = edge(|_| async { panic!("kaboom") });
        let (response, body) = answered(&edge, request()).await;
        assert_eq!(response.status(), 500);
        assert_eq!(body["type"], "https://wasmwiz.dev/problems/internal");
        assert_eq!(body["request_id"].as_str(), response.headers()["x-request-id"].to_str().ok());
        assert!(!body.to_string().contains("kaboom"));
    }

    #[tokio::test]
    async fn every_error_of_the_framework_becomes_a_problem() {
        for status in [400, 404, 405, 408, 413, 415, 431, 500, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            let as_error = edge(move |_| async move { Err(poem::Error::from_string("plain text", status)) });
            let as_answer = edge(move |_| async move { Ok(Response::builder().status(status).body("plain text")) });
            for (response, body) in [answered(&as_error, request()).await, answered(&as_answer, request()).await] {
                assert_eq!(response.content_type(), Some(problem::MEDIA_TYPE), "{status}");
                assert_eq!(body["status"].as_u64(), Some(u64::from(response.status().as_u16())), "{status}");
                assert!(body["type"].as_str().unwrap().starts_with(problem::TYPE_PREFIX), "{status}");
            }
        }
    }

    #[tokio::test]
    async fn every_answer_carries_the_id_the_trace_and_the_security_headers() {
        let edge = edge(|_| async { Ok(Response::builder().body("ok")) });
        let request = Request::builder()
            .header("host", "x")
            .header("x-request-id", "mine-1")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .finish();
        let (response, _) = answered(&edge, request).await;
        for (name, value) in [
            ("x-request-id", "mine-1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(response.headers()[name], value);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_told_so() {
        let edge = edge(|_| std::future::pending());
        let (response, body) = answered(&edge, request()).await;
        assert_eq!(
            (response.status().as_u16(), body["type"].as_str().unwrap().ends_with("deadline-passed")),
            (504, true)
        );
    }
}
