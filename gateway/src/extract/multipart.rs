//! The door for a module and its input in one request: `multipart/form-data`.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use multer::{Constraints, Error, Field, Multipart, SizeLimit};
use poem::Request;
use wasmwiz_events::tenant::Tier;

use super::{
    body::{self, Limit},
    disposition,
    media_type::{MediaType, unsupported},
};
use crate::{
    Gateway,
    auth::Caller,
    memory::Room,
    problem::{Kind, Problem},
};

/// One argument, in bytes. All of them together are bounded by the tenant's entity.
const ARGUMENT_BYTES: u64 = 16 << 10;

/// What boundaries, headers and arguments may add to the module and the input, in bytes.
const OVERHEAD_BYTES: u64 = 128 << 10;

/// The header fields of one part, in bytes: a name, a file's name, and a media type.
const PART_HEADER_BYTES: usize = 4 << 10;

/// The longest boundary that RFC 2046 allows, in bytes.
const BOUNDARY_BYTES: usize = 70;

/// What came in one request.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The module.
    pub(crate) wasm: Bytes,
    /// Its input.
    pub(crate) input: Bytes,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Kept for as long as the bytes are worked on.
    pub(crate) room: Room,
}

/// How large the parts may be, in bytes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    wasm: u64,
    input: u64,
    tier: Tier,
}

/// Reads the parts `wasm`, `input` and `arg`.
pub(crate) async fn read(gateway: &Gateway, caller: &Caller, request: &mut Request) -> Result<Parts, Problem> {
    let tier = caller.tenant.tier;
    let limits = gateway.deps().policy.of(tier);
    let boundary = boundary(request)?;
    body::require_length(request)?;
    let bytes = limits.module_bytes.saturating_add(limits.stdin_bytes).saturating_add(OVERHEAD_BYTES);
    let limit = Limit { bytes, what: "A module with its input", tier: Some(tier) };
    let share = gateway.memory_of(caller);
    let held = body::read(gateway.config(), &share, request, limit).await?;
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(held.bytes)]);
    let multipart = Multipart::with_constraints(
        stream,
        boundary,
        Constraints::new().size_limit(SizeLimit::new().whole_stream(bytes)),
    );
    let sizes = Sizes { wasm: limits.module_bytes, input: limits.stdin_bytes, tier };
    gather(multipart, gateway.config().multipart_parts_max, sizes, held.room).await
}

/// What separates the parts.
fn boundary(request: &Request) -> Result<String, Problem> {
    let content_type = MediaType::of(request)?.filter(|content_type| content_type.is("multipart/form-data"));
    let content_type = content_type.ok_or_else(|| unsupported("multipart/form-data"))?;
    let boundary = content_type.parameter("boundary").unwrap_or_default();
    if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES {
        let detail =
            format!("The boundary of a multipart body has 1 to {BOUNDARY_BYTES} bytes. Let your client choose it.");
        return Err(Problem::new(Kind::BrokenMultipart, detail));
    }
    Ok(boundary.to_owned())
}

async fn gather(mut multipart: Multipart<'_>, parts_max: usize, sizes: Sizes, room: Room) -> Result<Parts, Problem> {
    let tier = Some(sizes.tier);
    let (mut wasm, mut input, mut args) = (None, None, Vec::new());
    let mut count = 0_usize;
    while let Some(field) = multipart.next_field().await.map_err(|error| broken(&error))? {
        count = count.saturating_add(1);
        if count > parts_max {
            let detail = format!("The body has more than {parts_max} parts. Send one wasm, one input, and arguments.");
            return Err(Problem::new(Kind::BrokenMultipart, detail));
        }
        let name = disposition::name(field.headers()).map_err(|nameless| part(&count.to_string(), nameless.0))?;
        let limit = match name.as_str() {
            "wasm" => Limit { bytes: sizes.wasm, what: "The part wasm", tier },
            "input" => Limit { bytes: sizes.input, what: "The part input", tier },
            "arg" => Limit { bytes: ARGUMENT_BYTES, what: "An argument", tier: None },
            _ => return Err(part(&name, "is unknown; the parts are wasm, input and arg")),
        };
        plain(&name, field.headers())?;
        let bytes = whole(field, limit).await?;
        match name.as_str() {
            "wasm" => once(&mut wasm, "wasm", bytes)?,
            "input" => once(&mut input, "input", bytes)?,
            _ => args.push(String::from_utf8(bytes.into()).map_err(|_| part("arg", "is not UTF-8"))?),
        }
    }
    match wasm {
        Some(wasm) if !wasm.is_empty() => Ok(Parts { wasm, input: input.unwrap_or_default(), args, room }),
        Some(_) => Err(part("wasm", "is empty; it is the module to run")),
        None => Err(part("wasm", "is missing; it is the module to run")),
    }
}

