//! The id of a request: the caller's, if it is one, otherwise a drawn one.

use http::{HeaderMap, HeaderName};
use rand::RngExt as _;
use wasmwiz_events::id::RequestId;

/// Header of the id, in and out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id.
pub(super) fn of(headers: &HeaderMap) -> RequestId {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    given.unwrap_or_else(draw)
}

#[expect(clippy::disallowed_methods, reason = "the edge is where requests get their ids")]
fn draw() -> RequestId {
    let mut rng = rand::rng();
    loop {
        // Hexadecimal digits make a valid id, so the first round is the last.
        if let Ok(id) = RequestId::new(&hex::encode(rng.random::<[u8; 16]>())) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_an_id_that_is_safe_in_a_log_is_taken_over() {
        let of = |text: &'static str| of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(text))]));
        assert_eq!(of("abc-1").as_str(), "abc-1");
        for text in ["", "a b", "a\tb", "<script>"] {
            assert_eq!(of(text).as_str().len(), 32, "{text}");
        }
    }
}
