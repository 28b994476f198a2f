//! What a rendered file says, object by object.

use anyhow::{Context, ensure};
use serde::Deserialize as _;
use serde_json::Value;

/// Kinds that are no part of Kubernetes itself: nothing here has their schemas.
pub(crate) const CUSTOM: [&str; 5] = ["ServiceMonitor", "PrometheusRule", "Certificate", "Issuer", "ExternalSecret"];

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document(pub(crate) Value);

/// The objects of a file.
///
/// # Errors
/// When it is not YAML, or one of them has no kind.
pub(crate) fn read(text: &str) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("not YAML")?;
        ensure!(value.get("kind").is_some_and(Value::is_string), "an object has no kind");
        documents.push(Document(value));
    }
    Ok(documents)
}

impl Document {
    /// Its kind.
    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Its namespace; empty where it has none.
    pub(crate) fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// Kind and name, for people.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// What is at a pointer; null where nothing is.
    pub(crate) fn at(&self, pointer: &str) -> &Value {
        at(&self.0, pointer)
    }

    /// The text at a pointer; empty where none is.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    /// What its pods are to be, if it makes pods.
    pub(crate) fn pod(&self) -> Option<&Value> {
        match self.kind() {
            "Pod" => self.0.get("spec"),
            "CronJob" => self.0.pointer("/spec/jobTemplate/spec/template/spec"),
            _ => self.0.pointer("/spec/template/spec"),
        }
    }

    /// The containers of its pods, whatever they are for.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Value> {
        let kinds = ["containers", "initContainers", "ephemeralContainers"];
        let pod = self.pod();
        kinds.into_iter().flat_map(move |kind| items(pod.and_then(|pod| pod.get(kind))))
    }

    /// Their images.
    pub(crate) fn images(&self) -> impl Iterator<Item = String> {
        self.containers().map(|container| at(container, "/image").as_str().unwrap_or_default().to_owned())
    }

    /// The Secrets that its pods mount, each with the keys that they name; no keys where all of it is mounted.
    pub(crate) fn secrets(&self) -> Vec<(String, Vec<String>)> {
        let keys = |source: &Value| {
            let items = items(source.get("items"));
            items.filter_map(|item| item.get("key")?.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let mut secrets = Vec::new();
        let mut keep = |name: Option<&Value>, source: &Value| {
            if let Some(name) = name.and_then(Value::as_str) {
                secrets.push((name.to_owned(), keys(source)));
            }
        };
        for volume in items(self.pod().and_then(|pod| pod.get("volumes"))) {
            let secret = at(volume, "/secret");
            keep(secret.get("secretName"), secret);
            for source in items(volume.pointer("/projected/sources")) {
                let secret = at(source, "/secret");
                keep(secret.get("name"), secret);
            }
        }
        secrets
    }
}

/// What is at a pointer; null where nothing is.
pub(crate) fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// The items of a list; none of anything else.
pub(crate) fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// A quantity of memory or storage, in bytes: `2Gi`.
pub(crate) fn bytes(quantity: &Value) -> Option<u64> {
    let text = quantity.as_str()?;
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    number.parse::<u64>().ok().map(|number| number << shift)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_read_one_by_one_with_their_containers_and_secrets() {
        let text = "kind: Service\nmetadata:\n  name: a\n---\nkind: StatefulSet\nmetadata:\n  name: b\n  namespace: c\nspec:\n  \
                    template:\n    spec:\n      initContainers:\n      - image: d\n      containers:\n      - image: e\n      \
                    volumes:\n      - secret:\n          secretName: f\n      - projected:\n          sources:\n          - \
                    secret:\n              name: g\n              items:\n              - key: h\n";
        let documents = read(text).unwrap();
        let set = &documents[1];
        assert_eq!((documents.len(), set.title().as_str(), set.namespace()), (2, "StatefulSet b", "c"));
        assert_eq!(set.images().collect::<Vec<_>>(), ["e", "d"]);
        assert_eq!(set.secrets(), [("f".to_owned(), vec![]), ("g".to_owned(), vec!["h".to_owned()])]);
        assert!(read("metadata: {}\n").is_err() && read("kind: [\n").is_err());
    }

    #[test]
    fn quantities_are_bytes() {
        assert_eq!(bytes(&json!("2Gi")), Some(2 << 30));
        assert_eq!(bytes(&json!("512")), Some(512));
        assert_eq!((bytes(&json!("2G")), bytes(&json!(2))), (None, None));
    }
}
