//! What a node says of itself and of its cluster, looked at: what is as it should be, what is not, and what to do.
//!
//! Pure: from what was answered to findings.

use std::collections::BTreeSet;

use serde_json::Value;
use wasmwiz_events::{shard::SHARDS, time::Timestamp};

use super::{
    finding::Finding,
    render,
    topology::{Node, Shard, Topology},
};

/// Shards that are named one by one; of more there is a number.
const NAMED_MAX: usize = 8;

/// Milliseconds by which a clock may be off that nobody notices.
pub(super) const CLOCK_OFF_MS: u64 = 2_000;

/// Milliseconds by which a clock may be off before tokens are refused or live for too long.
const CLOCK_WRONG_MS: u64 = 60_000;

/// The parts of a node, as `GET /health` has them.
pub(super) fn health(health: &Value) -> Vec<Finding> {
    let checks = health.get("checks").and_then(Value::as_object).into_iter().flatten();
    let failing = checks.filter(|(_, check)| check.get("status").and_then(Value::as_str) == Some("failing"));
    let remedy = "see the log lines of that node, and the runbook of the alert that this raises";
    let bad: Vec<_> = failing
        .map(|(name, check)| Finding::bad("node", format!("{name}: {}", render::at(check, "/message")), remedy))
        .collect();
    let well = health.get("status").and_then(Value::as_str) == Some("ok");
    match (bad.is_empty(), well) {
        (true, true) => vec![Finding::ok("node", "its log answers, its views follow, and a module ran")],
        (true, false) => vec![Finding::bad("node", "it does not say that it is well", remedy)],
        (false, _) => bad,
    }
}

/// By how much a clock is off at least that said `at` to a question between `asked` and `answered`.
pub(super) fn off_ms(at: Timestamp, asked: Timestamp, answered: Timestamp) -> u64 {
    asked.ms_since(at).max(at.ms_since(answered))
}

/// The node's clock, which said `at` to a question between `asked` and `answered`.
pub(super) fn clock(at: Timestamp, asked: Timestamp, answered: Timestamp) -> Finding {
    let off_ms = off_ms(at, asked, answered);
    let remedy = "have both set by NTP: recorded times, and the ends of keys and tokens, go by the node's clock";
    let message = format!("the node's clock and this machine's differ by {off_ms} ms at least");
    if off_ms <= CLOCK_OFF_MS {
        Finding::ok("clock", "the node's clock and this machine's agree")
    } else if off_ms <= CLOCK_WRONG_MS {
        Finding::warning("clock", message, remedy)
    } else {
        Finding::bad("clock", message, remedy)
    }
}

/// Membership, leases, shards and versions.
pub(super) fn cluster(cluster: &Topology) -> Vec<Finding> {
    let mut findings = vec![membership(cluster)];
    if cluster.name.is_some() {
        findings.extend(leases(cluster));
    }
    findings.extend(shards(cluster));
    findings.extend(versions(cluster));
    findings
}

/// Does the node hear and speak?
fn membership(cluster: &Topology) -> Finding {
    const CHECK: &str = "cluster";
    let node = &cluster.node;
    let Some(name) = &cluster.name else {
        return Finding::ok(CHECK, format!("{node} is alone: it is the whole platform, and needs no lease"));
    };
    let unheard =
        "see that this node reaches NATS and that JetStream's servers have a majority; it comes back by itself";
    if let Some(trouble) = &cluster.trouble {
        return Finding::bad(CHECK, trouble.clone(), unheard);
    }
    let Some(table) = &cluster.table else {
        return Finding::bad(CHECK, format!("{node} has no table of owners"), unheard);
    };
    let ttl_ms = cluster.members().find(|(member, _)| member.name == *node).map(|(_, lease)| lease.ttl_ms);
    if ttl_ms.is_some_and(|ttl_ms| table.read_ms_ago > ttl_ms) {
        let read =
            format!("{node} has read the table of owners {} ms ago, which is longer than a lease", table.read_ms_ago);
        return Finding::bad(CHECK, read, unheard);
    }
    if !table.open {
        let founded = format!("the table of owners was founded at {}: nobody owns anything yet", table.founded_at);
        return Finding::warning(CHECK, founded, "wait: it is opened one lease after that");
    }
    match &cluster.leader {
        Some(leader) if cluster.members().any(|(member, _)| member.name == *leader) => {
            let (version, read) = (table.version, table.read_ms_ago);
            let all = format!("{node} is a member of {name}; {leader} plans; table {version} was read {read} ms ago");
            Finding::ok(CHECK, all)
        }
        _ => Finding::warning(
            CHECK,
            "nobody who has a lease is known to plan",
            "wait: another node stands up within moments; if none does, see their log lines",
        ),
    }
}

