//! The modules of a tenant: names, versions, and which digest each means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::ModuleRef,
    id::ModuleName,
    module,
    settings::{Clock, Settings, Sleep},
    time::Steady,
};

use super::{FUEL_MAX, FUEL_MIN, Refusal};
use crate::limits::{Policy, TierLimits};

/// A module that is to be published as the next version of its name. The bytes are in the blob store already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVersion {
    /// The name.
    pub name: ModuleName,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// How many.
    pub size_bytes: u64,
    /// What it is.
    pub kind: module::Kind,
    /// Its imports.
    pub imports: Vec<String>,
    /// Its exports.
    pub exports: Vec<String>,
    /// How its executions are to run.
    #[serde(with = "crate::codec::json")]
    pub settings: Settings,
}

/// What a version means, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    digest: Digest,
    #[serde(with = "crate::codec::json")]
    settings: Settings,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Module {
    /// Grows also across deletions, so that a version means the same for ever.
    latest: u32,
    /// Live versions. Empty: the module was deleted.
    versions: BTreeMap<u32, Version>,
}

/// Bytes that live versions have.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Named {
    /// How many versions.
    by: u32,
    size_bytes: u64,
}

/// Every name that was ever published, with its live versions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Modules {
    by_name: BTreeMap<ModuleName, Module>,
    /// Names with live versions.
    live: usize,
    /// Live versions of all of them.
    versions: usize,
    /// Which live versions have which bytes.
    digests: BTreeMap<Digest, Named>,
    rejected_at: Option<Steady>,
}

/// Rejected uploads are recorded at most this often, in milliseconds. Each is answered; the record shows that there were.
const REJECTION_EVERY_MS: u64 = 60_000;

impl Modules {
    /// Moves every time onto a clock that is ahead by `ms`.
    pub(super) fn shift(&mut self, ms: i64) {
        let Self { rejected_at, by_name: _, live: _, versions: _, digests: _ } = self;
        *rejected_at = rejected_at.map(|at| at.shifted_ms(ms));
    }

    pub(super) fn publish(&self, new: NewVersion, limits: &TierLimits, policy: &Policy) -> Result<Vec<Event>, Refusal> {
        let NewVersion { name, digest, size_bytes, kind, imports, exports, settings } = new;
        let settings = within_bounds(settings);
        let known = self.by_name.get(&name);
        let current = known.and_then(|module| module.versions.get(&module.latest));
        if current == Some(&Version { digest, settings }) {
            return Ok(vec![]);
        }
        if known.is_none_or(|module| module.versions.is_empty()) && self.live >= policy.modules_max as usize {
            return Err(Refusal::TooManyModules { limit: policy.modules_max });
        }
        if known.is_none() && self.by_name.len() >= policy.module_names_max as usize {
            return Err(Refusal::TooManyModuleNames { limit: policy.module_names_max });
        }
        if known.is_some_and(|module| module.versions.len() >= policy.versions_max as usize) {
            return Err(Refusal::TooManyVersions { limit: policy.versions_max });
        }
        if self.versions >= limits.module_versions as usize {
            return Err(Refusal::TooManyVersions { limit: limits.module_versions });
        }
        let version = known.map_or(0, |module| module.latest).saturating_add(1);
        let published = module::Published {
            name,
            version,
            digest,
            size_bytes,
            kind,
            imports,
            exports,
            settings,
            writes_full_at: None,
        };
        Ok(vec![Event::ModulePublished(published)])
    }

    pub(super) fn delete(&self, name: ModuleName) -> Result<Vec<Event>, Refusal> {
        match self.by_name.get(&name) {
            Some(module) if !module.versions.is_empty() => {
                Ok(vec![Event::ModuleDeleted(module::Deleted { name, writes_full_at: None })])
            }
            // Whether it ever existed is the same to who asks: there is nothing to delete.
            _ => Err(Refusal::ModuleUnknown),
        }
    }

    /// What is run by this name, in this version or the latest one, and how.
    pub(super) fn resolve(&self, name: &ModuleName, version: Option<u32>) -> Result<(ModuleRef, Settings), Refusal> {
        let module = self.by_name.get(name).filter(|module| !module.versions.is_empty());
        let module = module.ok_or(Refusal::ModuleUnknown)?;
        let version = version.unwrap_or(module.latest);
        let found = module.versions.get(&version);
        let Version { digest, settings } = found.ok_or(Refusal::VersionUnknown { version, latest: module.latest })?;
        Ok((ModuleRef { name: Some(name.clone()), version: Some(version), digest: *digest }, *settings))
    }

