//! Deployments to a cluster and a registry that are scripts: each writes down what it is asked, and answers as it is told.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use super::*;

/// What the scripts are told, by what is asked of them: the first pattern that fits, and what is done then.
type Answers = Vec<(&'static str, String)>;

struct World {
    folder: tempfile::TempDir,
    programs: Programs,
}

impl World {
    fn new(answers: &Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let file = folder.path().join(name);
            let log = folder.path().join("asked");
            let cases: String = answers.iter().map(|(asked, does)| format!("  *\"{asked}\"*) {does};;\n")).collect();
            let text =
                format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\ncase \"{name} $*\" in\n{cases}esac\n", log.display());
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            file.to_str().unwrap().to_owned()
        };
        let programs = Programs { kubectl: program("kubectl"), cosign: program("cosign") };
        Self { folder, programs }
    }

    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    fn record(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.folder.path().join("record.json")).unwrap()).unwrap()
    }

    fn common(&self, environment: &str) -> Common {
        Common {
            environment: environment.to_owned(),
            source: "owner/name".to_owned(),
            dry_run: false,
            wait_seconds: 1,
            record: Some(self.folder.path().join("record.json")),
            summary: Some(self.folder.path().join("summary.md")),
            by: "ada".to_owned(),
            run: "https://example.org/run/1".to_owned(),
        }
    }

    fn cluster(&self, common: &Common) -> Cluster {
        let namespace = common.environment().unwrap().namespace;
        let wait = Duration::from_secs(common.wait_seconds);
        Cluster { programs: self.programs.clone(), namespace, wait, folder: self.folder.path().join("applied") }
    }

    /// Deploys the tree's file, with the servers' image resolved in it.
    fn deploy(&self, environment: &str) -> anyhow::Result<()> {
        let (common, deployment) = (self.common(environment), deployment());
        let plan = Plan::new(common.environment()?, &deployment, &common.source, &resolved(&common)?)?;
        let mut record = Record::begun(common.environment()?, &deployment, &common.by, &common.run)?;
        let outcome = plan.carry_out(&self.cluster(&common), &mut record);
        record.end(&outcome)?;
        common.keep(&record)?;
        outcome
    }
}

/// The tree's file with a digest of every image but ours.
fn resolved(common: &Common) -> anyhow::Result<String> {
    let manifest = manifest(common.environment()?, &deployment())?;
    let known = format!(":2.15.1@sha256:{}", "1".repeat(64));
    Ok(manifest.replace(":2.15.1@unresolved", &known))
}

fn deployment() -> Deployment {
    Deployment {
        kind: Kind::Deployment,
        repository: "registry.example/wasmwiz".parse().unwrap(),
        digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        revision: commit("HEAD").unwrap(),
        reason: String::new(),
        manifests_of_revision: false,
    }
}

fn printed(value: &Value) -> String {
    format!("echo '{value}'")
}

