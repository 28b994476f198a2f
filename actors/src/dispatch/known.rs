//! The settings of the versions that this node has run lately: each execution is prepared for its own before it is admitted.
//!
//! Which they are is decided with the admission, from the tenant's own state. Whoever had prepared for others is refused with the right
//! ones, learns them here, and prepares again. A node that publishes a version knows them from the beginning.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use wasmwiz_events::{
    id::{ModuleName, TenantId},
    module::Published,
    settings::Settings,
};

use super::{Code, DispatchError};
use crate::{handle::AskError, tenant::Refusal};

/// Of how many tenants something is remembered. One of which nothing is costs its next execution another question to it.
const TENANTS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1_023);

/// How many are remembered of each: none that runs many of them has those of others forgotten.
const OF_A_TENANT_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// A version of a module, or its latest one.
type Asked = (ModuleName, Option<u32>);

/// What is remembered of one tenant.
type OfOne = LruCache<Asked, Settings>;

/// What is remembered. What is not has the default.
pub(super) struct Known(Mutex<LruCache<TenantId, OfOne>>);

impl Default for Known {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(TENANTS_MAX)))
    }
}

impl Known {
    /// What is believed of this code.
    pub(super) fn of(&self, tenant: &TenantId, code: &Code) -> Settings {
        let Some(asked) = asked(code) else { return Settings::default() };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_mut(tenant).and_then(|of_it| of_it.get(&asked).copied()).unwrap_or_default()
    }

    /// Learns what a tenant has refused an execution of this code for; false when it was refused for something else.
    pub(super) fn learns(&self, tenant: &TenantId, code: &Code, error: &DispatchError) -> bool {
        let DispatchError::Ask(AskError::Refused(Refusal::OtherSettings(settings))) = error else { return false };
        let Some(asked) = asked(code) else { return false };
        self.remember(tenant, asked, *settings);
        true
    }

    /// Learns of a version that is the latest one now.
    pub(super) fn published(&self, tenant: &TenantId, published: &Published) {
        let Published { name, version, settings, .. } = published;
        for asked in [None, Some(*version)] {
            self.remember(tenant, (name.clone(), asked), *settings);
        }
    }

    fn remember(&self, tenant: &TenantId, asked: Asked, settings: Settings) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !settings.is_default() {
            known.get_or_insert_mut(tenant.clone(), || LruCache::new(OF_A_TENANT_MAX)).put(asked, settings);
            return;
        }
        let is_empty = known.get_mut(tenant).is_some_and(|of_it| {
            of_it.pop(&asked);
            of_it.is_empty()
        });
        if is_empty {
            known.pop(tenant);
        }
    }
}

/// Only what was published has settings.
fn asked(code: &Code) -> Option<Asked> {
    match code {
        Code::Named { name, version } => Some((name.clone(), *version)),
        Code::Inline(_) | Code::Kept(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{
        event::Event,
        settings::{Clock, Sleep},
    };

    use super::*;
    use crate::tenant::scenario::{HELLO, published_with};

    const SKIPS: Settings = Settings { sleep: Sleep::Skip, clock: Clock::Virtual, fuel: None };

    fn hello(version: Option<u32>) -> Code {
        Code::Named { name: ModuleName::new(HELLO).unwrap(), version }
    }

    fn published(version: u32, settings: Settings) -> Published {
        let Event::ModulePublished(published) = published_with(HELLO, version, settings) else { unreachable!() };
        published
    }

    #[test]
    fn what_is_published_here_is_known_before_it_is_run_and_what_was_before_stays_so() {
        let (known, tenant) = (Known::default(), TenantId::new("acme").unwrap());
        known.published(&tenant, &published(2, SKIPS));
        assert_eq!([known.of(&tenant, &hello(None)), known.of(&tenant, &hello(Some(2)))], [SKIPS; 2]);
        known.published(&tenant, &published(3, Settings::default()));
        let of = [None, Some(2), Some(3)].map(|version| known.of(&tenant, &hello(version)));
        assert_eq!(of, [Settings::default(), SKIPS, Settings::default()]);
    }

    #[test]
    fn a_tenant_with_many_versions_has_nothing_of_another_forgotten_and_one_with_none_takes_no_place() {
        let (known, tenant) = (Known::default(), TenantId::new("acme").unwrap());
        let other = TenantId::new("other").unwrap();
        known.published(&other, &published(1, SKIPS));
        for version in 1..10_000 {
            known.published(&tenant, &published(version, SKIPS));
        }
        assert_eq!(known.of(&other, &hello(Some(1))), SKIPS);
        assert_eq!([known.of(&tenant, &hello(Some(1))), known.of(&tenant, &hello(None))], [Settings::default(), SKIPS]);
        known.published(&other, &published(1, Settings::default()));
        assert_eq!(known.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_was_learnt_is_known_until_something_else_is_and_of_uploads_nothing_is() {
        let (known, tenant) = (Known::default(), TenantId::new("acme").unwrap());
        let other = TenantId::new("other").unwrap();
        let named = |version| Code::Named { name: ModuleName::new("hello").unwrap(), version };
        let refused = |settings| DispatchError::Ask(AskError::Refused(Refusal::OtherSettings(settings)));
        let skips = Settings { sleep: Sleep::Skip, ..Settings::default() };
        assert!(known.learns(&tenant, &named(None), &refused(skips)));
        assert_eq!(known.of(&tenant, &named(None)), skips);
        assert_eq!([known.of(&tenant, &named(Some(1))), known.of(&other, &named(None))], [Settings::default(); 2]);
        assert!(known.learns(&tenant, &named(None), &refused(Settings::default())));
        assert_eq!(known.of(&tenant, &named(None)), Settings::default());
        let inline = Code::Inline(bytes::Bytes::new());
        assert!(!known.learns(&tenant, &inline, &refused(skips)), "asking again would not help");
        assert!(!known.learns(&tenant, &named(None), &AskError::Refused(Refusal::Suspended).into()));
    }
}
