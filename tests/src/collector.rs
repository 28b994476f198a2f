//! A collector of traces: takes spans by OTLP (protobuf over HTTP) and keeps them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use http::StatusCode;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use poem::{
    EndpointExt as _, Server, handler,
    listener::{Acceptor as _, Listener as _, TcpListener},
    web::Data,
};
use prost::Message as _;

/// One span, as it was sent.
#[derive(Debug, Clone)]
pub struct Span {
    /// Id of its trace, in hexadecimal.
    pub trace: String,
    /// Its own, likewise.
    pub id: String,
    /// That of the span which it is a part of; empty at the root.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// When it began and ended, in nanoseconds since 1970.
    pub times: std::ops::Range<u64>,
    /// Its attributes, as text.
    pub attributes: Vec<(String, String)>,
}

impl Span {
    /// An attribute of it.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    /// Does another lie within it?
    pub const fn covers(&self, other: &Self) -> bool {
        self.times.start <= other.times.start && other.times.end <= self.times.end
    }
}

/// A collector at work, as long as it lives.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    /// Begins to take spans, at a free port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> anyhow::Result<Self> {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await?;
        let addresses = acceptor.local_addr();
        let address = addresses.first().and_then(|address| address.as_socket_addr()).context("it has no address")?;
        let (url, spans) = (format!("http://{address}/v1/traces"), Arc::<Mutex<Vec<Span>>>::default());
        let app = poem::Route::new().at("/v1/traces", poem::post(take).data(Arc::clone(&spans)));
        let server = tokio::spawn(Server::new_with_acceptor(acceptor).run(app));
        Ok(Self { url, spans, server })
    }

    /// Where spans are sent.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The spans of one trace, in the order in which they came.
    pub fn of_trace(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// How many spans have come.
    pub fn count(&self) -> usize {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[handler]
fn take(spans: Data<&Arc<Mutex<Vec<Span>>>>, body: Vec<u8>) -> StatusCode {
    let Ok(sent) = ExportTraceServiceRequest::decode(body.as_slice()) else { return StatusCode::BAD_REQUEST };
    let scopes = sent.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let sent = scopes.flat_map(|scope| scope.spans).map(|span| Span {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        times: span.start_time_unix_nano..span.end_time_unix_nano,
        attributes: span.attributes.into_iter().filter_map(text).collect(),
    });
    spans.lock().unwrap_or_else(PoisonError::into_inner).extend(sent);
    StatusCode::OK
}

fn text(attribute: KeyValue) -> Option<(String, String)> {
    let value = match attribute.value?.value? {
        Value::StringValue(text) => text,
        Value::BoolValue(is) => is.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        _ => return None,
    };
    Some((attribute.key, value))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
