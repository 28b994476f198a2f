//! A Prometheus as a process: it scrapes what it is told to, and answers queries about it.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{client::Client, wait};

const PROGRAM: &str = "prometheus";

/// How it says where it listens.
const LISTENS: &str = "msg=\"Listening on\"";

/// Is it installed?
pub fn is_there() -> bool {
    let mut version = Command::new(PROGRAM);
    let quiet = version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// A server that looks every second. It is killed when this is dropped, and its folder goes with it.
#[derive(Debug)]
pub struct Prometheus {
    folder: TempDir,
    child: Child,
    client: Option<Client>,
}

/// A rule of alerts, as the server sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Rule {
    /// What the alert is called.
    pub name: String,
    /// `ok` once its query was answered.
    pub health: String,
    /// Why it was not.
    #[serde(default, rename = "lastError")]
    pub last_error: String,
    /// `inactive`, `pending` or `firing`.
    pub state: String,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// The answer to every question.
#[derive(Deserialize)]
struct Told<T> {
    data: T,
}

#[derive(Deserialize)]
struct Vector {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    /// When, and how much, as text.
    value: (f64, String),
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// One that scrapes this target (an address and a port) as this job, and evaluates these rules of alerts; once it is
    /// ready.
    ///
    /// # Errors
    /// When it is not installed, or does not become ready in time.
    pub async fn scraping(job: &str, target: &str, rules: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("prometheus-").tempdir().context("cannot make a folder")?;
        let configuration = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yaml]\nscrape_configs:\n  - \
             job_name: {job}\n    static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        fs::write(folder.path().join("prometheus.yaml"), configuration).context("cannot write prometheus.yaml")?;
        fs::write(folder.path().join("rules.yaml"), rules).context("cannot write rules.yaml")?;
        let log = File::create(folder.path().join("server.log")).context("cannot write server.log")?;
        let child = Command::new(PROGRAM)
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start prometheus; Debian's package prometheus has it")?;
        let mut server = Self { folder, child, client: None };
        let ready = wait::until("a Prometheus that is ready", wait::SOON, async || server.look().await).await;
        server.client = Some(ready.with_context(|| server.log())?);
        Ok(server)
    }

    /// A client of it, if it is ready.
    async fn look(&mut self) -> anyhow::Result<Option<Client>> {
        ensure!(self.child.try_wait()?.is_none(), "prometheus has ended");
        let Some(address) = address_in(&self.log()).map(str::to_owned) else { return Ok(None) };
        let client = Client::new(&format!("http://{address}"), None)?;
        let is_ready = client.get("/-/ready").await.is_ok_and(|answer| answer.status == 200);
        Ok(is_ready.then_some(client))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// What a query gives now: a value for each series that it has an answer for.
    ///
    /// # Errors
    /// When it does not parse, or cannot be answered.
    pub async fn query(&self, query: &str) -> anyhow::Result<Vec<f64>> {
        let told: Told<Vector> = self.ask("/api/v1/query", &[("query", query)]).await?;
        let values = told.data.result.into_iter().map(|sample| sample.value.1);
        values.map(|text| text.parse().with_context(|| format!("{text} is no number"))).collect()
    }

    /// The values of a label, of the series that a selector names.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn label_values(&self, label: &str, selector: &str) -> anyhow::Result<Vec<String>> {
        let told: Told<Vec<String>> =
            self.ask(&format!("/api/v1/label/{label}/values"), &[("match[]", selector)]).await?;
        Ok(told.data)
    }

    /// The rules of alerts.
    ///
    /// # Errors
    /// When it gives none.
    pub async fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let told: Told<Groups> = self.ask("/api/v1/rules", &[]).await?;
        Ok(told.data.groups.into_iter().flat_map(|group| group.rules).collect())
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str, about: &[(&str, &str)]) -> anyhow::Result<T> {
        let client = self.client.as_ref().context("it is not ready")?;
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", client.url()), about)?;
        let answer = client.get(&format!("{path}?{}", url.query().unwrap_or_default())).await?;
        if answer.status != 200 {
            bail!("{path} {about:?}: {} {}", answer.status, answer.text());
        }
        answer.json().with_context(|| format!("{path} {about:?}: {}", answer.text()))
    }
}

/// Where a server listens, by what it has logged.
fn address_in(log: &str) -> Option<&str> {
    let line = log.lines().find(|line| line.contains(LISTENS))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("address="))
}

#[cfg(test)]
mod tests {
    use super::address_in;

    #[test]
    fn the_address_is_the_one_that_was_taken_and_not_the_one_that_was_asked_for() {
        let asked = "level=info component=web msg=\"Start listening for connections\" address=127.0.0.1:0\n";
        assert_eq!(address_in(asked), None);
        let taken = format!("{asked}level=info component=web msg=\"Listening on\" address=127.0.0.1:43855\n");
        assert_eq!(address_in(&taken), Some("127.0.0.1:43855"));
    }
}
