//! Positions on the wire: opaque tokens in `Wasmwiz-Position` and `Wasmwiz-Min-Position`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use poem::Response;
use wasmwiz_events::revision::Position;

use crate::problem::{Kind, Problem};

/// Header of every write: where the log has it.
pub(crate) const POSITION: HeaderName = HeaderName::from_static("wasmwiz-position");

/// Header of a read: answer only from views that have come this far.
pub(crate) const MIN_POSITION: HeaderName = HeaderName::from_static("wasmwiz-min-position");

/// The first byte of a token: its form may change, its holders need not know.
const FORM: u8 = 1;

/// Writes a position as a token.
pub(crate) fn token(position: Position) -> String {
    let [a, b, c, d, e, f, g, h] = position.get().to_be_bytes();
    URL_SAFE_NO_PAD.encode([FORM, a, b, c, d, e, f, g, h])
}

/// The position that a request wants the views to have reached.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let Some(value) = headers.get(MIN_POSITION) else { return Ok(None) };
    let read = value.to_str().ok().and_then(|text| URL_SAFE_NO_PAD.decode(text.trim()).ok());
    match read.as_deref() {
        Some(&[FORM, a, b, c, d, e, f, g, h]) => Ok(Some(Position::new(u64::from_be_bytes([a, b, c, d, e, f, g, h])))),
        _ => Err(Problem::new(
            Kind::MalformedPosition,
            "Wasmwiz-Min-Position is not a position. Send back what a write answered in Wasmwiz-Position, unchanged.",
        )),
    }
}

/// Tells the caller where the log has what it wrote.
pub(crate) fn mark(response: &mut Response, position: Position) {
    if let Ok(value) = HeaderValue::from_str(&token(position)) {
        response.headers_mut().insert(POSITION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Position>, Problem> {
        wanted(&HeaderMap::from_iter([(MIN_POSITION, HeaderValue::from_str(text).unwrap())]))
    }

    #[test]
    fn a_position_comes_back_as_it_was_given() {
        for number in [0, 1, 77, u64::MAX] {
            assert_eq!(read(&token(Position::new(number))).unwrap(), Some(Position::new(number)));
        }
        assert_eq!(wanted(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn other_texts_are_not_positions() {
        for text in ["", "12", "AQ", "AgAAAAAAAAAB", "AQAAAAAAAAABAA", "é"] {
            assert_eq!(read(text).unwrap_err().kind(), Kind::MalformedPosition, "{text}");
        }
    }
}
