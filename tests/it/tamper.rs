//! A history that somebody changed: whatever byte it is, `audit verify` finds it and says where.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use rusqlite::{Connection, params, types::Value};
use wasmwiz_tests::{
    chance::Chance,
    cli::{self, Ended},
    guests,
    harness::NodeProcess,
    history::History,
    tenants::{Tenant, register},
};

mod heads;

/// Columns of a stored commit.
const COLUMNS: [&str; 11] = [
    "position",
    "tenant",
    "first_revision",
    "count",
    "commit_id",
    "owner_epoch",
    "recorded_at",
    "prev_hash",
    "hash",
    "body",
    "payloads",
];

/// Bytes changed in the file itself, behind SQLite's back.
const RAW_FLIPS: usize = 16;

/// A node that ended, with a history of two tenants that has payloads of both kinds.
async fn recorded() -> anyhow::Result<(NodeProcess, Tenant)> {
    let mut node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Mixed", "enterprise").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    for size in [0, 10, 5_000, 70_000] {
        tenant.client.execute("echo", vec![b'x'; size]).await?;
    }
    ensure!(node.terminate().await?.success(), "the node did not end well");
    Ok((node, tenant))
}

#[tokio::test]
async fn an_intact_history_is_verified_counted_and_shown() -> anyhow::Result<()> {
    let (mut node, tenant) = recorded().await?;
    let history = History::read(&node.data())?;
    let verified = cli::verify(&node.data()).await?;
    ensure!(verified.code == Some(0), "{verified:?}");
    for counted in [
        format!("{} tenants", history.ids.len()),
        format!("{} commits", history.commits),
        format!("{} events", history.events),
    ] {
        ensure!(verified.stdout.contains(&counted), "no {counted:?} in {}", verified.stdout);
    }

    let data = node.data().to_string_lossy().into_owned();
    let show = async |more: &[&str]| {
        let arguments = ["audit", "show", "--data", &data, "--tenant", &tenant.id];
        let shown = cli::run(arguments.iter().chain(more)).await?;
        ensure!(shown.code == Some(0), "{shown:?}");
        anyhow::Ok(shown.stdout)
    };
    let events = history.ids.get(&tenant.id).context("the tenant has no events")?.len();
    let table = show(&[]).await?;
    ensure!(table.lines().count() == events, "{events} events, and this: {table}");
    ensure!(table.lines().next().is_some_and(|line| line.contains("dev.wasmwiz.tenant.registered.v1")), "{table}");
    let json = show(&["--output", "json", "--from", "2", "--limit", "3"]).await?;
    let shown: Vec<serde_json::Value> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let revisions: Vec<_> = shown.iter().filter_map(|event| event["revision"].as_u64()).collect();
    ensure!(revisions == [2, 3, 4], "{json}");
    ensure!(shown.iter().all(|event| event["specversion"] == "1.0"), "these are no CloudEvents: {json}");

    // The same while a node writes to it.
    node.restart().await?;
    node.client()?.execute("echo", "abc").await?;
    let verified = cli::verify(&node.data()).await?;
    ensure!(verified.code == Some(0) && verified.stdout.contains("--file"), "{verified:?}");
    let forced = cli::run(["audit", "verify", "--file", "--data", &data]).await?;
    ensure!(forced.code == Some(0) && !forced.stdout.contains("--file"), "{forced:?}");
    Ok(())
}

