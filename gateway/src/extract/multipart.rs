//! The door for a module and its input in one request: `multipart/form-data`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use multer::{Constraints, Error, Field, Multipart, SizeLimit};
use poem::Request;
use wasmwiz_events::tenant::Tier;

use super::{
    body::{self, Limit, Room},
    json::unsupported,
};
use crate::{
    Gateway,
    auth::Caller,
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

/// Reads the parts `wasm`, `input` and `arg`.
pub(crate) async fn read(gateway: &Gateway, caller: &Caller, request: &mut Request) -> Result<Parts, Problem> {
    let tier = caller.tenant.tier;
    let limits = gateway.deps().policy.of(tier);
    let content_type = request.content_type().map(str::to_owned).unwrap_or_default();
    if !content_type.to_ascii_lowercase().starts_with("multipart/form-data") {
        return Err(unsupported("multipart/form-data"));
    }
    let boundary = multer::parse_boundary(&content_type).map_err(|error| broken(&error))?;
    if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES {
        let detail =
            format!("The boundary of a multipart body has 1 to {BOUNDARY_BYTES} bytes. Let your client choose it.");
        return Err(Problem::new(Kind::BrokenMultipart, detail));
    }
    body::require_length(request)?;
    let bytes = limits.module_bytes.saturating_add(limits.stdin_bytes).saturating_add(OVERHEAD_BYTES);
    let limit = Limit { bytes, what: "A module with its input", tier: Some(tier) };
    let share = gateway.memory_of(caller.tenant_id());
    let held = body::read(gateway.config(), &share, request, limit).await?;
    let sizes = SizeLimit::new()
        .whole_stream(bytes)
        .per_field(ARGUMENT_BYTES)
        .for_field("wasm", limits.module_bytes)
        .for_field("input", limits.stdin_bytes);
    let constraints = Constraints::new().allowed_fields(vec!["wasm", "input", "arg"]).size_limit(sizes);
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(held.bytes)]);
    let multipart = Multipart::with_constraints(stream, boundary, constraints);
    gather(multipart, gateway.config().multipart_parts_max, held.room).await.map_err(|problem| problem.for_tier(tier))
}

/// A problem that may still have to be told whose limit it is about.
enum Refused {
    Problem(Problem),
    TooLarge { field: String, limit_bytes: u64 },
}

impl Refused {
    fn for_tier(self, tier: Tier) -> Problem {
        match self {
            Self::Problem(problem) => problem,
            Self::TooLarge { field, limit_bytes } => {
                let what = match field.as_str() {
                    "wasm" => "The part wasm",
                    "input" => "The part input",
                    _ => "An argument",
                };
                Limit { bytes: limit_bytes, what, tier: (what != "An argument").then_some(tier) }.exceeded()
            }
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::FieldSizeExceeded { limit, field_name } => {
                Self::TooLarge { field: field_name.unwrap_or_default(), limit_bytes: limit }
            }
            error => Self::Problem(broken(&error)),
        }
    }
}

async fn gather(mut multipart: Multipart<'_>, parts_max: usize, room: Room) -> Result<Parts, Refused> {
    let (mut wasm, mut input, mut args) = (None, None, Vec::new());
    let mut count = 0_usize;
    while let Some(field) = multipart.next_field().await? {
        count = count.saturating_add(1);
        if count > parts_max {
            let detail = format!("The body has more than {parts_max} parts. Send one wasm, one input, and arguments.");
            return Err(Refused::Problem(Problem::new(Kind::BrokenMultipart, detail)));
        }
        plain(field.headers())?;
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "wasm" => once(&mut wasm, "wasm", field).await?,
            "input" => once(&mut input, "input", field).await?,
            "arg" => {
                let text = String::from_utf8(field.bytes().await?.into());
                args.push(text.map_err(|_| part("arg", "is not UTF-8"))?);
            }
            _ => return Err(part(&name, "is unknown; the parts are wasm, input and arg")),
        }
    }
    match wasm {
        Some(wasm) if !wasm.is_empty() => Ok(Parts { wasm, input: input.unwrap_or_default(), args, room }),
        Some(_) => Err(part("wasm", "is empty; it is the module to run")),
        None => Err(part("wasm", "is missing; it is the module to run")),
    }
}

