//! Fetches the keys of an issuer: its discovery document, then the set of keys that this names.
//!
//! Both are bounded in time and size. No redirect is followed, no proxy of the environment is used, and nothing is fetched in the
//! clear but from this machine: an issuer cannot send this node anywhere else.

use std::{collections::HashMap, error::Error as _, time::Duration};

use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;

use super::{
    FetchConfig, IssuerConfig, VerifyingKey,
    ca::{self, CaError},
};
use crate::auth::{
    config::{is_fetchable, may_lead},
    jose::Algorithm,
};

/// Where an issuer describes itself, below its URL.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Why the keys of an issuer are not known. For the operator's log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0} is no URL that may be fetched: https only, or http of this machine; correct the issuer's settings")]
    Url(String),
    #[error("no answer from {url}: {}", causes(source))]
    Http { url: String, source: reqwest::Error },
    #[error("{url} answers {status}")]
    Status { url: String, status: u16 },
    #[error("{url} answers with more than {max} bytes; see gateway.tokens.fetch.body_bytes_max")]
    TooLarge { url: String, max: usize },
    #[error("{url} answers with other JSON than it should: {source}")]
    Json { url: String, source: serde_json::Error },
    #[error("the discovery document is of another issuer: {0}")]
    Issuer(String),
    #[error("there are more than {0} keys; see gateway.tokens.fetch.keys_max")]
    TooMany(usize),
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// What is behind an error: the outermost says only that something was not sent.
fn causes(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(error.source(), |cause| (*cause).source());
    let causes: Vec<_> = chain.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Fetches the keys of an issuer that are for its algorithms, by name.
pub(super) async fn keys(
    config: &IssuerConfig,
    bounds: &FetchConfig,
) -> Result<HashMap<String, VerifyingKey>, FetchError> {
    let mut http = Client::builder().no_proxy().redirect(redirect::Policy::none());
    if let Some(file) = config.ca_file.clone() {
        // Read for every look, so that a renewed one is used without a restart.
        let read = tokio::task::spawn_blocking(move || ca::roots(&file)).await;
        http = http.tls_certs_only(read.map_err(|_| CaError::Lost)??);
    }
    let http = http.timeout(Duration::from_millis(bounds.timeout_ms)).build();
    let http = http.map_err(|source| FetchError::Http { url: config.issuer.clone(), source })?;
    let fetch = async |url: &Url| get(&http, url, bounds.body_bytes_max).await;

    let discovery = url(&[config.issuer.trim_end_matches('/'), DISCOVERY].concat())?;
    let Discovery { issuer, jwks_uri } = parsed(&discovery, &fetch(&discovery).await?)?;
    if issuer != config.issuer {
        return Err(FetchError::Issuer(issuer));
    }
    let jwks = url(&jwks_uri)?;
    if !may_lead(&discovery, &jwks) {
        return Err(FetchError::Url(jwks_uri));
    }
    let KeySet { keys } = parsed(&jwks, &fetch(&jwks).await?)?;
    usable(keys, config, bounds)
}

fn url(text: &str) -> Result<Url, FetchError> {
    Url::parse(text).ok().filter(is_fetchable).ok_or_else(|| FetchError::Url(text.to_owned()))
}

async fn get(http: &Client, url: &Url, max: usize) -> Result<Vec<u8>, FetchError> {
    let failed = |source| FetchError::Http { url: url.to_string(), source };
    let mut response = http.get(url.clone()).header("accept", "application/json").send().await.map_err(failed)?;
    if response.status() != 200 {
        return Err(FetchError::Status { url: url.to_string(), status: response.status().as_u16() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len().saturating_add(chunk.len()) > max {
            return Err(FetchError::TooLarge { url: url.to_string(), max });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn parsed<'a, T: Deserialize<'a>>(url: &Url, json: &'a [u8]) -> Result<T, FetchError> {
    serde_json::from_slice(json).map_err(|source| FetchError::Json { url: url.to_string(), source })
}

/// Keys that can verify here. Others are passed over: a set may hold keys for other uses. A name that comes twice names nothing.
fn usable(
    keys: Vec<Value>,
    config: &IssuerConfig,
    bounds: &FetchConfig,
) -> Result<HashMap<String, VerifyingKey>, FetchError> {
    if keys.len() > bounds.keys_max {
        return Err(FetchError::TooMany(bounds.keys_max));
    }
    let mut by_kid: HashMap<String, Option<VerifyingKey>> = HashMap::new();
    for jwk in keys {
        let Some((kid, key)) = verifying(jwk, &config.algorithms) else { continue };
        let key = Some(key).filter(|key| config.algorithms.contains(&key.algorithm));
        by_kid.entry(kid).and_modify(|known| *known = None).or_insert(key);
    }
    Ok(by_kid.into_iter().filter_map(|(kid, key)| key.map(|key| (kid, key))).collect())
}

/// A public key with its name and the one algorithm that it is for, by what it is: a secret is never one.
fn verifying(jwk: Value, allowed: &[Algorithm]) -> Option<(String, VerifyingKey)> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    // A key of RSA that does not say for which of the two it is, is for the one that is allowed, or for the older.
    let is_pss = match jwk.common.key_algorithm {
        None => allowed.contains(&Algorithm::Ps256) && !allowed.contains(&Algorithm::Rs256),
        Some(named) => named == KeyAlgorithm::PS256,
    };
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) if is_pss => (Algorithm::Ps256, KeyAlgorithm::PS256),
        AlgorithmParameters::RSA(_) => (Algorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::Es256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDsa, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let is_for_this = jwk.common.key_algorithm.is_none_or(|given| given == named)
        && jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| is_for_this)?;
    Some((jwk.common.key_id?, VerifyingKey { algorithm, key }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(keys: Vec<Value>, algorithms: Value) -> Vec<String> {
        let config = serde_json::from_value(json!({
            "name": "corp", "issuer": "https://login.example", "audience": "wiz", "tenant": "acme", "algorithms": algorithms,
        }));
        let mut names: Vec<_> = usable(keys, &config.unwrap(), &FetchConfig::default()).unwrap().into_keys().collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_key_is_used_for_the_one_algorithm_that_it_is_for() {
        let ed = |kid: &str| json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": kid});
        let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa", "use": "sig", "alg": "RS256"});
        let keys = vec![
            ed("ed"),
            rsa,
            ed("twice"),
            ed("twice"),
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "enc", "use": "enc"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "ps", "alg": "PS256"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "any"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rs512", "alg": "RS512"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            json!({"kty": "new", "kid": "new"}),
            json!("nonsense"),
        ];
        assert_eq!(names(keys.clone(), json!(["RS256", "EdDSA"])), ["any", "ed", "rsa"]);
        assert_eq!(names(keys.clone(), json!(["RS256"])), ["any", "rsa"]);
        assert_eq!(names(keys, json!(["PS256"])), ["any", "ps"]);
    }

    #[tokio::test]
    async fn an_operator_is_told_why_an_issuer_does_not_answer() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config: IssuerConfig = serde_json::from_value(json!({
            "name": "corp", "issuer": format!("http://{closed}"), "audience": "wiz", "tenant": "acme",
        }))
        .unwrap();
        let error = keys(&config, &FetchConfig::default()).await.unwrap_err().to_string();
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[test]
    fn a_set_with_too_many_keys_is_refused() {
        let config: IssuerConfig = serde_json::from_value(json!({
            "name": "corp", "issuer": "https://login.example", "audience": "wiz", "tenant": "acme",
        }))
        .unwrap();
        let bounds = FetchConfig { keys_max: 1, ..Default::default() };
        assert!(matches!(usable(vec![json!({}), json!({})], &config, &bounds), Err(FetchError::TooMany(1))));
    }
}
