//! A value with parameters, as `Content-Type`, `Content-Disposition` and `Accept` have them: `text/plain; charset="utf-8"`.
//!
//! Names are compared without regard to case, parameters come in any order, and what is quoted is not searched (RFC 9110,
//! section 5.6.6).

/// A value and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Valued {
    /// In lower case.
    value: String,
    /// Names in lower case; values as they are meant, without quotes.
    parameters: Vec<(String, Vec<u8>)>,
}

/// What a backslash in a quoted text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backslash {
    /// The next character stands for itself (RFC 9110, section 5.6.4).
    Escapes,
    /// A backslash: browsers and those that follow them write quotes as `%22`, and backslashes as they are.
    IsItself,
}

impl Valued {
    /// Reads a value with its parameters.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        Self::read(text, Backslash::Escapes)
    }

    /// Reads a value of a form. Its clients write backslashes in two ways; most texts are well formed in one of them only, and
    /// the standard's counts where both are.
    pub(crate) fn of_form(text: &[u8]) -> Option<Self> {
        Self::of(text).or_else(|| Self::read(text, Backslash::IsItself))
    }

    fn read(text: &[u8], backslash: Backslash) -> Option<Self> {
        let mut parts = split(text, b';', backslash)?.into_iter().map(<[u8]>::trim_ascii);
        let value = parts.next().filter(|value| value.iter().all(|byte| is_token(*byte) || *byte == b'/'))?;
        let parameters = parts.filter(|part| !part.is_empty()).map(|part| parameter(part, backslash));
        Some(Self { value: lower(value)?, parameters: parameters.collect::<Option<_>>()? })
    }

    /// The value, in lower case.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// Its parameters, their names in lower case.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// A parameter that is there once.
    pub(crate) fn parameter(&self, name: &str) -> Option<&[u8]> {
        let mut found = self.parameters().filter(|(given, _)| *given == name);
        found.next().filter(|_| found.next().is_none()).map(|(_, value)| value)
    }

    /// Is there such a parameter, once or more often?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parameters().any(|(given, _)| given == name)
    }
}

/// The elements of a list; `None` if a quote in it has no end.
pub(crate) fn elements(text: &[u8]) -> Option<Vec<&[u8]>> {
    split(text, b',', Backslash::Escapes)
}

fn split(text: &[u8], at: u8, backslash: Backslash) -> Option<Vec<&[u8]>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'\\' if quoted => escaped = backslash == Backslash::Escapes,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *byte == at && !quoted
    });
    let parts = parts.collect();
    (!quoted).then_some(parts)
}

fn parameter(text: &[u8], backslash: Backslash) -> Option<(String, Vec<u8>)> {
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (name, value) = text.split_at_checked(equals)?;
    let (name, value) = (name.trim_ascii(), value.get(1..)?.trim_ascii());
    let name = lower(name).filter(|name| !name.is_empty() && name.bytes().all(is_token))?;
    let value = match value.strip_prefix(b"\"") {
        Some(rest) => unquoted(rest.strip_suffix(b"\"")?, backslash)?,
        // Not only tokens: clients leave out the quotes around file names with spaces, and around boundaries.
        None => {
            Some(value.to_vec()).filter(|value| !value.iter().any(|byte| *byte == b'"' || byte.is_ascii_control()))?
        }
    };
    Some((name, value))
}

/// What stands between two quotes.
fn unquoted(text: &[u8], backslash: Backslash) -> Option<Vec<u8>> {
    let mut bytes = text.iter().copied();
    let mut value = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if backslash == Backslash::Escapes => value.push(bytes.next()?),
            b'"' => return None,
            byte => value.push(byte),
        }
    }
    Some(value)
}

fn lower(text: &[u8]) -> Option<String> {
    std::str::from_utf8(text).ok().map(str::to_ascii_lowercase)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, Vec<(String, String)>)> {
        let valued = Valued::of(text.as_bytes())?;
        let text = |(name, value): (&str, &[u8])| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap());
        Some((valued.value().to_owned(), valued.parameters().map(text).collect()))
    }

    #[test]
    fn parameters_come_in_any_order_case_and_quotes() {
        for (text, value, parameters) in [
            ("text/plain", "text/plain", &[][..]),
            ("Text/HTML;Charset=\"UTF-8\"", "text/html", &[("charset", "UTF-8")]),
            ("a/b ; x = 1 ;; y=\"a;b=c,d\" ;", "a/b", &[("x", "1"), ("y", "a;b=c,d")]),
            (r#"a/b; x="a\"b\\c""#, "a/b", &[("x", r#"a"b\c"#)]),
            ("a/b; x=\"\"", "a/b", &[("x", "")]),
            ("a/b; x=a=b", "a/b", &[("x", "a=b")]),
        ] {
            let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(read(text), Some((value.to_owned(), parameters)), "{text}");
        }
    }

    #[test]
    fn what_has_no_end_or_no_name_is_none() {
        for text in
            ["a/b; x=\"1", "a/b; x=1\"", "a/b; x", "a/b; =1", "a/b; x=\"1\"2", "a/b; x y=1", r#"a/b; x="1\""#, "a b"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_backslash_of_a_form_may_be_one() {
        let file = |text: &str| {
            let valued = Valued::of_form(text.as_bytes())?;
            valued.parameter("filename").map(|name| String::from_utf8(name.to_vec()).unwrap())
        };
        assert_eq!(file(r#"form-data; filename="a\\b""#).as_deref(), Some(r"a\b"));
        assert_eq!(file(r#"form-data; filename="a\"; name=\"wasm""#).as_deref(), Some(r#"a"; name="wasm"#));
        assert_eq!(file(r#"form-data; filename="folder\"; name="wasm""#).as_deref(), Some(r"folder\"));
        assert_eq!(file(r#"form-data; name="wasm"; filename="folder\""#).as_deref(), Some(r"folder\"));
    }

    #[test]
    fn one_that_is_there_twice_is_none() {
        let valued = Valued::of(b"a/b; x=1; X=2; y=3").unwrap();
        assert_eq!((valued.parameter("x"), valued.has("x")), (None, true));
        assert_eq!((valued.parameter("y"), valued.has("z")), (Some(&b"3"[..]), false));
    }

    #[test]
    fn a_list_is_cut_where_nothing_is_quoted() {
        let cut = |text: &'static str| elements(text.as_bytes());
        assert_eq!(cut(r#"a;x="1,2", b"#), Some(vec![&br#"a;x="1,2""#[..], b" b"]));
        assert_eq!(cut("a,\"b"), None);
    }
}