/// Refuses a part whose bytes are not simply its bytes, and one with headers beyond measure.
fn plain(headers: &HeaderMap) -> Result<(), Refused> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len())).sum();
    if bytes > PART_HEADER_BYTES {
        let detail =
            format!("The headers of a part may have {PART_HEADER_BYTES} bytes. Send only its name and its type.");
        return Err(Refused::Problem(Problem::new(Kind::BrokenMultipart, detail)));
    }
    let value = |name| headers.get(name).map(|value: &HeaderValue| value.as_bytes().to_ascii_lowercase());
    if value("content-type").is_some_and(|media_type| media_type.starts_with(b"multipart/")) {
        let detail = "A part has parts itself. Send each as a part of the body.";
        return Err(Refused::Problem(Problem::new(Kind::BrokenMultipart, detail)));
    }
    let encoding = value("content-transfer-encoding").or_else(|| value("content-encoding"));
    if encoding.is_some_and(|encoding| !matches!(&*encoding, b"binary" | b"8bit" | b"7bit" | b"identity")) {
        let detail = "A part is encoded. Send its bytes as they are, without Content-Transfer-Encoding.";
        return Err(Refused::Problem(Problem::new(Kind::BrokenMultipart, detail)));
    }
    Ok(())
}

async fn once(into: &mut Option<Bytes>, name: &str, field: Field<'_>) -> Result<(), Refused> {
    if into.is_some() {
        return Err(part(name, "may be given once"));
    }
    *into = Some(field.bytes().await?);
    Ok(())
}

fn part(name: &str, detail: &str) -> Refused {
    let name: String = name.chars().take(64).collect();
    let problem = Problem::new(Kind::InvalidBody, "A part of the body is not as it should be; errors says which.");
    Refused::Problem(problem.at(format!("part:{name}"), detail))
}

fn broken(error: &Error) -> Problem {
    match error {
        Error::UnknownField { field_name } => {
            let name: String = field_name.as_deref().unwrap_or_default().chars().take(64).collect();
            Problem::new(Kind::InvalidBody, "A part of the body is not as it should be; errors says which.")
                .at(format!("part:{name}"), "is unknown; the parts are wasm, input and arg")
        }
        error => Problem::new(
            Kind::BrokenMultipart,
            "The body is not multipart/form-data as its Content-Type says. Let your client build it, for instance \
             curl -F wasm=@module.wasm.",
        )
        .caused_by(error),
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::id::TenantId;

    use super::*;
    use crate::extract::body::Memory;

    async fn gathered(body: &'static [u8]) -> Result<Parts, Problem> {
        let sizes = SizeLimit::new().per_field(8).for_field("wasm", 16).for_field("input", 16);
        let constraints = Constraints::new().allowed_fields(vec!["wasm", "input", "arg"]).size_limit(sizes);
        let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(body))]);
        let room = Memory::new(1_024, 1_024).share(&TenantId::new("t-a").unwrap()).room(0).unwrap();
        let multipart = Multipart::with_constraints(stream, "B", constraints);
        gather(multipart, 3, room).await.map_err(|refused| refused.for_tier(Tier::Free))
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
        let corpus: [(String, Kind); 12] = [
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
            (with("Content-Transfer-Encoding: base64"), Kind::BrokenMultipart),
            (with(&format!("X-Long: {}", "a".repeat(5_000))), Kind::BrokenMultipart),
        ];
        for (body, kind) in corpus {
            let problem = gathered(body.clone().leak().as_bytes()).await.unwrap_err();
            assert_eq!(problem.kind(), kind, "{body:?}: {problem:?}");
        }
    }
}
