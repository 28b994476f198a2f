//! Every field that is understood, and what is done with it. Any other is refused: nothing of a file is ignored in silence.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};
use serde_json::Value;

use crate::k8s::manifest::Document;

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// It is carried out.
    Done,
    /// So is this value of it, in JSON, and no other is known.
    Only(&'static str),
    /// With all below it, it is for a cluster, which would do this.
    Cluster(&'static str),
}

use Treatment::{Cluster, Done, Only};

/// A field by its names from the top, and `*` for each item of a list.
type Row = (&'static str, Treatment);

/// Kinds that are for a cluster as a whole.
const KINDS: [(&str, &str); 4] = [
    ("PodDisruptionBudget", "keeps whoever drains a machine from taking more than one pod at a time"),
    ("HorizontalPodAutoscaler", "starts and stops nodes by their use of processors"),
    ("PrometheusRule", "gives the alerts to Prometheus"),
    ("ServiceMonitor", "has Prometheus scrape the nodes"),
];

/// Fields of every object.
const META: [Row; 5] = [
    ("apiVersion", Done),
    ("kind", Done),
    ("metadata.name", Done),
    ("metadata.namespace", Done),
    ("metadata.labels", Cluster("finds objects by their labels")),
];

const CONFIG_MAP: [Row; 1] = [("data", Done)];

const SERVICE: [Row; 8] = [
    ("spec.clusterIP", Only(r#""None""#)),
    ("spec.type", Only(r#""ClusterIP""#)),
    ("spec.publishNotReadyAddresses", Only("true")),
    ("spec.selector", Done),
    ("spec.ports.*.name", Done),
    ("spec.ports.*.port", Done),
    ("spec.ports.*.targetPort", Done),
    ("spec.ports.*.protocol", Only(r#""TCP""#)),
];

const SET: [Row; 13] = [
    ("metadata.annotations", Cluster("keeps of which commit the image is, for the next deployment")),
    ("spec.minReadySeconds", Done),
    ("spec.persistentVolumeClaimRetentionPolicy", Cluster("keeps the volumes of pods that are gone")),
    ("spec.podManagementPolicy", Only(r#""Parallel""#)),
    ("spec.replicas", Done),
    ("spec.revisionHistoryLimit", Cluster("keeps so many earlier revisions of the set")),
    ("spec.selector.matchLabels", Done),
    ("spec.serviceName", Done),
    ("spec.updateStrategy.type", Only(r#""RollingUpdate""#)),
    ("spec.template.metadata.labels", Done),
    ("spec.volumeClaimTemplates.*.metadata.name", Done),
    ("spec.volumeClaimTemplates.*.metadata.labels", Cluster("finds claims by their labels")),
    (
        "spec.volumeClaimTemplates.*.spec",
        Cluster("binds each claim to a disk of that size, which one machine at a time may write"),
    ),
];

/// Below `spec.template.spec`.
const POD: [Row; 26] = [
    ("automountServiceAccountToken", Only("false")),
    ("enableServiceLinks", Only("false")),
    ("serviceAccountName", Cluster("knows the pod by its account; no token of it is mounted, here or there")),
    ("terminationGracePeriodSeconds", Done),
    ("topologySpreadConstraints", Cluster("spreads the pods over machines and zones")),
    ("securityContext.fsGroup", Done),
    ("securityContext.fsGroupChangePolicy", Only(r#""OnRootMismatch""#)),
    ("securityContext.runAsGroup", Done),
    ("securityContext.runAsNonRoot", Only("true")),
    ("securityContext.runAsUser", Done),
    ("securityContext.seccompProfile.type", Only(r#""RuntimeDefault""#)),
    ("volumes.*.name", Done),
    ("volumes.*.configMap.name", Done),
    ("volumes.*.secret.secretName", Done),
    ("volumes.*.secret.defaultMode", Done),
    ("volumes.*.secret.items.*.key", Done),
    ("volumes.*.secret.items.*.path", Done),
    ("volumes.*.projected.defaultMode", Done),
    ("volumes.*.projected.sources.*.secret.name", Done),
    ("volumes.*.projected.sources.*.secret.items.*.key", Done),
    ("volumes.*.projected.sources.*.secret.items.*.path", Done),
    ("containers.*.name", Done),
    ("containers.*.image", Done),
    ("containers.*.imagePullPolicy", Cluster("pulls the image where a machine does not have it")),
    ("containers.*.args.*", Done),
    ("containers.*.env.*.name", Done),
];

/// Below each of `spec.template.spec.containers`.
const CONTAINER: [Row; 19] = [
    ("env.*.value", Done),
    ("env.*.valueFrom.fieldRef.fieldPath", Only(r#""metadata.name""#)),
    ("ports.*.containerPort", Done),
    ("ports.*.name", Done),
    ("ports.*.protocol", Only(r#""TCP""#)),
    ("resources.limits.cpu", Done),
    ("resources.limits.memory", Done),
    ("resources.limits.ephemeral-storage", Cluster("evicts a pod that writes more than that beside its volumes")),
    ("resources.requests.cpu", Done),
    ("resources.requests.memory", Cluster("puts the pod on a machine that has as much memory left")),
    ("resources.requests.ephemeral-storage", Cluster("puts the pod on a machine that has as much disk left")),
    ("securityContext.allowPrivilegeEscalation", Only("false")),
    ("securityContext.capabilities.drop.*", Only(r#""ALL""#)),
    ("securityContext.privileged", Only("false")),
    ("securityContext.readOnlyRootFilesystem", Only("true")),
    ("securityContext.runAsNonRoot", Only("true")),
    ("volumeMounts.*.mountPath", Done),
    ("volumeMounts.*.name", Done),
    ("volumeMounts.*.readOnly", Only("true")),
];

/// Below each probe of a container.
const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
const PROBE: [Row; 6] = [
    ("failureThreshold", Done),
    ("periodSeconds", Done),
    ("timeoutSeconds", Done),
    ("httpGet.path", Done),
    ("httpGet.port", Done),
    ("httpGet.scheme", Only(r#""HTTP""#)),
];

/// What else a cluster does, of which no field speaks.
const BESIDE: [&str; 4] = [
    "asks admission, and refuses a pod that breaks the standard of its namespace",
    "keeps the network policies of k8s/namespaces-and-secrets.yaml",
    "moves pods away from machines that fail or are drained",
    "tells every pod where its API server is, which no pod asks",
];

/// The rows of a kind; nothing where the kind is not known.
fn rows(kind: &str) -> Option<Vec<(String, Treatment)>> {
    let own: Vec<(String, Treatment)> = match kind {
        "ConfigMap" => below("", &CONFIG_MAP).collect(),
        "Service" => below("", &SERVICE).collect(),
        "StatefulSet" => {
            let (pod, container) = ("spec.template.spec.", "spec.template.spec.containers.*.");
            let probes =
                PROBES.iter().flat_map(|probe| below(&format!("{container}{probe}."), &PROBE).collect::<Vec<_>>());
            below("", &SET).chain(below(pod, &POD)).chain(below(container, &CONTAINER)).chain(probes).collect()
        }
        _ => return None,
    };
    Some(below("", &META).chain(own).collect())
}

fn below(place: &str, rows: &'static [Row]) -> impl Iterator<Item = (String, Treatment)> {
    rows.iter().map(move |(field, treatment)| (format!("{place}{field}"), *treatment))
}

/// What of these objects is left to a cluster.
///
/// # Errors
/// Names an object or a field that is not known, or a value that is not carried out.
pub(super) fn left(documents: &[Document]) -> anyhow::Result<Vec<String>> {
    let mut left: BTreeSet<String> = BESIDE.iter().map(|does| (*does).to_owned()).collect();
    for document in documents {
        let title = document.title();
        if let Some((kind, does)) = KINDS.iter().find(|(kind, _)| *kind == document.kind()) {
            left.insert(format!("{does} ({kind})"));
            continue;
        }
        let Some(rows) = rows(document.kind()) else { bail!("{title}: an object of this kind is not known here") };
        look(&document.0, "", &rows, &mut left).map_err(|error| error.context(title))?;
    }
    Ok(left.into_iter().collect())
}

fn look(value: &Value, place: &str, rows: &[(String, Treatment)], left: &mut BTreeSet<String>) -> anyhow::Result<()> {
    match rows.iter().find(|(field, _)| field == place) {
        Some((_, Done)) => Ok(()),
        Some((_, Only(known))) => {
            let said = value.to_string();
            ensure!(said == *known, "{place} is {value}, and only {known} is known here");
            Ok(())
        }
        Some((field, Cluster(does))) => {
            let name = field.rsplit('.').next().unwrap_or(field);
            left.insert(format!("{does} ({name})"));
            Ok(())
        }
        None => look_below(value, place, rows, left),
    }
}

fn look_below(
    value: &Value,
    place: &str,
    rows: &[(String, Treatment)],
    left: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let step = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().try_for_each(|(name, value)| look(value, &step(name), rows, left))
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().try_for_each(|item| look(item, &step("*"), rows, left))
        }
        // An empty one may say something too: `emptyDir: {}`.
        _ => bail!("the field {place} is not known here, and is not ignored"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        k8s::{manifest, render::TARGETS},
        workspace,
    };

    fn files() -> impl Iterator<Item = (&'static str, Vec<Document>)> {
        let targets = TARGETS.iter().filter(|target| target.folder.contains("overlays"));
        targets.map(|target| (target.file, manifest::read(&target.read(workspace::root()).unwrap()).unwrap()))
    }

    #[test]
    fn every_field_of_both_environments_is_known_and_what_is_left_to_a_cluster_is_said() {
        for (file, documents) in files() {
            let left = left(&documents).unwrap();
            for does in ["network policies", "machines and zones", "volumes of pods", "pulls the image"] {
                assert!(left.iter().any(|line| line.contains(does)), "{file}: {left:?}");
            }
        }
    }

    #[test]
    fn every_row_is_of_a_field_that_a_manifest_has() {
        let mut found = BTreeSet::new();
        fn walk(value: &Value, place: &str, found: &mut BTreeSet<String>) {
            found.insert(place.to_owned());
            let step = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
            match value {
                Value::Object(fields) => fields.iter().for_each(|(name, value)| walk(value, &step(name), found)),
                Value::Array(items) => items.iter().for_each(|item| walk(item, &step("*"), found)),
                _ => {}
            }
        }
        for (_, documents) in files() {
            documents.iter().for_each(|document| walk(&document.0, "", &mut found));
        }
        for kind in ["ConfigMap", "Service", "StatefulSet"] {
            for (field, _) in rows(kind).unwrap() {
                assert!(found.contains(&field), "no manifest has {field}");
            }
        }
    }

    #[test]
    fn an_unknown_field_an_unknown_value_and_an_unknown_kind_are_refused() {
        let (_, documents) = files().next().unwrap();
        let set = documents.iter().find(|document| document.title() == "StatefulSet wasmwiz").unwrap();
        for (place, name, value, said) in [
            ("/spec/template/spec", "hostNetwork", json!(true), "spec.template.spec.hostNetwork is not known"),
            ("/spec/template/spec/containers/0", "command", json!(["sh"]), "containers.*.command.* is not known"),
            ("/spec/template/spec/containers/0/securityContext", "privileged", json!(true), "only false is known"),
            ("/spec/template/spec/containers/0/readinessProbe/httpGet", "scheme", json!("HTTPS"), "only \"HTTP\""),
            ("/spec/template/spec/volumes/0", "emptyDir", json!({}), "volumes.*.emptyDir is not known"),
            ("/spec", "podManagementPolicy", json!("OrderedReady"), "only \"Parallel\" is known"),
        ] {
            let mut changed = set.clone();
            changed.0.pointer_mut(place).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
            let error = format!("{:#}", left(&[changed]).unwrap_err());
            assert!(error.contains(said) && error.contains("StatefulSet wasmwiz"), "{error}");
        }
        let job = Document(json!({"kind": "Job", "metadata": {"name": "a"}}));
        assert!(left(&[job]).unwrap_err().to_string().contains("Job a: an object of this kind"));
    }
}
