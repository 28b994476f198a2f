//! Each rule is broken once, in the files of this repository, and has to say so.

use serde_json::{Value, json};

use super::*;
use crate::{
    k8s::{manifest, render::TARGETS},
    workspace,
};

fn file(name: &str) -> Vec<Document> {
    let target = TARGETS.iter().find(|target| target.name().starts_with(name)).unwrap();
    manifest::read(&target.read(workspace::root()).unwrap()).unwrap()
}

fn environment(name: &str) -> &'static Environment {
    ENVIRONMENTS.iter().find(|environment| environment.name == name).unwrap()
}

/// Puts a value where there is one, or one more key where there is none. Items of lists go by their numbers or their names.
fn put(document: &mut Document, pointer: &str, value: Value) {
    let mut place = &mut document.0;
    for key in pointer.split('/').skip(1) {
        place = match place {
            Value::Array(items) => {
                let named = items.iter().position(|item| item["name"] == key);
                &mut items[named.unwrap_or_else(|| key.parse().unwrap())]
            }
            Value::Object(map) => map.entry(key.replace("~1", "/")).or_insert(Value::Null),
            other => panic!("{pointer} is below {other}"),
        };
    }
    *place = value;
}

/// The files of the repository are as they have to be.
#[test]
fn the_files_of_this_repository_keep_every_rule() {
    for environment in &ENVIRONMENTS {
        assert_eq!(of_environment(environment, &file(environment.name)), [""; 0], "{}", environment.name);
    }
    assert_eq!(of_namespaces(&file("namespaces")), [""; 0]);
}

const POD: &str = "/spec/template/spec";
const NODE: &str = "/spec/template/spec/containers/0";