/// Refuses a part whose bytes are not simply its bytes, and one with headers beyond measure.
fn plain(name: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len())).sum();
    if bytes > PART_HEADER_BYTES {
        let detail =
            format!("The headers of a part may have {PART_HEADER_BYTES} bytes. Send only its name and its type.");
        return Err(Problem::new(Kind::BrokenMultipart, detail));
    }
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
    if value("content-type").is_some_and(|media_type| media_type.starts_with(b"multipart/")) {
        let detail = "A part has parts itself. Send each as a part of the body.";
        return Err(Problem::new(Kind::BrokenMultipart, detail));
    }
    for header in ["content-transfer-encoding", "content-encoding"] {
        if value(header).is_some_and(|encoding| !matches!(&*encoding, b"binary" | b"8bit" | b"7bit" | b"identity")) {
            let detail = "Parts are taken as they are. Send the bytes themselves, without Content-Transfer-Encoding or \
                 Content-Encoding.";
            let problem = Problem::new(Kind::UnsupportedEncoding, detail);
            return Err(problem.at(format!("part:{name}"), format!("has a {header} that changes its bytes")));
        }
    }
    let typed = headers.get(header::CONTENT_TYPE).and_then(|value| MediaType::parse(value.as_bytes()));
    if name == "arg" && typed.is_some_and(|typed| !typed.is_utf8()) {
        let problem = Problem::new(Kind::UnsupportedEncoding, "Arguments are UTF-8. Send them as UTF-8.");
        return Err(problem.at("part:arg", "has a charset other than utf-8"));
    }
    Ok(())
}