#[tokio::test]
async fn heads_that_were_kept_show_what_chains_alone_do_not() -> anyhow::Result<()> {
    let (node, tenant) = recorded().await?;
    let (data, folder) = (node.data().to_string_lossy().into_owned(), tempfile::tempdir()?);
    let (kept, text) = (folder.path().join("heads.json"), cli::run(["audit", "head", "--all", "--data", &data]).await?);
    ensure!(text.code == Some(0) && text.stdout.contains(&tenant.id), "{text:?}");
    fs::write(&kept, &text.stdout)?;
    let kept = kept.to_string_lossy().into_owned();
    let against = async || cli::run(["audit", "verify", "--data", &data, "--expect", &kept]).await;
    let met = against().await?;
    ensure!(met.code == Some(0) && met.stdout.contains("heads that were kept were met again"), "{met:?}");
    let alone = cli::verify(&node.data()).await?;
    ensure!(alone.stdout.contains("not shown by chains alone"), "{alone:?}");

    // The newest commit, cut off as somebody would who knows the log.
    let log = Connection::open(node.data().join("log/events.db"))?;
    log.execute("DELETE FROM commits WHERE position = (SELECT max(position) FROM commits)", [])?;
    drop(log);
    let alone = cli::verify(&node.data()).await?;
    ensure!(alone.code == Some(0), "a chain shows it by itself: {alone:?}");
    let found = against().await?;
    ensure!(found.code == Some(1) && found.stdout.contains("gone"), "{found:?}");

    fs::write(&kept, "{}")?;
    let nonsense = against().await?;
    ensure!(nonsense.code == Some(1) && nonsense.stderr.contains("audit head --all"), "{nonsense:?}");
    let of_a_node = cli::run(["audit", "head", "--data", &data]).await?;
    ensure!(of_a_node.code == Some(1) && of_a_node.stderr.contains("--all"), "{of_a_node:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_blob_is_found_and_named_and_one_that_is_gone_is_counted() -> anyhow::Result<()> {
    let (node, tenant) = recorded().await?;
    let data = node.data();
    let large = History::read(&data)?.executions.into_values().flat_map(|execution| execution.accepted);
    let large = large.map(|accepted| accepted.stdin).find(|stdin| stdin.size_bytes == 70_000);
    let hex = large.context("no large input was recorded")?.digest.to_hex();
    let blob = data.join("blobs/sha256").join(&hex[..2]).join(&hex);
    let intact = fs::read(&blob)?;
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(0) && verified.stdout.contains("blobs are intact"), "{verified:?}");
    ensure!(!verified.stdout.contains("warning"), "{verified:?}");

    let mut changed = intact.clone();
    *changed.last_mut().context("an empty blob")? ^= 1;
    fs::write(&blob, changed)?;
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(1), "not found: {verified:?}");
    let named = |line: &str| line.contains(&tenant.id) && line.contains("revision") && line.contains(&hex);
    ensure!(verified.stdout.lines().any(named), "neither tenant nor blob is named: {}", verified.stdout);
    let data_text = data.to_string_lossy().into_owned();
    let without = cli::run(["audit", "verify", "--no-blobs", "--data", &data_text]).await?;
    ensure!(without.code == Some(0) && without.stdout.contains("not checked"), "{without:?}");

    fs::remove_file(&blob)?;
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(0), "a payload that is gone does not break the chain: {verified:?}");
    ensure!(verified.stdout.contains("warning: 1 contents"), "{verified:?}");
    fs::write(&blob, intact)?;
    Ok(())
}

