//! Settings of authentication: tokens, the issuers that are believed, and how often somebody may guess.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use reqwest::Url;
use serde::{Deserialize, Serialize};
use wasmwiz_actors::tenant::SYSTEM;
use wasmwiz_events::{
    id::TenantId,
    key::{Scope, Scopes},
};

use super::{
    claims::Times,
    jose::Algorithm,
    token::{OPERATOR_TTL_SECONDS_MAX, TTL_SECONDS_MAX},
};

/// Signed tokens: the platform's own, and those of other issuers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// How the platform names itself in its tokens: `iss`. Other than that of every platform with the same keys.
    pub issuer: String,
    /// For whom its tokens are: `aud`.
    pub audience: String,
    /// How long a token is good unless its caller asks for less or more, in seconds.
    pub ttl_seconds: u32,
    /// How long a token may be good at most, in seconds.
    pub ttl_seconds_max: u32,
    /// How long an operator's token may be good at most, in seconds. Nothing ends it before but its signing key's removal.
    pub operator_ttl_seconds_max: u32,
    /// How far the clocks of issuers and this node may differ, in seconds. At most 60.
    pub leeway_seconds: u32,
    /// The longest token that is read, in bytes.
    pub bytes_max: usize,
    /// Bounds of what is fetched from issuers.
    pub fetch: FetchConfig,
    /// Issuers outside that are believed.
    pub issuers: Vec<IssuerConfig>,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            issuer: "wasmwiz".into(),
            audience: "wasmwiz".into(),
            ttl_seconds: 900,
            ttl_seconds_max: 3_600,
            operator_ttl_seconds_max: 43_200,
            leeway_seconds: 30,
            bytes_max: 8 << 10,
            fetch: FetchConfig::default(),
            issuers: Vec::new(),
        }
    }
}

/// How the keys of issuers are fetched: beside all requests, never within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// One document in all, in milliseconds.
    pub timeout_ms: u64,
    /// One document, in bytes.
    pub body_bytes_max: usize,
    /// Keys of one issuer. A set with more is refused as a whole.
    pub keys_max: usize,
    /// Between two looks at an issuer's keys, in milliseconds.
    pub every_ms: u64,
    /// Between two looks that unknown keys cause, in milliseconds.
    pub unknown_key_every_ms: u64,
    /// After a look that failed, in milliseconds.
    pub retry_ms: u64,
    /// How long keys are good that were fetched last, while the issuer cannot be reached, in milliseconds.
    pub stale_ms: u64,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            timeout_ms: 5_000,
            body_bytes_max: 64 << 10,
            keys_max: 32,
            every_ms: 300_000,
            unknown_key_every_ms: 60_000,
            retry_ms: 5_000,
            stale_ms: 3_600_000,
        }
    }
}

impl FetchConfig {
    fn is_bounded(&self) -> bool {
        let times = [self.timeout_ms, self.every_ms, self.unknown_key_every_ms, self.retry_ms, self.stale_ms];
        !times.contains(&0) && self.body_bytes_max > 0 && self.keys_max > 0
    }
}

/// An issuer outside whose tokens are believed, and what they may do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What it is called here, and in the events that its subjects cause: 1 to 32 characters of a-z, 0-9 and hyphens.
    pub name: String,
    /// Its `iss`, to the letter: an https URL, or an http one of this machine. Its discovery document is below it.
    pub issuer: String,
    /// The `aud` that its tokens must have: what this platform is called there.
    pub audience: String,
    /// The algorithms that its keys may be for.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// A file of certificates in PEM, of which one must have signed for the issuer's https. Without it, those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The `typ` that its tokens may have, without `application/`. `JWT` for issuers that know no other.
    #[serde(default = "types")]
    pub types: Vec<String>,
    /// The tenant of all its subjects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The claim that says whose a subject is, when there is no such tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,
    /// The tenant for each value of that claim. Other values are refused.
    #[serde(default)]
    pub tenants: BTreeMap<String, TenantId>,
    /// The claim that says what a subject may do.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// The scopes for each word of that claim. Without any, the words are the names of the scopes. Other words are ignored.
    #[serde(default)]
    pub scopes: BTreeMap<String, Vec<String>>,
    /// The most that any of its subjects may do. `operator` is no such scope.
    #[serde(default = "allowed")]
    pub allowed: Vec<String>,
    /// How long its tokens may be good at most, in seconds.
    #[serde(default = "lifetime")]
    pub ttl_seconds_max: u32,
}

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa]
}

