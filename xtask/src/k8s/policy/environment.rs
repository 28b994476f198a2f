//! What one environment is: how many nodes of which size, each with what keeps it together.

use serde_json::Value;

use super::{
    super::manifest::{Document, at, items},
    Findings,
};

/// An environment as it was promised.
#[derive(Debug)]
pub(crate) struct Environment {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Where it is.
    pub(crate) namespace: &'static str,
    /// Its nodes.
    nodes: u64,
    /// What each has.
    cpu: &'static str,
    memory: &'static str,
    /// Two nodes may be on one machine.
    may_share: bool,
    /// It grows under load.
    grows: bool,
}

/// All of them.
pub(crate) const ENVIRONMENTS: [Environment; 2] = [
    Environment {
        name: "staging",
        namespace: "wasmwiz-staging",
        nodes: 2,
        cpu: "500m",
        memory: "1Gi",
        may_share: true,
        grows: false,
    },
    Environment {
        name: "production",
        namespace: "wasmwiz-production",
        nodes: 3,
        cpu: "1",
        memory: "2Gi",
        may_share: false,
        grows: true,
    },
];

/// The servers of the log.
const SERVERS: u64 = 3;

/// The node's probes: where each asks, on the listener that only the cluster reaches.
const PROBES: [(&str, &str); 3] =
    [("startupProbe", "/livez"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")];

/// How long a server of the log may take to copy its history from the others, in seconds. A deployment waits as long.
pub(crate) const COPIES_WITHIN: u64 = 3_600;

/// What the checks behind a readiness probe may take at most, one after the other, and a second, in seconds.
const READY_WITHIN: u64 = 7;

/// The shortest time for which fewer nodes would have done before one leaves, and between two that leave, in seconds.
const LEAVE_AFTER: u64 = 600;

pub(super) fn findings(environment: &Environment, documents: &[Document]) -> Findings {
    let mut findings = Vec::new();
    for document in documents.iter().filter(|document| document.namespace() != environment.namespace) {
        findings.push(format!("{} is in the namespace {:?}", document.title(), document.namespace()));
    }
    let sets: Vec<_> = documents.iter().filter(|document| document.kind() == "StatefulSet").collect();
    let names: Vec<_> = sets.iter().map(|set| set.name()).collect();
    if names != ["nats", "wasmwiz"] {
        findings.push(format!("its StatefulSets are {names:?}"));
    }
    for set in sets {
        let (replicas, is_node) = (set.at("/spec/replicas"), set.name() == "wasmwiz");
        let expected = if is_node { environment.nodes } else { SERVERS };
        if replicas != expected {
            findings.push(format!("{} has {replicas} replicas, and not {expected}", set.title()));
        }
        findings.extend(kept_together(set, documents));
        findings.extend(spread(environment, set));
        findings.extend(if is_node { node(environment, set) } else { server(set) });
    }
    if environment.grows {
        findings.extend(growth(environment, documents));
    }
    findings
}

/// A name for each pod, a volume of its own, and one at a time that leaves.
fn kept_together(set: &Document, documents: &[Document]) -> Findings {
    let mut findings = Vec::new();
    let of_kind = |kind: &'static str| documents.iter().filter(move |document| document.kind() == kind);
    let service = of_kind("Service").find(|service| service.name() == set.text("/spec/serviceName"));
    if service.is_none_or(|service| service.text("/spec/clusterIP") != "None") {
        findings.push(format!("{} has no headless Service", set.title()));
    }
    let labels = set.at("/spec/template/metadata/labels");
    let budget = of_kind("PodDisruptionBudget").find(|budget| selects(budget.at("/spec/selector/matchLabels"), labels));
    if budget.is_none_or(|budget| budget.at("/spec/maxUnavailable") != 1) {
        findings.push(format!("{} has no budget for disruptions of one pod at a time", set.title()));
    }
    if items(Some(set.at("/spec/volumeClaimTemplates"))).count() != 1 {
        findings.push(format!("{} has no volume of its own for each pod", set.title()));
    }
    findings
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

fn spread(environment: &Environment, set: &Document) -> Findings {
    let constraints = set.at("/spec/template/spec/topologySpreadConstraints");
    let machine = items(Some(constraints)).find(|one| at(one, "/topologyKey") == "kubernetes.io/hostname");
    let Some(machine) = machine else { return vec![format!("{} is not spread over machines", set.title())] };
    if at(machine, "/nodeTaintsPolicy") != "Honor" {
        return vec![format!("{} counts machines that it may not run on", set.title())];
    }
    let strict = at(machine, "/whenUnsatisfiable") == "DoNotSchedule" && at(machine, "/maxSkew") == 1;
    if strict || environment.may_share {
        Vec::new()
    } else {
        vec![format!("{} may have two pods on one machine", set.title())]
    }
}

/// A server that copies all of its history to an empty volume is given the time for it, and one that waits for others to come
/// up is not waited for by them.
fn server(set: &Document) -> Findings {
    let mut findings = Vec::new();
    let of = |field: &str| set.containers().next().and_then(|it| at(it, &format!("/startupProbe/{field}")).as_u64());
    let seconds = of("periodSeconds").zip(of("failureThreshold")).map(|(period, times)| period * times);
    if seconds.is_none_or(|seconds| seconds < COPIES_WITHIN) {
        findings.push(format!("a server that copies its history is killed after {seconds:?} s"));
    }
    if set.text("/spec/podManagementPolicy") != "Parallel" {
        findings
            .push("the first server would wait for ever for others that are not started before it is ready".to_owned());
    }
    findings
}

fn node(environment: &Environment, set: &Document) -> Findings {
    let mut findings = Vec::new();
    let Some(container) = set.containers().next() else { return vec!["the node has no container".to_owned()] };
    for (resource, expected) in [("cpu", environment.cpu), ("memory", environment.memory)] {
        let limit = at(container, &format!("/resources/limits/{resource}"));
        if limit != expected {
            findings.push(format!("a node has {limit} of {resource}, and not {expected}"));
        }
    }
    for (probe, path) in PROBES {
        let asked = at(container, &format!("/{probe}/httpGet"));
        if at(asked, "/path") != path || at(asked, "/port") != "admin" {
            findings.push(format!("the {probe} of a node does not ask {path} on the admin listener"));
        }
    }
    if at(container, "/readinessProbe/timeoutSeconds").as_u64().is_none_or(|seconds| seconds < READY_WITHIN) {
        findings.push("the readinessProbe of a node gives up before the node's own checks do".to_owned());
    }
    let named = items(container.get("env")).find(|variable| at(variable, "/name") == "WASMWIZ_NODE__NAME");
    if named.is_none_or(|named| at(named, "/valueFrom/fieldRef/fieldPath") != "metadata.name") {
        findings.push("a node is not named after its pod".to_owned());
    }
    findings
}

fn growth(environment: &Environment, documents: &[Document]) -> Findings {
    let autoscaler = documents.iter().find(|document| document.kind() == "HorizontalPodAutoscaler");
    let Some(autoscaler) = autoscaler else { return vec!["nothing scales the nodes".to_owned()] };
    let mut findings = Vec::new();
    if autoscaler.at("/spec/minReplicas") != environment.nodes
        || autoscaler.text("/spec/scaleTargetRef/name") != "wasmwiz"
    {
        findings.push(format!("the autoscaler does not begin with {} nodes", environment.nodes));
    }
    let down = autoscaler.at("/spec/behavior/scaleDown");
    let waits = at(down, "/stabilizationWindowSeconds").as_u64().is_some_and(|seconds| seconds >= LEAVE_AFTER);
    let slow = items(down.get("policies")).all(|policy| {
        let period = at(policy, "/periodSeconds").as_u64();
        at(policy, "/value") == 1 && period.is_some_and(|seconds| seconds >= LEAVE_AFTER)
    });
    if !waits || !slow {
        findings.push("the autoscaler takes nodes away too fast".to_owned());
    }
    findings
}
