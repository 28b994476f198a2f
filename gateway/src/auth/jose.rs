//! Signed tokens as they come: read strictly, believed in nothing until a key that was chosen for it has verified them.
//!
//! RFC 8725 in the order of this file: a bound before anything is read, three parts of unpadded base64url, JSON objects without
//! a name that comes twice, a header with `alg`, `kid` and `typ` and nothing that brings a key or changes the rules, and a
//! signature under the algorithm **of the key**: the one in the header is only compared with it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, crypto};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::claims::Claims;

/// The longest name of a key, in bytes.
const KID_MAX_BYTES: usize = 128;

/// Members of a header that bring a key along, or change what is signed. No token of this platform has them.
const REFUSED: [&str; 8] = ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc"];

/// What is wrong with a token. For metrics and tests: whoever sent it is told nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// More bytes than are read.
    Oversize,
    /// Not three parts of base64url, or not JSON objects.
    Malformed,
    /// A header that lacks something, or has too much.
    Header,
    /// Another `typ`.
    Type,
    /// An `iss` that is not believed here.
    Issuer,
    /// A `kid` that names no key.
    UnknownKey,
    /// Another algorithm than the key's.
    Algorithm,
    /// A signature that is not the key's.
    Signature,
    /// For somebody else.
    Audience,
    /// A time that is missing, over, or still to come.
    Time,
    /// Any other claim that is missing or wrong.
    Claim,
}

impl Flaw {
    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Oversize => "token_oversize",
            Self::Malformed => "token_malformed",
            Self::Header => "token_header",
            Self::Type => "token_type",
            Self::Issuer => "token_issuer",
            Self::UnknownKey => "token_unknown_key",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Audience => "token_audience",
            Self::Time => "token_time",
            Self::Claim => "token_claim",
        }
    }
}

/// A signature algorithm. Asymmetric ones only: no public key can be mistaken for a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSA (PSS) with SHA-256, 2048 bits and more.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSA (PKCS #1 v1.5) with SHA-256, 2048 bits and more.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }

    const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// A public key, for one algorithm.
#[derive(Debug, Clone)]
pub(crate) struct VerifyingKey {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

/// A token that nobody has verified.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    signed: &'a str,
    signature: &'a str,
    algorithm: String,
    kid: String,
    typ: String,
    claims: Claims,
}

impl<'a> Unverified<'a> {
    /// Reads a token of at most `max_bytes`.
    pub(crate) fn parse(text: &'a str, max_bytes: usize) -> Result<Self, Flaw> {
        if text.len() > max_bytes {
            return Err(Flaw::Oversize);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Flaw::Malformed);
        };
        let signed = text.strip_suffix(signature).and_then(|rest| rest.strip_suffix('.')).ok_or(Flaw::Malformed)?;
        if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Flaw::Malformed);
        }
        let (header, claims) = (object(header)?, object(claims)?);
        if REFUSED.iter().any(|name| header.contains_key(*name)) {
            return Err(Flaw::Header);
        }
        let member = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned).ok_or(Flaw::Header);
        let (algorithm, kid, typ) = (member("alg")?, member("kid")?, member("typ")?.to_ascii_lowercase());
        if kid.is_empty() || kid.len() > KID_MAX_BYTES || !kid.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Flaw::Header);
        }
        let typ = typ.strip_prefix("application/").unwrap_or(&typ).to_owned();
        Ok(Self { signed, signature, algorithm, kid, typ, claims: Claims::new(claims) })
    }

    /// Who is said to have signed it. Chooses whose keys are looked at, and nothing else.
    pub(crate) fn issuer(&self) -> Result<&str, Flaw> {
        self.claims.text("iss").map_err(|_| Flaw::Issuer)
    }

    /// Which of the issuer's keys is said to have signed it.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// The claims, if this key has signed them as a token of one of these types.
    pub(crate) fn verify(self, key: &VerifyingKey, types: &[impl AsRef<str>]) -> Result<Claims, Flaw> {
        if !types.iter().any(|typ| typ.as_ref().eq_ignore_ascii_case(&self.typ)) {
            return Err(Flaw::Type);
        }
        if self.algorithm != key.algorithm.name() {
            return Err(Flaw::Algorithm);
        }
        match crypto::verify(self.signature, self.signed.as_bytes(), &key.key, key.algorithm.library()) {
            Ok(true) => Ok(self.claims),
            Ok(false) | Err(_) => Err(Flaw::Signature),
        }
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Flaw> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Malformed)?;
    match serde_json::from_slice::<Unique>(&json) {
        Ok(Unique(Value::Object(members))) => Ok(members),
        _ => Err(Flaw::Malformed),
    }
}

/// A JSON value in which no object has a name twice: readers disagree on which one counts. serde_json bounds its depth at 128.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Unique(value))) = map.next_entry::<String, Unique>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a name comes twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        [header, claims, "signature"].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    }

    const HEADER: &str = r#"{"alg":"EdDSA","kid":"k","typ":"at+jwt"}"#;

    #[test]
    fn a_token_is_read_without_being_believed() {
        let text = token(HEADER, r#"{"iss":"me"}"#);
        let token = Unverified::parse(&text, 1_000).unwrap();
        assert_eq!((token.issuer(), token.kid()), (Ok("me"), "k"));
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        for (text, flaw) in [
            ("x".repeat(101), Flaw::Oversize),
            (token(HEADER, r#"{"a":1,"a":2}"#), Flaw::Malformed),
            (token(HEADER, r#"{"a":{"b":1,"b":2}}"#), Flaw::Malformed),
            (token(HEADER, "[]"), Flaw::Malformed),
            (token(r#"{"alg":"EdDSA","typ":"JWT"}"#, "{}"), Flaw::Header),
        ] {
            assert_eq!(Unverified::parse(&text, 100).unwrap_err(), flaw, "{text}");
        }
    }
}
