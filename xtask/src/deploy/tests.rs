//! Deployments to a cluster and a registry that are scripts: each writes down what it is asked, and answers as it is told.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use super::*;
use crate::k8s::manifest;

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
        let programs = Programs {
            kubectl: program("kubectl"),
            cosign: program("cosign"),
            docker: program("docker"),
            history: workspace::root().to_owned(),
            folder: folder.path().join("applied"),
        };
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
            repair: false,
            wait_seconds: 1,
            record: Some(self.folder.path().join("record.json")),
            summary: Some(self.folder.path().join("summary.md")),
            by: "ada".to_owned(),
            run: "https://example.org/run/1".to_owned(),
        }
    }

    /// Deploys the tree's file, with the servers' image resolved in it.
    fn deploy(&self, environment: &str) -> anyhow::Result<()> {
        self.carry_out(&self.common(environment), &deployment())
    }

    fn carry_out(&self, common: &Common, deployment: &Deployment) -> anyhow::Result<()> {
        common.carry_out_by(deployment, self.programs.clone(), resolved)
    }

    /// What was applied by that name.
    fn applied(&self, name: &str) -> Vec<Value> {
        let list = fs::read_to_string(self.folder.path().join(format!("applied/{name}.json"))).unwrap();
        serde_json::from_str::<Value>(&list).unwrap()["items"].as_array().unwrap().clone()
    }
}

/// The tree's file with a digest of every image but ours.
fn resolved(environment: &Environment, _: &Deployment) -> anyhow::Result<String> {
    let manifest = manifest(environment, &deployment())?;
    Ok(manifest.replace(":2.15.1@unresolved", &format!(":2.15.1@{}", digest('1'))))
}

