//! `Idempotency-Key`: what tells a request that is sent again from another one.
//!
//! A key belongs to the credential that sends it, so that nobody is answered what came of somebody else's request. What a
//! client may change between two tries without meaning another request is not part of it: `Accept`, tracing, and the
//! boundary of a multipart body.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use poem::{Request, Response};
use sha2::{Digest as _, Sha256};
use wasmwiz_events::{digest::Digest, id::TenantId, idempotency::Idempotency};

use crate::{
    auth::Caller,
    extract::media_type::MediaType,
    problem::{Kind, Problem},
};

/// Names a request that may be sent again.
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that the answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How the caller wants to be answered: another wish is another request.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The longest key, in characters.
const KEY_CHARS_MAX: usize = 255;

/// The key that a request came with.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut given = headers.get_all(KEY).iter();
    let Some(first) = given.next() else { return Ok(None) };
    let key = first.to_str().ok().map(str::trim).filter(|key| is_key(key) && given.next().is_none());
    key.map(Some).ok_or_else(|| {
        let detail = "An idempotency key is a text that you draw anew for each request, such as a UUID. Send it once, or \
             leave it out.";
        let rule = format!("is 1 to {KEY_CHARS_MAX} characters of printable ASCII, given once");
        Problem::new(Kind::InvalidHeader, detail).at("header:Idempotency-Key", rule)
    })
}

/// Refuses a key that is none, and one where it would say nothing: a client that sends one relies on it.
pub(crate) fn check(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    match *method {
        Method::POST => key(headers).map(drop),
        Method::PUT | Method::PATCH | Method::DELETE => none(
            headers,
            "Only a POST has an idempotency key. Send this again as it is, with If-Match if others write too.",
        ),
        _ => Ok(()),
    }
}

/// Refuses any key, where no answer is remembered.
pub(crate) fn none(headers: &HeaderMap, detail: &'static str) -> Result<(), Problem> {
    if !headers.contains_key(KEY) {
        return Ok(());
    }
    Err(Problem::new(Kind::InvalidHeader, detail).at("header:Idempotency-Key", "must be absent"))
}

fn is_key(key: &str) -> bool {
    (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// How this request is known again, if it came with a key. `body` are the parts of its body.
pub(crate) fn of<'a>(
    request: &Request,
    caller: &Caller,
    body: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<Idempotency>, Problem> {
    let Some(key) = key(request.headers())? else { return Ok(None) };
    let (tenant, credential) = (caller.tenant_id().as_str(), caller.credential_id());
    let of_key = Parts::of("wasmwiz.idempotency.key.v1").with(tenant).with(credential).with(key);
    let (uri, media_type) = (request.uri(), MediaType::of(request).ok().flatten());
    let media_type = media_type.as_ref().map(MediaType::essence).unwrap_or_default();
    let about = Parts::of("wasmwiz.idempotency.request.v1").with(request.method().as_str()).with(uri.path());
    let about = about.with(uri.query().unwrap_or_default()).with(media_type);
    // One part for however many header fields, so that a part of the body is never taken for one.
    let wishes: Vec<_> = request.headers().get_all(PREFER).iter().map(HeaderValue::as_bytes).collect();
    let of_request = body.into_iter().fold(about.with(wishes.join(&b", "[..])), Parts::with);
    Ok(Some(Idempotency { key: of_key.digest(), request: of_request.digest() }))
}

/// What is hashed: lengths first, so that parts that are joined differently are hashed differently.
struct Parts(Sha256);

impl Parts {
    fn of(domain: &str) -> Self {
        Self(Sha256::new()).with(domain)
    }

    fn with(self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        Self(self.0.chain_update((part.len() as u64).to_be_bytes()).chain_update(part))
    }

    fn digest(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// The id that a tenant gets from the key of the request that registers it: the same request finds the same tenant, which
/// knows that it is there.
pub(crate) fn tenant_id(once: &Idempotency) -> Option<TenantId> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let drawn = Parts::of("wasmwiz.idempotency.tenant.v1").with(once.key.as_bytes()).digest();
    // 256 is a multiple of 32, so each letter is as likely as any other.
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).copied().map_or('a', char::from);
    let id: String = ['t', '-'].into_iter().chain(drawn.as_bytes().iter().take(16).map(letter)).collect();
    TenantId::new(&id).ok()
}

/// Says that the answer is that of an earlier request.
pub(crate) fn mark(response: &mut Response) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

/// The same request has not been answered yet.
pub(crate) fn in_progress(location: Option<&str>) -> Problem {
    let detail = "The same request is still being worked on. Send it again after the pause: it is done once.";
    let problem = Problem::new(Kind::RequestInProgress, detail).retry_after_ms(IN_PROGRESS_RETRY_MS);
    match location {
        Some(location) => problem.header(header::LOCATION, location),
        None => problem,
    }
}

/// When to send a request again that is being worked on, in milliseconds: most executions end within it.
const IN_PROGRESS_RETRY_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_key_is_printable_ascii_of_bounded_length() {
        let longest = "x".repeat(255);
        for good in ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", "\"quoted\"", "two words", longest.as_str()] {
            assert_eq!(key(&with(&[good.as_bytes()])).unwrap(), Some(good));
        }
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
        let long = "x".repeat(256);
        for bad in [&[&b""[..]][..], &[b"  "], &["é".as_bytes()], &[b"a\tb"], &[long.as_bytes()], &[b"a", b"a"]] {
            assert_eq!(key(&with(bad)).unwrap_err().kind(), Kind::InvalidHeader, "{bad:?}");
        }
    }

    #[test]
    fn only_a_post_has_a_key() {
        let refused = |method, values: &[&[u8]]| check(&method, &with(values)).is_err();
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(refused(method.clone(), &[b"k"]) && refused(method.clone(), &[b""]) && !refused(method, &[]));
        }
        assert!(!refused(Method::POST, &[b"k"]) && refused(Method::POST, &[b""]));
        assert!(!refused(Method::GET, &[b"k"]));
    }

    #[test]
    fn parts_that_are_joined_differently_are_another_request() {
        let of = |parts: &[&[u8]]| parts.iter().fold(Parts::of("d"), |hashed, part| hashed.with(part)).digest();
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"ab"]), of(&[b"ab", b""]));
    }

    #[test]
    fn a_tenants_id_follows_from_the_key_that_registers_it() {
        let once = |key: &[u8], request: &[u8]| Idempotency { key: Digest::of(key), request: Digest::of(request) };
        let id = tenant_id(&once(b"a", b"x")).unwrap();
        assert_eq!((id.as_str().len(), id.as_str().starts_with("t-")), (18, true));
        assert_eq!(tenant_id(&once(b"a", b"y")), Some(id.clone()));
        assert_ne!(tenant_id(&once(b"b", b"x")), Some(id));
    }
}
