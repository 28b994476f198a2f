//! Who asks, and may they?
//!
//! The keys view authenticates, in memory, once it has caught up. Whatever changes anything is authorised again by an
//! entity, because a view may be a moment behind: by that of the key's tenant, also for what an operator does to others.
//! A key that another node has just given is known once the view has come to the position that the request names.
//! A token is verified by its signature and looked up by what it names: one of a key's is never more than the key.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header};
use poem::Request;
use wasmwiz_actors::{
    aggregate::{Authority, Subject},
    tenant::{Refusal, SYSTEM, keys::in_effect},
};
use wasmwiz_events::{
    id::{KeyId, TenantId},
    key::{Scope, Scopes},
    revision::Position,
    time::{Moment, Timestamp},
};
use wasmwiz_projections::{
    SetAside,
    keys::{KeyRecord, Keys, Standing, TenantRecord},
    views::View,
};

use crate::{
    gateway::Gateway,
    metrics, position,
    problem::{Kind, Problem, UNAUTHENTICATED},
    shares::ConnectionId,
};

pub mod api_key;
pub mod config;
pub mod jose;
pub mod keyring;
pub mod last_used;
pub mod token;

pub(crate) mod attempts;
mod claims;
pub(crate) mod issuer;
pub use issuer::ca as issuer_certificates;

use api_key::{ApiKey, Opener};
use attempts::Origin;
use claims::Good;
use issuer::Refused;
use jose::{Flaw, Unverified};
use token::Holder;

/// Who a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whose things it is about.
    pub(crate) tenant: Arc<TenantRecord>,
    credential: Credential,
    /// When a token is good no more. A key is looked up instead.
    until: Option<Timestamp>,
    /// Over which connection it came.
    connection: Option<ConnectionId>,
}

/// What somebody has shown.
#[derive(Debug, Clone)]
enum Credential {
    /// A key of the tenant, and the secret that it came with: a rotation leaves the one and ends the other.
    Key { key: Arc<KeyRecord>, opener: Opener },
    /// A token that was given for a key of the tenant; with what both allow.
    Token { key: Arc<KeyRecord>, scopes: Scopes, given_at: Timestamp },
    /// A token of an issuer outside.
    Subject(Subject),
    /// An operator's token; with the operator's name.
    Operator(String),
}

impl Caller {
    /// Whose things it is about.
    pub(crate) fn tenant_id(&self) -> &TenantId {
        &self.tenant.id
    }

    /// Over which connection it came.
    pub(crate) const fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// The key, if it came itself.
    pub(crate) fn key(&self) -> Option<&Arc<KeyRecord>> {
        match &self.credential {
            Credential::Key { key, .. } => Some(key),
            Credential::Token { .. } | Credential::Subject(_) | Credential::Operator(_) => None,
        }
    }

    /// What it may do within its tenant.
    fn scopes(&self) -> Scopes {
        let scopes = match &self.credential {
            Credential::Key { key, .. } => key.scopes,
            Credential::Token { scopes, .. } => *scopes,
            Credential::Subject(subject) => subject.scopes(),
            Credential::Operator(_) => Scopes::NONE.with(Scope::Operator),
        };
        in_effect(scopes, self.tenant_id())
    }

    /// On whose authority a command within the caller's tenant is given.
    pub(crate) fn authority(&self) -> Authority {
        match &self.credential {
            Credential::Key { key, .. } => Authority::Key(key.id.clone()),
            Credential::Token { key, scopes, .. } => Authority::Token { key: key.id.clone(), scopes: *scopes },
            Credential::Subject(subject) => Authority::Subject(subject.clone()),
            Credential::Operator(name) => Authority::Operator(name.clone()),
        }
    }

    /// What the credential is known by: the id of its key, what stands for one, or an operator's name. No two of them are
    /// the same.
    pub(crate) fn credential_id(&self) -> &str {
        match &self.credential {
            Credential::Key { key, .. } | Credential::Token { key, .. } => key.id.as_str(),
            Credential::Subject(subject) => subject.id().as_str(),
            Credential::Operator(name) => name,
        }
    }

    /// On whose authority a command to another tenant is given. Only behind [`Scope::Operator`].
    pub(crate) fn operator(&self) -> Authority {
        Authority::Operator(self.credential_id().to_owned())
    }