fn types() -> Vec<String> {
    vec![super::token::TYPE.into()]
}

fn scope_claim() -> String {
    "scope".into()
}

fn allowed() -> Vec<String> {
    Scopes::TENANT.iter().map(|scope| scope.as_str().to_owned()).collect()
}

const fn lifetime() -> u32 {
    86_400
}

impl TokensConfig {
    pub(crate) fn times(&self, lifetime_seconds_max: u32) -> Times {
        Times { leeway_seconds: i64::from(self.leeway_seconds), lifetime_seconds_max: i64::from(lifetime_seconds_max) }
    }

    /// The first setting that is out of its range: its key below `gateway.tokens`, and what would be right.
    ///
    /// # Errors
    /// That setting.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        let bad = |key: &str, problem| Err((key.to_owned(), problem));
        if self.issuer.is_empty() || self.audience.is_empty() {
            return bad("issuer and audience", "must not be empty");
        }
        if self.ttl_seconds_max > TTL_SECONDS_MAX || !(1..=self.ttl_seconds_max).contains(&self.ttl_seconds) {
            return bad("ttl_seconds", "must lie between 1 and ttl_seconds_max, and that is at most 86400");
        }
        if !(1..=OPERATOR_TTL_SECONDS_MAX).contains(&self.operator_ttl_seconds_max) {
            return bad("operator_ttl_seconds_max", "must lie between 1 and 604800");
        }
        if self.leeway_seconds > 60 {
            return bad("leeway_seconds", "is at most 60");
        }
        if !self.fetch.is_bounded() {
            return bad("fetch", "must not have a 0: issuers would be asked without a pause, or nothing would be read");
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            let flaw = if self.issuers.iter().take(index).any(|other| other.is_confused_with(issuer)) {
                Some("has the name or the URL of another issuer")
            } else if issuer.issuer == self.issuer {
                Some("has the name that this platform has in its own tokens")
            } else {
                issuer.flaw()
            };
            if let Some(flaw) = flaw {
                return Err((format!("issuers[{index}]"), flaw));
            }
        }
        Ok(())
    }
}

impl IssuerConfig {
    fn is_confused_with(&self, other: &Self) -> bool {
        self.name == other.name || self.issuer == other.issuer
    }

    fn flaw(&self) -> Option<&'static str> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = (1..=32).contains(&self.name.len()) && self.name.bytes().all(inner);
        let mut tenants = self.tenant.iter().chain(self.tenants.values());
        if !is_name {
            Some("needs a name of 1 to 32 characters of a-z, 0-9 and hyphens")
        } else if !Url::parse(&self.issuer).is_ok_and(|url| is_fetchable(&url)) {
            Some("needs an https URL as its issuer, or an http URL of 127.0.0.1, [::1] or localhost")
        } else if self.audience.is_empty() || self.algorithms.is_empty() || self.types.is_empty() {
            Some("needs an audience, an algorithm and a type")
        } else if self.tenant.is_some() == self.tenant_claim.is_some() {
            Some("needs either a tenant or a tenant_claim with tenants for its values")
        } else if tenants.any(|tenant| tenant.as_str() == SYSTEM) {
            Some("must not lead to the system tenant: operators have keys or tokens of this platform")
        } else if self.scope_names().any(|name| !matches!(name.parse::<Scope>(), Ok(scope) if scope != Scope::Operator))
        {
            Some("names a scope that does not exist, or operator, which no issuer outside can give")
        } else {
            None
        }
    }

    fn scope_names(&self) -> impl Iterator<Item = &String> {
        self.allowed.iter().chain(self.scopes.values().flatten())
    }
}

/// May this platform fetch from there? Nothing is fetched in the clear but from this machine itself.
pub(crate) fn is_fetchable(url: &Url) -> bool {
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    is_bare && url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)))
}

/// Is it this machine, by a name that never leads elsewhere?
fn is_loopback(url: &Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
}

/// May an issuer that is found at `from` send this platform to `to`? One elsewhere has no business on this machine.
pub(crate) fn may_lead(from: &Url, to: &Url) -> bool {
    is_loopback(from) || !leads_here(to)
}

/// Is it this machine, by any of the names and addresses that it has for itself?
fn leads_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host.trim_end_matches('.').rsplit('.').next() == Some("localhost"),
    }
}