#[tokio::test]
async fn an_exchanged_payload_is_found_and_named() -> anyhow::Result<()> {
    let (node, tenant) = recorded().await?;
    let file = Connection::open(node.data().join("log/events.db"))?;
    // A commit gets the intact payloads of another one of the same tenant.
    let rows = "SELECT position, first_revision, count, payloads FROM commits WHERE tenant = ?1 AND payloads NOT NULL";
    let rows: Vec<(i64, u32, u32, Vec<u8>)> = file
        .prepare(rows)?
        .query_map([&tenant.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<_, _>>()?;
    let (position, revision, count, payloads) = rows.iter().max_by_key(|row| row.3.len()).context("no payloads")?;
    let other = rows.iter().find(|row| row.3 != *payloads && row.3.len() > 36).context("no other payloads")?;
    file.execute("UPDATE commits SET payloads = ?2 WHERE position = ?1", params![position, other.3])?;
    drop(file);
    is_found(&cli::verify(&node.data()).await?, &tenant.id, *revision..=*revision + *count)
}

#[tokio::test]
async fn a_folder_without_a_history_is_no_intact_history() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let verified = cli::verify(folder.path()).await?;
    ensure!(verified.code == Some(1), "{verified:?}");
    ensure!(verified.stderr.contains("--data"), "no word on what to do: {verified:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_byte_of_any_column_is_found_and_named() -> anyhow::Result<()> {
    let (node, tenant) = recorded().await?;
    let (data, mut chance) = (node.data(), Chance::printed()?);
    let file = Connection::open(data.join("log/events.db"))?;
    // Every writing below is undone by the next; indices and STRICT typing stay as they are.
    let of_tenant = "SELECT position, first_revision, count FROM commits WHERE tenant = ?1 ORDER BY position";
    let commits: Vec<(i64, u32, u32)> = file
        .prepare(of_tenant)?
        .query_map([&tenant.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let (first, last) = (commits.first().context("no commit")?, commits.last().context("no commit")?);
    let middle = commits.get(commits.len() / 2).context("no commit")?;
    let mut flips = 0;
    for (position, revision, count) in [first, middle, last] {
        for column in COLUMNS {
            let select = format!("SELECT {column} FROM commits WHERE position = ?1");
            let before: Value = file.query_row(&select, [position], |row| row.get(0))?;
            let Some(after) = flipped(&before, &mut chance) else { continue };
            let update = format!("UPDATE commits SET {column} = ?2 WHERE position = ?1");
            // The row is found again by what it is called then.
            let moved = match (column, &after) {
                ("position", Value::Integer(moved)) => *moved,
                _ => *position,
            };
            file.execute(&update, params![position, after]).with_context(|| format!("{column} of {position}"))?;
            let verified = cli::verify(&data).await?;
            file.execute(&update, params![moved, before])?;
            flips += 1;
            // Another tenant's name takes the commit away from this tenant: then it is missed here.
            is_found(&verified, &tenant.id, *revision..=*revision + count)
                .with_context(|| format!("{column} of position {position}: {before:?} became {after:?}"))?;
        }
    }
    ensure!(flips >= 30, "only {flips} bytes were changed");
    drop(file);
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(0), "the changes were not undone: {verified:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_byte_of_the_file_is_found_and_named() -> anyhow::Result<()> {
    let (node, tenant) = recorded().await?;
    let (data, mut chance) = (node.data(), Chance::printed()?);
    let path = data.join("log/events.db");
    let places = places(&path, &tenant.id, &mut chance)?;
    ensure!(places.len() == RAW_FLIPS, "only {} places were found", places.len());
    let intact = fs::read(&path)?;
    for Place { offsets, revision, count } in places {
        let mut changed = intact.clone();
        let bit = 1 << chance.within(0..8);
        for offset in &offsets {
            *changed.get_mut(*offset).context("the file has become shorter")? ^= bit;
        }
        fs::write(&path, &changed)?;
        let verified = cli::verify(&data).await?;
        is_found(&verified, &tenant.id, revision..=revision + count).with_context(|| format!("byte {offsets:?}"))?;
    }
    fs::write(&path, &intact)?;
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(0), "{verified:?}");

    // A part of the file is missing.
    fs::write(&path, intact.get(..intact.len() / 2).unwrap_or_default())?;
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(1), "half of the file is gone: {verified:?}");
    Ok(())
}

/// Exit code 1, and a line that names the tenant and a revision of the commit.
fn is_found(verified: &Ended, tenant: &str, mut revisions: std::ops::RangeInclusive<u32>) -> anyhow::Result<()> {
    ensure!(verified.code == Some(1), "not found: {verified:?}");
    let named = |revision: u32| {
        verified.stdout.lines().any(|line| {
            let mut numbers = line.split(|c: char| !c.is_ascii_digit());
            line.contains(tenant) && numbers.any(|number| number.parse() == Ok(revision))
        })
    };
    ensure!(revisions.any(named), "neither tenant {tenant} nor its revision is named: {}", verified.stdout);
    Ok(())
}

/// The value with one bit of it changed; `None` when it has no bytes.
fn flipped(value: &Value, chance: &mut Chance) -> Option<Value> {
    match value {
        // Any of the bits that keep it a valid rowid.
        Value::Integer(number) => Some(Value::Integer(number ^ (1 << chance.within(10..40)))),
        Value::Text(text) => {
            let mut bytes = text.clone().into_bytes();
            // The lowest bit of a letter or digit gives another, so that the text stays text.
            let index = usize::try_from(chance.within(0..bytes.len() as u64)).ok()?;
            let byte = bytes.get_mut(index)?;
            *byte = if *byte == b'a' { b'b' } else { b'a' };
            String::from_utf8(bytes).ok().map(Value::Text)
        }
        Value::Blob(bytes) if !bytes.is_empty() => {
            let mut bytes = bytes.clone();
            let index = usize::try_from(chance.within(0..bytes.len() as u64)).ok()?;
            *bytes.get_mut(index)? ^= 1 << chance.within(0..8);
            Some(Value::Blob(bytes))
        }
        Value::Null | Value::Real(_) | Value::Blob(_) => None,
    }
}

/// A byte of the file that belongs to a commit. It may be there more than once: SQLite does not wipe what a page held
/// before it was split, and a hash is also its successor's predecessor.
struct Place {
    offsets: Vec<usize>,
    revision: u32,
    count: u32,
}

/// Places in bodies and hashes: found by content, so that they are known to be in use.
fn places(path: &Path, tenant: &str, chance: &mut Chance) -> anyhow::Result<Vec<Place>> {
    let file = Connection::open(path)?;
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let mut statement =
        file.prepare("SELECT first_revision, count, hash, body FROM commits WHERE tenant = ?1 ORDER BY position")?;
    let rows = statement.query_map([tenant], |row| {
        Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Vec<u8>>(3)?))
    })?;
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    drop(statement);
    drop(file);
    let bytes = fs::read(path)?;
    let mut places = Vec::new();
    for (revision, count, hash, body) in rows.iter().cycle().take(RAW_FLIPS * 4) {
        if places.len() == RAW_FLIPS {
            break;
        }
        let needle = if places.len() % 4 == 0 { hash } else { body };
        let start = usize::try_from(chance.within(0..needle.len().saturating_sub(32).max(1) as u64))?;
        let needle = needle.get(start..(start + 32).min(needle.len())).unwrap_or_default();
        let within = usize::try_from(chance.within(0..needle.len() as u64))?;
        let found = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
        let offsets: Vec<_> = found.map(|(offset, _)| offset + within).collect();
        if !offsets.is_empty() {
            places.push(Place { offsets, revision: *revision, count: *count });
        }
    }
    Ok(places)
}
