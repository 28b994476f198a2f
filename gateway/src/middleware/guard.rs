//! Heads of requests that no route should see: without measure, or such that two readers could take them in two ways.

use http::{HeaderName, Method, Version, header};
use poem::Request;

use crate::{
    extract::decode,
    problem::{Kind, Problem},
    server::ServerConfig,
};

/// Headers that a request has once or not at all: with two of them, readers disagree on which one counts.
const ONCE: [HeaderName; 5] =
    [header::HOST, header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ORIGIN];

/// What a head may measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    uri_bytes_max: usize,
    headers_bytes_max: usize,
    headers_max: usize,
}

impl Guard {
    pub(crate) const fn of(config: &ServerConfig) -> Self {
        let ServerConfig { uri_bytes_max, headers_bytes_max, headers_max, .. } = *config;
        Self { uri_bytes_max, headers_bytes_max, headers_max }
    }

    /// Refuses a request for its head.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        self.measure(request)?;
        framing(request)?;
        path(request)?;
        let headers = request.headers();
        for name in &ONCE {
            if headers.get_all(name).iter().nth(1).is_some() {
                let problem = Problem::new(Kind::InvalidHeader, "A header is given twice. Send it once.");
                return Err(problem.at(format!("header:{name}"), "may be given once"));
            }
        }
        whole(request)?;
        encoding(request)
    }

    fn measure(&self, request: &Request) -> Result<(), Problem> {
        let (uri, max) = (request.uri().path_and_query().map_or(0, |path| path.as_str().len()), self.uri_bytes_max);
        if uri > max {
            let detail = format!("The path with its query may have {max} bytes. Send less, or in the body.");
            return Err(Problem::new(Kind::UriTooLong, detail));
        }
        let headers = request.headers();
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len())).sum();
        let (max, bytes_max) = (self.headers_max, self.headers_bytes_max);
        if headers.len() > max || bytes > bytes_max {
            let detail = format!("A request may have {max} header fields of {bytes_max} bytes in all. Send fewer.");
            return Err(Problem::new(Kind::HeadersTooLarge, detail));
        }
        Ok(())
    }
}

