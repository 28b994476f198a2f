//! Tokens of every kind, also such as nobody should sign.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaPublicKeyComponents,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use wasmwiz_events::{
    digest::Digest,
    time::{Clock as _, SystemClock},
};

/// Now, in whole seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemClock.now().unix_ms() / 1_000
}

pub(crate) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Hmac(Box<hmac::Key>),
}

/// Somebody who signs.
pub(crate) struct Signer {
    pub(crate) kid: String,
    pair: Pair,
}

impl Signer {
    pub(crate) fn ed25519_of(pem: &str) -> Self {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        Self::named_by_thumbprint(Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap())
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Ed25519(Ed25519KeyPair::generate().unwrap()) }
    }

    pub(crate) fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::P256(pair) }
    }

    pub(crate) fn rsa(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    pub(crate) fn hmac(secret: &[u8], kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))) }
    }

    fn named_by_thumbprint(pair: Ed25519KeyPair) -> Self {
        let x = encoded(pair.public_key().as_ref());
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self { kid: encoded(Digest::of(thumbprint.as_bytes()).as_bytes()), pair: Pair::Ed25519(pair) }
    }

    /// The public key as bytes.
    pub(crate) fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Pair::P256(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Hmac(_) => Vec::new(),
        }
    }

    pub(crate) fn x(&self) -> String {
        encoded(&self.public())
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ed25519(_) => "EdDSA",
            Pair::P256(_) => "ES256",
            Pair::Rsa(_) => "RS256",
            Pair::Hmac(_) => "HS256",
        }
    }

    /// The public key, as an issuer publishes it.
    pub(crate) fn jwk(&self) -> Value {
        let kid = &self.kid;
        let public = self.public();
        match &self.pair {
            Pair::Ed25519(_) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&public), "kid": kid, "use": "sig"})
            }
            Pair::P256(_) => {
                let (x, y) = (encoded(&public[1..33]), encoded(&public[33..]));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "alg": "ES256"})
            }
            Pair::Rsa(pair) => {
                let components = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                let (n, e) = (components.n, components.e);
                json!({"kty": "RSA", "n": encoded(&n), "e": encoded(&e), "kid": kid, "alg": "RS256", "use": "sig"})
            }
            Pair::Hmac(_) => json!({"kty": "oct", "k": "c2VjcmV0", "kid": kid}),
        }
    }

    /// A token of these encoded parts.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{header}.{claims}");
        let message = signed.as_bytes();
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Pair::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
        };
        format!("{signed}.{}", encoded(&signature))
    }
}

/// A token to be.
#[derive(Clone)]
pub(crate) struct Forge<'a> {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    pub(crate) signer: &'a Signer,
}

impl Forge<'_> {
    pub(crate) fn with(mut self, change: impl Fn(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn token(&self) -> String {
        self.signer.sign(&encoded(self.header.to_string().as_bytes()), &encoded(self.claims.to_string().as_bytes()))
    }
}
