//! Positions on the wire: opaque tokens in `Wasmwiz-Position` and `Wasmwiz-Min-Position`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use poem::Response;
use wasmwiz_events::revision::{Position, Revision};

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

/// The first byte of a token for an event.
const EVENT_FORM: u8 = 2;

/// Writes the place of an event as a token: its commit's position, and its own revision in its tenant's stream.
pub(crate) fn event_token(position: Position, revision: Revision) -> String {
    let mut bytes = [EVENT_FORM; 17];
    let (place, number) = (position.get().to_be_bytes(), revision.get().to_be_bytes());
    for (to, from) in bytes.iter_mut().skip(1).zip(place.into_iter().chain(number)) {
        *to = from;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The revision of the event that a token names.
pub(crate) fn event_of(token: &str) -> Option<Revision> {
    let bytes = URL_SAFE_NO_PAD.decode(token.trim()).ok()?;
    let (form, rest) = bytes.split_first()?;
    let (_position, revision) = rest.split_at_checked(8)?;
    let number = u64::from_be_bytes(revision.try_into().ok()?);
    (*form == EVENT_FORM).then(|| Revision::new(number))
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
    fn an_event_comes_back_as_it_was_given_and_is_no_position() {
        let token = event_token(Position::new(7), Revision::new(u64::MAX));
        assert_eq!(event_of(&token), Some(Revision::new(u64::MAX)));
        assert_eq!(read(&token).unwrap_err().kind(), Kind::MalformedPosition);
        for text in ["", "x", &self::token(Position::new(7)), &token[..20], &format!("{token}AAAA")] {
            assert_eq!(event_of(text), None, "{text}");
        }
    }

    #[test]
    fn other_texts_are_not_positions() {
        for text in ["", "12", "AQ", "AgAAAAAAAAAB", "AQAAAAAAAAABAA", "é"] {
            assert_eq!(read(text).unwrap_err().kind(), Kind::MalformedPosition, "{text}");
        }
    }
}
