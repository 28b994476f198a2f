//! Who asks, and may they?
//!
//! The keys view authenticates, in memory, once it has caught up. Whatever changes anything is authorised again by an
//! entity, because a view may be a moment behind: by that of the key's tenant, also for what an operator does to others.

use std::sync::Arc;

use http::{HeaderMap, header};
use wasmwiz_actors::{
    aggregate::Authority,
    tenant::{Refusal, SYSTEM},
};
use wasmwiz_events::{id::TenantId, key::Scope, time::Timestamp};
use wasmwiz_projections::keys::{KeyRecord, Keys, Standing, TenantRecord};

use crate::{
    metrics,
    problem::{Kind, Problem, UNAUTHENTICATED},
};

pub mod api_key;

use api_key::{ApiKey, Hasher};

/// Who a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The tenant of the key.
    pub(crate) tenant: Arc<TenantRecord>,
    /// The key.
    pub(crate) key: Arc<KeyRecord>,
}

impl Caller {
    /// Whose things it is about.
    pub(crate) fn tenant_id(&self) -> &TenantId {
        &self.tenant.id
    }

    /// On whose authority a command within the caller's tenant is given.
    pub(crate) fn authority(&self) -> Authority {
        Authority::Key(self.key.id.clone())
    }

    /// On whose authority a command to another tenant is given. Only behind [`Scope::Operator`].
    pub(crate) fn operator(&self) -> Authority {
        Authority::Operator(self.key.id.to_string())
    }

    /// Refuses a caller that may not act, or not under `scope`.
    pub(crate) fn authorise(&self, scope: Scope) -> Result<(), Problem> {
        if matches!(self.tenant.standing, Standing::Suspended { .. }) {
            return Err(Refusal::Suspended.into());
        }
        if !self.key.scopes.contains(scope) {
            return Err(Refusal::MissingScope(scope).into());
        }
        // The entity issues such keys in the system tenant only; this does not rely on it.
        if scope == Scope::Operator && self.tenant.id.as_str() != SYSTEM {
            return Err(Problem::new(Kind::NotAnOperator, "Tenants are operated with a key of the system tenant."));
        }
        Ok(())
    }
}

/// Finds out who sent a request. Every refusal is the same answer.
pub(crate) fn authenticate(
    headers: &HeaderMap,
    keys: &Keys,
    hasher: &Hasher,
    now: Timestamp,
) -> Result<Caller, Problem> {
    let refused = |reason: &'static str| {
        ::metrics::counter!(metrics::CREDENTIALS_REFUSED_TOTAL, "reason" => reason).increment(1);
        Problem::new(Kind::Unauthenticated, UNAUTHENTICATED)
    };
    let token = bearer(headers).ok_or_else(|| refused("absent"))?;
    let presented = ApiKey::parse(token).map_err(|_| refused("malformed"))?;
    let known = keys.authenticate_lookup(presented.key_id());
    // An unknown key is compared too, with nothing: it takes as long as a known one with a wrong secret.
    let opens = presented.opens(hasher, known.iter().flat_map(|key| key.hashes_at(now)));
    let key = known.filter(|key| opens && key.is_valid_at(now)).ok_or_else(|| refused("invalid"))?;
    let tenant = keys.tenant(&key.tenant).ok_or_else(|| refused("invalid"))?;
    Ok(Caller { tenant, key })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (given.next()?, given.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_credential_is_one_bearer_token() {
        let headers = |values: &[&'static str]| {
            let pairs = values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            pairs.collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        for values in [&[][..], &["Basic abc"], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&headers(values)), None, "{values:?}");
        }
    }
}
