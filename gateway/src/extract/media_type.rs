//! What a body is: `Content-Type`.

use http::header;
use poem::Request;

use super::parameters::Valued;
use crate::problem::{Kind, Problem};

/// The media type of a body, or of a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MediaType(Valued);

impl MediaType {
    /// What the request says of its body, if it says anything.
    pub(crate) fn of(request: &Request) -> Result<Option<Self>, Problem> {
        let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(None) };
        Self::parse(value.as_bytes()).map(Some).ok_or_else(|| {
            let detail = "The Content-Type is no media type. Send one, for instance application/json.";
            Problem::new(Kind::UnsupportedMediaType, detail).at("header:Content-Type", "is type/subtype; name=value")
        })
    }

    /// Reads a media type.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let valued = Valued::of(text)?;
        let (kind, subtype) = valued.value().split_once('/')?;
        (!kind.is_empty() && !subtype.is_empty() && !subtype.contains('/')).then_some(Self(valued))
    }

    /// The type, in lower case and without parameters.
    pub(crate) fn essence(&self) -> &str {
        self.0.value()
    }

    /// Is it this type, whatever its parameters?
    pub(crate) fn is(&self, essence: &str) -> bool {
        self.essence() == essence
    }

    /// A parameter that is there once.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.0.parameter(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Is text of this type UTF-8? It is where no other character set is named.
    pub(crate) fn is_utf8(&self) -> bool {
        let named = self.parameter("charset").map(str::to_ascii_lowercase);
        !self.0.has("charset") || named.is_some_and(|charset| matches!(&*charset, "utf-8" | "utf8" | "us-ascii"))
    }
}

/// The body is of another media type than the resource takes.
pub(crate) fn unsupported(accepted: &str) -> Problem {
    Problem::new(Kind::UnsupportedMediaType, format!("Send the body as {accepted}, and name it in Content-Type."))
        .header(header::ACCEPT, accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_read_whatever_its_case_and_parameters() {
        let read = |text: &str| MediaType::parse(text.as_bytes());
        for (text, is_utf8) in [
            ("application/json", true),
            ("Application/JSON; Charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; charset=iso-8859-1", false),
            ("application/json; charset=utf-16", false),
            ("application/json; charset=utf-8; charset=utf-16", false),
            ("application/json; charset=", false),
        ] {
            let media_type = read(text).unwrap();
            assert_eq!((media_type.is("application/json"), media_type.is_utf8()), (true, is_utf8), "{text}");
        }
        for text in ["", "json", "/", "a/", "/b", "a/b/c", "a b/c", "a/b; c", "é/a"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
