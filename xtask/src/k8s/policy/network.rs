//! What may speak to what: every opening in the network of a namespace, and no other.

use serde_json::Value;

use super::{
    super::manifest::{Document, at, items},
    Findings,
};

/// The openings of a namespace: pods, the direction, the other side, and the port.
const OPENINGS: [&str; 10] = [
    "any to kube-system/kube-dns 53/TCP",
    "any to kube-system/kube-dns 53/UDP",
    "nats from wasmwiz 4222/TCP",
    "nats from wasmwiz 8222/TCP",
    "nats from nats 6222/TCP",
    "nats to nats 6222/TCP",
    "wasmwiz from ingress-nginx/ingress-nginx 8080/TCP",
    "wasmwiz from monitoring/prometheus 9090/TCP",
    "wasmwiz to nats 4222/TCP",
    "wasmwiz to nats 8222/TCP",
];

/// What the namespace enforces, and says of what it does not let in.
const STANDARD: [&str; 3] = ["enforce", "audit", "warn"];

/// Accounts of pods.
const ACCOUNTS: [&str; 2] = ["nats", "wasmwiz"];

pub(super) fn findings(namespace: &str, documents: &[Document]) -> Findings {
    let mut findings = Vec::new();
    let named = documents.iter().find(|document| document.kind() == "Namespace" && document.name() == namespace);
    for mode in STANDARD {
        let label = format!("/metadata/labels/pod-security.kubernetes.io~1{mode}");
        if named.is_none_or(|named| named.text(&label) != "restricted") {
            findings.push(format!("the namespace {namespace} does not {mode} restricted pods"));
        }
    }
    let inside = |kind: &'static str| {
        documents.iter().filter(move |document| document.kind() == kind && document.namespace() == namespace)
    };
    for account in ACCOUNTS.into_iter().filter(|account| !inside("ServiceAccount").any(|it| it.name() == *account)) {
        findings.push(format!("{namespace} has no account {account}"));
    }
    if !inside("NetworkPolicy").any(denies_everything) {
        findings.push(format!("{namespace} does not deny what is not opened"));
    }
    let opened: Vec<_> = inside("NetworkPolicy").flat_map(openings).collect();
    for opening in opened.iter().filter(|opening| !OPENINGS.contains(&opening.as_str())) {
        findings.push(format!("{namespace} opens {opening}"));
    }
    for opening in OPENINGS.iter().filter(|opening| !opened.iter().any(|opened| opened == *opening)) {
        findings.push(format!("{namespace} does not open {opening}"));
    }
    findings
}

fn denies_everything(policy: &Document) -> bool {
    let all = policy.at("/spec/podSelector").as_object().is_some_and(serde_json::Map::is_empty);
    let both =
        ["Ingress", "Egress"].iter().all(|kind| items(Some(policy.at("/spec/policyTypes"))).any(|it| it == kind));
    all && both && openings(policy).is_empty()
}

/// One line for each port of each other side.
fn openings(policy: &Document) -> Vec<String> {
    let own = selected(policy.at("/spec/podSelector"));
    let mut found = Vec::new();
    let types = policy.at("/spec/policyTypes");
    for (direction, kind, rules, sides) in
        [("from", "Ingress", "/spec/ingress", "from"), ("to", "Egress", "/spec/egress", "to")]
    {
        // Rules of a direction that the policy does not name do nothing.
        if types.is_array() && !items(Some(types)).any(|it| it == kind) {
            continue;
        }
        for rule in items(Some(policy.at(rules))) {
            // No side is every side, and no port every port.
            let others: Vec<_> = items(rule.get(sides)).map(side).collect();
            let others = if others.is_empty() { vec!["anybody".to_owned()] } else { others };
            let ports: Vec<_> = items(rule.get("ports")).map(port).collect();
            let ports = if ports.is_empty() { vec!["any port".to_owned()] } else { ports };
            let pairs = others.iter().flat_map(|other| ports.iter().map(move |port| (other, port)));
            found.extend(pairs.map(|(other, port)| format!("{own} {direction} {other} {port}")));
        }
    }
    found
}

fn side(side: &Value) -> String {
    if side.get("ipBlock").is_some() {
        return at(side, "/ipBlock/cidr").to_string();
    }
    let pods = side.get("podSelector").map_or("any".to_owned(), selected);
    match side.get("namespaceSelector") {
        None => pods,
        Some(namespaces) => {
            let name = at(namespaces, "/matchLabels/kubernetes.io~1metadata.name").as_str().unwrap_or("any");
            format!("{name}/{pods}")
        }
    }
}

fn selected(selector: &Value) -> String {
    let labels = ["/matchLabels/app.kubernetes.io~1name", "/matchLabels/k8s-app"];
    let name = labels.iter().find_map(|label| selector.pointer(label)?.as_str());
    name.unwrap_or("any").to_owned()
}

fn port(port: &Value) -> String {
    let to = port.get("endPort").map(|end| format!("-{end}")).unwrap_or_default();
    format!("{}{to}/{}", at(port, "/port"), at(port, "/protocol").as_str().unwrap_or("TCP"))
}
