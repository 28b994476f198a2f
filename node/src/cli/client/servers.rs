//! The servers and streams of a deployment, looked at: what is as it should be, what is not, and what to do.
//!
//! Pure: from what was seen to findings.

use std::{collections::BTreeSet, io, path::Path};

use wasmwiz_events::{
    log::jetstream::{Acknowledged, Durability},
    nats::{
        Unconnected,
        monitor::{Monitored, Unsaid},
        survey::{SERVER_MIN, Server, Stream, Wanted, is_new_enough},
    },
    time::Timestamp,
};

use super::{
    checks::{CLOCK_OFF_MS, off_ms},
    finding::Finding,
};
use crate::disk::DiskConfig;

/// Percent of a server's bound above which its storage is worth a look, and above which it is about to be full.
const STORED_PERCENT: (u64, u64) = (80, 95);

/// A part of the configuration that speaks to NATS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    /// Where its settings are, such as `log.jetstream`.
    pub(super) name: &'static str,
    /// What nodes do while its streams are not as they should be.
    pub(super) without: &'static str,
    /// The largest message that its servers have to take, in bytes.
    pub(super) message_bytes: usize,
}

/// Do its servers let this program in, are they new enough, and do they take its messages?
pub(super) fn reached(section: Section, servers: &[(String, Result<Server, Unconnected>)]) -> Vec<Finding> {
    const CHECK: &str = "servers";
    let Section { name, message_bytes, .. } = section;
    let there: Vec<_> = servers.iter().filter_map(|(_, server)| server.as_ref().ok()).collect();
    // The list need not have all servers: whether a majority is there, the copies of the streams say.
    let is_in = !there.is_empty();
    let away = servers.iter().filter_map(|(address, server)| Some((address, server.as_ref().err()?)));
    let mut findings: Vec<_> = away
        .map(|(address, why)| {
            let message = format!("{name}: {address}: {why}");
            match is_in {
                true => Finding::warning(CHECK, message, "see to that server, or correct its address"),
                false => Finding::bad(CHECK, message, "see to it now: no server lets this machine in"),
            }
        })
        .collect();
    for server in &there {
        if !is_new_enough(&server.version) {
            let (major, minor) = SERVER_MIN;
            let message = format!("{name}: {} is of {}", server.name, server.version);
            findings.push(Finding::bad(CHECK, message, format!("install nats-server {major}.{minor} or newer")));
        }
        if server.max_payload < message_bytes {
            let taken = server.max_payload;
            let message = format!("{name}: {} takes messages of {taken} bytes, of {message_bytes}", server.name);
            findings.push(Finding::bad(CHECK, message, "set max_payload: 2MB in its nats.conf"));
        }
    }
    let versions: BTreeSet<_> = there.iter().map(|server| server.version.as_str()).collect();
    let listed = versions.iter().copied().collect::<Vec<_>>().join(" and ");
    if versions.len() > 1 {
        let message = format!("{name}: servers of {listed} run beside each other");
        findings.push(Finding::warning(CHECK, message, "bring them to one version, one server after the other"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{name}: {} let this machine in, of {listed}", there.len())));
    }
    findings
}

/// Is a stream there, as it should be, and whole?
pub(super) fn stream(section: Section, wanted: &Wanted, found: &Result<Option<Stream>, String>) -> Vec<Finding> {
    const CHECK: &str = "streams";
    let (Section { name, without, .. }, stream) = (section, &wanted.stream);
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            let remedy = "the first node that starts makes it; if there was one, these are other servers, or somebody removed it";
            return vec![Finding::warning(CHECK, format!("{stream} is not there"), remedy)];
        }
        Err(why) => {
            let remedy = "see that JetStream is enabled for this account, and that a majority of its servers is up";
            return vec![Finding::bad(CHECK, format!("{stream}: {why}"), remedy)];
        }
    };
    let mut findings = Vec::new();
    if !found.differences.is_empty() {
        let edit = match found.differences.iter().any(|difference| difference.starts_with("num_replicas")) {
            true => format!("nats stream edit {stream} --replicas {}", wanted.replicas),
            false => format!("nats stream edit {stream}"),
        };
        let remedy = format!("`{edit}`, or correct the settings of {name}; {without}");
        findings.push(Finding::bad(CHECK, format!("{stream}: {}", found.differences.join("; ")), remedy));
    }
    let (copies, away) = (found.servers.len(), found.offline.len());
    if away > 0 {
        let message = format!("{stream}: no copy is reached at {}", found.offline.join(", "));
        findings.push(match copies.saturating_sub(away) * 2 > copies {
            true => Finding::warning(CHECK, message, "start that server: with one more away, nothing is written"),
            false => {
                Finding::bad(CHECK, message, "start those servers: without a majority of the copies nothing is written")
            }
        });
    }
    if !found.behind.is_empty() {
        let message = format!("{stream}: the copy is behind at {}", found.behind.join(", "));
        findings.push(Finding::warning(
            CHECK,
            message,
            "wait; if it stays so, see that server's disk and its log lines",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{stream}: as it should be, kept by {}", found.servers.join(", "))));
    }
    findings
}

/// Does the log outlive the disk of a server?
pub(super) fn copies(replicas: usize) -> Option<Finding> {
    let message = "the log has one copy: it is lost with the disk of its server";
    let remedy = "run three servers, and set log.jetstream.replicas and cluster.replicas to 3";
    (replicas == 1).then(|| Finding::warning("copies", message, remedy))
}

/// Does what was acknowledged outlive a loss of power?
pub(super) fn synced(known: &Durability, accepted: Acknowledged) -> Finding {
    const CHECK: &str = "sync";
    let remedy = match known {
        Durability::Synced(what) => return Finding::ok(CHECK, what.as_str()),
        Durability::Partly(_) => "set sync_interval: always in the jetstream block of that server",
        Durability::Unverified(_) => {
            "open the servers' monitoring ports to nodes (`http:` in nats.conf) and name them in log.jetstream.monitor_urls"
        }
        Durability::Unsynced(_) => {
            "set sync_interval: always in the jetstream block of each, one server after the other"
        }
    };
    match known.is_enough(accepted) {
        true => Finding::warning(CHECK, known.what(), remedy),
        false => Finding::bad(CHECK, format!("{}; nodes are not ready", known.what()), remedy),
    }
}

/// Why a monitoring port said nothing.
pub(super) fn unmonitored(unsaid: &Unsaid) -> Finding {
    let remedy = "correct log.jetstream.monitor_urls, start that server, or open its monitoring port to this machine";
    Finding::warning("monitoring", unsaid.to_string(), remedy)
}

/// The clock of a server, which was asked between these moments.
pub(super) fn clock(said: &Monitored, asked: Timestamp, answered: Timestamp) -> Option<Finding> {
    const CHECK: &str = "clock";
    let (name, off_ms) = (&said.name, off_ms(said.now?, asked, answered));
    Some(if off_ms <= CLOCK_OFF_MS {
        Finding::ok(CHECK, format!("the clocks of {name} and of this machine agree"))
    } else {
        let message = format!("the clocks of {name} and of this machine differ by {off_ms} ms at least");
        Finding::warning(
            CHECK,
            message,
            "have both set by NTP: times in their log lines are compared when something is wrong",
        )
    })
}

/// How full a server's storage is.
pub(super) fn storage(said: &Monitored) -> Finding {
    const CHECK: &str = "storage";
    let name = &said.name;
    let Some(jetstream) = said.jetstream else {
        return Finding::bad(CHECK, format!("{name} has no JetStream"), "enable it: jetstream {} in its nats.conf");
    };
    let stored = jetstream.stored_bytes;
    let Some(most) = jetstream.stored_bytes_max else {
        return Finding::ok(CHECK, format!("{name} stores {stored} bytes, without a bound of its own"));
    };
    let percent = stored.saturating_mul(100) / most;
    let message = format!("{name} stores {percent} % of the {most} bytes that it may");
    let remedy =
        "raise its max_file_store, on a disk that has the room: full, it takes no more, and writes are answered 503";
    match percent {
        percent if percent >= STORED_PERCENT.1 => Finding::bad(CHECK, message, remedy),
        percent if percent >= STORED_PERCENT.0 => Finding::warning(CHECK, message, remedy),
        _ => Finding::ok(CHECK, message),
    }
}

/// The disk of this machine below a node's data folder.
pub(super) fn disk(folder: &Path, free_bytes: io::Result<u64>, marks: DiskConfig) -> Finding {
    const CHECK: &str = "disk";
    let folder = folder.display();
    let remedy = "make room, or give the node a larger disk";
    match free_bytes {
        Err(error) => {
            let remedy = "see that the disk is mounted, and node.data_dir right";
            Finding::bad(CHECK, format!("it is not known how full the disk of {folder} is: {error}"), remedy)
        }
        Ok(free) if free < marks.least_bytes => Finding::bad(
            CHECK,
            format!("{free} bytes are free at {folder}: only what ends something is written"),
            remedy,
        ),
        Ok(free) if free < marks.low_bytes => {
            let message = format!("{free} bytes are free at {folder}: no modules are taken, and no executions begun");
            Finding::bad(CHECK, message, remedy)
        }
        Ok(free) if free / 2 < marks.low_bytes => Finding::warning(
            CHECK,
            format!("{free} bytes are free at {folder}, and at {} it is low", marks.low_bytes),
            remedy,
        ),
        Ok(free) => Finding::ok(CHECK, format!("{free} bytes are free at {folder}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wasmwiz_events::nats::monitor::{JetStream, Syncs};

    use super::*;
    use crate::cli::client::finding::{Grade, worst};

    const LOG: Section = Section { name: "log.jetstream", without: "nodes do not start", message_bytes: 2_000_000 };

    fn server(name: &str, version: &str) -> (String, Result<Server, Unconnected>) {
        let server = Server { name: name.to_owned(), version: version.to_owned(), max_payload: 2 << 20 };
        (format!("nats://{name}:4222"), Ok(server))
    }

    fn away() -> (String, Result<Server, Unconnected>) {
        let why = Unconnected::Unreachable { section: "log.jetstream.nats", why: "connection refused".to_owned() };
        ("nats://c:4222".to_owned(), Err(why))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[track_caller]
    fn says(findings: &[Finding], grade: Grade, text: &str) {
        let says = |finding: &Finding| finding.grade == grade && finding.message.contains(text);
        assert!(worst(findings) == grade && findings.iter().any(says), "{grade:?} {text}: {findings:?}");
    }

    #[test]
    fn servers_that_are_there_and_alike_are_well_and_what_is_not_is_named() {
        says(
            &reached(LOG, &[server("a", "2.15.1"), server("b", "2.15.1")]),
            Grade::Ok,
            "2 let this machine in, of 2.15.1",
        );
        let one_away = reached(LOG, &[server("a", "2.15.1"), server("b", "2.15.1"), away()]);
        says(&one_away, Grade::Warning, "nats://c:4222: NATS cannot be reached");
        says(&reached(LOG, &[server("a", "2.15.1"), away()]), Grade::Warning, "connection refused");
        says(&reached(LOG, &[away()]), Grade::Bad, "connection refused");
        says(&reached(LOG, &[server("a", "2.10.3")]), Grade::Bad, "a is of 2.10.3");
        says(&reached(LOG, &[server("a", "2.12.0"), server("b", "2.15.1")]), Grade::Warning, "2.12.0 and 2.15.1");
        let small = Section { message_bytes: 3 << 20, ..LOG };
        says(&reached(small, &[server("a", "2.15.1")]), Grade::Bad, "takes messages of 2097152 bytes, of 3145728");
    }

    #[test]
    fn a_stream_with_other_settings_is_bad_and_the_command_that_changes_it_is_said() {
        let wanted = Wanted::copies("WASMWIZ_LOG", 3);
        let seen = |differences: &[&str]| {
            let found = Stream { differences: names(differences), servers: names(&["a"]), ..Stream::default() };
            stream(LOG, &wanted, &Ok(Some(found)))
        };
        says(&seen(&[]), Grade::Ok, "WASMWIZ_LOG: as it should be, kept by a");
        let one_copy = seen(&["num_replicas is 1, should be 3"]);
        says(&one_copy, Grade::Bad, "num_replicas is 1, should be 3");
        let remedy = one_copy[0].remedy.as_deref().unwrap();
        assert!(
            remedy.contains("`nats stream edit WASMWIZ_LOG --replicas 3`") && remedy.contains("nodes do not start")
        );
        says(&seen(&["max_age is 1s, should be 0ns"]), Grade::Bad, "max_age");
        says(&stream(LOG, &wanted, &Ok(None)), Grade::Warning, "is not there");
        says(&stream(LOG, &wanted, &Err("no responders".to_owned())), Grade::Bad, "no responders");
    }

    #[test]
    fn copies_that_are_away_matter_as_they_are_many() {
        let wanted = Wanted::copies("WASMWIZ_LOG", 3);
        let seen = |offline: &[&str], behind: &[&str]| {
            let servers = names(&["a", "b", "c"]);
            let found = Stream { servers, offline: names(offline), behind: names(behind), differences: Vec::new() };
            stream(LOG, &wanted, &Ok(Some(found)))
        };
        says(&seen(&["c"], &[]), Grade::Warning, "no copy is reached at c");
        says(&seen(&["b", "c"], &[]), Grade::Bad, "no copy is reached at b, c");
        says(&seen(&[], &["b"]), Grade::Warning, "behind at b");
        assert_eq!((copies(1).map(|one| one.grade), copies(3)), (Some(Grade::Warning), None));
    }

    #[test]
    fn what_is_not_synced_is_bad_unless_that_is_accepted() {
        let unsynced = Durability::Unsynced("a every 120 s".to_owned());
        says(&[synced(&unsynced, Acknowledged::Synced)], Grade::Bad, "a every 120 s; nodes are not ready");
        says(&[synced(&unsynced, Acknowledged::Unsynced)], Grade::Warning, "a every 120 s");
        let partly = Durability::Partly("by a and c; b every 120 s".to_owned());
        says(&[synced(&partly, Acknowledged::Synced)], Grade::Warning, "b every 120 s");
        let unknown = Durability::Unverified("nobody knows".to_owned());
        says(&[synced(&unknown, Acknowledged::Synced)], Grade::Bad, "nobody knows");
        says(&[synced(&unknown, Acknowledged::Unverified)], Grade::Warning, "nobody knows");
        says(&[synced(&Durability::Synced("by a".to_owned()), Acknowledged::Synced)], Grade::Ok, "by a");
        let unsaid = Unsaid { address: "http://a:8222".to_owned(), why: "connection refused".to_owned() };
        says(&[unmonitored(&unsaid)], Grade::Warning, "http://a:8222");
    }

    #[test]
    fn a_server_that_is_nearly_full_or_whose_clock_is_off_is_named() {
        let at = |ms: i64| Timestamp::from_unix_ms(1_800_000_000_000 + ms);
        let said = |stored_bytes, stored_bytes_max| Monitored {
            name: "a".to_owned(),
            version: "2.15.1".to_owned(),
            now: Some(at(0)),
            max_payload: 0,
            jetstream: Some(JetStream { syncs: Syncs::Every(Duration::from_secs(1)), stored_bytes, stored_bytes_max }),
        };
        let grade = |stored_bytes| storage(&said(stored_bytes, Some(1_000))).grade;
        assert_eq!([grade(799), grade(800), grade(950)], [Grade::Ok, Grade::Warning, Grade::Bad]);
        assert_eq!(storage(&said(u64::MAX, None)).grade, Grade::Ok);
        assert_eq!(storage(&Monitored { jetstream: None, ..said(0, None) }).grade, Grade::Bad);
        let clock = |asked| clock(&said(0, None), at(asked), at(asked + 10)).unwrap().grade;
        assert_eq!(
            [clock(-1_000), clock(2_000), clock(2_001), clock(-2_011)],
            [Grade::Ok, Grade::Ok, Grade::Warning, Grade::Warning]
        );
    }

    #[test]
    fn a_disk_is_looked_at_by_the_marks_of_the_node() {
        let marks = DiskConfig { low_bytes: 100, least_bytes: 10, ..DiskConfig::default() };
        let grade = |free| disk(Path::new("data"), Ok(free), marks).grade;
        assert_eq!([grade(9), grade(99), grade(199), grade(200)], [Grade::Bad, Grade::Bad, Grade::Warning, Grade::Ok]);
        let gone = disk(Path::new("data"), Err(io::Error::from(io::ErrorKind::NotFound)), marks);
        assert!(gone.grade == Grade::Bad && gone.message.contains("data"), "{gone:?}");
    }
}
