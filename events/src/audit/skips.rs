//! Commits that operators have let be passed over. A broken one is as broken as before; the report says who knows of it.

use std::fmt;

use super::{Finding, MAX_FINDINGS};
use crate::{commit::Commit, event::Event, id::TenantId, revision::Position, tenant::SYSTEM, time::Timestamp};

/// Runs of sound commits that are remembered: one more for each broken commit.
const RUNS_MAX: usize = 10_000;

/// What an operator has let views and entities pass over, where they cannot fold it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skip {
    /// Whose stream.
    pub tenant: TenantId,
    /// Where the commit is.
    pub position: Position,
    /// Who said it, as the event's actor names them.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// When they said it.
    pub at: Timestamp,
    /// Is the log's commit at that place as it was sealed, and nothing found to be wrong with it? Also `false` where that was not
    /// kept, behind many thousands of broken commits.
    pub intact: bool,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped by {} at {}: {}", self.by, self.at, self.reason)
    }
}

/// Those that a walk has met.
#[derive(Debug, Default)]
pub(super) struct Skips {
    met: Vec<Skip>,
    /// The first and the last place of each run of sound commits.
    sound: Vec<(u64, u64)>,
}

impl Skips {
    /// Takes note of a commit that is as it was sealed. Only the operators' own stream says such things.
    pub(super) fn note(&mut self, commit: &Commit) {
        if commit.tenant().as_str() != SYSTEM {
            return;
        }
        for envelope in commit.events().map_or(&[][..], |events| events) {
            if let Event::CommitSkipped(skipped) = &envelope.event
                && self.met.len() < MAX_FINDINGS
            {
                self.met.push(Skip {
                    tenant: skipped.tenant.clone(),
                    position: skipped.position,
                    by: envelope.cause.actor.as_str().to_owned(),
                    reason: skipped.reason.clone(),
                    at: envelope.time,
                    intact: false,
                });
            }
        }
    }

    /// Takes note that nothing is wrong with the commit at `position`. Commits come in their order.
    pub(super) fn verified(&mut self, position: u64) {
        if let Some((_, last)) = self.sound.last_mut()
            && last.checked_add(1) == Some(position)
        {
            *last = position;
        } else if self.sound.len() < RUNS_MAX {
            self.sound.push((position, position));
        }
    }

    /// Marks the findings at the places of commits that were skipped, and gives all skips.
    pub(super) fn mark(mut self, findings: &mut [Finding]) -> Vec<Skip> {
        for skip in &mut self.met {
            let place = skip.position.get();
            skip.intact = self.sound.iter().any(|(first, last)| (*first..=*last).contains(&place));
        }
        for finding in findings {
            let is_it = |skip: &&Skip| {
                Some(skip.position) == finding.position && finding.tenant.as_ref().is_none_or(|it| *it == skip.tenant)
            };
            finding.skipped = self.met.iter().find(is_it).cloned();
        }
        self.met
    }
}