#[test]
fn a_change_of_an_environment_that_breaks_a_rule_is_found() {
    let seed = format!("SU{}", "A".repeat(56));
    let faults: [(&str, &str, String, Value, &str); 44] = [
        ("production", "StatefulSet wasmwiz", "/spec/replicas".into(), json!(2), "2 replicas, and not 3"),
        ("staging", "StatefulSet wasmwiz", "/spec/replicas".into(), json!(3), "3 replicas, and not 2"),
        ("staging", "StatefulSet nats", "/spec/replicas".into(), json!(1), "1 replicas, and not 3"),
        ("staging", "StatefulSet wasmwiz", "/metadata/namespace".into(), json!("default"), "in the namespace"),
        ("staging", "StatefulSet wasmwiz", "/spec/serviceName".into(), json!("wasmwiz"), "no headless Service"),
        ("staging", "StatefulSet nats", "/spec/volumeClaimTemplates".into(), json!([]), "no volume of its own"),
        ("staging", "PodDisruptionBudget nats", "/spec/maxUnavailable".into(), json!(2), "no budget for disruptions"),
        ("staging", "StatefulSet nats", format!("{POD}/topologySpreadConstraints"), json!([]), "not spread"),
        (
            "production",
            "StatefulSet nats",
            format!("{POD}/topologySpreadConstraints/0/whenUnsatisfiable"),
            json!("ScheduleAnyway"),
            "two pods on one machine",
        ),
        (
            "production",
            "HorizontalPodAutoscaler wasmwiz",
            "/spec/minReplicas".into(),
            json!(1),
            "does not begin with 3",
        ),
        (
            "production",
            "HorizontalPodAutoscaler wasmwiz",
            "/spec/behavior/scaleDown/stabilizationWindowSeconds".into(),
            json!(0),
            "too fast",
        ),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/image"), json!("wasmwiz:latest"), "not named by a digest"),
        ("staging", "StatefulSet nats", format!("{NODE}/image"), json!("nats"), "not named by a digest"),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/resources/limits/cpu"), json!("2"), "of cpu"),
        ("production", "StatefulSet wasmwiz", format!("{NODE}/resources/requests/memory"), json!("1Gi"), "asks for"),
        ("production", "StatefulSet nats", format!("{NODE}/resources"), json!({}), "asks for null"),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/startupProbe"), Value::Null, "no startupProbe"),
        (
            "staging",
            "StatefulSet nats",
            format!("{NODE}/livenessProbe/httpGet/port"),
            json!("other"),
            "no livenessProbe",
        ),
        (
            "staging",
            "StatefulSet wasmwiz",
            format!("{NODE}/readinessProbe/httpGet/path"),
            json!("/livez"),
            "does not ask",
        ),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/livenessProbe/httpGet/port"), json!("api"), "does not ask"),
        (
            "staging",
            "StatefulSet wasmwiz",
            format!("{NODE}/env/WASMWIZ_NODE__NAME/valueFrom"),
            Value::Null,
            "not named after its pod",
        ),
        ("staging", "StatefulSet nats", format!("{POD}/securityContext/runAsNonRoot"), json!(false), "runAsNonRoot"),
        ("staging", "StatefulSet nats", format!("{POD}/securityContext/runAsUser"), json!(0), "one of the machine"),
        ("staging", "StatefulSet nats", format!("{POD}/securityContext/seccompProfile"), Value::Null, "seccomp"),
        ("staging", "StatefulSet nats", format!("{POD}/automountServiceAccountToken"), json!(true), "automount"),
        ("staging", "StatefulSet nats", format!("{POD}/hostNetwork"), json!(true), "hostNetwork"),
        ("staging", "StatefulSet nats", format!("{POD}/serviceAccountName"), json!("default"), "no account"),
        (
            "staging",
            "StatefulSet nats",
            format!("{POD}/volumes/0"),
            json!({"name": "data", "hostPath": {"path": "/"}}),
            "folder of the machine",
        ),
        ("staging", "StatefulSet nats", format!("{NODE}/securityContext/privileged"), json!(true), "privileged"),
        (
            "staging",
            "StatefulSet nats",
            format!("{NODE}/securityContext/readOnlyRootFilesystem"),
            json!(false),
            "readOnly",
        ),
        (
            "staging",
            "StatefulSet nats",
            format!("{NODE}/securityContext/capabilities"),
            json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}),
            "capabilities",
        ),
        (
            "staging",
            "StatefulSet wasmwiz",
            format!("{NODE}/env/0"),
            json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}),
            "Secret in its environment",
        ),
        (
            "staging",
            "StatefulSet wasmwiz",
            format!("{POD}/terminationGracePeriodSeconds"),
            json!(25),
            "killed after 25000",
        ),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/volumeMounts"), json!([]), "below no volume"),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/env"), json!([]), "is not set to bytes"),
        ("staging", "Service wasmwiz", "/kind".into(), json!("Secret"), "it is a Secret"),
        ("staging", "StatefulSet wasmwiz", format!("{POD}/securityContext/fsGroup"), Value::Null, "not of its group"),
        ("staging", "StatefulSet nats", format!("{POD}/securityContext/fsGroup"), json!(1), "not of its group"),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/env/0/value"), json!(seed), "the seed of an nkey"),
        ("staging", "StatefulSet wasmwiz", format!("{NODE}/env/0/value"), json!("password: a"), "has \"password:\""),
        (
            "production",
            "StatefulSet nats",
            format!("{POD}/topologySpreadConstraints/0/nodeTaintsPolicy"),
            json!("Ignore"),
            "counts machines",
        ),
        ("staging", "StatefulSet nats", format!("{NODE}/startupProbe/failureThreshold"), json!(120), "is killed after"),
        ("staging", "StatefulSet nats", "/spec/podManagementPolicy".into(), json!("OrderedReady"), "wait for ever"),
        (
            "staging",
            "StatefulSet wasmwiz",
            format!("{NODE}/readinessProbe/timeoutSeconds"),
            json!(4),
            "gives up before",
        ),
    ];
    for (name, title, pointer, value, said) in faults {
        let mut documents = file(name);
        let document = documents.iter_mut().find(|document| document.title() == title).unwrap();
        put(document, &pointer, value);
        let findings = of_environment(environment(name), &documents);
        assert!(findings.iter().any(|finding| finding.contains(said)), "{title} {pointer}: {findings:?}");
    }
}