/// Refuses what says in more than one way where it goes, or where it ends. hyper has refused the worst already.
fn framing(request: &Request) -> Result<(), Problem> {
    let refused = |at: &str, detail: &str| {
        let problem =
            Problem::new(Kind::MalformedRequest, "The request can be read in more than one way; errors says where.");
        // What follows on the connection may be part of it.
        Err(problem.at(at, detail).header(header::CONNECTION, "close"))
    };
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && headers.get(header::HOST).is_none() {
        return refused("header:Host", "is missing; HTTP/1.1 needs it");
    }
    if headers.get(header::HOST).is_some_and(|host| !is_host(host)) {
        return refused("header:Host", "must be a host, with a port or without");
    }
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = encodings.next().is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || encodings.next().is_some() {
        return refused("header:Transfer-Encoding", "must be chunked, once, or absent");
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return refused("header:Content-Length", "must be absent beside Transfer-Encoding");
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = headers.get(header::HOST).map(http::HeaderValue::as_bytes);
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.as_bytes().eq_ignore_ascii_case(host)
    {
        return refused("header:Host", "must be the authority of the request's target");
    }
    Ok(())
}

/// RFC 9112, section 3.2: a host and perhaps a port, without anybody's name before it.
fn is_host(value: &http::HeaderValue) -> bool {
    let authority = value.to_str().ok().and_then(|text| text.parse::<http::uri::Authority>().ok());
    authority.is_some_and(|authority| {
        let (text, host) = (authority.as_str(), authority.host());
        let port = text.strip_prefix(host).unwrap_or(text);
        let port = port.strip_prefix(':').map_or(port.is_empty(), |port| port.is_empty() || is_port(port));
        !host.is_empty() && port && !text.contains(['@', '%', ','])
    })
}

/// Digits alone: the parser of numbers takes a sign, too.
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Refuses a path that is no text: it could name something only if its bytes were changed.
fn path(request: &Request) -> Result<(), Problem> {
    decode::percent(request.uri().path()).map(drop).map_err(|malformed| {
        Problem::new(Kind::MalformedRequest, "The path is not percent-encoded UTF-8; errors says what is wrong.")
            .at("path", malformed.to_string())
    })
}

/// Refuses a part of a body, which would be taken for the whole of it (RFC 9110, section 14.5).
fn whole(request: &Request) -> Result<(), Problem> {
    if !request.headers().contains_key(header::CONTENT_RANGE) {
        return Ok(());
    }
    let problem = Problem::new(Kind::InvalidHeader, "Bodies are taken whole. Send it all in one request.");
    Err(problem.at("header:Content-Range", "must be absent"))
}

/// Refuses a body that is compressed: it is small only until it is unpacked, and nothing here unpacks one.
fn encoding(request: &Request) -> Result<(), Problem> {
    let unread = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let mut encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if unread || encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let detail = "Bodies are taken as they are. Send it uncompressed, without a Content-Encoding.";
    let problem = Problem::new(Kind::UnsupportedEncoding, detail).at("header:Content-Encoding", "must be absent");
    Err(problem.header(header::ACCEPT_ENCODING, "identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(request: &Request) -> Result<(), Kind> {
        Guard::of(&ServerConfig::default()).check(request).map_err(|problem| problem.kind())
    }

    fn post(headers: &[(&str, &str)]) -> Request {
        let builder = Request::builder().method(Method::POST).uri_str("/x").header("host", "x");
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).finish()
    }

    #[test]
    fn an_ordinary_head_is_let_through() {
        assert_eq!(checked(&post(&[("content-length", "1"), ("content-encoding", "identity")])), Ok(()));
        assert_eq!(checked(&post(&[("transfer-encoding", "Chunked")])), Ok(()));
    }

    #[test]
    fn a_head_without_measure_is_refused() {
        let long = Request::builder().header("host", "x").uri_str(format!("/{}", "a".repeat(8 << 10))).finish();
        assert_eq!(checked(&long), Err(Kind::UriTooLong));
        let large = "a".repeat(20 << 10);
        assert_eq!(checked(&post(&[("x-a", &large), ("x-b", &large)])), Err(Kind::HeadersTooLarge));
        let many: Vec<_> = (0..100).map(|number| format!("x-{number}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
        assert_eq!(checked(&post(&many)), Err(Kind::HeadersTooLarge));
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_refused() {
        for headers in [
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")][..],
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &[("transfer-encoding", "gzip, chunked")],
        ] {
            assert_eq!(checked(&post(headers)), Err(Kind::MalformedRequest), "{headers:?}");
        }
        for name in ["host", "authorization", "content-type", "content-length", "origin"] {
            assert_eq!(checked(&post(&[(name, "x"), (name, "y")])), Err(Kind::InvalidHeader), "{name}");
        }
        let nameless = Request::builder().uri_str("/x").finish();
        assert_eq!(checked(&nameless), Err(Kind::MalformedRequest));
        for host in ["", " ", "a b", "a/b", "user@a", "a:b", "a:65536", "a:1:2", "[::1", "a,b", "é"] {
            let request = Request::builder().uri_str("/x").header("host", host).finish();
            assert_eq!(checked(&request), Err(Kind::MalformedRequest), "{host}");
        }
        for host in ["a", "a:", "a.example:8080", "127.0.0.1:80", "[::1]", "[::1]:8080", "under_score", "A-B.example."]
        {
            assert_eq!(checked(&Request::builder().uri_str("/x").header("host", host).finish()), Ok(()), "{host}");
        }
        let elsewhere = Request::builder().uri_str("http://a.example/x").header("host", "b.example").finish();
        assert_eq!(checked(&elsewhere), Err(Kind::MalformedRequest));
    }

    #[test]
    fn a_path_that_is_no_text_and_a_part_of_a_body_are_refused() {
        for (path, checks) in [
            ("/v1/modules/caf%C3%A9", Ok(())),
            ("/v1/modules/caf%E9", Err(Kind::MalformedRequest)),
            ("/v1/modules/%zz", Err(Kind::MalformedRequest)),
            ("/v1/modules/100%", Err(Kind::MalformedRequest)),
        ] {
            assert_eq!(checked(&Request::builder().uri_str(path).header("host", "x").finish()), checks, "{path}");
        }
        assert_eq!(checked(&post(&[("content-range", "bytes 0-9/20")])), Err(Kind::InvalidHeader));
    }

    #[test]
    fn a_body_that_is_packed_is_refused_and_one_that_is_not_read_does_not_matter() {
        for encoding in ["gzip", "deflate", "br", "zstd", "identity, gzip", ""] {
            assert_eq!(checked(&post(&[("content-encoding", encoding)])), Err(Kind::UnsupportedEncoding), "{encoding}");
        }
        let get = Request::builder().uri_str("/x").header("host", "x").header("content-encoding", "gzip").finish();
        assert_eq!(checked(&get), Ok(()));
    }
}
