//! The version before on a log that this one has written to.

use std::path::Path;

use anyhow::{Context as _, ensure};
use wasmwiz_tests::{
    client::Client,
    upgrade::{self, Shown},
};

use crate::{
    forward::Newer,
    history::{self, ran},
    left::Left,
    programs::{Programs, Version, stop, told_anew},
    said,
};

/// What a version says of bytes beside a commit that are named by a member of an event which it does not know.
const UNNAMED: &str = "is named by no event of its commit";

/// A log with all that this version can write. The version before says whether it can read it; where it says so, it has to.
pub(crate) async fn of_all_forms(programs: &Programs, newer: &Newer) -> anyhow::Result<()> {
    let data = newer.data();
    let judged = programs.judge(Version::Previous, &data).await?;
    if judged.reads_all {
        said("backward: the version before says that it can read all that this one has written");
        return serves(programs, &data, &newer.heads, &newer.key, &newer.shown).await;
    }
    ensure!(!judged.faults.is_empty(), "the version before says no, and not why");
    said("backward: the version before says that it must not be gone back to, for it does not know");
    for fault in &judged.faults {
        said(format_args!("backward:   {fault}"));
    }
    // It has only looked. What it says of the chains holds for it as well: it may miss names of bytes, and nothing else.
    let report = programs.verify(Version::Previous, &data, &newer.heads).await?;
    let findings = report["findings"].as_array().context("audit verify lists nothing")?;
    let other = findings.iter().find(|finding| !finding["what"].as_str().is_some_and(|what| what.ends_with(UNNAMED)));
    ensure!(other.is_none(), "the version before finds {}", other.map_or_else(String::new, ToString::to_string));
    if findings.is_empty() {
        said("backward: it proves that log all the same");
    } else {
        said(format_args!(
            "backward: it proves the chains; of {} contents it does not know what names them",
            findings.len()
        ));
    }
    programs.proves(Version::Today, &data, &newer.heads).await?;
    said("backward: nothing is lost; this version proves it as before");
    Ok(())
}

/// A log on which this version has gone on with what the version before can say as well.
pub(crate) async fn of_known_forms(programs: &Programs, left: &Left) -> anyhow::Result<()> {
    let mut node = programs.start(Version::Today, Some(&left.data())).await?;
    let made = history::make(&mut node).await.context("a history by this version")?;
    let shown = told_anew(&mut node, &made.key).await?;
    stop(&mut node).await?;
    let (data, heads) = (node.data(), programs.heads(Version::Today, &node.data()).await?);
    let judged = programs.judge(Version::Previous, &data).await?;
    let unread = judged.faults.join("; ");
    ensure!(judged.reads_all, "this version writes otherwise what the version before can say as well: {unread}");
    said("backward: the version before knows every form that this one has for what both can say");
    serves(programs, &data, &heads, &made.key, &shown).await
}

/// The version before starts on a copy of it, says nothing else of it, and goes on with it; then this version does so again.
async fn serves(programs: &Programs, data: &Path, heads: &Path, key: &str, shown: &Shown) -> anyhow::Result<()> {
    programs.proves(Version::Previous, data, heads).await?;
    let mut node = programs.start(Version::Previous, Some(data)).await?;
    let before = upgrade::shown(&node.ready().url, key).await?;
    // The version before says less, and what it says is what this one said.
    let missing = upgrade::missing(&before, shown);
    ensure!(missing.is_empty(), "the version before answers otherwise: {}", missing.join("; "));
    let unsaid: Vec<_> = shown.keys().filter(|path| !before.contains_key(*path)).collect();
    ensure!(unsaid.is_empty(), "the version before does not answer {unsaid:?}");
    let client = Client::new(&node.ready().url, Some(key))?;
    let ended = ran(&client, "echo", "", "back again").await?;
    ensure!(ended["stdout"] == "back again", "{ended}");
    let before = told_anew(&mut node, key).await?;
    stop(&mut node).await?;
    said(format_args!(
        "backward: it proves that log, gives {} answers as this version does, and goes on with it",
        before.len()
    ));

    let later = programs.heads(Version::Previous, &node.data()).await?;
    for kept in [heads, &*later] {
        programs.proves(Version::Today, &node.data(), kept).await?;
    }
    let mut again = programs.start(Version::Today, Some(&node.data())).await?;
    let shown = upgrade::shown(&again.ready().url, key).await?;
    let missing = upgrade::missing(&before, &shown);
    ensure!(missing.is_empty(), "forward once more, it answers otherwise: {}", missing.join("; "));
    stop(&mut again).await?;
    said("backward: and forward once more");
    Ok(())
}