/// How often somebody may present credentials that are none. A good one is never counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttemptsConfig {
    /// Failed attempts of one address in a minute, on average; of IPv6, of one /64 network. 0 means without limit.
    pub per_minute_of_address: u32,
    /// As many of an address at once.
    pub burst_of_address: u32,
    /// Failed attempts at one key in a minute, on average, from wherever. 0 means without limit.
    pub per_minute_at_key: u32,
    /// As many at a key at once.
    pub burst_at_key: u32,
    /// How long it is remembered that a key was used from an address, in milliseconds: there it works on while it is
    /// guessed at from elsewhere.
    pub remember_ms: u64,
    /// Addresses and keys that are remembered. The one that was seen longest ago is forgotten first.
    pub entries_max: usize,
}

impl Default for AttemptsConfig {
    fn default() -> Self {
        Self {
            per_minute_of_address: 60,
            burst_of_address: 100,
            per_minute_at_key: 60,
            burst_at_key: 100,
            remember_ms: 86_400_000,
            entries_max: 65_536,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut IssuerConfig)) -> TokensConfig {
        let mut issuer: IssuerConfig = serde_json::from_value(serde_json::json!({
            "name": "corp", "issuer": "https://login.example", "audience": "wiz", "tenant": "acme"
        }))
        .unwrap();
        change(&mut issuer);
        TokensConfig { issuers: vec![issuer], ..Default::default() }
    }

    #[test]
    fn the_defaults_and_an_issuer_with_its_least_are_right() {
        assert_eq!(TokensConfig::default().check(), Ok(()));
        assert_eq!(with(|_| {}).check(), Ok(()));
        assert_eq!(with(|issuer| issuer.issuer = "http://127.0.0.1:1/x".into()).check(), Ok(()));
    }

    #[test]
    fn an_issuer_that_could_do_harm_is_refused() {
        for url in ["http://login.example", "ftp://x", "https://u:p@x", "https://x#y", "x", "http://127.0.0.1.example"]
        {
            assert!(with(|issuer| issuer.issuer = url.into()).check().is_err(), "{url}");
        }
        let tenant = |id: &str| TenantId::new(id).ok();
        assert!(with(|issuer| issuer.tenant = tenant(SYSTEM)).check().is_err());
        assert!(with(|issuer| issuer.tenant = None).check().is_err());
        assert!(with(|issuer| issuer.tenant_claim = Some("org".into())).check().is_err());
        assert!(with(|issuer| issuer.allowed = vec!["operator".into()]).check().is_err());
        assert!(with(|issuer| issuer.scopes = [("a".into(), vec!["fly".into()])].into()).check().is_err());
        assert!(with(|issuer| issuer.algorithms.clear()).check().is_err());
        let mut twice = with(|_| {});
        twice.issuers.extend(twice.issuers.clone());
        assert_eq!(twice.check().unwrap_err().0, "issuers[1]");
    }

    #[test]
    fn an_issuer_elsewhere_leads_nobody_back_to_this_machine_by_whatever_name() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (elsewhere, here) = (url("https://login.example"), url("http://127.0.0.1:1"));
        assert!(may_lead(&elsewhere, &url("https://keys.example/jwks")));
        assert!(may_lead(&here, &url("http://localhost:2/jwks")));
        for host in [
            "127.0.0.1",
            "127.0.0.2",
            "localhost",
            "localhost.",
            "LOCALHOST",
            "wiz.localhost",
            "[::1]",
            "0.0.0.0",
            "[::]",
            "[::ffff:127.0.0.1]",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(!may_lead(&elsewhere, &url(&format!("https://{host}/jwks"))), "{host}");
        }
    }

    #[test]
    fn an_issuer_is_not_asked_without_a_pause() {
        let fetch = |fetch| TokensConfig { fetch, ..Default::default() }.check();
        let default = FetchConfig::default();
        for none in [
            FetchConfig { every_ms: 0, ..default },
            FetchConfig { retry_ms: 0, ..default },
            FetchConfig { unknown_key_every_ms: 0, ..default },
            FetchConfig { keys_max: 0, ..default },
        ] {
            assert_eq!(fetch(none).unwrap_err().0, "fetch", "{none:?}");
        }
    }

    #[test]
    fn no_symmetric_algorithm_can_be_named() {
        for name in ["HS256", "HS512", "none", "rs256"] {
            assert!(serde_json::from_value::<Algorithm>(name.into()).is_err(), "{name}");
        }
    }
}