fn digest(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

fn deployment() -> Deployment {
    Deployment {
        kind: Kind::Deployment,
        repository: "registry.example/wasmwiz".parse().unwrap(),
        digest: digest('0').parse().unwrap(),
        revision: commit("HEAD").unwrap(),
        reason: String::new(),
        manifests_of_revision: false,
        version: None,
        servers: true,
    }
}

fn rollback() -> Deployment {
    Deployment { kind: Kind::Rollback, reason: "why".to_owned(), servers: false, ..deployment() }
}

fn printed(value: &Value) -> String {
    format!("echo '{value}'")
}

/// A cluster that has all it needs, and runs the same commit with that many nodes.
fn well(replicas: u64) -> Answers {
    let keys = ["operator-key", "pepper", "node.seed", "ca.crt", "nkeys.conf", "tls.crt", "tls.key"];
    let secret = json!({"data": keys.iter().map(|key| (*key, "")).collect::<std::collections::BTreeMap<_, _>>()});
    // Both StatefulSets answer the same.
    let set = set(&commit("HEAD").unwrap(), replicas, replicas);
    let pod = |name: &str, ready: &str, more: Value| {
        json!({"metadata": {"name": name, "labels": {"controller-revision-hash": "old"}, "deletionTimestamp": more},
               "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    };
    let pods = json!({"items": [
        pod("wasmwiz-0", "True", Value::Null),
        pod("wasmwiz-1", "False", Value::Null),
        pod("wasmwiz-2", "False", Value::Null),
        pod("wasmwiz-3", "False", json!("2026-01-01T00:00:00Z")),
    ]});
    vec![("get secret", printed(&secret)), ("get statefulset", printed(&set)), ("get pods", printed(&pods))]
}

/// A StatefulSet of that commit.
fn set(revision: &str, replicas: u64, ready: u64) -> Value {
    let annotations = json!({"wasmwiz.dev/revision": format!("{revision}@{}", digest('2'))});
    let image = format!("registry.example/wasmwiz@{}", digest('2'));
    json!({
        "metadata": {"generation": 2, "annotations": annotations},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"observedGeneration": 2, "updateRevision": "new", "currentRevision": "old", "readyReplicas": ready},
    })
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
        "get statefulset nats",
        "--dry-run=server",
        "around.json",
        // An hour, in which one copies its history, and a second for each.
        "rollout status statefulset/nats --timeout=3603s",
        "nodes.json",
        "delete pod wasmwiz-2",
        "rollout status statefulset/wasmwiz --timeout=2s",
    ];
    assert!(order.map(place).is_sorted(), "{asked:?}");
    assert_eq!(changes(&asked).len(), 3, "{asked:?}");
    let signed = asked.iter().find(|line| line.contains("cosign verify")).unwrap();
    let commit = commit("HEAD").unwrap();
    assert!(signed.ends_with(&format!("--certificate-github-workflow-sha {commit}")), "{signed}");
    let applied = asked.iter().filter(|line| line.contains(" apply "));
    assert!(
        applied.clone().count() == 3 && applied.into_iter().all(|line| line.contains("--force-conflicts")),
        "{asked:?}"
    );
    let record = world.record();
    assert_eq!((&record["outcome"], &record["by"]), (&json!("succeeded"), &json!("ada")));
    assert_eq!(record["previous"]["image"], format!("registry.example/wasmwiz@{}", digest('2')));
    let summary = fs::read_to_string(world.folder.path().join("summary.md")).unwrap();
    assert!(summary.contains("The deployment to staging succeeded"), "{summary}");
}

#[test]
fn a_refusal_changes_nothing_and_is_in_the_record_with_its_reason() {
    let other = json!({"metadata": {}, "spec": {"replicas": 2}}).to_string();
    let mut exchanged = set(&commit("HEAD").unwrap(), 2, 2);
    exchanged["spec"]["template"]["spec"]["containers"][0]["image"] =
        json!(format!("registry.example/w@{}", digest('3')));
    for (asked, does, said) in [
        ("cosign verify", "echo no matching signatures >&2; exit 1", "is not shown to be signed by"),
        ("get secret wasmwiz-auth", "true", "lacks the Secrets wasmwiz-auth:"),
        ("get secret wasmwiz-token-keys", "echo '{}'", "lacks the Secrets wasmwiz-token-keys:"),
        ("get secret nats-users", "echo '{\"data\": {}}'", "lacks the Secrets nats-users/nkeys.conf:"),
        ("get statefulset", &format!("echo '{other}'"), "which commit"),
        ("get statefulset wasmwiz", &printed(&exchanged), "says it of another image"),
        ("get statefulset nats", &printed(&set("a", 3, 2)), "2 of 3 of the log's servers are ready"),
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
fn scaled_to(environment: &str, answers: &Answers) -> u64 {
    let world = World::new(answers);
    world.deploy(environment).unwrap();
    let set = world.applied("nodes").into_iter().find(|item| item["kind"] == "StatefulSet").unwrap();
    let annotation = format!("{}@{}", commit("HEAD").unwrap(), digest('0'));
    assert_eq!(set["metadata"]["annotations"]["wasmwiz.dev/revision"], annotation);
    set["spec"]["replicas"].as_u64().unwrap()
}

#[test]
fn nodes_that_an_autoscaler_has_added_stay_and_others_do_not() {
    let replicas = [5, 2, 50, 0].map(|running| scaled_to("production", &well(running)));
    assert_eq!(replicas, [5, 3, 9, 3]);
    assert_eq!(scaled_to("staging", &well(5)), 2);
}

#[test]
fn an_autoscaler_that_adds_nodes_while_servers_are_replaced_is_not_undone() {
    let world = World::new(&well(3));
    let later = world.folder.path().join("later");
    // From the second question on.
    let does = format!(
        "if [ -e {0} ]; then echo '{1}'; else touch {0}; echo '{2}'; fi",
        later.display(),
        set(&commit("HEAD").unwrap(), 6, 6),
        set(&commit("HEAD").unwrap(), 3, 3)
    );
    let mut answers = vec![("get statefulset wasmwiz", does)];
    answers.extend(well(3));
    assert_eq!(scaled_to("production", &answers), 6);
}

#[test]
fn what_would_be_done_is_asked_and_said_and_nothing_changes() {
    let world = World::new(&well(3));
    let common = Common { dry_run: true, ..world.common("production") };
    world.carry_out(&common, &deployment()).unwrap();
    let asked = world.asked();
    for part in ["cosign verify", "get secret wasmwiz-auth", "get statefulset wasmwiz", "--dry-run=server"] {
        assert!(asked.iter().any(|line| line.contains(part)), "{part}: {asked:?}");
    }
    assert!(changes(&asked).is_empty(), "{asked:?}");
    assert!(!world.folder.path().join("record.json").exists() && !world.folder.path().join("summary.md").exists());
    let world = World::new(&but("cosign verify", "exit 1"));
    let common = Common { dry_run: true, ..world.common("production") };
    assert!(world.carry_out(&common, &deployment()).is_err());
}

#[test]
fn servers_that_are_not_all_ready_are_replaced_where_that_mends_them() {
    let world = World::new(&but("get statefulset nats", &printed(&set("a", 3, 1))));
    assert!(world.deploy("staging").is_err());
    let common = Common { repair: true, ..world.common("staging") };
    world.carry_out(&common, &deployment()).unwrap();
    assert!(world.applied("around").iter().any(|item| item["metadata"]["name"] == "nats"));
}

#[test]
fn a_rollback_leaves_servers_of_another_image_as_they_are_unless_it_is_told() {
    let is_of_servers = |item: &Value| item["metadata"]["name"].as_str().unwrap().starts_with("nats");
    let world = World::new(&well(2));
    world.carry_out(&world.common("staging"), &rollback()).unwrap();
    assert!(!world.applied("all").iter().chain(&world.applied("around")).any(is_of_servers));
    assert!(!world.asked().iter().any(|line| line.contains("statefulset/nats")));
    assert!(world.record()["notes"][0].as_str().unwrap().contains("--servers was not said"), "{}", world.record());
    let told = World::new(&well(2));
    told.carry_out(&told.common("staging"), &Deployment { servers: true, ..rollback() }).unwrap();
    assert!(told.applied("around").iter().any(is_of_servers));
    // The same image, as the cluster names it.
    let manifest = manifest::read(&resolved(&ENVIRONMENTS[0], &deployment()).unwrap()).unwrap();
    let image = manifest.iter().find(|it| it.title() == "StatefulSet nats").unwrap().images().next().unwrap();
    let mut same = set("a", 3, 3);
    same["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    let world = World::new(&but("get statefulset nats", &printed(&same)));
    world.carry_out(&world.common("staging"), &rollback()).unwrap();
    assert!(world.applied("around").iter().any(is_of_servers));
}

#[test]
fn the_older_program_is_asked_before_anything_changes_and_its_no_is_a_refusal() {
    let asks = |line: &String| line.starts_with("docker run") && line.contains(" compat check --recorded -");
    let world = World::new(&well(2));
    world.carry_out(&world.common("staging"), &rollback()).unwrap();
    let asked = world.asked();
    let place = |wanted: &dyn Fn(&String) -> bool| asked.iter().position(wanted).unwrap();
    assert!(place(&asks) < place(&|line| changes(&asked).contains(&line)), "{asked:?}");
    assert!(asked[place(&asks)].contains("--network none --read-only --cap-drop ALL"), "{asked:?}");
    assert!(asked[place(&asks)].contains(&format!("registry.example/wasmwiz@{}", digest('0'))), "{asked:?}");
    let world = World::new(&but("compat check", "cat > /dev/null; echo dev.wasmwiz.a.v2 UNKNOWN; exit 1"));
    let error = format!("{:#}", world.carry_out(&world.common("staging"), &rollback()).unwrap_err());
    assert!(error.contains("does not say that it knows") && error.contains("dev.wasmwiz.a.v2 UNKNOWN"), "{error}");
    assert!(changes(&world.asked()).is_empty());
    assert!(world.record()["error"].as_str().unwrap().contains("dev.wasmwiz.a.v2"), "{}", world.record());
    // One of before it could be asked is no worse than it was: git has been asked.
    let world = World::new(&but("compat check", "cat > /dev/null; echo unrecognized subcommand >&2; exit 2"));
    world.carry_out(&world.common("staging"), &rollback()).unwrap();
    assert!(world.record()["notes"].to_string().contains("cannot be asked what it knows"), "{}", world.record());
    // Going forward is asked of git alone: what is newer knows what is older.
    let world = World::new(&well(2));
    world.deploy("staging").unwrap();
    assert!(!world.asked().iter().any(asks));
}

#[test]
fn a_version_without_a_form_of_events_and_an_older_one_are_refused() {
    let (history, [old, new]) = compatible::tests::history();
    let attempt = |running: &str, deployment: Deployment| {
        let mut world = World::new(&but("get statefulset", &printed(&set(running, 2, 2))));
        world.programs.history = history.path().to_owned();
        let outcome = world.carry_out(&world.common("staging"), &deployment);
        (outcome.map_err(|error| format!("{error:#}")), changes(&world.asked()).len())
    };
    let forward = Deployment { revision: new.clone(), ..deployment() };
    assert_eq!(attempt(&old, forward), (Ok(()), 3));
    for kind in [deployment(), rollback()] {
        let (outcome, changes) = attempt(&new, Deployment { revision: old.clone(), ..kind });
        assert!(outcome.unwrap_err().contains("may have recorded") && changes == 0);
    }
    // With every form of events, and older all the same.
    let whole = World::new(&well(2));
    let parent = commit("HEAD^").ok().filter(|parent| compatible::check(workspace::root(), "HEAD", parent).is_ok());
    if let Some(revision) = parent {
        let older = |kind: Deployment| {
            whole.carry_out(&whole.common("staging"), &Deployment { revision: revision.clone(), ..kind })
        };
        let error = format!("{:#}", older(deployment()).unwrap_err());
        assert!(error.contains("going back is a rollback"), "{error}");
        older(rollback()).unwrap();
    }
}

#[test]
fn the_record_is_there_before_the_first_change_and_says_so_after_it() {
    // The cluster keeps a copy of the record whenever it is asked to change something.
    let world = World::new(&Answers::new());
    let (record, kept) = (world.folder.path().join("record.json"), world.folder.path().join("kept"));
    fs::create_dir(&kept).unwrap();
    let copy = |name: &str| format!("cp {} {}/{name}", record.display(), kept.display());
    let mut answers = vec![
        ("cosign verify", copy("before")),
        ("around.json", copy("first")),
        ("rollout status statefulset/wasmwiz", copy("last")),
    ];
    answers.extend(well(2));
    let other = World::new(&answers);
    let common = Common { record: Some(record.clone()), ..other.common("staging") };
    other.carry_out(&common, &deployment()).unwrap();
    let read = |name: &str| -> Value { serde_json::from_str(&fs::read_to_string(kept.join(name)).unwrap()).unwrap() };
    let [before, first, last] = ["before", "first", "last"].map(read);
    assert_eq!((&before["outcome"], &before["changed"]), (&json!("under way"), &json!(false)));
    assert_eq!((&first["outcome"], &first["changed"]), (&json!("under way"), &json!(true)));
    assert!(first["previous"]["revision"].is_string(), "{first}");
    assert!(last["steps"].as_array().unwrap().len() > first["steps"].as_array().unwrap().len());
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
    let error = world.common("staging").carry_out_by(&deployment(), world.programs.clone(), manifest).unwrap_err();
    assert!(format!("{error:#}").contains("unresolved"), "{error:#}");
    assert!(world.asked().is_empty());
    assert_eq!(world.record()["outcome"], "failed");
}

#[test]
fn a_version_that_was_never_deployed_to_a_cluster_is_none_to_go_back_to() {
    let first = read(command("git").args(["rev-list", "--max-parents=0", "HEAD"])).unwrap();
    let revision = first.lines().next().unwrap().to_owned();
    let back = Deployment { kind: Kind::Rollback, revision, manifests_of_revision: true, ..deployment() };
    let error = manifest(&ENVIRONMENTS[0], &back).unwrap_err();
    assert!(format!("{error:#}").contains("never deployed"), "{error:#}");
}
