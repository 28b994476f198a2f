//! This version on the log of the one before.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::json;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    harness::NodeProcess,
    tenants::OPERATOR_KEY,
    upgrade::{self, Shown},
    wait::{self, SOON},
};

use crate::{
    history::{FIRST, Made, once, ran, told},
    left::Left,
    programs::{Programs, Version, stop, told_anew},
    said,
};

/// Settings of versions that a version before this one may not know, and the class of what runs with them. With more of them, the log
/// has more that the version before has to refuse.
const FORMS: [(&str, &str); 3] =
    [("sleep=skip", "virtual-time"), ("clock=host", "transcript"), ("metered=true", "virtual-time")];

/// A log on which this version has gone on. No node runs on it.
#[derive(Debug)]
pub(crate) struct Newer {
    node: NodeProcess,
    /// The key of the tenant that it is about.
    pub(crate) key: String,
    /// What this version answered of it.
    pub(crate) shown: Shown,
    /// Its heads.
    pub(crate) heads: PathBuf,
}

impl Newer {
    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.node.data()
    }
}

pub(crate) async fn forward(programs: &Programs, left: &Left) -> anyhow::Result<Newer> {
    let counted = programs.proves(Version::Today, &left.data(), &left.heads).await?;
    ensure!(counted == left.counted, "it counts {counted:?}, and the version before {:?}", left.counted);
    said("forward: this version proves the log, against the heads that the version before has printed");
    let judged = programs.judge(Version::Today, &left.data()).await?;
    ensure!(judged.reads_all, "this version does not know {}", judged.faults.join("; "));
    said("forward: it knows every form in it");

    let mut node = programs.start(Version::Today, Some(&left.data())).await?;
    let key = left.made.key.clone();
    let shown = upgrade::shown(&node.ready().url, &key).await?;
    let missing = upgrade::missing(&left.shown, &shown);
    ensure!(missing.is_empty(), "it answers otherwise than the version before: {}", missing.join("; "));
    said(format_args!("forward: all of {} answers have what they had", left.shown.len()));

    let client = Client::new(&node.ready().url, Some(&key))?;
    let (reproduced, others) = records(&client, &shown).await?;
    said(format_args!("forward: {reproduced} records were run again and are the same; another engine made {others}"));
    credentials(&client, &left.made).await?;
    goes_on(&client, &left.made).await?;
    said(
        "forward: keys, a request that is sent again, a record that is made anew and a suspended tenant go on as before",
    );
    for (settings, class) in FORMS {
        newer(&client, settings, class).await.with_context(|| settings)?;
        said(format_args!("forward: it writes what {settings} brings, and can run that again"));
    }

    let shown = told_anew(&mut node, &key).await?;
    stop(&mut node).await?;
    let counted = programs.proves(Version::Today, &node.data(), &left.heads).await?;
    let (reproduced, others) = programs.rerun(Version::Today, &node.data()).await?;
    let figures = programs.figures(Version::Today, &node.data()).await?;
    said(format_args!(
        "forward: {} events are proven, the kept heads among them; an auditor ran {reproduced} records again, another engine made \
         {others}; {figures} figures of usage are the log's",
        counted.events
    ));
    let heads = programs.heads(Version::Today, &node.data()).await?;
    Ok(Newer { node, key, shown, heads })
}

/// Has a record run again, once the node has time for it.
async fn run_again(client: &Client, id: &str) -> anyhow::Result<Answer> {
    wait::until("a second run", SOON, async || {
        let answer = client.post_bytes(&format!("/v1/executions/{id}/verify"), "").await?;
        Ok((answer.status != 503).then_some(answer))
    })
    .await
}

/// Every record that says that it can be run again either can, or says which engine made it. Gives how many of each there are.
async fn records(client: &Client, shown: &Shown) -> anyhow::Result<(u64, u64)> {
    let (mut reproduced, mut others) = (0, 0);
    for id in upgrade::executions(shown) {
        let execution = shown.get(&format!("/v1/executions/{id}")).context("an execution is listed and not shown")?;
        if execution["deterministic"] != true {
            continue;
        }
        let answer = run_again(client, &id).await?;
        if answer.status == 200 {
            let verified = told(&answer, 200)?;
            ensure!(verified["reproduced"] == true, "{id}: {verified}");
            reproduced += 1;
        } else {
            let refused = told(&answer, 409)?;
            ensure!(refused["reason"] == "other-engine", "{id}: {refused}");
            others += 1;
        }
    }
    ensure!(reproduced + others > 0, "no record says that it can be run again");
    Ok((reproduced, others))
}

/// Secrets that were good are, and one that was revoked is not.
async fn credentials(client: &Client, made: &Made) -> anyhow::Result<()> {
    for secret in &made.rotated {
        told(&client.with_credential(secret).get("/v1/executions?limit=1").await?, 200).context("a rotated key")?;
    }
    told(&client.with_credential(&made.revoked).get("/v1/executions?limit=1").await?, 401).context("a revoked key")?;
    Ok(())
}

/// What began before goes on.
async fn goes_on(client: &Client, made: &Made) -> anyhow::Result<()> {
    let again = once(client).await?;
    ensure!(again == (made.once.clone(), true), "a request that is sent again has become {again:?}, not {}", made.once);
    let ended = ran(client, "echo", "", "after the upgrade").await?;
    ensure!(ended["stdout"] == "after the upgrade", "{ended}");
    let path = format!("/v1/executions/{}/rerun", made.first);
    let rerun = told(&client.post_json(&path, &json!({"as_recorded": true})).await?, 200)?;
    ensure!(rerun["rerun_of"] == made.first.as_str() && rerun["stdout"] == FIRST, "{rerun}");

    let operator = client.with_credential(OPERATOR_KEY);
    let suspended = client.with_credential(&made.suspended.key.secret);
    let path = "/v1/modules/echo/executions";
    told(&suspended.post_bytes(path, "").await?, 403).context("a suspended tenant")?;
    let resumed = operator.post_json(&format!("/v1/tenants/{}/resume", made.suspended.id), &json!({})).await?;
    ensure!(resumed.status.is_success(), "it cannot be resumed: {}", resumed.text());
    // It was given a tier of a faster pace, by which what it took at the slower one leaves no token until some time has passed.
    wait::until("a tenant that was resumed to be let in", SOON, async || {
        let ran = suspended.post_bytes(path, "").await?;
        Ok(if ran.status == 429 { None } else { Some(told(&ran, 200).context("a tenant that was resumed")?) })
    })
    .await?;
    Ok(())
}

/// Publishes a version with settings, runs it, and has its record run again.
async fn newer(client: &Client, settings: &str, class: &str) -> anyhow::Result<()> {
    let request = client.request(Method::PUT, &format!("/v1/modules/curious?{settings}"));
    let request = request.header("content-type", "application/wasm").body(guests::CURIOUS.wasm()?);
    told(&client.send(request).await?, 201)?;
    let ended = ran(client, "curious", "?arg=one", "who am I now?").await?;
    ensure!(ended["reproducibility"] == class, "{ended}");
    let verified = told(&run_again(client, ended["id"].as_str().context("no id")?).await?, 200)?;
    ensure!(verified["reproduced"] == true, "{verified}");
    Ok(())
}
