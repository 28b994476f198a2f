//! The platform's own signing keys: Ed25519, one that signs, and others that still verify or verify already.
//!
//! A key is named by its RFC 7638 thumbprint. Two are live while they are exchanged: first the new one verifies everywhere, then
//! it signs, and once the last token of the old one has ended, the old one goes.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{DecodingKey, EncodingKey, crypto};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Serialize;
use wasmwiz_events::digest::Digest;

use super::jose::{Algorithm, VerifyingKey};

/// The most keys of a ring: the one that signs, one before, one after, and room for a mistake.
pub const KEYS_MAX: usize = 4;

/// A ring of keys cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Not a private key.
    #[error("{0} is not an Ed25519 key in PKCS #8 PEM; `wasmwiz token keygen` writes one")]
    NotAKey(String),
    /// None at all.
    #[error("there is no signing key; `wasmwiz token keygen` writes one")]
    Empty,
    /// More than are live at a time.
    #[error("there are more than {KEYS_MAX} signing keys; remove those whose last token has ended")]
    TooMany,
    /// No key of the name that is to sign.
    #[error("there is no signing key named {0}; name one of those there are, or none for the last")]
    NoSigner(String),
}

/// The random generator of the system failed.
#[derive(Debug, thiserror::Error)]
#[error("no key can be drawn: the system gives no random bytes")]
pub struct NoKey;

struct Key {
    kid: String,
    x: String,
    signing: EncodingKey,
    verifying: VerifyingKey,
}

/// The keys with which this platform signs tokens, and verifies its own.
pub struct Keyring {
    signer: Key,
    others: Vec<Key>,
}

/// The public half of a key, as RFC 7517 and RFC 8037 write it.
#[derive(Debug, Serialize)]
pub(crate) struct PublicKey<'a> {
    kty: &'static str,
    crv: &'static str,
    x: &'a str,
    kid: &'a str,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
}

impl Keyring {
    /// A ring of keys, each with its name and its PEM. The one named `signer` signs; without that name, the last.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn new(pems: &[(String, String)], signer: Option<&str>) -> Result<Self, KeyringError> {
        if pems.len() > KEYS_MAX {
            return Err(KeyringError::TooMany);
        }
        let place = match signer {
            None => pems.len().checked_sub(1).ok_or(KeyringError::Empty)?,
            Some(wanted) => {
                let place = pems.iter().position(|(name, _)| name == wanted);
                place.ok_or_else(|| KeyringError::NoSigner(wanted.to_owned()))?
            }
        };
        let mut others = Vec::new();
        for (name, pem) in pems {
            others.push(Key::of_pem(pem).ok_or_else(|| KeyringError::NotAKey(name.clone()))?);
        }
        let signer = others.remove(place);
        Ok(Self { signer, others })
    }

    /// The name of the key that signs.
    pub fn signer_kid(&self) -> &str {
        &self.signer.kid
    }

    /// Signs a token: both parts are JSON.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> Result<String, SignError> {
        let header = serde_json::json!({"alg": "EdDSA", "kid": self.signer.kid, "typ": super::token::TYPE});
        let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let signed = [part(serde_json::to_vec(&header)?), part(serde_json::to_vec(claims)?)].join(".");
        let signature = crypto::sign(signed.as_bytes(), &self.signer.signing, jsonwebtoken::Algorithm::EdDSA)?;
        Ok([signed, signature].join("."))
    }

    pub(crate) fn verifying(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys().find(|key| key.kid == kid).map(|key| &key.verifying)
    }

    /// The public halves, the one that signs first.
    pub(crate) fn public(&self) -> Vec<PublicKey<'_>> {
        self.keys().map(Key::public).collect()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.signer).chain(&self.others)
    }
}

impl fmt::Debug for Keyring {
    /// Shows the names, not the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().map(|key| &key.kid)).finish()
    }
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The claims are no JSON.
    #[error("the claims cannot be written: {0}")]
    Claims(#[from] serde_json::Error),
    /// The key did not sign.
    #[error("the token cannot be signed: {0}")]
    Key(#[from] jsonwebtoken::errors::Error),
}

impl Key {
    fn public(&self) -> PublicKey<'_> {
        PublicKey { kty: "OKP", crv: "Ed25519", x: &self.x, kid: &self.kid, usage: "sig", alg: "EdDSA" }
    }

    fn of_pem(pem: &str) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok()?;
        let public = pair.public_key().as_ref().to_vec();
        let x = URL_SAFE_NO_PAD.encode(&public);
        // The members that RFC 7638 names, in its order.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(Digest::of(thumbprint.as_bytes()).as_bytes());
        let signing = EncodingKey::from_ed_der(der.secret_pkcs8_der());
        let verifying = VerifyingKey { algorithm: Algorithm::EdDsa, key: DecodingKey::from_ed_der(&public) };
        Some(Self { kid, x, signing, verifying })
    }
}

/// Draws a key; gives it as PKCS #8 PEM.
///
/// # Errors
/// [`NoKey`].
pub fn draw() -> Result<String, NoKey> {
    const LINE_CHARS: usize = 64;
    let pair = Ed25519KeyPair::generate().map_err(|_| NoKey)?;
    let der = pair.to_pkcs8v1().map_err(|_| NoKey)?;
    let mut text = STANDARD.encode(der.as_ref());
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    while !text.is_empty() {
        let rest = text.split_off(LINE_CHARS.min(text.len()));
        pem.push_str(&text);
        pem.push('\n');
        text = rest;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pems(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), draw().unwrap())).collect()
    }

    #[test]
    fn the_last_key_signs_unless_another_is_named_and_all_verify() {
        let pems = pems(&["a", "b"]);
        let (last, first) = (Keyring::new(&pems, None).unwrap(), Keyring::new(&pems, Some("a")).unwrap());
        assert_ne!(last.signer_kid(), first.signer_kid());
        assert!(last.verifying(first.signer_kid()).is_some() && first.verifying(last.signer_kid()).is_some());
        assert!(last.verifying("").is_none());
        assert_eq!(last.public().len(), 2);
    }

    #[test]
    fn a_ring_without_a_key_or_with_a_wrong_one_says_so() {
        let one = pems(&["a"]);
        assert_eq!(Keyring::new(&[], None).unwrap_err(), KeyringError::Empty);
        assert_eq!(Keyring::new(&one, Some("b")).unwrap_err(), KeyringError::NoSigner("b".into()));
        assert_eq!(Keyring::new(&pems(&["a", "b", "c", "d", "e"]), None).unwrap_err(), KeyringError::TooMany);
        let wrong = [("a".to_owned(), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned())];
        assert_eq!(Keyring::new(&wrong, None).unwrap_err(), KeyringError::NotAKey("a".into()));
    }

    #[test]
    fn a_ring_shows_no_key() {
        let pems = pems(&["a"]);
        let secret = pems[0].1.lines().nth(1).unwrap();
        let shown = format!("{:?}", Keyring::new(&pems, None).unwrap());
        assert!(!shown.contains(secret), "{shown}");
    }
}
