//! Conditional requests of RFC 9110: `ETag`, `If-None-Match` and `If-Match`.
//!
//! A tag is the revision at which a tenant or a key was last changed, or a module's latest version. A key is also shown with
//! when it was last used, which changes without a change of the key: that follows the revision after a dot, so that a
//! cached answer is fresh, and is left out where a write is compared.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::{Request, Response};
use wasmwiz_actors::tenant::expected::Seen;
use wasmwiz_events::revision::Revision;
use wasmwiz_projections::{
    keys::{KeyRecord, TenantRecord},
    modules::ModuleRecord,
};

use crate::{
    extract::decimal::Decimal,
    problem::{Kind, Problem},
};

/// The tag of what is shown. It has no quotes of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(String);

impl From<&TenantRecord> for Tag {
    fn from(tenant: &TenantRecord) -> Self {
        Self(tenant.revision.to_string())
    }
}

impl From<&KeyRecord> for Tag {
    fn from(key: &KeyRecord) -> Self {
        let used = key.last_used_at.map(|at| format!(".{}", at.unix_ms())).unwrap_or_default();
        Self(format!("{}{used}", key.revision))
    }
}

impl From<&ModuleRecord> for Tag {
    fn from(module: &ModuleRecord) -> Self {
        // A version means the same bytes for ever, also across deletions.
        Self(module.version.to_string())
    }
}

impl Tag {
    /// The answer with its tag; or without its body, if the caller has it already.
    pub(crate) fn mark(&self, request: &Request, response: Response) -> Response {
        let mut response = if self.is_known(request.headers()) {
            Response::builder().status(StatusCode::NOT_MODIFIED).finish()
        } else {
            response
        };
        self.put(&mut response);
        response
    }

    /// Puts the tag on the answer to a change.
    pub(crate) fn put(&self, response: &mut Response) {
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", self.0)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        // A cache may have weakened a tag; for what is read, that makes no difference.
        let mut tags = given.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == "*" || quoted(tag) == Some(&self.0))
    }
}

fn quoted(tag: &str) -> Option<&str> {
    tag.strip_prefix('"')?.strip_suffix('"').filter(|inner| !inner.contains('"'))
}

/// What an `If-Match` may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// A tenant or a key.
    Revision,
    /// A module.
    Version,
}

/// What the caller has seen of what it wants to change, if it says so.
pub(crate) fn expected(request: &Request, about: About) -> Result<Option<Seen>, Problem> {
    let mut given = request.headers().get_all(header::IF_MATCH).iter();
    let Some(first) = given.next() else { return Ok(None) };
    let text = first.to_str().ok().map(str::trim).filter(|_| given.next().is_none());
    let inner = match text {
        // That it exists is looked at in any case.
        Some("*") => return Ok(None),
        // A weak tag is none that a write may rely on.
        Some(text) if text.starts_with("W/") => return Ok(Some(Seen::Other)),
        Some(text) => quoted(text).filter(|inner| inner.bytes().all(|byte| byte.is_ascii_graphic())),
        None => None,
    };
    let inner = inner.ok_or_else(|| {
        let detail = "If-Match is not one entity tag. Send back what a read answered in ETag, unchanged, or *.";
        Problem::new(Kind::InvalidHeader, detail).at("header:If-Match", "is one tag in quotes, or *")
    })?;
    // Tags are compared as they are written: one with a sign or leading zeros is another.
    let number = inner.split('.').next().unwrap_or_default();
    let seen = match about {
        About::Revision => number.parse().ok().map(|Decimal(revision)| Seen::Revision(Revision::new(revision))),
        About::Version => number.parse().ok().map(|Decimal(version)| Seen::Version(version)),
    };
    Ok(Some(seen.unwrap_or(Seen::Other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: header::HeaderName, values: &[&'static str]) -> Request {
        let mut request = Request::default();
        for value in values {
            request.headers_mut().append(name.clone(), HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn what_the_caller_has_is_not_sent_again() {
        let tag = Tag("17".into());
        for (values, status) in [
            (&[][..], 200),
            (&["\"17\""], 304),
            (&["\"16\", W/\"17\""], 304),
            (&["\"16\"", "\"17\""], 304),
            (&["*"], 304),
            (&["\"16\""], 200),
            (&["17"], 200),
            (&["\"17.5\""], 200),
        ] {
            let response = tag.mark(&request(header::IF_NONE_MATCH, values), Response::builder().body("shown"));
            assert_eq!(response.status().as_u16(), status, "{values:?}");
            assert_eq!(response.headers()[header::ETAG], "\"17\"", "{values:?}");
        }
    }

    #[test]
    fn what_a_write_expects_is_one_tag() {
        let revision = |values: &[&'static str]| expected(&request(header::IF_MATCH, values), About::Revision);
        let seen = |n| Some(Seen::Revision(Revision::new(n)));
        assert_eq!(revision(&[]).unwrap(), None);
        assert_eq!(revision(&["*"]).unwrap(), None);
        assert_eq!(revision(&["\"17\""]).unwrap(), seen(17));
        assert_eq!(revision(&["\"17.1795435200000\""]).unwrap(), seen(17));
        for other in ["W/\"17\"", "\"\"", "\"x\"", "\"-1\"", "\"+17\"", "\"017\"", "\"99999999999999999999\""] {
            assert_eq!(revision(&[other]).unwrap(), Some(Seen::Other), "{other}");
        }
        for bad in [&["17"][..], &["\"1\", \"2\""], &["\"1\"", "\"1\""], &["\""], &[""]] {
            assert_eq!(revision(bad).unwrap_err().kind(), Kind::InvalidHeader, "{bad:?}");
        }
        let version = expected(&request(header::IF_MATCH, &["\"3\""]), About::Version);
        assert_eq!(version.unwrap(), Some(Seen::Version(3)));
    }
}
