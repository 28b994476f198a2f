//! Issuers outside: whose tokens are believed, and for what.
//!
//! Their keys are fetched beside all requests by one task an issuer, and kept in memory. A request never waits for one: until the
//! keys are known it is refused with 503, and so is the first that names an unknown key, for which they are fetched again. What
//! cannot be verified is not let in.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use wasmwiz_actors::aggregate::Subject;
use wasmwiz_events::{
    id::TenantId,
    key::{Scope, Scopes},
    time::{Clock, Moment, Steady, Timestamp},
};

use super::{
    claims::{Claims, Times},
    config::{FetchConfig, IssuerConfig, TokensConfig},
    jose::{Flaw, Unverified, VerifyingKey},
};

pub mod ca;
mod fetch;

/// The longest subject, in bytes: events name it.
const SUBJECT_MAX_BYTES: usize = 128;

/// Why a token of an issuer lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is wrong.
    Flawed(Flaw),
    /// Nobody can tell at the moment.
    Unknown,
}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        Self::Flawed(flaw)
    }
}

/// The issuers of this node. Their keys are fetched until this is dropped.
#[derive(Debug)]
pub(crate) struct Issuers {
    by_url: HashMap<String, Arc<Issuer>>,
    leeway_seconds: i64,
    _fetching: DropGuard,
}

impl Issuers {
    /// Begins to fetch the keys of all issuers.
    pub(crate) fn start(config: &TokensConfig, clock: &Arc<dyn Clock>) -> Self {
        let stop = CancellationToken::new();
        let mut by_url = HashMap::new();
        for settings in &config.issuers {
            let issuer = Arc::new(Issuer::new(settings.clone(), config.fetch));
            by_url.insert(settings.issuer.clone(), Arc::clone(&issuer));
            let fetching = keep(issuer, Arc::clone(clock));
            tokio::spawn(stop.clone().run_until_cancelled_owned(fetching));
        }
        Self { by_url, leeway_seconds: i64::from(config.leeway_seconds), _fetching: stop.drop_guard() }
    }

    /// Verifies a token of an issuer: whom it is for, and what it may do.
    pub(crate) fn verify(&self, token: Unverified<'_>, now: Moment) -> Result<(TenantId, Subject, Timestamp), Refused> {
        let issuer = self.by_url.get(token.issuer()?).ok_or(Flaw::Issuer)?;
        let key = issuer.key(token.kid(), now.steady)?;
        let config = &issuer.config;
        let claims = token.verify(&key, &config.types)?;
        claims.check_audience(&config.audience)?;
        let lifetime_seconds_max = i64::from(config.ttl_seconds_max);
        let good = claims.check_times(now.wall, Times { leeway_seconds: self.leeway_seconds, lifetime_seconds_max })?;
        let (tenant, subject) = admitted(config, &claims)?;
        Ok((tenant, subject, good.until))
    }
}

/// Whom verified claims are for, as the settings map them. An issuer names neither tenants nor scopes by itself.
fn admitted(config: &IssuerConfig, claims: &Claims) -> Result<(TenantId, Subject), Flaw> {
    let subject = claims.text("sub")?;
    let is_name = (1..=SUBJECT_MAX_BYTES).contains(&subject.len()) && subject.bytes().all(|b| b.is_ascii_graphic());
    if !is_name {
        return Err(Flaw::Claim);
    }
    let tenant = match (&config.tenant, &config.tenant_claim) {
        (Some(tenant), _) => tenant,
        (None, Some(claim)) => config.tenants.get(claims.text(claim)?).ok_or(Flaw::Claim)?,
        (None, None) => return Err(Flaw::Claim),
    };
    let words = claims.words(&config.scope_claim)?;
    let asked: Scopes = if config.scopes.is_empty() {
        words.into_iter().filter_map(|word| word.parse::<Scope>().ok()).collect()
    } else {
        let mapped = words.into_iter().filter_map(|word| config.scopes.get(word)).flatten();
        mapped.filter_map(|name| name.parse::<Scope>().ok()).collect()
    };
    let allowed: Scopes = config.allowed.iter().filter_map(|name| name.parse::<Scope>().ok()).collect();
    let subject = Subject::new(&config.name, subject, asked.and(allowed)).map_err(|_| Flaw::Claim)?;
    Ok((tenant.clone(), subject))
}

/// The keys of an issuer, as they were fetched last.
#[derive(Debug, Default)]
struct Known {
    by_kid: HashMap<String, VerifyingKey>,
    /// `None`: never.
    fetched_at: Option<Steady>,
}

#[derive(Debug)]
struct Issuer {
    config: IssuerConfig,
    fetch: FetchConfig,
    known: RwLock<Known>,
    /// Somebody has named an unknown key.
    wanted: Notify,
    /// When a look may be caused by an unknown key again, in milliseconds of the steady clock.
    look_again_at: AtomicI64,
}

impl Issuer {
    fn new(config: IssuerConfig, fetch: FetchConfig) -> Self {
        let (known, wanted) = (RwLock::default(), Notify::new());
        Self { config, fetch, known, wanted, look_again_at: AtomicI64::new(i64::MAX) }
    }

