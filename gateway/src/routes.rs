//! The routes: each extracts, asks, and shows. One file a resource; the documents of a file's routes are at its end.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use poem::{Body, Response};
use serde::Serialize;

use wasmwiz_events::blobs::Pieces;

use crate::{
    memory::{Room, Share},
    problem::Problem,
};

pub(crate) mod audit;
pub(crate) mod cluster;
pub(crate) mod docs;
pub(crate) mod executions;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod modules;
pub(crate) mod projections;
pub(crate) mod tenants;
pub(crate) mod tokens;
pub(crate) mod usage;

/// How much room an answer has that says what was changed, in bytes: it is taken before anything is changed, so that what was is
/// told. Most take a fifth of it.
pub(crate) const RECEIPT_BYTES: u64 = 8 << 10;

/// An answer of JSON, which takes room of the share until it has been sent. It is measured before it is written.
pub(crate) fn json(share: &Share, status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    receipt(share.room(0)?, status, body)
}

/// An answer of JSON in a room that was taken before.
pub(crate) fn receipt(mut room: Room, status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let size_bytes = measured(body)?;
    room.grow_to(size_bytes)?;
    json_in(room, size_bytes, status, body)
}

/// An answer of JSON that is nobody's and is small by what it says: how the node is, and its public keys.
pub(crate) fn uncounted(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    Ok(of_json(status, serde_json::to_vec(body).map_err(Problem::internal)?.into()))
}

/// An answer of JSON of at most `size_bytes`, which takes room until it has been sent; what the room has beyond it is given back.
pub(crate) fn json_in(
    mut room: Room,
    size_bytes: u64,
    status: StatusCode,
    body: &impl Serialize,
) -> Result<Response, Problem> {
    // All at once: a buffer that grows takes up to three times as much while it does.
    let mut written = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
    serde_json::to_writer(&mut written, body).map_err(Problem::internal)?;
    room.shrink_to(written.capacity() as u64);
    Ok(of_json(status, room.keep(written.into())))
}

/// How many bytes it has as JSON.
pub(crate) fn measured(body: &impl Serialize) -> Result<u64, Problem> {
    let mut count = Count(0);
    serde_json::to_writer(&mut count, body).map_err(Problem::internal)?;
    Ok(count.0)
}

/// Counts what is written, and keeps none of it.
struct Count(u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn of_json(status: StatusCode, body: Bytes) -> Response {
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body)
}

/// A part of an answer, and the room that it is in.
struct Piece {
    bytes: Bytes,
    _room: Arc<Room>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer of a blob's bytes, read as they are sent. `room` is for those that are in memory meanwhile. One that turns out
/// to be damaged is broken off before its end.
pub(crate) fn of_pieces(room: Room, media_type: &'static str, pieces: Pieces) -> Response {
    let size_bytes = pieces.size_bytes();
    let stream = futures_util::stream::unfold((pieces, Arc::new(room)), |(mut pieces, room)| async move {
        let piece = pieces.next().await.transpose()?;
        let piece = piece.map_err(|error| {
            tracing::error!(%error, "an answer breaks off");
            std::io::Error::other(error)
        });
        // The last piece may wait to be sent for long after the stream has ended.
        let piece = piece.map(|bytes| Bytes::from_owner(Piece { bytes, _room: Arc::clone(&room) }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::{memory, share};

    #[tokio::test]
    async fn an_answer_takes_as_much_as_it_has_until_it_is_gone() {
        let memory = memory(4 << 10, 4 << 10);
        let share = share(&memory, "t-a");
        let body = serde_json::json!({"name": "grüß\n", "more": "x".repeat(3_000)});
        let mut response = json(&share, StatusCode::OK, &body).unwrap();
        assert!(share.room(1 << 10).is_ok() && share.room((1 << 10) + 1).is_err());
        let bytes = response.take_body().into_bytes().await.unwrap();
        assert_eq!(bytes, serde_json::to_vec(&body).unwrap());
        assert_eq!(measured(&body).unwrap(), bytes.len() as u64);
        drop(bytes);
        assert!(share.room(4 << 10).is_ok());
    }

    #[test]
    fn an_answer_without_room_is_refused_before_it_is_written() {
        let share = share(&memory(1 << 10, 1 << 10), "t-a");
        let problem = json(&share, StatusCode::OK, &"x".repeat(2_000)).unwrap_err();
        assert_eq!(problem.kind(), crate::problem::Kind::TooManyBodies);
    }
}