    /// Refuses a caller that may not act, or not under `scope`; without one, whoever acts for an active tenant may.
    pub(crate) fn authorise(&self, scope: Option<Scope>) -> Result<(), Problem> {
        if matches!(self.tenant.standing, Standing::Suspended { .. }) {
            return Err(Refusal::Suspended.into());
        }
        let Some(scope) = scope else { return Ok(()) };
        if !self.scopes().contains(scope) {
            return Err(Refusal::MissingScope(scope).into());
        }
        // The entity issues such keys in the system tenant only; this does not rely on it.
        if scope == Scope::Operator && self.tenant.id.as_str() != SYSTEM {
            return Err(Problem::new(Kind::NotAnOperator, "Tenants are operated with a key of the system tenant."));
        }
        Ok(())
    }
}

/// What a request shows of who sent it.
#[derive(Debug)]
pub(crate) struct Shown {
    credential: Option<String>,
    from: Origin,
    /// How far the sender knows the log to be.
    position: Option<Position>,
    connection: Option<ConnectionId>,
}

impl Shown {
    /// Of this request.
    pub(crate) fn by(request: &Request) -> Self {
        // One that is malformed is refused where it counts.
        let position = position::wanted(request.headers()).ok().flatten();
        let credential = bearer(request.headers()).map(str::to_owned);
        let connection = request.data::<ConnectionId>().copied();
        Self { credential, from: Origin::of(&request.remote_addr().0), position, connection }
    }
}

/// Finds out who sent a request. Every refusal is the same answer, until there are too many.
pub(crate) async fn authenticate(gateway: &Gateway, shown: &Shown) -> Result<Caller, Problem> {
    let refused = |reason: &'static str| {
        ::metrics::counter!(metrics::CREDENTIALS_REFUSED_TOTAL, "reason" => reason).increment(1);
        Problem::new(Kind::Unauthenticated, UNAUTHENTICATED)
    };
    let (from, clock) = (shown.from, &gateway.deps().clock);
    let text = shown.credential.as_deref().ok_or_else(|| refused("absent"))?;
    let mut found = find(gateway, text, from, clock.moment());
    // Another node may have given it a moment ago.
    if matches!(found, Err(Failed::Denied { .. }))
        && let Some(position) = shown.position
        && has_come_to(gateway, position).await
    {
        found = find(gateway, text, from, clock.moment());
    }
    let limited = |wait: attempts::Wait| {
        let _ = refused("limited");
        Problem::too_many_attempts(wait.ms)
    };
    match found {
        Ok(caller) => Ok(Caller { connection: shown.connection, ..caller }),
        Err(Failed::Denied { reason, at }) => match gateway.attempts().failed(from, at.as_ref(), clock.steady()) {
            Some(wait) => Err(limited(wait)),
            None => Err(refused(reason)),
        },
        Err(Failed::Limited(wait)) => Err(limited(wait)),
        Err(Failed::Unknown) => Err(Problem::issuer_unavailable()),
        Err(Failed::SetAside(aside)) => Err(Problem::stream_set_aside(aside.position)),
    }
}

fn find(gateway: &Gateway, text: &str, from: Origin, now: Moment) -> Result<Caller, Failed> {
    if text.starts_with(api_key::PREFIX) { by_key(gateway, text, from, now) } else { by_token(gateway, text, now) }
}

/// Waits until the keys view, which is behind it, has come to a position of the log; gives whether it has.
async fn has_come_to(gateway: &Gateway, position: Position) -> bool {
    let deps = gateway.deps();
    // Nobody waits for what is not in the log.
    if deps.views.has_reached(View::Keys, position) || !deps.log.tail().await.is_ok_and(|tail| position <= tail) {
        return false;
    }
    let wait = Duration::from_millis(gateway.config().position_wait_ms);
    deps.views.wait_for_view(View::Keys, position, wait).await.is_ok()
}

/// Why nobody was let in.
enum Failed {
    /// The credential is none; with the reason for metrics, and the live key that it names.
    Denied { reason: &'static str, at: Option<KeyId> },
    /// There were too many such, and this one was not looked at.
    Limited(attempts::Wait),
    /// Nobody can tell at the moment.
    Unknown,
    /// Nobody can tell until the tenant's history can be read again: the credential may have been revoked since.
    SetAside(SetAside),
}

impl Failed {
    const fn because(reason: &'static str) -> Self {
        Self::Denied { reason, at: None }
    }
}

impl From<Flaw> for Failed {
    fn from(flaw: Flaw) -> Self {
        Self::because(flaw.as_str())
    }
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Flawed(flaw) => flaw.into(),
            Refused::Unknown => Self::Unknown,
        }
    }
}

