//! The two versions as programs: nodes of them, and their commands that need none.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use wasmwiz_events::event::TYPE_NAMES;
use wasmwiz_tests::{
    cli::{self, Ended},
    folder::copy_all,
    harness::{self, Launch, NodeProcess},
    upgrade::{self, Counted, Shown},
};

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// The one before.
    Previous,
    /// This one.
    Today,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Previous => "the version before",
            Self::Today => "this version",
        })
    }
}

/// Both programs.
#[derive(Debug)]
pub(crate) struct Programs {
    previous: PathBuf,
    today: PathBuf,
}

/// What a version says of a log that it is to run on.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Can it read all of it?
    pub(crate) reads_all: bool,
    /// What it does not know.
    pub(crate) faults: Vec<String>,
    /// The types of events that there are.
    pub(crate) kinds: BTreeSet<String>,
}

impl Programs {
    pub(crate) fn new(previous: PathBuf) -> anyhow::Result<Self> {
        let today = harness::binary()?;
        for program in [&previous, &today] {
            ensure!(program.is_file(), "there is no program {}", program.display());
        }
        Ok(Self { previous, today })
    }

    fn of(&self, version: Version) -> &Path {
        match version {
            Version::Previous => &self.previous,
            Version::Today => &self.today,
        }
    }

    /// Starts a node of a version, on a copy of a data folder or on an empty one.
    pub(crate) async fn start(&self, version: Version, data: Option<&Path>) -> anyhow::Result<NodeProcess> {
        let launch = Launch::node(&upgrade::settings())?.program(self.of(version).to_owned());
        if let Some(data) = data {
            copy_all(data, &launch.data())?;
        }
        launch.start().await.with_context(|| format!("{version} does not start"))
    }

    /// Runs a command of a version.
    async fn run(&self, version: Version, arguments: &[&str]) -> anyhow::Result<Ended> {
        let ended = cli::run_of(self.of(version), arguments).await;
        ended.with_context(|| format!("{version}: wasmwiz {}", arguments.join(" ")))
    }

    /// Runs a command of a version on a data folder. Gives its exit code, and what it printed.
    async fn told(&self, version: Version, command: &[&str], data: &Path) -> anyhow::Result<(Option<i32>, Value)> {
        let data = data.to_string_lossy();
        let more = ["--output", "json", "--data", &*data];
        let ended = self.run(version, &[command, &more].concat()).await?;
        let told = serde_json::from_str(&ended.stdout);
        let told = told.with_context(|| format!("{version}: wasmwiz {}: {ended:?}", command.join(" ")))?;
        Ok((ended.code, told))
    }

    /// `audit head --all`, into a file beside the data folder. Gives the file.
    pub(crate) async fn heads(&self, version: Version, data: &Path) -> anyhow::Result<PathBuf> {
        let ended = self.run(version, &["audit", "head", "--all", "--data", &data.to_string_lossy()]).await?;
        ensure!(ended.code == Some(0), "{version}: audit head: {ended:?}");
        let file = data.with_file_name("heads.json");
        fs::write(&file, ended.stdout).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// `audit verify` against heads. Gives the report, which may have findings.
    pub(crate) async fn verify(&self, version: Version, data: &Path, heads: &Path) -> anyhow::Result<Value> {
        let (code, report) =
            self.told(version, &["audit", "verify", "--expect", &heads.to_string_lossy()], data).await?;
        let is_clean = report["findings"].as_array().is_some_and(Vec::is_empty);
        ensure!(code == Some(i32::from(!is_clean)), "{version}: audit verify ended with {code:?}: {report}");
        ensure!(report["expected"].as_u64() > Some(0), "{version}: audit verify met no heads: {report}");
        ensure!(report["missing"] == json!([]), "{version}: contents are gone: {report}");
        Ok(report)
    }

    /// The same, and there must be no findings.
    pub(crate) async fn proves(&self, version: Version, data: &Path, heads: &Path) -> anyhow::Result<Counted> {
        let report = self.verify(version, data, heads).await?;
        ensure!(report["findings"] == json!([]), "{version}: audit verify: {report}");
        serde_json::from_value(report).context("audit verify counts nothing")
    }

    /// `compat check`.
    pub(crate) async fn judge(&self, version: Version, data: &Path) -> anyhow::Result<Judged> {
        let (code, told) = self.told(version, &["compat", "check"], data).await?;
        let reads_all = told["compatible"] == true;
        ensure!(code == Some(i32::from(!reads_all)), "{version}: compat check ended with {code:?}: {told}");
        let (mut faults, mut kinds) = (Vec::new(), BTreeSet::new());
        for kind in told["kinds"].as_array().context("compat check lists no types")? {
            let name = kind["type"].as_str().context("a type without a name")?;
            kinds.insert(name.to_owned());
            for fault in kind["faults"].as_array().into_iter().flatten() {
                faults.push(format!("{name}: {}", fault["what"].as_str().unwrap_or_default()));
            }
        }
        Ok(Judged { reads_all, faults, kinds })
    }

    /// The types of events that a version knows, of those that this one has a name for. `folder` is for a list of them.
    pub(crate) async fn known_kinds(&self, version: Version, folder: &Path) -> anyhow::Result<BTreeSet<String>> {
        let kinds: Vec<_> = TYPE_NAMES.iter().map(|name| json!({"type": name, "events": 0})).collect();
        let file = folder.join("kinds.json");
        fs::write(&file, json!({"kinds": kinds}).to_string()).context("cannot write the list of types")?;
        let file = file.to_string_lossy();
        let ended = self.run(version, &["compat", "check", "--output", "json", "--recorded", &*file]).await?;
        let told: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{version}: {ended:?}"))?;
        let known = told["kinds"].as_array().into_iter().flatten().filter(|kind| kind["known"] == true);
        Ok(known.filter_map(|kind| kind["type"].as_str().map(str::to_owned)).collect())
    }

    /// `audit re-run`: nothing that was run again may be other than its record. Gives how many were the same, and how many another
    /// engine has recorded.
    pub(crate) async fn rerun(&self, version: Version, data: &Path) -> anyhow::Result<(u64, u64)> {
        let (code, report) = self.told(version, &["audit", "re-run"], data).await?;
        // 3: there are executions, and none of them could be run again by this engine.
        ensure!(report["wrong"] == 0 && matches!(code, Some(0 | 3)), "{version}: audit re-run: {code:?}: {report}");
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        Ok((count(&report["reproduced"]), count(&report["left"]["other-engine"])))
    }

    /// `usage recompute --check`: every figure of the view has to be the log's.
    pub(crate) async fn figures(&self, version: Version, data: &Path) -> anyhow::Result<u64> {
        let (code, report) = self.told(version, &["usage", "recompute", "--check"], data).await?;
        ensure!(code == Some(0), "{version}: usage recompute: {report}");
        report["figures"].as_u64().context("usage recompute compared nothing")
    }
}

/// All that a node says to a tenant, once it was stopped in order and started again: what it wrote has come to its views then.
pub(crate) async fn told_anew(node: &mut NodeProcess, key: &str) -> anyhow::Result<Shown> {
    stop(node).await?;
    node.restart().await?;
    upgrade::shown(&node.ready().url, key).await
}

/// Stops a node in order.
pub(crate) async fn stop(node: &mut NodeProcess) -> anyhow::Result<()> {
    let ended = node.terminate().await?;
    ensure!(ended.success(), "the node ended with {ended}: {}", node.stderr());
    Ok(())
}
