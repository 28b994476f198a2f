//! The id of a request: the caller's, if it is one, otherwise a drawn one.

use http::{HeaderMap, HeaderName};
use rand::RngExt as _;
use wasmwiz_events::id::RequestId;

use crate::auth::api_key::PREFIX as KEY_PREFIX;

/// Header of the id, in and out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id.
pub(super) fn of(headers: &HeaderMap) -> RequestId {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|text| !looks_secret(text));
    given.and_then(|text| text.parse().ok()).unwrap_or_else(draw)
}

/// Could it be a credential that was put into the wrong header? It would be logged, echoed, and recorded with what it did.
fn looks_secret(text: &str) -> bool {
    let token = |text: &str| text.contains("eyJ") && text.contains('.');
    // Signatures are cut off, and prefixes put before it, by those who mean well.
    text.to_ascii_lowercase().contains(KEY_PREFIX) || token(text)
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

    #[test]
    fn what_may_be_a_secret_is_neither_logged_nor_echoed() {
        let of = |text: &'static str| of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(text))]));
        for text in [
            "ww_Xq3kTz81LmPw_0123456789abcdefghijklmnopqrstuv012345",
            "WW_Xq3kTz81LmPw",
            "req-ww_Xq3kTz81LmPw_0123",
            "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln",
            "Bearer.eyJhbGciOiJFZERTQSJ9.e30",
        ] {
            let id = of(text);
            assert!(id.as_str() != text && id.as_str().len() == 32, "{text}");
        }
        for text in ["www-1", "eyJ", "a.b.c", "01JD3Z6Q.7", "wwf-2"] {
            assert_eq!(of(text).as_str(), text);
        }
    }
}