    /// The key of this name. One that is unknown has the keys fetched again, once in a while.
    fn key(&self, kid: &str, now: Steady) -> Result<VerifyingKey, Refused> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = known.fetched_at.is_some_and(|fetched_at| now.ms_since(fetched_at) <= self.fetch.stale_ms);
        if !is_fresh {
            return Err(Refused::Unknown);
        }
        if let Some(key) = known.by_kid.get(kid) {
            return Ok(key.clone());
        }
        if now.as_ms() < self.look_again_at.load(Ordering::Acquire) {
            return Err(Flaw::UnknownKey.into());
        }
        self.wanted.notify_one();
        Err(Refused::Unknown)
    }

    fn learned(&self, keys: HashMap<String, VerifyingKey>, now: Steady) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known { by_kid: keys, fetched_at: Some(now) };
    }
}

/// Keeps the keys of an issuer fresh, for ever.
async fn keep(issuer: Arc<Issuer>, clock: Arc<dyn Clock>) {
    let ms = Duration::from_millis;
    let mut is_failing = false;
    loop {
        let fetched = fetch::keys(&issuer.config, &issuer.fetch).await;
        let now = clock.steady();
        let (pause_ms, look_again_ms) = match fetched {
            Ok(keys) => {
                if is_failing {
                    tracing::info!(issuer = %issuer.config.name, "the keys of an issuer can be fetched again");
                }
                is_failing = false;
                tracing::debug!(issuer = %issuer.config.name, keys = keys.len(), "the keys of an issuer were fetched");
                issuer.learned(keys, now);
                (issuer.fetch.every_ms, issuer.fetch.unknown_key_every_ms)
            }
            Err(error) => {
                // Told once: it is tried again every few seconds, for as long as it takes.
                if is_failing {
                    tracing::debug!(issuer = %issuer.config.name, %error, "the keys of an issuer still cannot be fetched");
                } else {
                    tracing::warn!(issuer = %issuer.config.name, %error, "the keys of an issuer cannot be fetched");
                }
                is_failing = true;
                (issuer.fetch.retry_ms, issuer.fetch.retry_ms)
            }
        };
        let look_again_ms = look_again_ms.min(pause_ms);
        issuer.look_again_at.store(now.plus_ms(look_again_ms).as_ms(), Ordering::Release);
        tokio::time::sleep(ms(look_again_ms)).await;
        let _ = tokio::time::timeout(ms(pause_ms - look_again_ms), issuer.wanted.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(more: Value) -> IssuerConfig {
        let mut all = json!({"name": "corp", "issuer": "https://login.example", "audience": "wiz"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn claims(value: &Value) -> Claims {
        Claims::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_subject_has_the_tenant_and_the_scopes_that_the_settings_give_it() {
        let settings = config(json!({
            "tenant_claim": "org", "tenants": {"o-1": "acme"}, "scope_claim": "groups",
            "scopes": {"dev": ["modules:write", "executions:run"], "ops": ["usage:read"]},
            "allowed": ["executions:run", "usage:read"],
        }));
        let given = |org: &str, groups: Value| {
            admitted(&settings, &claims(&json!({"sub": "ada", "org": org, "groups": groups})))
        };
        let (tenant, subject) = given("o-1", json!(["dev", "ops", "executions:read"])).unwrap();
        assert_eq!(tenant.as_str(), "acme");
        assert_eq!(subject.scopes(), Scopes::NONE.with(Scope::ExecutionsRun).with(Scope::UsageRead));
        assert_eq!(given("acme", json!(["dev"])).unwrap_err(), Flaw::Claim);
        assert_eq!(given("o-1", json!(7)).unwrap_err(), Flaw::Claim);
    }

    #[test]
    fn a_subject_is_a_short_word() {
        let settings = config(json!({"tenant": "acme"}));
        for (subject, good) in
            [("ada", true), ("a|b@c", true), ("", false), ("a b", false), ("a\n", false), ("é", false)]
        {
            let admitted = admitted(&settings, &claims(&json!({"sub": subject, "scope": "operator usage:read"})));
            assert_eq!(admitted.is_ok(), good, "{subject:?}");
            assert!(admitted.is_err() || admitted.unwrap().1.scopes() == Scopes::NONE.with(Scope::UsageRead));
        }
        let long = json!({"sub": "x".repeat(129), "scope": ""});
        assert!(admitted(&settings, &claims(&long)).is_err());
    }

    #[test]
    fn an_unknown_key_causes_a_look_once_in_a_while() {
        let at = Steady::from_ms;
        let issuer = Issuer::new(config(json!({"tenant": "acme"})), FetchConfig::default());
        assert_eq!(issuer.key("k", at(0)).unwrap_err(), Refused::Unknown);
        issuer.learned(HashMap::new(), at(0));
        issuer.look_again_at.store(60_000, Ordering::Release);
        assert_eq!(issuer.key("k", at(59_999)).unwrap_err(), Refused::Flawed(Flaw::UnknownKey));
        assert_eq!(issuer.key("k", at(60_000)).unwrap_err(), Refused::Unknown);
        assert_eq!(issuer.key("k", at(3_600_001)).unwrap_err(), Refused::Unknown);
    }
}