#[test]
fn a_change_of_a_setting_that_breaks_a_rule_is_found() {
    let seed = format!("SA{}", "A".repeat(56));
    for (map, key, is, becomes, said) in [
        ("nats-settings", "nats.conf", "sync_interval: always", "sync_interval: 2m", "sync_interval"),
        ("nats-settings", "nats.conf", "verify: true", "verify: false", "verify"),
        ("nats-settings", "nats.conf", "\ntls {", "\nother {", "say `tls.cert_file"),
        ("nats-settings", "nats.conf", "\n  tls {", "\n  other {", "say `cluster.tls.verify: true"),
        (
            "nats-settings",
            "nats.conf",
            "jetstream: enabled",
            &format!("jetstream: enabled\n#{seed}"),
            "the seed of an nkey",
        ),
        ("nats-settings", "nats.conf", "jetstream: enabled", "jetstream: enabled\npassword: a", "has \"password:\""),
        ("wasmwiz-settings", "wasmwiz.toml", "kind = \"jetstream\"", "kind = \"sqlite\"", "log.kind"),
        ("wasmwiz-settings", "wasmwiz.toml", "replicas = 3", "replicas = 1", "log.jetstream.replicas"),
        ("wasmwiz-settings", "wasmwiz.toml", "\"synced\"", "\"unverified\"", "log.jetstream.acknowledged"),
        ("wasmwiz-settings", "wasmwiz.toml", "http://nats-2.nats", "http://nats-7.nats", "monitor_urls names"),
        ("nats-settings", "nats.conf", "http: ", "#http: ", "say `http: "),
        ("wasmwiz-settings", "wasmwiz.toml", "within_ms = 25000", "within_ms = 60000", "may take Some(60000) ms"),
        ("wasmwiz-settings", "wasmwiz.toml", "/etc/wasmwiz/auth/pepper", "/etc/other/pepper", "below no volume"),
        ("wasmwiz-settings", "wasmwiz.toml", "[log]", "[log", "no TOML"),
    ] {
        let mut documents = file("staging");
        let document = documents.iter_mut().find(|document| document.name().starts_with(map)).unwrap();
        let text = document.at("/data")[key].as_str().unwrap().replace(is, becomes);
        put(document, &format!("/data/{key}"), json!(text));
        let findings = of_environment(environment("staging"), &documents);
        assert!(findings.iter().any(|finding| finding.contains(said)), "{is}: {findings:?}");
    }
}

#[test]
fn bounds_of_memory_that_do_not_fit_are_found() {
    let mut documents = file("production");
    let document = documents.iter_mut().find(|document| document.title() == "StatefulSet wasmwiz").unwrap();
    put(document, &format!("{NODE}/env/WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES/value"), json!((4_u64 << 30).to_string()));
    let findings = of_environment(environment("production"), &documents);
    assert!(findings.iter().any(|finding| finding.contains("bounds of memory")), "{findings:?}");
}

#[test]
fn a_change_of_the_namespaces_that_breaks_a_rule_is_found() {
    for (title, pointer, value, said) in [
        (
            "Namespace wasmwiz-staging",
            "/metadata/labels/pod-security.kubernetes.io~1enforce",
            json!("baseline"),
            "does not enforce",
        ),
        ("ServiceAccount wasmwiz", "/automountServiceAccountToken", json!(true), "its token is mounted"),
        ("ServiceAccount nats", "/metadata/name", json!("other"), "has no account nats"),
        ("Role wasmwiz-deployer", "/rules/0/verbs", json!(["*"]), "may do anything"),
        ("Role wasmwiz-deployer", "/rules/0/resources", json!(["secrets"]), "may read any Secret"),
        ("NetworkPolicy default-deny", "/spec/policyTypes", json!(["Ingress"]), "does not deny"),
        ("NetworkPolicy default-deny", "/spec/egress", json!([{}]), "opens any to anybody any port"),
        ("NetworkPolicy wasmwiz-from-ingress", "/spec/ingress/0/ports/0/port", json!(9090), "9090/TCP"),
        (
            "NetworkPolicy wasmwiz-from-prometheus",
            "/spec/ingress/0/from",
            json!([]),
            "opens wasmwiz from anybody 9090/TCP",
        ),
        (
            "NetworkPolicy nats-from-wasmwiz",
            "/spec/ingress/0/from/0",
            json!({"ipBlock": {"cidr": "0.0.0.0/0"}}),
            "0.0.0.0/0",
        ),
        ("NetworkPolicy nats-routes", "/spec/policyTypes", json!(["Ingress"]), "does not open nats to nats 6222/TCP"),
        (
            "RoleBinding wasmwiz-deployer",
            "/subjects/0/name",
            json!("wasmwiz-staging-deployers"),
            "Group wasmwiz-staging-deployers has rights in wasmwiz-production and in wasmwiz-staging",
        ),
        ("NetworkPolicy nats-routes", "/spec/egress", json!([]), "does not open nats to nats 6222/TCP"),
        ("NetworkPolicy dns", "/spec/egress/0/ports/0/endPort", json!(65535), "53-65535"),
    ] {
        let mut documents = file("namespaces");
        put(documents.iter_mut().find(|document| document.title() == title).unwrap(), pointer, value);
        let findings = of_namespaces(&documents);
        assert!(findings.iter().any(|finding| finding.contains(said)), "{title} {pointer}: {findings:?}");
    }
}
