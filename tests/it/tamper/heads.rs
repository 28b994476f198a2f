//! Whatever is done to a history by somebody who can write all of it anew, heads that were kept elsewhere show it.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use wasmwiz_events::{
    commit::Commit,
    envelope::Envelope,
    id::{CommitId, TenantId},
    ledger::Head,
    log::{
        Append, EventLog as _,
        conformance::Stream,
        sqlite::{SqliteLog, SqliteLogConfig},
    },
    revision::Epoch,
};
use wasmwiz_tests::{
    chance::{Chance, setting},
    cli,
};

/// How many histories are written anew, if the variable does not say otherwise.
const CASES: (&str, u64) = ("WASMWIZ_TESTS_HEADS_CASES", 8);

/// Commits of a history, and of how many tenants they are.
const COMMITS: u64 = 24;
const TENANTS: u64 = 4;

/// A history that is written anew: whose each commit is, and its events.
type Told = Vec<(TenantId, Vec<Envelope>)>;

/// Random commits of several tenants; each has some.
fn lived(chance: &mut Chance) -> anyhow::Result<Told> {
    let names = (0..TENANTS).map(|n| TenantId::new(&format!("tenant-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let mut told = Told::new();
    for n in 0..COMMITS {
        let of = if n < TENANTS { n } else { chance.within(0..TENANTS) };
        let tenant = names.get(usize::try_from(of)?).context("no such tenant")?;
        let events = usize::try_from(chance.within(1..4))?;
        let commit = Stream::of(tenant.clone()).seal_named(events, &format!("name {n}"));
        told.push((tenant.clone(), commit.events()?.to_vec()));
    }
    Ok(told)
}

/// Writes a history into a folder, each commit sealed on its stream's last one: no chain shows that it is not the first.
async fn write(told: Told) -> anyhow::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let log = SqliteLog::open(&folder.path().join("log"), SqliteLogConfig::default())?;
    let mut heads = HashMap::new();
    for (tenant, mut envelopes) in told {
        let head = heads.entry(tenant.clone()).or_insert_with(|| Head::genesis(&tenant));
        for (envelope, n) in envelopes.iter_mut().zip(1..) {
            envelope.revision = head.revision.plus(n);
        }
        let first = envelopes.first().context("a commit without events")?;
        let (id, at) = (CommitId::new(first.id.as_uuid()), first.time);
        let commit = Commit::seal(head, tenant, id, Epoch::FIRST, at, envelopes)?;
        *head = commit.head();
        log.append(Append { commit, payloads: vec![] }).await?;
    }
    tokio::task::spawn_blocking(move || log.close()).await?;
    Ok(folder)
}

/// What somebody does to a history.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// The newest commits are cut.
    Cut,
    /// An event says something else, and all behind it is hashed anew.
    Rehashed,
    /// A tenant is removed.
    Removed,
    /// Commits of two tenants stand in another order.
    Swapped,
}

impl Deed {
    const ALL: [Self; 4] = [Self::Cut, Self::Rehashed, Self::Removed, Self::Swapped];

    fn done_to(self, told: &Told, chance: &mut Chance) -> anyhow::Result<Told> {
        let (mut told, count) = (told.clone(), told.len() as u64);
        let mut place = || usize::try_from(chance.within(0..count)).unwrap_or_default();
        match self {
            Self::Cut => told.truncate(told.len() - 1 - place() / 2),
            Self::Rehashed => {
                let (_, events) = told.get_mut(place()).context("no commit")?;
                events.first_mut().context("no event")?.cause.traceparent = Some("another".into());
            }
            Self::Removed => {
                let tenant = told.get(place()).context("no commit")?.0.clone();
                told.retain(|(of, _)| *of != tenant);
            }
            Self::Swapped => {
                let of_two =
                    |pair: &[(TenantId, Vec<Envelope>)]| matches!(pair, [(one, _), (other, _)] if one != other);
                let places: Vec<_> =
                    (0..told.len() - 1).filter(|at| told.get(*at..*at + 2).is_some_and(of_two)).collect();
                let at = *places.get(place() % places.len()).context("no neighbours of two tenants")?;
                told.swap(at, at + 1);
            }
        }
        Ok(told)
    }
}

async fn verify(data: &Path, heads: Option<&Path>) -> anyhow::Result<cli::Ended> {
    let mut words = vec!["audit", "verify", "--data", data.to_str().context("no text")?];
    if let Some(heads) = heads {
        words.extend(["--expect", heads.to_str().context("no text")?]);
    }
    cli::run(words).await
}

#[tokio::test]
async fn whatever_is_written_anew_is_found_by_heads_that_were_kept() -> anyhow::Result<()> {
    let (mut chance, cases) = (Chance::printed()?, setting(CASES.0, CASES.1)?);
    let mut found = 0;
    for (case, deed) in (0..cases).zip(Deed::ALL.into_iter().cycle()) {
        let told = lived(&mut chance)?;
        let (first, anew) = (write(told.clone()).await?, write(deed.done_to(&told, &mut chance)?).await?);
        let kept = first.path().join("heads.json");
        let data = first.path().to_str().context("no text")?;
        let heads = cli::run(["audit", "head", "--all", "--data", data]).await?;
        ensure!(heads.code == Some(0), "case {case}: {heads:?}");
        fs::write(&kept, &heads.stdout)?;
        let met = verify(first.path(), Some(&kept)).await?;
        ensure!(met.code == Some(0), "case {case}: the history itself is refused: {met:?}");
        let alone = verify(anew.path(), None).await?;
        ensure!(alone.code == Some(0), "case {case}, {deed:?}: a chain shows it by itself: {alone:?}");
        let against = verify(anew.path(), Some(&kept)).await?;
        ensure!(against.code == Some(1), "case {case}, {deed:?}: not found: {against:?}");
        found += 1;
    }
    eprintln!("{found} of {cases} found");
    Ok(())
}
