//! The platform's own tokens (RFC 9068): for a key, for a while; or for an operator, signed offline.
//!
//! | claim | of a key's token | of an operator's |
//! |---|---|---|
//! | `iss`, `aud` | the settings' | the same |
//! | `sub` | the key's id | `operator:<name>` |
//! | `tenant`, `scope` | the key's tenant, some of its scopes | `system`, `operator` |
//! | `iat`, `nbf`, `exp`, `jti` | whole seconds; a UUID | the same |

use serde::Serialize;
use wasmwiz_actors::tenant::SYSTEM;
use wasmwiz_events::{
    id::{KeyId, TenantId},
    key::{Scope, Scopes},
    time::Timestamp,
};

use super::{
    claims::{Claims, Good},
    config::TokensConfig,
    jose::{Flaw, Unverified},
    keyring::{Keyring, SignError},
};

/// The `typ` of an access token.
pub const TYPE: &str = "at+jwt";

/// The longest that a token can be made good for, in seconds: a day.
pub const TTL_SECONDS_MAX: u32 = 86_400;

/// The longest that an operator's token can be made good for, in seconds: a week.
pub const OPERATOR_TTL_SECONDS_MAX: u32 = 604_800;

const OPERATOR_PREFIX: &str = "operator:";

/// The longest name of an operator, in characters.
const OPERATOR_MAX_CHARS: usize = 64;

#[derive(Serialize)]
struct Written<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    tenant: &'a str,
    scope: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: &'a str,
}

/// What a token is to say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant<'a> {
    pub(crate) key: &'a KeyId,
    pub(crate) tenant: &'a TenantId,
    pub(crate) scopes: Scopes,
    pub(crate) ttl_seconds: u32,
    /// Its own name: `jti`.
    pub(crate) id: &'a str,
    /// When tokens of the key began to count, if that is not from its beginning.
    pub(crate) counts_from: Option<Timestamp>,
}

/// Who is not to be named as an operator.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// Such names could be taken for something else in the history.
    #[error(
        "an operator's name has 1 to 64 characters of a-z, 0-9, '.', '_', '-' and '@', and is not 12 letters and digits, \
         which is what a key's id looks like"
    )]
    Name,
    /// Longer than the settings allow, or not at all.
    #[error("the token is to be good for {0} s at most; see gateway.tokens.operator_ttl_seconds_max")]
    Ttl(u32),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Signs a token for a key.
pub(crate) fn of_key(
    keyring: &Keyring,
    config: &TokensConfig,
    grant: Grant<'_>,
    now: Timestamp,
) -> Result<String, SignError> {
    let Grant { key, tenant, scopes, ttl_seconds, id, counts_from } = grant;
    // Tokens say whole seconds. One that is given in the second in which the secret before ended says the next.
    let counts_from = counts_from.map(|from| Timestamp::from_unix_ms(from.unix_ms().saturating_add(999)));
    let now = counts_from.map_or(now, |from| from.max(now));
    written(keyring, config, (key.as_str(), tenant.as_str(), scopes), ttl_seconds, id, now)
}

/// Signs a token for an operator: offline, by whoever holds the signing key. `id` is the token's own name.
///
/// # Errors
/// [`MintError`].
pub fn of_operator(
    keyring: &Keyring,
    config: &TokensConfig,
    name: &str,
    ttl_seconds: u32,
    id: &str,
    now: Timestamp,
) -> Result<String, MintError> {
    if !is_operator_name(name) {
        return Err(MintError::Name);
    }
    if !(1..=config.operator_ttl_seconds_max).contains(&ttl_seconds) {
        return Err(MintError::Ttl(config.operator_ttl_seconds_max));
    }
    let subject = [OPERATOR_PREFIX, name].concat();
    let who = (subject.as_str(), SYSTEM, Scopes::NONE.with(Scope::Operator));
    Ok(written(keyring, config, who, ttl_seconds, id, now)?)
}

/// Events say `operator:<name>` of a token's holder and `operator:<key id>` of a key's, so a name is never like a key's id.
fn is_operator_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'@');
    let is_like_a_key = name.len() == 12 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (1..=OPERATOR_MAX_CHARS).contains(&name.len()) && name.bytes().all(inner) && !is_like_a_key
}

fn written(
    keyring: &Keyring,
    config: &TokensConfig,
    (sub, tenant, scopes): (&str, &str, Scopes),
    ttl_seconds: u32,
    jti: &str,
    now: Timestamp,
) -> Result<String, SignError> {
    let now = now.unix_ms().div_euclid(1_000);
    let (iss, aud) = (config.issuer.as_str(), config.audience.as_str());
    let exp = now.saturating_add(i64::from(ttl_seconds));
    keyring.sign(&Written { iss, aud, sub, tenant, scope: words(scopes), iat: now, nbf: now, exp, jti })
}

/// Scopes as OAuth writes them.
pub(crate) fn words(scopes: Scopes) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

/// Whom one of the platform's own tokens is for.
#[derive(Debug)]
pub(crate) enum Holder {
    /// A key, which must be looked at again.
    Key { id: KeyId, tenant: TenantId, scopes: Scopes },
    /// An operator.
    Operator(String),
}

/// Verifies one of the platform's own tokens, and says when it is good.
pub(crate) fn verify(
    token: Unverified<'_>,
    keyring: &Keyring,
    config: &TokensConfig,
    now: Timestamp,
) -> Result<(Holder, Good), Flaw> {
    let key = keyring.verifying(token.kid()).ok_or(Flaw::UnknownKey)?;
    let claims = token.verify(key, &[TYPE])?;
    claims.check_audience(&config.audience)?;
    claims.text("jti")?;
    let (holder, ttl_seconds_max) = match claims.text("sub")?.strip_prefix(OPERATOR_PREFIX) {
        Some(name) => (operator(name, &claims)?, config.operator_ttl_seconds_max),
        None => (key_of(&claims)?, config.ttl_seconds_max),
    };
    let good = claims.check_times(now, config.times(ttl_seconds_max))?;
    Ok((holder, good))
}

fn operator(name: &str, claims: &Claims) -> Result<Holder, Flaw> {
    let is_operator =
        is_operator_name(name) && claims.text("tenant")? == SYSTEM && claims.text("scope")? == Scope::Operator.as_str();
    if is_operator { Ok(Holder::Operator(name.to_owned())) } else { Err(Flaw::Claim) }
}

fn key_of(claims: &Claims) -> Result<Holder, Flaw> {
    let id = KeyId::new(claims.text("sub")?).map_err(|_| Flaw::Claim)?;
    let tenant = TenantId::new(claims.text("tenant")?).map_err(|_| Flaw::Claim)?;
    // A scope that this version does not know is dropped: that only narrows what the token may do.
    claims.text("scope")?;
    let scopes = claims.words("scope")?.into_iter().filter_map(|word| word.parse::<Scope>().ok()).collect();
    Ok(Holder::Key { id, tenant, scopes })
}