/// A cluster that has all it needs, and runs the same commit with that many nodes.
fn well(replicas: u64) -> Answers {
    let keys = ["operator-key", "pepper", "node.seed", "ca.crt", "nkeys.conf", "tls.crt", "tls.key"];
    let secret = json!({"data": keys.iter().map(|key| (*key, "")).collect::<std::collections::BTreeMap<_, _>>()});
    let set = json!({
        "metadata": {"generation": 2, "annotations": {"wasmwiz.dev/revision": commit("HEAD").unwrap()}},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": "registry.example/wasmwiz@sha256:old"}]}}},
        "status": {"observedGeneration": 2, "updateRevision": "new"},
    });
    let pod = |name: &str, ready: &str| {
        json!({"metadata": {"name": name, "labels": {"controller-revision-hash": "old"}},
               "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    };
    let pods = json!({"items": [pod("wasmwiz-0", "True"), pod("wasmwiz-1", "False")]});
    vec![("get secret", printed(&secret)), ("get statefulset", printed(&set)), ("get pods", printed(&pods))]
}

/// The same, but for one answer.
fn but(asked: &'static str, does: &str) -> Answers {
    let mut answers = vec![(asked, does.to_owned())];
    answers.extend(well(2));
    answers
}

fn changes(asked: &[String]) -> Vec<&String> {
    let applied = |line: &&String| line.contains(" apply ") && !line.contains("--dry-run=server");
    asked.iter().filter(|line| applied(line) || line.contains(" delete ")).collect()
}

#[test]
fn everything_that_may_refuse_comes_before_the_first_change() {
    let world = World::new(&well(2));
    world.deploy("staging").unwrap();
    let asked = world.asked();
    let place =
        |part: &str| asked.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {asked:?}"));
    let order = [
        "cosign verify registry.example/wasmwiz@sha256:0000",
        "get secret nats-tls",
        "get secret wasmwiz-token-keys",
        "get statefulset wasmwiz",
        "--dry-run=server",
        "around.json",
        "rollout status statefulset/nats",
        "nodes.json",
        "delete pod wasmwiz-1",
        "rollout status statefulset/wasmwiz",
    ];
    assert!(order.map(place).is_sorted(), "{asked:?}");
    assert_eq!(changes(&asked).len(), 3, "{asked:?}");
    let record = world.record();
    assert_eq!((&record["outcome"], &record["by"]), (&json!("succeeded"), &json!("ada")));
    assert_eq!(record["previous"]["image"], "registry.example/wasmwiz@sha256:old");
    let summary = fs::read_to_string(world.folder.path().join("summary.md")).unwrap();
    assert!(summary.contains("The deployment to staging succeeded"), "{summary}");
}

#[test]
fn a_refusal_changes_nothing_and_is_in_the_record_with_its_reason() {
    let other = json!({"metadata": {}, "spec": {"replicas": 2}}).to_string();
    for (asked, does, said) in [
        ("cosign verify", "echo no matching signatures >&2; exit 1", "is not shown to be signed by"),
        ("get secret wasmwiz-auth", "true", "lacks the Secrets wasmwiz-auth:"),
        ("get secret wasmwiz-token-keys", "echo '{}'", "lacks the Secrets wasmwiz-token-keys:"),
        ("get secret nats-users", "echo '{\"data\": {}}'", "lacks the Secrets nats-users/nkeys.conf:"),
        ("get statefulset", &format!("echo '{other}'"), "which commit"),
        ("--dry-run=server", "exit 1", "would not take it"),
        ("get secret nats-tls", "exit 1", "ended with"),
    ] {
        let world = World::new(&but(asked, does));
        let error = format!("{:#}", world.deploy("staging").unwrap_err());
        assert!(error.contains(said), "{asked}: {error}");
        assert!(changes(&world.asked()).is_empty(), "{asked}: {:?}", world.asked());
        let record = world.record();
        assert_eq!((&record["outcome"], &record["changed"]), (&json!("failed"), &json!(false)));
        assert!(record["error"].as_str().unwrap().contains(said), "{record}");
    }
}

#[test]
fn a_node_that_does_not_become_ready_fails_the_deployment_and_its_log_is_shown() {
    let world = World::new(&but("rollout status statefulset/wasmwiz", "exit 1"));
    assert!(world.deploy("staging").is_err());
    let asked = world.asked();
    assert!(asked.iter().any(|line| line.contains("logs --selector app.kubernetes.io/name=wasmwiz")), "{asked:?}");
    assert_eq!(world.record()["changed"], true);
    let steps = world.record()["steps"].as_array().unwrap().clone();
    assert_eq!(steps.last().unwrap()["outcome"], "failed");
}

#[test]
fn servers_that_do_not_become_ready_leave_the_nodes_as_they_are() {
    let world = World::new(&but("rollout status statefulset/nats", "exit 1"));
    assert!(world.deploy("production").is_err());
    assert!(!world.asked().iter().any(|line| line.contains("nodes.json")));
}

/// The replicas that a plan would set, where so many run.
fn scaled_to(environment: &str, running: u64) -> u64 {
    let world = World::new(&well(running));
    world.deploy(environment).unwrap();
    let applied = world.asked().into_iter().find(|line| line.contains("nodes.json")).unwrap();
    let file = applied.split_whitespace().find(|word| word.ends_with("nodes.json")).unwrap().to_owned();
    let list: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let items = list["items"].as_array().unwrap();
    let set = items.iter().find(|item| item["kind"] == "StatefulSet").unwrap();
    assert_eq!(set["metadata"]["annotations"]["wasmwiz.dev/revision"], commit("HEAD").unwrap());
    set["spec"]["replicas"].as_u64().unwrap()
}

#[test]
fn nodes_that_an_autoscaler_has_added_stay_and_others_do_not() {
    assert_eq!([scaled_to("production", 5), scaled_to("production", 2), scaled_to("production", 50)], [5, 3, 9]);
    assert_eq!(scaled_to("staging", 5), 2);
}

#[test]
fn what_would_be_done_is_said_and_nobody_is_asked() {
    let world = World::new(&well(2));
    let (common, deployment) = (world.common("production"), deployment());
    let plan =
        Plan::new(common.environment().unwrap(), &deployment, &common.source, &resolved(&common).unwrap()).unwrap();
    let lines = plan.lines(&world.cluster(&common)).join("\n");
    for said in [
        "cosign verify registry.example/wasmwiz@sha256:0",
        "Secret wasmwiz-auth is there",
        "StatefulSet wasmwiz, HorizontalPodAutoscaler wasmwiz",
    ] {
        assert!(lines.contains(said), "{said}: {lines}");
    }
    assert!(world.asked().is_empty());
}

#[test]
fn the_tree_as_it_is_is_refused_while_a_digest_is_unresolved() {
    let world = World::new(&well(2));
    if !manifest(world.common("staging").environment().unwrap(), &deployment())
        .unwrap()
        .contains("nats:2.15.1@unresolved")
    {
        return;
    }
    let error = world.common("staging").carry_out_by(&deployment(), world.programs.clone()).unwrap_err();
    assert!(format!("{error:#}").contains("unresolved"), "{error:#}");
    assert!(world.asked().is_empty());
}

#[test]
fn a_version_that_was_never_deployed_to_a_cluster_is_none_to_go_back_to() {
    let first = read(command("git").args(["rev-list", "--max-parents=0", "HEAD"])).unwrap();
    let revision = first.lines().next().unwrap().to_owned();
    let back = Deployment { kind: Kind::Rollback, revision, manifests_of_revision: true, ..deployment() };
    let error = manifest(&ENVIRONMENTS[0], &back).unwrap_err();
    assert!(format!("{error:#}").contains("never deployed"), "{error:#}");
}