/// Who has a lease, and for how long?
fn leases(cluster: &Topology) -> Vec<Finding> {
    const CHECK: &str = "leases";
    let mut findings = Vec::new();
    if cluster.lease_ms == Some(0) {
        findings.push(Finding::bad(
            CHECK,
            format!("{} decides nothing: its lease has ended", cluster.node),
            "see that it reaches NATS and that its machine is not overloaded; it begins another lease by itself",
        ));
    }
    findings.extend(cluster.nodes.iter().filter_map(lease));
    if findings.is_empty() {
        let (count, soonest) = (cluster.members().count(), cluster.members().map(|(_, lease)| lease.ends_in_ms).min());
        let soonest = soonest.unwrap_or_default();
        findings.push(Finding::ok(CHECK, format!("{count} nodes have one; the first to end has {soonest} ms left")));
    }
    findings
}

/// What is to be said of a node's lease, if anything is.
fn lease(node: &Node) -> Option<Finding> {
    const CHECK: &str = "leases";
    let Node { name, shards, losses, .. } = node;
    if let Some(lease) = node.lease.as_ref().filter(|lease| lease.ends_in_ms == 0) {
        let late =
            format!("{name} was last heard {} ms ago; its {shards} shards are about to move", lease.renewed_ms_ago);
        return Some(Finding::bad(CHECK, late, "see whether that node runs, and reaches NATS"));
    }
    let found = match node.state.as_str() {
        "joining" => {
            let remedy = "wait; if it stays so, see its log lines";
            Finding::warning(CHECK, format!("{name} has a lease and no table yet"), remedy)
        }
        "leaving" => {
            let remedy = "wait: it ends once its shards have moved";
            Finding::warning(CHECK, format!("{name} is about to stop, and has {shards} shards"), remedy)
        }
        "silent" if *shards > 0 => {
            let remedy = "wait: they are given to others one lease after it was last heard; see whether that node runs";
            Finding::bad(CHECK, format!("{name} has no lease any more, and {shards} shards"), remedy)
        }
        "lost" => {
            let remedy =
                "find out why it ended without a word: killed, out of memory, or cut off for longer than a lease";
            let at = node.since.map(|since| format!(" at {since}")).unwrap_or_default();
            let lost = format!("{name} was lost{at}, {losses} times lately; others have its shards");
            Finding::warning(CHECK, lost, remedy)
        }
        _ => return None,
    };
    Some(found)
}

/// Has every shard an owner that may write?
fn shards(cluster: &Topology) -> Vec<Finding> {
    const CHECK: &str = "shards";
    let all = &cluster.shards;
    if all.len() != SHARDS {
        let known = format!("{} of {SHARDS} shards are known: nobody is known to serve the others", all.len());
        return vec![Finding::bad(CHECK, known, "a node without a table of owners knows none: see `cluster` above")];
    }
    let unserved =
        "their tenants are answered 503 meanwhile; if it lasts longer than two leases, see the log lines of who plans";
    let mut findings = Vec::new();
    let free: Vec<_> = all.iter().filter(|shard| shard.node.is_none()).collect();
    if !free.is_empty() {
        findings.push(Finding::bad(CHECK, format!("without an owner: {}", named(&free)), unserved));
    }
    let draining: Vec<_> = all.iter().filter(|shard| shard.state == "draining").collect();
    if !draining.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            format!("on their way to another owner: {}", named(&draining)),
            unserved,
        ));
    }
    if cluster.name.is_some() {
        let members: BTreeSet<&str> = cluster.members().map(|(member, _)| member.name.as_str()).collect();
        let orphaned = |shard: &&Shard| shard.node.as_deref().is_some_and(|node| !members.contains(node));
        let orphans: Vec<_> = all.iter().filter(orphaned).collect();
        if !orphans.is_empty() {
            findings.push(Finding::bad(
                CHECK,
                format!("owned by nodes without a lease: {}", named(&orphans)),
                unserved,
            ));
        }
        let idle = cluster.members().filter(|(member, _)| member.state == "live" && member.shards == 0);
        findings.extend(idle.map(|(member, _)| {
            let remedy = "wait: one that was lost lately is given none for cluster.flap_backoff_ms, longer each time, and others \
                          give theirs up after cluster.tenure_ms";
            Finding::warning(CHECK, format!("{} owns none", member.name), remedy)
        }));
    }
    if findings.is_empty() {
        let owners = cluster.nodes.iter().filter(|node| node.shards > 0);
        let parts: Vec<_> = owners.map(|node| format!("{} {}", node.name, node.shards)).collect();
        findings.push(Finding::ok(CHECK, format!("each of {SHARDS} has one owner: {}", parts.join(", "))));
    }
    findings
}