/// All bytes of a part, if they are no more than they may be.
async fn whole(mut field: Field<'_>, limit: Limit) -> Result<Bytes, Problem> {
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
        let count = first.len().max(rest.len()).saturating_add(piece.len());
        if count as u64 > limit.bytes {
            return Err(limit.exceeded());
        }
        if first.is_empty() {
            // A part that comes in one piece is never copied.
            first = piece;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&piece);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn once(into: &mut Option<Bytes>, name: &str, bytes: Bytes) -> Result<(), Problem> {
    if into.replace(bytes).is_some() {
        return Err(part(name, "may be given once"));
    }
    Ok(())
}

fn part(name: &str, detail: &str) -> Problem {
    let name: String = name.chars().take(64).collect();
    let problem = Problem::new(Kind::InvalidBody, "A part of the body is not as it should be; errors says which.");
    problem.at(format!("part:{name}"), detail)
}

fn broken(error: &Error) -> Problem {
    let detail = "The body is not multipart/form-data as its Content-Type says. Let your client build it, for instance \
         curl -F wasm=@module.wasm.";
    Problem::new(Kind::BrokenMultipart, detail).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::{memory, share};

    async fn gathered_with(boundary: &str, body: Vec<u8>) -> Result<Parts, Problem> {
        let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(body))]);
        let room = share(&memory(1_024, 1_024), "t-a").room(0).unwrap();
        let sizes = Sizes { wasm: 16, input: 16, tier: Tier::Free };
        gather(Multipart::new(stream, boundary), 3, sizes, room).await
    }

    async fn gathered(body: &[u8]) -> Result<Parts, Problem> {
        gathered_with("B", body.to_vec()).await
    }

    const WASM: &str = "--B\r\nContent-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"\r\n\r\n\0asm\r\n";

    #[tokio::test]
    async fn a_module_its_input_and_arguments_come_in_any_order() {
        let body = b"--B\r\nContent-Disposition: form-data; name=\"arg\"\r\n\r\n-v\r\n\
            --B\r\nContent-Disposition: form-data; name=\"input\"\r\n\r\nhi\r\n\
            --B\r\nContent-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"\r\n\r\n\0asm\r\n--B--\r\n";
        let parts = gathered(body).await.unwrap();
        assert_eq!((&parts.wasm[..], &parts.input[..], parts.args), (&b"\0asm"[..], &b"hi"[..], vec!["-v".to_owned()]));
    }

    #[tokio::test]
    async fn broken_bodies_are_told_apart() {
        let with = |header: &str| WASM.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n")) + "--B--\r\n";
        let corpus: [(String, Kind); 19] = [
            (String::new(), Kind::BrokenMultipart),
            ("--B--\r\n".into(), Kind::InvalidBody),
            ("--C\r\n\r\n--C--".into(), Kind::BrokenMultipart),
            (WASM.into(), Kind::BrokenMultipart),
            (WASM.repeat(2) + "--B--\r\n", Kind::InvalidBody),
            (WASM.replace("wasm\"", "image\"") + "--B--\r\n", Kind::InvalidBody),
            (WASM.replace("\0asm", "") + "--B--\r\n", Kind::InvalidBody),
            (WASM.replace("\0asm", "0123456789abcdefg") + "--B--\r\n", Kind::BodyTooLarge),
            (WASM.replace("name=\"wasm\"", "name=\"arg\"").repeat(4) + "--B--\r\n", Kind::BrokenMultipart),
            (with("Content-Type: multipart/mixed; boundary=C"), Kind::BrokenMultipart),
            (with("Content-Transfer-Encoding: base64"), Kind::UnsupportedEncoding),
            (with("Content-Transfer-Encoding: Quoted-Printable"), Kind::UnsupportedEncoding),
            (with("Content-Transfer-Encoding: binary\r\nContent-Encoding: gzip"), Kind::UnsupportedEncoding),
            (
                WASM.replace("wasm\"; filename=\"m.wasm\"", "arg\"\r\nContent-Type: text/plain; charset=latin1")
                    + "--B--\r\n",
                Kind::UnsupportedEncoding,
            ),
            (WASM.replace("name=\"wasm\"; ", "") + "--B--\r\n", Kind::InvalidBody),
            (WASM.replace("name=\"wasm\"", "name=\"wasm\"; name=\"input\"") + "--B--\r\n", Kind::InvalidBody),
            (WASM.replace("form-data", "attachment") + "--B--\r\n", Kind::InvalidBody),
            (WASM.replace("Content-Disposition", "X-Other") + "--B--\r\n", Kind::InvalidBody),
            (with(&format!("X-Long: {}", "a".repeat(5_000))), Kind::BrokenMultipart),
        ];
        for (body, kind) in corpus {
            let problem = gathered(body.as_bytes()).await.unwrap_err();
            assert_eq!(problem.kind(), kind, "{body:?}: {problem:?}");
        }
    }

    /// The boundary and the headers of the part `wasm` as programs send them, to the byte.
    const CLIENTS: [(&str, &str, &str); 22] = [
        (
            "curl 8",
            "------------------------KmwXAhMzdHRTrYq8ezqkb4",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"a%22b.wasm\"\r\nContent-Type: application/octet-stream",
        ),
        (
            "curl 7",
            "------------------------d74496d66958873e",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"a\\\"b\\\\c.wasm\"\r\n\
             Content-Type: application/octet-stream",
        ),
        (
            "Chromium",
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"name=input; a.wasm\"\r\nContent-Type: application/wasm",
        ),
        (
            "Firefox",
            "----geckoformboundary3a1fbb1ee9fb3e4f5f0a3e9f2b4f4d10",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"C:\\folder\\\"\r\nContent-Type: application/wasm",
        ),
        (
            "Safari",
            "----WebKitFormBoundaryrGKCBY7qhFd3TrwA",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"naïve ☃.wasm\"\r\nContent-Type: application/wasm",
        ),
        (
            "Python requests, urllib3 2",
            "0d1b5b9e2e2c4e0f9a9c2c7d4d8f7a61",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"a%22b\\.wasm\"",
        ),
        (
            "Python requests, urllib3 1",
            "0d1b5b9e2e2c4e0f9a9c2c7d4d8f7a61",
            "Content-Disposition: form-data; name=\"wasm\"; filename*=utf-8''na%C3%AFve%20name%3D.wasm",
        ),
        (
            "Python httpx",
            "5c1d6f0fbb0f4d1b8a2f7f4b7d0b2d3c",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"module.wasm\"\r\nContent-Type: application/wasm",
        ),
        (
            "Python aiohttp",
            "4e8d0f8a3a5f4b6f8d3b5c6a7e8f9012",
            "Content-Type: application/octet-stream\r\n\
             Content-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"; filename*=utf-8''m.wasm",
        ),
        (
            "Python email",
            "===============0217408284379424867==",
            "Content-Type: application/wasm\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\
             Content-Disposition: form-data; filename=\"m.wasm\"; name=\"wasm\"",
        ),
        (
            "Go mime/multipart",
            "5a0d4a3a9c5f1b7e8d6c2f3b4a5968778695a4b3c2d1e0f1029384756abc",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"a\\\"; name=\\\"input.wasm\"\r\n\
             Content-Type: application/octet-stream",
        ),
        (
            "Node undici",
            "----formdata-undici-016543987123",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"a%22b\\\"\r\nContent-Type: application/wasm",
        ),
        (
            "Node form-data",
            "--------------------------206783573823018375648293",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"\r\nContent-Type: application/wasm",
        ),
        (
            "Java Apache HttpClient",
            "rnW5GrG5b3m3TzEJf6Vx8cwQxkW",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"\r\nContent-Type: application/octet-stream\r\n\
             Content-Transfer-Encoding: binary",
        ),
        (
            "Java Mail",
            "----=_Part_1_1234567.89",
            "Content-Transfer-Encoding: 8BIT\r\nContent-Disposition: FORM-DATA; Name=wasm; FileName=m.wasm",
        ),
        (
            "OkHttp",
            "b4a3c2d1-0f1e-4d2c-8b3a-495867758493",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"\r\nContent-Type: application/wasm\r\n\
             Content-Length: 4",
        ),
        (
            ".NET HttpClient",
            "2c3d4e5f-6071-8293-a4b5-c6d7e8f90a1b",
            "Content-Disposition: form-data; name=wasm; filename=m.wasm; filename*=utf-8''m.wasm",
        ),
        (
            ".NET HttpClient, a name that is no token",
            "2c3d4e5f-6071-8293-a4b5-c6d7e8f90a1b",
            "Content-Disposition: form-data; name=wasm; filename=\"=?utf-8?B?bmHDr3ZlLndhc20=?=\"; filename*=utf-8''na%C3%AFve.wasm",
        ),
        (
            "reqwest",
            "1f2e3d4c5b6a7988-97a6b5c4d3e2f101-0123456789abcdef-fedcba9876543210",
            "Content-Disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"\r\nContent-Type: application/wasm",
        ),
        (
            "Dart http",
            "dart-http-boundary-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMn",
            "content-type: application/octet-stream\r\n\
             content-disposition: form-data; name=\"wasm\"; filename=\"m.wasm\"",
        ),
        (
            "Ruby",
            "----RubyFormBoundaryX3nBvLqPz8dJ1kTe",
            "Content-Disposition: form-data; filename=\"name=input\"; name=\"wasm\"",
        ),
        ("by hand", "B", "content-disposition:form-data;NAME = \"wasm\" ;filename=my file.wasm;"),
    ];

    #[tokio::test]
    async fn the_forms_that_clients_really_send_are_taken() {
        for (client, boundary, headers) in CLIENTS {
            let arg = "Content-Disposition: form-data; name=\"arg\"\r\n\r\n-v";
            let body = format!("--{boundary}\r\n{headers}\r\n\r\n\0asm\r\n--{boundary}\r\n{arg}\r\n--{boundary}--\r\n");
            let parts = gathered_with(boundary, body.into_bytes()).await;
            let parts = parts.unwrap_or_else(|problem| panic!("{client}: {problem:?} {:?}", problem.faults()));
            assert_eq!((&parts.wasm[..], &*parts.args), (&b"\0asm"[..], &["-v".to_owned()][..]), "{client}");
        }
    }

    #[test]
    fn the_boundary_is_found_however_it_is_written() {
        for (content_type, found) in [
            ("multipart/form-data; boundary=B", Some("B")),
            ("Multipart/Form-Data;BOUNDARY=\"B c\"", Some("B c")),
            ("multipart/form-data; charset=utf-8; boundary=----=_Part_1_2.3", Some("----=_Part_1_2.3")),
            ("multipart/form-data; boundary=gc0p4Jq0M:2Yt08", Some("gc0p4Jq0M:2Yt08")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=a; boundary=b", None),
            ("multipart/form-database; boundary=B", None),
            ("multipart/mixed; boundary=B", None),
        ] {
            let request = Request::builder().header("content-type", content_type).finish();
            assert_eq!(boundary(&request).ok().as_deref(), found, "{content_type}");
        }
    }
}
