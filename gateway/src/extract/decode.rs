//! Text of a request's target, decoded so that no byte changes: what is no text as it stands is refused and not repaired.
//!
//! Usual decoders are lenient: a stray `%` stays, and a byte that is not UTF-8 becomes U+FFFD. A guest would run with an
//! argument that nobody sent.

/// Why a text cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A `%` without two hexadecimal digits after it.
    #[error("has a % that two hexadecimal digits do not follow; a % itself is written %25")]
    Escape,
    /// The bytes are not UTF-8.
    #[error("is not UTF-8; percent-encode the bytes of its UTF-8 form")]
    NotUtf8,
}

/// Decodes percent-escapes.
pub(crate) fn percent(text: &str) -> Result<String, Malformed> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { escaped(&mut bytes).ok_or(Malformed::Escape)? } else { byte });
    }
    String::from_utf8(decoded).map_err(|_| Malformed::NotUtf8)
}

/// The byte that the two digits after a `%` stand for.
fn escaped(digits: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(digits.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high * 16 + low).ok()
}

/// A name and its value in a query, decoded; the name as it was written, where either cannot be.
pub(crate) type Pair = Result<(String, String), (String, Malformed)>;

/// The pairs of a form-encoded query: `name=value` joined by `&`, `+` for a space. Empty pairs are skipped.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Pair> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let form = |text: &str| percent(&text.replace('+', " "));
        form(name).and_then(|name| Ok((name, form(value)?))).map_err(|malformed| (name.to_owned(), malformed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_text_is_decoded_to_its_bytes() {
        for (written, meant) in [
            ("", ""),
            ("caf%C3%A9", "café"),
            ("caf%c3%a9", "café"),
            ("café", "café"),
            ("%25", "%"),
            ("a+b", "a+b"),
            ("%00", "\0"),
            ("%EF%BF%BD", "\u{fffd}"),
        ] {
            assert_eq!(percent(written).as_deref(), Ok(meant), "{written}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for text in ["caf%E9", "%FF", "%C3", "%C3(", "%ED%A0%80", "%C0%80", "%F4%90%80%80"] {
            assert_eq!(percent(text), Err(Malformed::NotUtf8), "{text}");
        }
        for text in ["%", "%4", "100%", "%zz", "%4g", "%+4", "%-1", "% 41", "%u0041", "%é"] {
            assert_eq!(percent(text), Err(Malformed::Escape), "{text}");
        }
    }

    #[test]
    fn a_query_is_form_encoded() {
        let read = |query| pairs(query).collect::<Result<Vec<_>, _>>();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read("a=1&&b&=c&d=x=y&e=f+g%2B&"),
            Ok(vec![pair("a", "1"), pair("b", ""), pair("", "c"), pair("d", "x=y"), pair("e", "f g+")])
        );
        assert_eq!(read("a=1&b=%E9"), Err(("b".into(), Malformed::NotUtf8)));
        assert_eq!(read("%E9=1"), Err(("%E9".into(), Malformed::NotUtf8)));
        assert_eq!(read("a=%"), Err(("a".into(), Malformed::Escape)));
    }
}
