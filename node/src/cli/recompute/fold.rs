//! The figures, straight from the events: what the view of usage must say, found without its code.
//!
//! Pure. Everything is in memory: a row for each tenant, hour, key, module and outcome, and the executions that are open.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::LazyLock,
};

use wasmwiz_events::{
    digest::Digest,
    envelope::Envelope,
    event::Event,
    execution::{Accepted, Outcome},
    id::{ExecutionId, ModuleName, TenantId},
    module::Published,
    retention::Class,
    time::Timestamp,
};
use wasmwiz_projections::usage::{Storage, StoredRow};

/// What a row of figures is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(untagged)]
enum Place {
    /// Executions that ended in this hour.
    Ended { tenant: String, hour: Timestamp, key: String, module: String, outcome: Outcome },
    /// What a tenant stores.
    Stored { tenant: String },
}

impl Place {
    fn tenant(&self) -> &str {
        match self {
            Self::Ended { tenant, .. } | Self::Stored { tenant } => tenant,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { tenant, hour, key, module, outcome } => {
                write!(f, "tenant {tenant}, hour {hour}, key {key}, module {module}, {outcome}")
            }
            Self::Stored { tenant } => write!(f, "tenant {tenant}, stored"),
        }
    }
}

/// Figures by name. The count of a bin of times is the figure `wall_us[<smallest value>]`.
type Figures = BTreeMap<String, u64>;

/// A row as it is printed.
#[derive(Debug, serde::Serialize)]
pub(super) struct Row<'a> {
    #[serde(flatten)]
    place: &'a Place,
    figures: &'a Figures,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.place)?;
        self.figures.iter().try_for_each(|(name, figure)| write!(f, " {name}={figure}"))
    }
}

/// A figure that is not the same.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Difference {
    #[serde(flatten)]
    place: Place,
    figure: String,
    log: u64,
    view: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>20}  {:>20}  {} of {}", self.log, self.view, self.figure, self.place)
    }
}

/// The fold.
#[derive(Debug, Default)]
pub(super) struct Fold {
    open: HashMap<(TenantId, ExecutionId), (String, String, u64)>,
    rows: BTreeMap<Place, Figures>,
    live: HashMap<TenantId, Live>,
    /// What the log says and cannot be.
    pub(super) faults: Vec<String>,
}

/// The live versions of a tenant.
#[derive(Debug, Default)]
struct Live {
    /// The digest of each.
    by_name: HashMap<ModuleName, HashMap<u32, Digest>>,
    /// How many have these bytes.
    with: HashMap<Digest, usize>,
}

impl Live {
    /// Is it the first with its bytes?
    fn publish(&mut self, name: &ModuleName, version: u32, digest: Digest) -> bool {
        let is_new = !self.with.contains_key(&digest);
        *self.with.entry(digest).or_default() += 1;
        if let Some(replaced) = self.by_name.entry(name.clone()).or_default().insert(version, digest) {
            self.end(&replaced);
        }
        is_new
    }

    fn delete(&mut self, name: &ModuleName) {
        for digest in self.by_name.remove(name).unwrap_or_default().values() {
            self.end(digest);
        }
    }

    fn end(&mut self, digest: &Digest) {
        match self.with.get_mut(digest) {
            Some(with) if *with > 1 => *with -= 1,
            _ => {
                self.with.remove(digest);
            }
        }
    }
}

impl Fold {
    pub(super) fn add(&mut self, tenant: &TenantId, events: &[Envelope]) {
        for Envelope { time, event, .. } in events {
            if let Event::ExecutionAccepted(accepted) = event {
                let Accepted { execution_id, key_id, module, stdin, .. } = &**accepted;
                let name = module.name.as_ref().map_or_else(|| module.digest.to_string(), ToString::to_string);
                self.open.insert((tenant.clone(), *execution_id), (key_id.to_string(), name, stdin.size_bytes));
                self.store(tenant, "payload_bytes", stdin.size_bytes);
                self.store(tenant, "module_bytes", accepted.uploaded_bytes.unwrap_or_default());
            }
            if let Event::ModulePublished(Published { name, version, digest, size_bytes, .. }) = event {
                let is_new = self.live.entry(tenant.clone()).or_default().publish(name, *version, *digest);
                self.store(tenant, "module_bytes", if is_new { *size_bytes } else { 0 });
            }
            if let Event::ModuleDeleted(deleted) = event
                && let Some(live) = self.live.get_mut(tenant)
            {
                live.delete(&deleted.name);
            }
            if let Event::PayloadsReleased(released) = event {
                let figure = if released.class == Class::Modules { "module_bytes" } else { "payload_bytes" };
                let row = self.rows.entry(Place::Stored { tenant: tenant.to_string() }).or_default();
                let here = row.entry(figure.to_owned()).or_default();
                *here = here.saturating_sub(released.bytes);
            }
            if let Event::ExecutionFinished(end) = event {
                let transcript_bytes = end.transcript().map_or(0, |kept| kept.size_bytes);
                for more in [end.stdout.size_bytes, end.stderr.size_bytes, transcript_bytes] {
                    self.store(tenant, "payload_bytes", more);
                }
                let figures = [
                    ("fuel", end.fuel.unwrap_or_default()),
                    ("cpu_us", end.cpu_ms.as_micros()),
                    ("wall_us", end.wall_ms.as_micros()),
                    ("peak_memory_bytes", end.peak_memory_bytes),
                    ("stdout_bytes", end.stdout.size_bytes),
                    ("stderr_bytes", end.stderr.size_bytes),
                    ("transcript_bytes", transcript_bytes),
                ];
                self.end(tenant, end.execution_id, *time, end.outcome, &figures);
            }
            if let Event::ExecutionLost(lost) = event {
                self.end(tenant, lost.execution_id, *time, Outcome::Lost, &[]);
            }
        }
    }

