//! In what a stream that was found differs from the one that is wanted, and which servers keep it.

use async_nats::jetstream::stream::{Config, Info};

/// The settings that matter to every user of a stream and are otherwise there, each with what it should be. Empty when nothing
/// differs.
pub(crate) fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    macro_rules! alike {
        ($($field:ident),*) => {
            $(
                if found.$field != wanted.$field {
                    let name = stringify!($field);
                    differences.push(format!("{name} is {:?}, should be {:?}", found.$field, wanted.$field));
                }
            )*
        };
    }
    alike!(subjects, retention, storage, num_replicas, discard, max_age, duplicate_window);
    let limits = [
        ("max_messages", found.max_messages, wanted.max_messages),
        ("max_messages_per_subject", found.max_messages_per_subject, wanted.max_messages_per_subject),
        ("max_bytes", found.max_bytes, wanted.max_bytes),
    ];
    let other = limits.into_iter().filter(|(_, is, should)| limit(*is) != limit(*should));
    differences.extend(other.map(|(name, is, should)| format!("{name} is {}, should be {}", text(is), text(should))));
    differences
}

/// The names of the servers that keep a stream, as far as it says.
pub(crate) fn servers_of(info: &Info) -> impl Iterator<Item = String> {
    let cluster = info.cluster.iter();
    cluster.flat_map(|cluster| cluster.leader.iter().chain(cluster.replicas.iter().map(|peer| &peer.name))).cloned()
}

/// Servers write "without limit" in several ways.
fn limit(value: i64) -> Option<i64> {
    (value > 0).then_some(value)
}

fn text(value: i64) -> String {
    limit(value).map_or_else(|| "without limit".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named_and_no_limit_is_no_limit_however_it_is_written() {
        let wanted = Config { num_replicas: 3, max_bytes: -1, ..Default::default() };
        assert!(differences(&wanted, &Config { max_bytes: 0, ..wanted.clone() }).is_empty());
        let found = Config { num_replicas: 1, max_messages: 9, ..wanted.clone() };
        let named = differences(&wanted, &found).join("; ");
        assert_eq!(named, "num_replicas is 1, should be 3; max_messages is 9, should be without limit");
    }
}
