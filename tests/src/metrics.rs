//! What a node counts, as its admin listener says it.

use crate::{
    client::Client,
    wait::{self, SOON},
};

/// A metric of the node, summed over its labels; of those only that have `label`.
///
/// # Errors
/// When the node does not answer.
pub async fn metric(admin: &Client, name: &str, label: &str) -> anyhow::Result<f64> {
    let text = admin.get("/metrics").await?.text();
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// Waits until a metric has come to `least`.
///
/// # Errors
/// When it has not in time, or the node does not answer.
pub async fn until_counted(admin: &Client, name: &str, label: &str, least: f64) -> anyhow::Result<()> {
    let what = format!("{name} with {label} of {least}");
    wait::until(&what, SOON, async || Ok((metric(admin, name, label).await? >= least).then_some(()))).await
}