    /// Does a live version have these bytes?
    pub(super) fn have(&self, digest: &Digest) -> bool {
        self.digests.contains_key(digest)
    }

    /// The latest version of a live module.
    pub(super) fn latest(&self, name: &ModuleName) -> Option<u32> {
        self.by_name.get(name).filter(|module| !module.versions.is_empty()).map(|module| module.latest)
    }

    pub(super) fn rejected_lately(&self, now: Steady) -> bool {
        self.rejected_at.is_some_and(|at| now.ms_since(at) < REJECTION_EVERY_MS)
    }

    pub(super) const fn rejected(&mut self, at: Steady) {
        self.rejected_at = Some(at);
    }

    /// Gives the sizes of the bytes that no live version has any more.
    pub(super) fn published(&mut self, published: &module::Published) -> Vec<u64> {
        let module = self.by_name.entry(published.name.clone()).or_default();
        self.live += usize::from(module.versions.is_empty());
        module.latest = published.version;
        let module::Published { version, digest, settings, size_bytes, .. } = *published;
        let replaced = module.versions.insert(version, Version { digest, settings });
        self.versions += usize::from(replaced.is_none());
        let named = self.digests.entry(digest).or_default();
        *named = Named { by: named.by.saturating_add(1), size_bytes };
        // A number is given again only where a commit of the history was skipped.
        replaced.and_then(|version| self.no_more(&version.digest)).into_iter().collect()
    }

    /// Gives the sizes of the bytes that no live version has any more.
    pub(super) fn deleted(&mut self, name: &ModuleName) -> Vec<u64> {
        let Some(module) = self.by_name.get_mut(name) else { return Vec::new() };
        let versions = std::mem::take(&mut module.versions);
        self.live = self.live.saturating_sub(usize::from(!versions.is_empty()));
        self.versions = self.versions.saturating_sub(versions.len());
        versions.values().filter_map(|version| self.no_more(&version.digest)).collect()
    }

    /// A version with these bytes is none any more. Gives their size, if it was the last.
    fn no_more(&mut self, digest: &Digest) -> Option<u64> {
        match self.digests.get_mut(digest) {
            Some(named) if named.by > 1 => {
                named.by -= 1;
                None
            }
            _ => self.digests.remove(digest).map(|named| named.size_bytes),
        }
    }
}

/// As they are kept, whatever was asked for: the host's clocks do not move for a sleep that nobody waits for, and fuel has its bounds.
fn within_bounds(settings: Settings) -> Settings {
    let sleep = match settings.clock {
        Clock::Virtual => settings.sleep,
        Clock::Host => Sleep::Wait,
    };
    Settings { sleep, fuel: settings.fuel.map(|fuel| fuel.clamp(FUEL_MIN, FUEL_MAX)), ..settings }
}

/// May a module of the tenant be so large?
pub(super) const fn check_size(size_bytes: u64, limits: &TierLimits) -> Result<(), Refusal> {
    if size_bytes > limits.module_bytes {
        return Err(Refusal::ModuleTooLarge { limit_bytes: limits.module_bytes });
    }
    Ok(())
}