fn by_key(gateway: &Gateway, text: &str, from: Origin, at: Moment) -> Result<Caller, Failed> {
    let now = at.wall;
    let (keys, hasher) = (gateway.deps().views.keys(), gateway.hasher());
    let presented = ApiKey::parse(text).map_err(|_| Failed::because("malformed"))?;
    let known = keys.authenticate_lookup(presented.key_id());
    let named = known.as_ref().map(|key| key.id.clone());
    gateway.attempts().admit(from, named.as_ref(), at.steady).map_err(Failed::Limited)?;
    let aside = match &known {
        Some(key) => keys.set_aside(&key.tenant),
        None => keys.set_aside_with(presented.key_id()),
    };
    if let Some(aside) = aside {
        return Err(Failed::SetAside(aside));
    }
    // Once more: one that was set aside a moment ago, and is not any more, may have lost the key.
    let known = keys.authenticate_lookup(presented.key_id());
    // An unknown key is compared too, with nothing: it takes as long as a known one with a wrong secret.
    let opener = presented.opens(hasher, known.iter().flat_map(|key| key.hashes_at(now)));
    let Some((key, opener)) = known.filter(|key| key.is_valid_at(now)).zip(opener) else {
        return Err(Failed::Denied { reason: "invalid", at: named });
    };
    let tenant = keys.tenant(&key.tenant).ok_or(Failed::because("invalid"))?;
    gateway.attempts().succeeded(from, &key.id, at.steady);
    gateway.deps().last_used.note(&key.id, now);
    Ok(Caller { tenant, credential: Credential::Key { key, opener }, until: None, connection: None })
}

fn by_token(gateway: &Gateway, text: &str, at: Moment) -> Result<Caller, Failed> {
    let now = at.wall;
    let (keys, config) = (gateway.deps().views.keys(), &gateway.config().tokens);
    let token = Unverified::parse(text, config.bytes_max)?;
    let (tenant, credential, until) = if token.issuer()? == config.issuer {
        let (holder, Good { given_at, until }) = token::verify(token, &gateway.deps().keyring, config, now)?;
        match holder {
            Holder::Key { id, tenant, scopes } => {
                in_order(keys, &tenant)?;
                let key =
                    keys.authenticate_lookup(&id).filter(|key| key.tenant == tenant && honours(key, given_at, now));
                let key = key.ok_or(Failed::because("token_key"))?;
                gateway.deps().last_used.note(&key.id, now);
                let scopes = key.scopes.and(scopes);
                (tenant, Credential::Token { key, scopes, given_at }, until)
            }
            Holder::Operator(name) => {
                let system = TenantId::new(SYSTEM).map_err(|_| Failed::because("token_tenant"))?;
                (system, Credential::Operator(name), until)
            }
        }
    } else {
        let (tenant, subject, until) = gateway.issuers().verify(token, at)?;
        (tenant, Credential::Subject(subject), until)
    };
    in_order(keys, &tenant)?;
    let tenant = keys.tenant(&tenant).ok_or(Failed::because("token_tenant"))?;
    Ok(Caller { tenant, credential, until: Some(until), connection: None })
}

/// Nobody comes in for a tenant whose stream is set aside.
fn in_order(keys: &Keys, tenant: &TenantId) -> Result<(), Failed> {
    keys.set_aside(tenant).map_or(Ok(()), |aside| Err(Failed::SetAside(aside)))
}

/// Does the key still stand for a token that was given then?
fn honours(key: &KeyRecord, given_at: Timestamp, now: Timestamp) -> bool {
    key.is_valid_at(now) && key.tokens_count_from(now).is_none_or(|from| from <= given_at)
}

/// The caller of a request that goes on, as the view knows it now; `None` when its credential does not hold any more.
pub(crate) fn renew(caller: &Caller, keys: &Keys, now: Timestamp) -> Option<Caller> {
    if caller.until.is_some_and(|until| until <= now) {
        return None;
    }
    if keys.set_aside(caller.tenant_id()).is_some() {
        return None;
    }
    let live = |id| keys.authenticate_lookup(id).filter(|key| key.is_valid_at(now));
    let credential = match &caller.credential {
        Credential::Key { key, opener } => {
            let key = live(&key.id).filter(|key| opener.still_opens(key.hashes_at(now)))?;
            Credential::Key { key, opener: *opener }
        }
        Credential::Token { key, scopes, given_at } => {
            let key = live(&key.id).filter(|key| honours(key, *given_at, now))?;
            let scopes = key.scopes.and(*scopes);
            Credential::Token { key, scopes, given_at: *given_at }
        }
        Credential::Subject(_) | Credential::Operator(_) => caller.credential.clone(),
    };
    let Caller { until, connection, .. } = *caller;
    Some(Caller { tenant: keys.tenant(caller.tenant_id())?, credential, until, connection })
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
