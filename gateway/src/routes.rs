//! The routes: each extracts, asks, and shows. One file a resource; the documents of a file's routes are at its end.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use poem::{Body, Response};
use serde::Serialize;

use wasmwiz_events::blobs::Pieces;

use crate::{extract::body::Room, problem::Problem};

pub(crate) mod audit;
pub(crate) mod docs;
pub(crate) mod executions;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod modules;
pub(crate) mod projections;
pub(crate) mod tenants;
pub(crate) mod tokens;
pub(crate) mod usage;

/// An answer of JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    Ok(of_json(status, written(body)?))
}

/// An answer of JSON of at most `size_bytes`, which takes room until it has been sent.
pub(crate) fn json_in(
    room: Room,
    size_bytes: u64,
    status: StatusCode,
    body: &impl Serialize,
) -> Result<Response, Problem> {
    // All at once: a buffer that grows takes up to three times as much while it does.
    let mut written = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
    serde_json::to_writer(&mut written, body).map_err(Problem::internal)?;
    Ok(of_json(status, room.keep(written.into())))
}

fn written(body: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(body).map(Bytes::from).map_err(Problem::internal)
}

fn of_json(status: StatusCode, body: Bytes) -> Response {
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body)
}

/// An answer of a blob's bytes, read as they are sent. `room` is for those that are in memory meanwhile. One that turns out
/// to be damaged is broken off before its end.
pub(crate) fn of_pieces(room: Room, media_type: &'static str, pieces: Pieces) -> Response {
    let size_bytes = pieces.size_bytes();
    let stream = futures_util::stream::unfold((pieces, room), |(mut pieces, room)| async move {
        let piece = pieces.next().await.transpose()?;
        let piece = piece.map_err(|error| {
            tracing::error!(%error, "an answer breaks off");
            std::io::Error::other(error)
        });
        Some((piece, (pieces, room)))
    });
    let response = Response::builder().header(header::CONTENT_TYPE, media_type);
    response.header(header::CONTENT_LENGTH, size_bytes).body(Body::from_bytes_stream(stream))
}

/// Says where the new thing is.
pub(crate) fn locate(response: &mut Response, path: &str) {
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
}
