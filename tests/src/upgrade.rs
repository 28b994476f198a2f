//! A version and the one before it on one log: how nodes of both are started, what both have to answer alike, and the golden log,
//! which the one before has left in the tree.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wasmwiz_events::digest::Digest;

use crate::{
    client::{Answer, Client},
    tenants::OPERATOR_KEY,
    wait,
};

/// What is recorded of a golden log, below its folder: the node's data folder, its heads, and what was answered of it.
pub const DATA: &str = "data";
/// See [`DATA`].
pub const HEADS: &str = "heads.json";
/// See [`DATA`].
pub const EXPECTED: &str = "expected.json";

/// How long a node may take until its views have caught up: all of them may have to be folded anew.
const READY_WITHIN: Duration = Duration::from_secs(60);

const MODULES: &str = "/v1/modules?limit=200";
const EXECUTIONS: &str = "/v1/executions?limit=200";
const TENANTS: &str = "/v1/tenants?limit=200";
const HEAD: &str = "/v1/audit/head";
const USAGE: &str = "/v1/usage?by=module&from=2001-01-01T00:00:00Z&to=2100-01-01T00:00:00Z";

/// Pages that a tenant reads. Each has to be one: a history that is larger is too large for what it is for.
const PAGES: [&str; 7] = [
    "/v1/keys?limit=200",
    MODULES,
    EXECUTIONS,
    USAGE,
    "/v1/usage?by=key&from=2001-01-01T00:00:00Z&to=2100-01-01T00:00:00Z",
    "/v1/audit?limit=200",
    HEAD,
];

/// What of the answers is kept beside a golden log: enough to tell each view by, and little.
const KEPT: [&str; 5] = [MODULES, EXECUTIONS, USAGE, HEAD, TENANTS];

/// Members whose values are of the node that answers, and not of the log.
const OF_THE_NODE: [&str; 1] = ["last_used_at"];

/// Answers, by what was asked for.
pub type Shown = BTreeMap<String, Value>;

/// The settings of a node of either version: each of them is known to both.
pub fn settings() -> String {
    format!(
        "node.data_dir = \"{{data}}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n\
         gateway.denials_every_ms = 100\nauth.operator_key = \"{OPERATOR_KEY}\"\n"
    )
}

/// Waits until a node calls itself ready: its views have caught up with its log.
///
/// # Errors
/// When it does not in time.
pub async fn until_ready(client: &Client) -> anyhow::Result<()> {
    wait::until("a node that is ready", READY_WITHIN, async || {
        Ok((client.anonymous().get("/readyz").await?.status == StatusCode::OK).then_some(()))
    })
    .await
}

/// Reads all that a node says of the tenant of that key: every page, every execution with its streams, and the bytes of every version.
/// The node must have started on what is in its log: what it writes itself may be on its way to its views.
///
/// # Errors
/// When something is not answered.
pub async fn shown(url: &str, key: &str) -> anyhow::Result<Shown> {
    let (tenant, operator) = (Client::new(url, Some(key))?, Client::new(url, Some(OPERATOR_KEY))?);
    until_ready(&operator).await?;
    let mut shown = Shown::new();
    for path in PAGES {
        shown.insert(path.to_owned(), page(&tenant, path).await?);
    }
    shown.insert(TENANTS.to_owned(), page(&operator, TENANTS).await?);
    for id in executions(&shown) {
        let path = format!("/v1/executions/{id}");
        shown.insert(path.clone(), page(&tenant, &path).await?);
        for stream in ["stdin", "stdout", "stderr"] {
            let path = format!("{path}/{stream}");
            shown.insert(path.clone(), content(&tenant, &path).await?);
        }
    }
    for name in texts(shown.get(MODULES), "name") {
        let path = format!("/v1/modules/{name}/versions");
        let versions = page(&tenant, &path).await?;
        let numbers = items(Some(&versions)).filter_map(|version| version["version"].as_u64());
        for number in numbers.collect::<Vec<_>>() {
            let path = format!("{path}/{number}/wasm");
            shown.insert(path.clone(), content(&tenant, &path).await?);
        }
        shown.insert(path, versions);
    }
    Ok(shown)
}

/// The ids of the executions that were listed, the newest first.
pub fn executions(shown: &Shown) -> Vec<String> {
    texts(shown.get(EXECUTIONS), "id")
}

async fn page(client: &Client, path: &str) -> anyhow::Result<Value> {
    let body = client.get_json(path).await.with_context(|| path.to_owned())?;
    ensure!(body["next_cursor"].is_null(), "{path} has more than a page: the history is too large to be compared so");
    Ok(body)
}

/// Bytes, by their digest.
async fn content(client: &Client, path: &str) -> anyhow::Result<Value> {
    let Answer { status, body, .. } = client.get(path).await.with_context(|| path.to_owned())?;
    let digest = (status == StatusCode::OK).then(|| Digest::of(&body).to_string());
    Ok(json!({"status": status.as_u16(), "digest": digest}))
}

fn items(page: Option<&Value>) -> impl Iterator<Item = &Value> {
    page.and_then(|page| page["items"].as_array()).into_iter().flatten()
}

