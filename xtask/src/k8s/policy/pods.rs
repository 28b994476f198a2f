//! Rules about pods and their containers: what the `restricted` standard demands, and what we demand beside it.

use serde_json::{Value, json};

use super::{
    super::manifest::{Document, at, items},
    Findings, Rule,
};

pub(super) const RULES: [Rule; 6] = [
    Rule { says: "images are named by digests", look: images },
    Rule { says: "a container takes what it asked for and no more", look: limits },
    Rule { says: "the kubelet can tell how it is", look: probes },
    Rule { says: "pods are restricted", look: restricted },
    Rule { says: "containers are restricted", look: containers },
    Rule { says: "secrets are files, of the pods that need them", look: secrets },
];

/// What a pod must say.
const POD: [(&str, Value); 5] = [
    ("/securityContext/runAsNonRoot", Value::Bool(true)),
    ("/automountServiceAccountToken", Value::Bool(false)),
    ("/enableServiceLinks", Value::Bool(false)),
    ("/hostNetwork", Value::Null),
    ("/hostPID", Value::Null),
];

/// What a container must say.
const CONTAINER: [(&str, Value); 4] = [
    ("/securityContext/allowPrivilegeEscalation", Value::Bool(false)),
    ("/securityContext/privileged", Value::Bool(false)),
    ("/securityContext/readOnlyRootFilesystem", Value::Bool(true)),
    ("/securityContext/runAsNonRoot", Value::Bool(true)),
];

/// Users below this may be users of the machine as well.
const USER_MIN: u64 = 10_000;

/// An unresolved digest is none of a floating tag: it starts nothing. A deployment refuses it.
fn images(document: &Document) -> Findings {
    let floating = document.images().filter(|image| {
        let digest = image.split_once('@').map(|(_, digest)| digest);
        !digest.is_some_and(|digest| digest == super::super::image::UNRESOLVED || digest.starts_with("sha256:"))
    });
    floating.map(|image| format!("{image:?} is not named by a digest")).collect()
}

fn limits(document: &Document) -> Findings {
    let mut findings = Vec::new();
    for container in document.containers() {
        for resource in ["cpu", "memory"] {
            let of = |kind: &str| at(container, &format!("/resources/{kind}/{resource}"));
            let (limit, request) = (of("limits"), of("requests"));
            if !limit.is_string() || limit != request {
                findings
                    .push(format!("{} asks for {request} of {resource}, and its limit is {limit}", name(container)));
            }
        }
    }
    findings
}

fn probes(document: &Document) -> Findings {
    let mut findings = Vec::new();
    for container in document.containers() {
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let asked = at(container, &format!("/{probe}/httpGet/port"));
            let ports = items(container.get("ports"));
            if !ports.into_iter().any(|port| port.get("name") == Some(asked)) {
                findings.push(format!("{} has no {probe} on a port of its own", name(container)));
            }
        }
    }
    findings
}

fn restricted(document: &Document) -> Findings {
    let Some(pod) = document.pod() else { return Vec::new() };
    let mut findings = against(pod, &POD);
    if at(pod, "/securityContext/seccompProfile/type") != "RuntimeDefault" {
        findings.push("it is without the runtime's seccomp profile".to_owned());
    }
    if at(pod, "/securityContext/runAsUser").as_u64().is_none_or(|user| user < USER_MIN) {
        findings.push("its user may be one of the machine".to_owned());
    }
    let group = at(pod, "/securityContext/fsGroup");
    if !group.is_u64() || group != at(pod, "/securityContext/runAsGroup") {
        findings.push("its volumes are not of its group".to_owned());
    }
    if at(pod, "/terminationGracePeriodSeconds").as_u64().is_none() {
        findings.push("it does not say how long it takes to stop".to_owned());
    }
    if at(pod, "/serviceAccountName").as_str().is_none_or(|account| account == "default") {
        findings.push("it has no account of its own".to_owned());
    }
    for volume in items(pod.get("volumes")).filter(|volume| volume.get("hostPath").is_some()) {
        findings.push(format!("its volume {} is a folder of the machine", name(volume)));
    }
    findings
}

fn containers(document: &Document) -> Findings {
    let mut findings = Vec::new();
    for container in document.containers() {
        let said = against(container, &CONTAINER);
        findings.extend(said.into_iter().map(|said| format!("{}: {said}", name(container))));
        let capabilities = at(container, "/securityContext/capabilities");
        if capabilities != &json!({ "drop": ["ALL"] }) {
            findings.push(format!("{} has the capabilities {capabilities}", name(container)));
        }
    }
    findings
}

fn secrets(document: &Document) -> Findings {
    let mut findings = Vec::new();
    for container in document.containers() {
        let all = items(container.get("envFrom")).filter(|from| from.get("secretRef").is_some());
        let one = items(container.get("env")).filter(|variable| variable.pointer("/valueFrom/secretKeyRef").is_some());
        if all.chain(one).next().is_some() {
            findings.push(format!("{} has a Secret in its environment", name(container)));
        }
    }
    findings
}

fn against(value: &Value, expected: &[(&str, Value)]) -> Findings {
    let broken = expected.iter().filter(|(pointer, expected)| at(value, pointer) != expected);
    broken.map(|(pointer, expected)| format!("{pointer} is {}, and not {expected}", at(value, pointer))).collect()
}

fn name(value: &Value) -> &str {
    at(value, "/name").as_str().unwrap_or("one without a name")
}