/// May guests of the tenant read this clock? Asked when a version is published, and for each execution: the operator may think otherwise by
/// then.
pub(super) const fn check_clock(clock: Clock, limits: &TierLimits) -> Result<(), Refusal> {
    match clock {
        Clock::Host if !limits.host_clock => Err(Refusal::HostClockForbidden),
        Clock::Host | Clock::Virtual => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::tenant::Tier;

    use super::*;
    use crate::tenant::{Command, Configured, Execute, ModuleChoice, scenario::*};

    #[test]
    fn other_bytes_are_the_next_version() {
        given(ready()).by(K1).when(publish(HELLO, b"two")).then_published(HELLO, 2);
    }

    #[test]
    fn the_same_bytes_are_the_same_version() {
        given(ready()).by(K1).when(publish(HELLO, b"one")).then([]);
    }

    #[test]
    fn the_same_bytes_with_other_settings_are_another_version_and_with_the_same_the_same() {
        let skips = Settings { sleep: Sleep::Skip, fuel: Some(9), ..Settings::default() };
        let first = given(ready()).by(K1).when(publish_with(HELLO, b"one", skips)).events();
        let [Event::ModulePublished(published)] = &first[..] else { panic!("{first:?}") };
        assert_eq!((published.version, published.settings), (2, skips));
        let history = || ready().into_iter().chain(first.clone());
        given(history()).by(K1).when(publish_with(HELLO, b"one", skips)).then([]);
        // Whoever says nothing of them means the default.
        given(history()).by(K1).when(publish(HELLO, b"one")).then_published(HELLO, 3);
    }

    #[test]
    fn settings_are_kept_within_their_bounds() {
        let kept = |settings| {
            let events = given(ready()).by(K1).when(publish_with(HELLO, b"two", settings)).events();
            let [Event::ModulePublished(published)] = &events[..] else { panic!("{events:?}") };
            published.settings
        };
        let both = Settings { sleep: Sleep::Skip, clock: Clock::Host, fuel: Some(0) };
        assert_eq!(kept(both), Settings { sleep: Sleep::Wait, clock: Clock::Host, fuel: Some(FUEL_MIN) });
        let much = Settings { fuel: Some(u64::MAX), ..Settings::default() };
        assert_eq!(kept(much).fuel, Some(FUEL_MAX));
    }

    #[test]
    fn where_the_operator_does_not_allow_it_no_version_reads_the_hosts_clocks_and_none_that_does_is_run() {
        let mut policy = Policy::default();
        policy.pro.host_clock = false;
        let host = Settings { clock: Clock::Host, ..Settings::default() };
        let refused = || Refusal::HostClockForbidden;
        given(ready()).by(K1).under(policy).when(publish_with(HELLO, b"two", host)).then_refused(refused());
        given(ready()).by(K1).under(policy).when(publish(HELLO, b"two")).then_published(HELLO, 2);
        // One that was published before, whatever it was prepared for.
        let history = || ready().into_iter().chain([published_with(HELLO, 2, host)]);
        given(history()).by(K1).under(policy).when(execute(HELLO)).then_refused(refused());
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        let configured = || Command::Configured(Configured { settings: host, ..Execute::clone(&execute).into() });
        given(history()).by(K1).under(policy).when(configured()).then_refused(refused());
        // Where nothing is said of it, it is run.
        assert_eq!(given(history()).by(K1).when(configured()).accepted().clock, Clock::Host);
    }

    #[test]
    fn older_bytes_published_again_are_a_new_version() {
        let history = ready().into_iter().chain([published_as(HELLO, 2, b"two")]);
        given(history).by(K1).when(publish(HELLO, b"one")).then_published(HELLO, 3);
    }

    #[test]
    fn a_version_number_is_never_used_twice() {
        given(ready().into_iter().chain([deleted(HELLO)])).by(K1).when(publish(HELLO, b"one")).then_published(HELLO, 2);
    }

    #[test]
    fn a_deleted_module_does_not_run() {
        given(ready().into_iter().chain([deleted(HELLO)]))
            .by(K1)
            .when(execute(HELLO))
            .then_refused(Refusal::ModuleUnknown);
        given(ready().into_iter().chain([deleted(HELLO)]))
            .by(K1)
            .when(Command::DeleteModule { name: module_name(HELLO) })
            .then_refused(Refusal::ModuleUnknown);
    }

    #[test]
    fn an_unknown_version_names_the_latest() {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        let module = ModuleChoice::Named { name: module_name(HELLO), version: Some(9) };
        given(ready())
            .by(K1)
            .when(Command::Execute(Box::new(Execute { module, ..*execute })))
            .then_refused(Refusal::VersionUnknown { version: 9, latest: 1 });
    }

    fn names(count: u32) -> impl Iterator<Item = String> {
        (0..count).map(|n| format!("module{n:05}"))
    }

    #[test]
    fn there_is_a_most_of_modules_and_deleting_some_makes_room() {
        let full = || {
            [registered("Acme", Tier::Pro), key_issued(K1)].into_iter().chain(names(1_000).map(|name| published(&name)))
        };
        let refusal = Refusal::TooManyModules { limit: 1_000 };
        given(full()).by(K1).when(publish(HELLO, b"one")).then_refused(refusal.clone());
        let with_room = || full().chain([deleted("module00007"), deleted("module00007")]);
        given(with_room()).by(K1).when(publish(HELLO, b"one")).then_published(HELLO, 1);
        given(with_room()).by(K1).when(publish("module00007", b"one")).then_published("module00007", 2);
        // A name that comes back counts as any other, and a new version of a live one does not.
        let full_again = || with_room().chain([published(HELLO)]);
        given(full_again()).by(K1).when(publish("module00007", b"one")).then_refused(refusal);
        given(full_again()).by(K1).when(publish(HELLO, b"two")).then_published(HELLO, 2);
    }

    #[test]
    fn there_is_a_most_of_versions_by_tier_and_deleting_a_module_makes_room_for_all_of_its() {
        let mut policy = crate::limits::Policy::default();
        (policy.pro.module_versions, policy.free.module_versions) = (5, 3);
        let refusal = |limit| Refusal::TooManyVersions { limit };
        let versions = |name: &'static str, of: std::ops::RangeInclusive<u32>| {
            of.map(move |version| published_as(name, version, format!("{name}{version}").as_bytes()))
        };
        let full = || {
            let tenant = [registered("Acme", Tier::Pro), key_issued(K1)].into_iter();
            tenant.chain(versions(HELLO, 1..=3)).chain(versions("other", 1..=2))
        };
        given(full()).by(K1).under(policy).when(publish("third", b"new")).then_refused(refusal(5));
        given(full()).by(K1).under(policy).when(publish(HELLO, b"new")).then_refused(refusal(5));
        // What is so already is no new version.
        given(full()).by(K1).under(policy).when(publish(HELLO, b"hello3")).then([]);
        let with_room = || full().chain([deleted(HELLO), deleted(HELLO)]);
        given(with_room()).by(K1).under(policy).when(publish(HELLO, b"new")).then_published(HELLO, 4);
        let almost = || with_room().chain(versions("third", 1..=2));
        given(almost()).by(K1).under(policy).when(publish("other", b"new")).then_published("other", 3);
        // A tenant that has more than its tier allows, by an earlier rule or a change of the tier, keeps and runs what it has.
        let smaller = Event::TenantTierChanged(wasmwiz_events::tenant::TierChanged { tier: Tier::Free });
        let over = || full().chain([smaller.clone()]);
        given(over()).by(K1).under(policy).when(publish(HELLO, b"new")).then_refused(refusal(3));
        given(over()).by(K1).under(policy).when(execute(HELLO)).then_accepted();
    }

    #[test]
    fn there_is_a_most_of_names_that_are_remembered() {
        let used = || names(10_000).flat_map(|name| [published(&name), deleted(&name)]);
        let history = || [registered("Acme", Tier::Pro), key_issued(K1)].into_iter().chain(used());
        let refusal = Refusal::TooManyModuleNames { limit: 10_000 };
        given(history()).by(K1).when(publish(HELLO, b"one")).then_refused(refusal);
        given(history()).by(K1).when(publish("module00007", b"one")).then_published("module00007", 2);
    }

    #[test]
    fn a_flood_of_bad_uploads_is_not_a_flood_of_events() {
        let reject = || Command::RejectModule {
            name: module_name(HELLO),
            digest: Digest::of(b"bad"),
            size_bytes: 3,
            reason: "not wasm".into(),
        };
        let first = given(ready()).by(K1).when(reject()).events();
        assert_eq!(first.len(), 1);
        let history = || ready().into_iter().chain(first.clone());
        given(history()).by(K1).at(NOON.plus_ms(59_999)).when(reject()).then([]);
        assert_eq!(given(history()).by(K1).at(NOON.plus_ms(60_000)).when(reject()).events().len(), 1);
    }

    #[test]
    fn a_module_over_the_tiers_limit_is_refused() {
        let history = [registered("Acme", Tier::Free), key_issued(K1)];
        let Command::PublishModule { name, digest, kind, imports, exports, .. } = publish(HELLO, b"big") else {
            unreachable!()
        };
        let size_bytes = 4 * 1_024 * 1_024 + 1;
        given(history)
            .by(K1)
            .when(Command::PublishModule { name, digest, size_bytes, kind, imports, exports })
            .then_refused(Refusal::ModuleTooLarge { limit_bytes: 4 * 1_024 * 1_024 });
    }
}
