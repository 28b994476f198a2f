//! The stream of the log: its settings, and in what another one differs.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::JetstreamLogConfig;
use crate::{
    id::TenantId,
    nats::{self, survey::Wanted},
    shard::Shard,
};

/// The stream as the settings want it: nothing in it is ever removed or replaced, by anybody.
pub(super) fn wanted(config: &JetstreamLogConfig) -> Config {
    Config {
        name: config.stream.clone(),
        description: Some("The log of WasmWiz, one commit a message".to_owned()),
        subjects: vec![format!("{}.*.*", config.subject_prefix)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        max_age: Duration::ZERO,
        duplicate_window: Duration::from_secs(config.duplicate_window_s),
        deny_delete: true,
        deny_purge: true,
        // What decides is read at the leader, and nobody is tempted.
        allow_direct: false,
        ..Default::default()
    }
}

/// The stream below the bucket of blobs, as clients of object stores make it, but that it is read at its leader too: a copy
/// that lags would not know what another node has just kept.
pub(super) fn wanted_bucket(config: &JetstreamLogConfig) -> Config {
    let bucket = &config.bucket;
    Config {
        name: format!("OBJ_{bucket}"),
        description: Some("Modules and large payloads of WasmWiz, named by their digests".to_owned()),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        deny_delete: false,
        deny_purge: false,
        allow_rollup: true,
        max_messages_per_subject: -1,
        ..wanted(config)
    }
}

/// What a stream that was found has otherwise; empty when nothing matters.
pub(super) fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let mut differences = nats::differences(wanted, found);
    let flags = [
        ("deny_delete", found.deny_delete, wanted.deny_delete),
        ("deny_purge", found.deny_purge, wanted.deny_purge),
        ("allow_rollup_hdrs", found.allow_rollup, wanted.allow_rollup),
        ("allow_direct", found.allow_direct, wanted.allow_direct),
        ("sealed", found.sealed, wanted.sealed),
    ];
    let other = flags.into_iter().filter(|(_, is, should)| is != should);
    differences.extend(other.map(|(name, is, should)| format!("{name} is {is}, should be {should}")));
    differences
}

/// The streams of a log with these settings, for who looks whether they are as they should be.
pub(super) fn all_wanted(config: &JetstreamLogConfig) -> Vec<Wanted> {
    let all = [wanted(config), wanted_bucket(config)];
    let wanted = |wanted: Config| {
        let (name, replicas) = (wanted.name.clone(), wanted.num_replicas);
        Wanted::new(name, replicas, move |found| differences(&wanted, found))
    };
    all.map(wanted).into()
}

/// The subject of a tenant.
pub(super) fn subject(config: &JetstreamLogConfig, tenant: &TenantId) -> String {
    format!("{}.{}.{tenant}", config.subject_prefix, Shard::of(tenant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named() {
        let config = JetstreamLogConfig::default();
        let wanted = wanted(&config);
        assert!(differences(&wanted, &wanted).is_empty());
        let found = Config { num_replicas: 3, deny_purge: false, max_bytes: 7, ..wanted.clone() };
        let named = differences(&wanted, &found).join("; ");
        assert_eq!(
            named,
            "num_replicas is 3, should be 1; max_bytes is 7, should be without limit; deny_purge is false, should be true"
        );
    }

    #[test]
    fn a_tenant_has_one_subject() {
        let tenant = TenantId::new("dev").unwrap();
        assert_eq!(subject(&JetstreamLogConfig::default(), &tenant), "wasmwiz.log.239.dev");
    }
}