    fn store(&mut self, tenant: &TenantId, figure: &str, more: u64) {
        let row = self.rows.entry(Place::Stored { tenant: tenant.to_string() }).or_default();
        let here = row.entry(figure.to_owned()).or_default();
        *here = here.saturating_add(more);
    }

    fn end(
        &mut self,
        tenant: &TenantId,
        id: ExecutionId,
        at: Timestamp,
        outcome: Outcome,
        measured: &[(&'static str, u64)],
    ) {
        let Some((key, module, stdin_bytes)) = self.open.remove(&(tenant.clone(), id)) else {
            self.faults.push(format!("tenant {tenant}: execution {id} ended, but was not open"));
            return;
        };
        let hour = Timestamp::from_unix_ms(at.unix_ms() - at.unix_ms().rem_euclid(3_600_000));
        let row = self.rows.entry(Place::Ended { tenant: tenant.to_string(), hour, key, module, outcome }).or_default();
        for (name, figure) in measured.iter().copied().chain([("executions", 1), ("stdin_bytes", stdin_bytes)]) {
            let here = row.entry(name.to_owned()).or_default();
            *here = if name == "peak_memory_bytes" { figure.max(*here) } else { figure.saturating_add(*here) };
        }
        // What never ran has no time.
        if let Some((_, micros)) = measured.iter().find(|(name, micros)| *name == "wall_us" && *micros > 0) {
            *row.entry(bin_name(bin_of(*micros))).or_default() += 1;
        }
    }

    pub(super) fn keep_only(&mut self, tenant: &TenantId) {
        self.rows.retain(|place, _| place.tenant() == tenant.as_str());
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The rows of one tenant, or all.
    pub(super) fn rows_of(&self, tenant: Option<&TenantId>) -> impl Iterator<Item = Row<'_>> {
        let rows = self.rows.iter().filter(move |(place, _)| tenant.is_none_or(|id| place.tenant() == id.as_str()));
        rows.map(|(place, figures)| Row { place, figures })
    }

    /// How many figures were compared, and those that are not the same. What one side does not have is 0.
    pub(super) fn compare(&self, view: &[StoredRow], storage: &BTreeMap<String, Storage>) -> (u64, Vec<Difference>) {
        let mut both: BTreeMap<(Place, String), (u64, u64)> = BTreeMap::new();
        for (place, figures) in &self.rows {
            for (name, figure) in figures {
                both.entry((place.clone(), name.clone())).or_default().0 = *figure;
            }
        }
        for row in view {
            for (name, figure) in figures_of(row) {
                both.entry((place_of(row), name)).or_default().1 = figure;
            }
        }
        for (tenant, Storage { module_bytes, payload_bytes }) in storage {
            for (name, figure) in [("module_bytes", *module_bytes), ("payload_bytes", *payload_bytes)] {
                both.entry((Place::Stored { tenant: tenant.clone() }, name.to_owned())).or_default().1 = figure;
            }
        }
        let compared = both.len() as u64;
        let differing = both.into_iter().filter(|(_, (log, view))| log != view);
        let differences = differing.map(|((place, figure), (log, view))| Difference { place, figure, log, view });
        (compared, differences.collect())
    }
}

fn place_of(row: &StoredRow) -> Place {
    let StoredRow { tenant, hour, key, module, outcome, .. } = row.clone();
    Place::Ended { tenant, hour, key, module, outcome }
}

fn figures_of(row: &StoredRow) -> impl Iterator<Item = (String, u64)> {
    let named = [
        ("executions", row.executions),
        ("fuel", row.fuel),
        ("cpu_us", row.cpu_us),
        ("wall_us", row.wall_us),
        ("peak_memory_bytes", row.peak_memory_bytes),
        ("stdin_bytes", row.stdin_bytes),
        ("stdout_bytes", row.stdout_bytes),
        ("stderr_bytes", row.stderr_bytes),
        ("transcript_bytes", row.transcript_bytes),
    ];
    let bins = row.walls.iter().map(|(lower, count)| (bin_name(*lower), *count));
    named.into_iter().map(|(name, figure)| (name.to_owned(), figure)).chain(bins)
}

fn bin_name(lower: u64) -> String {
    format!("wall_us[{lower}]")
}

/// The smallest value of each bin, as the API documents them: every number below 64, then 32 equal parts an octave.
static BINS: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let octaves = (6..64).flat_map(|octave| (0..32).map(move |part| (1_u64 << octave) + part * (1 << (octave - 5))));
    (0..64).chain(octaves).collect()
});