/// Shards by their numbers, or how many.
fn named(shards: &[&Shard]) -> String {
    let numbers: Vec<_> = shards.iter().map(|shard| shard.shard.to_string()).collect();
    match numbers.len() {
        0..=NAMED_MAX => numbers.join(", "),
        many => format!("{many} shards"),
    }
}

/// Do all nodes run the same?
fn versions(cluster: &Topology) -> Vec<Finding> {
    const CHECK: &str = "versions";
    let versions: BTreeSet<&str> = cluster.nodes.iter().filter_map(|node| node.version.as_deref()).collect();
    let listed = versions.iter().copied().collect::<Vec<_>>().join(" and ");
    let mut findings = Vec::new();
    if versions.len() > 1 {
        let remedy = "bring all nodes to one version before the next: only neighbours understand each other";
        findings.push(Finding::warning(CHECK, format!("nodes of {listed} run beside each other"), remedy));
    }
    if cluster.name.is_some() && cluster.members().count() == 1 {
        let remedy = "start another node: this one has nobody to take over";
        findings.push(Finding::warning("nodes", "the cluster has one node", remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("every node is of {listed}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::client::{
        finding::{Grade, worst},
        topology::tests::of,
    };

    /// What is found of this, besides what is well.
    fn found(answer: &Value) -> Vec<(&'static str, Grade, String)> {
        let findings = cluster(&Topology::read(answer).unwrap());
        let wrong = findings.into_iter().filter(|finding| finding.grade != Grade::Ok);
        wrong.map(|finding| (finding.check, finding.grade, finding.message)).collect()
    }

    /// One thing is found, which says this.
    #[track_caller]
    fn only(answer: &Value, check: &str, grade: Grade, says: &str) {
        let found = found(answer);
        assert!(matches!(&found[..], [(c, g, m)] if (*c, *g) == (check, grade) && m.contains(says)), "{found:?}");
    }

    fn three() -> Value {
        of(&["a", "b", "c"])
    }

    #[test]
    fn a_cluster_in_order_is_well() {
        let findings = cluster(&Topology::read(&three()).unwrap());
        assert_eq!(worst(&findings), Grade::Ok, "{findings:?}");
        let shards = findings.iter().find(|finding| finding.check == "shards").unwrap();
        assert_eq!(shards.message, "each of 256 has one owner: a 86, b 85, c 85");
    }

    #[test]
    fn a_node_that_is_alone_is_well_without_a_lease_and_a_leader() {
        let mut alone = of(&["a"]);
        for none in ["name", "leader", "lease_ms", "table"] {
            alone[none] = json!(null);
        }
        alone["nodes"][0]["lease"] = json!(null);
        assert_eq!(found(&alone), []);
    }

    #[test]
    fn a_node_that_is_cut_off_says_so() {
        let mut cut_off = three();
        cut_off["trouble"] = json!("the connection to NATS was lost");
        only(&cut_off, "cluster", Grade::Bad, "the connection to NATS was lost");
        let mut stale = three();
        stale["table"]["read_ms_ago"] = json!(3_001);
        only(&stale, "cluster", Grade::Bad, "3001 ms ago");
        let mut fenced = three();
        fenced["lease_ms"] = json!(0);
        only(&fenced, "leases", Grade::Bad, "a decides nothing");
        let mut without = three();
        (without["table"], without["shards"]) = (json!(null), json!([]));
        let found = found(&without);
        assert_eq!(found.iter().map(|(check, ..)| *check).collect::<Vec<_>>(), ["cluster", "shards"]);
    }

    #[test]
    fn a_table_that_is_not_open_and_a_cluster_that_nobody_plans_are_waited_for() {
        let mut young = three();
        young["table"]["open"] = json!(false);
        only(&young, "cluster", Grade::Warning, "nobody owns anything yet");
        for leader in [json!(null), json!("d")] {
            let mut unplanned = three();
            unplanned["leader"] = leader;
            only(&unplanned, "cluster", Grade::Warning, "nobody who has a lease");
        }
    }

    #[test]
    fn a_lease_that_is_late_and_a_node_that_was_lost_are_named() {
        let mut late = three();
        (late["nodes"][1]["lease"]["renewed_ms_ago"], late["nodes"][1]["lease"]["ends_in_ms"]) =
            (json!(3_200), json!(0));
        only(&late, "leases", Grade::Bad, "b was last heard 3200 ms ago");
        let mut lost = three();
        lost["nodes"][2] = json!({
            "name": "c", "state": "lost", "since": "2027-01-15T07:30:00.000Z", "losses": 2, "shards": 0,
            "lease": null, "version": null, "address": null
        });
        for shard in lost["shards"].as_array_mut().unwrap() {
            if shard["node"] == "c" {
                shard["node"] = json!("a");
            }
        }
        only(&lost, "leases", Grade::Warning, "c was lost at 2027-01-15T07:30:00.000Z, 2 times lately");
    }

    #[test]
    fn who_joins_or_leaves_is_named_and_who_has_left_is_no_matter() {
        for (state, says) in [("joining", "b has a lease and no table yet"), ("leaving", "b is about to stop")] {
            let mut cluster = three();
            cluster["nodes"][1]["state"] = json!(state);
            only(&cluster, "leases", Grade::Warning, says);
        }
        let mut left = three();
        left["nodes"].as_array_mut().unwrap().push(json!({
            "name": "d", "state": "left", "since": null, "losses": 0, "shards": 0, "lease": null, "version": null, "address": null
        }));
        assert_eq!(found(&left), []);
    }

    #[test]
    fn shards_without_an_owner_or_with_one_that_has_no_lease_are_named() {
        let mut free = three();
        (free["shards"][7]["state"], free["shards"][7]["node"]) = (json!("free"), json!(null));
        only(&free, "shards", Grade::Bad, "without an owner: 7");
        let mut draining = three();
        for shard in 0..20_usize {
            draining["shards"][shard]["state"] = json!("draining");
        }
        only(&draining, "shards", Grade::Warning, "on their way to another owner: 20 shards");
        let mut orphan = three();
        orphan["shards"][9]["node"] = json!("gone");
        only(&orphan, "shards", Grade::Bad, "owned by nodes without a lease: 9");
        let mut silent = three();
        (silent["nodes"][1]["lease"], silent["nodes"][1]["state"]) = (json!(null), json!("silent"));
        let checks: Vec<_> = found(&silent).into_iter().map(|(check, grade, _)| (check, grade)).collect();
        assert_eq!(checks, [("leases", Grade::Bad), ("shards", Grade::Bad)]);
    }

    #[test]
    fn nodes_of_two_versions_one_node_and_an_idle_one_are_worth_knowing() {
        let mut mixed = three();
        mixed["nodes"][0]["version"] = json!("0.2.0");
        only(&mixed, "versions", Grade::Warning, "0.1.0 and 0.2.0");
        only(&of(&["a"]), "nodes", Grade::Warning, "the cluster has one node");
        let mut idle = three();
        let d = json!({
            "name": "d", "state": "live", "since": null, "losses": 1, "shards": 0, "version": "0.1.0", "address": "x",
            "lease": {"number": 1, "ttl_ms": 3_000, "renewed_ms_ago": 1, "ends_in_ms": 2_999}
        });
        idle["nodes"].as_array_mut().unwrap().push(d);
        only(&idle, "shards", Grade::Warning, "d owns none");
    }

    #[test]
    fn a_part_of_a_node_that_fails_is_named() {
        let well = json!({"status": "ok", "checks": {"feed": {"status": "disabled", "message": "no bus"}}});
        assert_eq!(worst(&health(&well)), Grade::Ok);
        let failing = json!({"status": "failing", "checks": {
            "event_log": {"status": "failing", "message": "the log cannot be read"},
            "executor": {"status": "ok", "message": "a module ran"}
        }});
        let found = health(&failing);
        assert!(found.len() == 1 && found[0].message == "event_log: the log cannot be read", "{found:?}");
        assert_eq!(worst(&health(&json!({}))), Grade::Bad);
    }

    #[test]
    fn a_clock_is_compared_with_the_time_of_the_question_and_of_the_answer() {
        let at = |ms: i64| Timestamp::from_unix_ms(1_800_000_000_000 + ms);
        let grade = |node| clock(at(node), at(0), at(500)).grade;
        assert_eq!([grade(-2_000), grade(250), grade(2_500)], [Grade::Ok; 3]);
        assert_eq!([grade(-2_001), grade(2_501), grade(60_500)], [Grade::Warning; 3]);
        assert_eq!([grade(-60_001), grade(3_600_000)], [Grade::Bad; 2]);
    }
}