fn texts(page: Option<&Value>, member: &str) -> Vec<String> {
    items(page).filter_map(|item| item[member].as_str().map(str::to_owned)).collect()
}

/// What of the earlier answers is not in the later ones, each by its place. More is no fault: a later version may say more.
pub fn missing(before: &Shown, after: &Shown) -> Vec<String> {
    let mut found = Vec::new();
    for (path, before) in before {
        match after.get(path) {
            Some(after) => compare(before, after, path, &mut found),
            None => found.push(format!("{path} is not answered")),
        }
    }
    found
}

fn compare(before: &Value, after: &Value, place: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before.iter().filter(|(name, _)| !OF_THE_NODE.contains(&name.as_str())) {
                match after.get(name) {
                    Some(after) => compare(value, after, &format!("{place} {name}"), found),
                    None => found.push(format!("{place} {name} is gone")),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (number, (before, after)) in before.iter().zip(after).enumerate() {
                compare(before, after, &format!("{place} {number}"), found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => found.push(format!("{place} was {before}, and is {after}")),
    }
}

/// What `wasmwiz audit verify` has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Tenants.
    pub tenants: u64,
    /// Commits.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
}

/// What is expected of a golden log: what the version that wrote it said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expected {
    /// The commit that its program was built from.
    pub commit: String,
    /// The tenant that it is about.
    pub tenant: String,
    /// The key of that tenant, drawn for this log: it opens nothing else.
    pub key: String,
    /// What was counted.
    pub counted: Counted,
    /// What was answered.
    pub shown: Shown,
}

impl Expected {
    /// With of the answers what is kept.
    pub fn new(commit: String, tenant: String, key: String, counted: Counted, shown: &Shown) -> Self {
        let kept = shown.iter().filter(|(path, _)| KEPT.contains(&path.as_str()));
        let shown = kept.map(|(path, value)| (path.clone(), value.clone())).collect();
        Self { commit, tenant, key, counted, shown }
    }
}

/// The golden log of the tree.
#[derive(Debug)]
pub struct Golden {
    folder: PathBuf,
    expected: Expected,
}

impl Golden {
    /// Reads what is expected of it.
    ///
    /// # Errors
    /// When it was not recorded.
    pub fn of_the_tree() -> anyhow::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("upgrade/log");
        let file = folder.join(EXPECTED);
        let text = fs::read_to_string(&file).with_context(|| {
            format!("no {}: record the log with `cargo xtask upgrade --record tests/upgrade/log`", file.display())
        })?;
        let expected = serde_json::from_str(&text).with_context(|| format!("{} is another's", file.display()))?;
        Ok(Self { folder, expected })
    }

    /// What is expected of it.
    pub const fn expected(&self) -> &Expected {
        &self.expected
    }

    /// A data folder, to be copied: whoever opens a log there leaves files beside it.
    pub fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    /// The heads that the version that wrote it has printed.
    pub fn heads(&self) -> PathBuf {
        self.folder.join(HEADS)
    }

    /// The commit that is pinned as the version before this one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pinned() -> anyhow::Result<String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("upgrade/previous");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Shown {
        Shown::from([("/v1/a".to_owned(), body)])
    }

    #[test]
    fn a_later_answer_may_say_more_and_of_the_node_what_it_likes() {
        let before = of(json!({"items": [{"id": "1", "last_used_at": "x"}], "size": 1.5}));
        let after =
            of(json!({"items": [{"id": "1", "last_used_at": null, "settings": {}}], "size": 1.5, "more": true}));
        assert_eq!(missing(&before, &after), [""; 0]);
        assert_eq!(missing(&after, &before).len(), 2);
    }

    #[test]
    fn what_is_gone_or_other_is_named_with_its_place() {
        let before = of(json!({"items": [{"id": "1"}, {"id": "2", "outcome": "exited"}]}));
        for (after, said) in [
            (json!({"items": [{"id": "1"}, {"id": "2"}]}), "/v1/a items 1 outcome is gone"),
            (
                json!({"items": [{"id": "2"}, {"id": "2", "outcome": "exited"}]}),
                "/v1/a items 0 id was \"1\", and is \"2\"",
            ),
            (json!({}), "/v1/a items is gone"),
        ] {
            assert_eq!(missing(&before, &of(after)), [said]);
        }
        let fewer = missing(&before, &of(json!({"items": [{"id": "1"}]})));
        assert!(matches!(&fewer[..], [one] if one.starts_with("/v1/a items was [")), "{fewer:?}");
        assert_eq!(missing(&before, &Shown::new()), ["/v1/a is not answered"]);
    }

    #[test]
    fn beside_a_golden_log_little_is_kept_of_the_answers() {
        let shown: Shown = PAGES.iter().map(|path| ((*path).to_owned(), json!(1))).collect();
        let counted = Counted { tenants: 1, commits: 2, events: 3 };
        let expected = Expected::new("c".into(), "t".into(), "k".into(), counted, &shown);
        assert_eq!(expected.shown.len(), KEPT.len() - 1);
        assert!(!expected.shown.contains_key("/v1/audit?limit=200"));
    }
}