/// The smallest value of the bin that a time is in.
fn bin_of(micros: u64) -> u64 {
    let after = BINS.partition_point(|lower| *lower <= micros);
    after.checked_sub(1).and_then(|at| BINS.get(at)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(executions: u64, walls: Vec<(u64, u64)>) -> StoredRow {
        StoredRow {
            tenant: "acme".to_owned(),
            hour: Timestamp::from_unix_ms(0),
            key: "k1".to_owned(),
            module: "hello".to_owned(),
            outcome: Outcome::Succeeded,
            executions,
            fuel: 0,
            cpu_us: 0,
            wall_us: 0,
            peak_memory_bytes: 0,
            stdin_bytes: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            transcript_bytes: 0,
            walls,
        }
    }

    #[test]
    fn a_bin_begins_at_its_smallest_value() {
        for (micros, lower) in [(0, 0), (63, 63), (64, 64), (65, 64), (66, 66), (127, 126), (128, 128), (131, 128)] {
            assert_eq!(bin_of(micros), lower, "{micros}");
        }
        assert_eq!(bin_of(u64::MAX), (1 << 63) + 31 * (1 << 58));
    }

    #[test]
    fn a_figure_that_differs_is_named_with_both_values_also_when_one_side_has_no_row() {
        let mut fold = Fold::default();
        let figures = [("executions", 2), ("wall_us[21]", 2)].map(|(name, figure)| (name.to_owned(), figure));
        fold.rows.insert(place_of(&row(0, vec![])), figures.into());
        let nothing = BTreeMap::new();
        assert_eq!(fold.compare(&[row(2, vec![(21, 2)])], &nothing), (10, vec![]));
        let (_, differences) = fold.compare(&[row(3, vec![(21, 1), (22, 1)])], &nothing);
        let found: Vec<_> = differences.iter().map(|found| (found.figure.as_str(), found.log, found.view)).collect();
        assert_eq!(found, [("executions", 2, 3), ("wall_us[21]", 2, 1), ("wall_us[22]", 0, 1)]);
        assert_eq!(fold.compare(&[], &nothing).1.len(), 2);
        assert_eq!(Fold::default().compare(&[row(2, vec![])], &nothing).1.len(), 1);
    }

    #[test]
    fn a_version_is_the_first_with_its_bytes_until_no_other_is_live() {
        // Given bytes under two names.
        let (mut live, [a, b]) = (Live::default(), ["a", "b"].map(|name| ModuleName::new(name).unwrap()));
        let [one, two] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        assert_eq!([live.publish(&a, 1, one), live.publish(&a, 2, two), live.publish(&b, 1, one)], [true, true, false]);
        // When one of them is deleted, there is the other, and when that has become another version, there is none.
        live.delete(&a);
        live.delete(&a);
        assert!(!live.publish(&a, 3, one));
        live.delete(&a);
        assert!(live.publish(&b, 1, two));
        assert!(live.publish(&b, 2, one));
        // The same number with the same bytes is one version.
        assert!(!live.publish(&b, 2, one));
        live.delete(&b);
        // Then nothing is left.
        assert!(live.with.is_empty() && live.by_name.is_empty());
    }

    #[test]
    fn what_is_stored_is_compared_too_and_what_is_nothing_on_both_sides_is_the_same() {
        let (mut fold, tenant) = (Fold::default(), TenantId::new("acme").unwrap());
        fold.store(&tenant, "payload_bytes", 4);
        fold.store(&tenant, "payload_bytes", 3);
        let with = |module_bytes, payload_bytes| {
            BTreeMap::from([("acme".to_owned(), Storage { module_bytes, payload_bytes })])
        };
        assert_eq!(fold.compare(&[], &with(0, 7)), (2, vec![]));
        let (_, differences) = fold.compare(&[], &with(1, 8));
        let found: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|line| line.ends_with("module_bytes of tenant acme, stored")), "{found:?}");
        assert_eq!(found.len(), 2);
    }
}
