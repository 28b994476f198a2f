//! How a view sets a stream aside, and how it takes it up again: see [`crate::quarantine`].

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use wasmwiz_events::{
    commit::Recorded,
    ledger::chain_hash,
    log::{ReadError, ReadLimit},
    revision::{Position, Revision},
};

use super::{End, Order, READ_BYTES, Runner, broken, unreadable};
use crate::{
    checkpoint::Delta,
    projection::{Fault, Projection},
    quarantine::{Change, PassedOver, SetAside},
};

/// Pages of one stream that are folded before the view looks at what has come for others.
const PAGES_A_TURN: usize = 4;

/// How long the view then follows the log for all others, at least.
pub(super) const OTHERS_TURN: Duration = Duration::from_millis(100);

/// When a stream is tried again of which the log did not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

impl<P: Projection> Runner<P> {
    /// Sets the stream aside of a commit that cannot be read or folded, and passes over the commit.
    pub(super) async fn set_aside(&mut self, end: End) -> Result<(), End> {
        let mut delta = Delta::beginning_at(&self.checkpoint);
        let (mut keys, issuing) = (
            PassedOver::default(),
            if let End::Unfoldable { recorded, .. } = &end { Some(Arc::clone(recorded)) } else { None },
        );
        let (position, mut tenant, first_revision, reason, moved) = match end {
            End::Unfoldable { recorded, fault } if fault.is_of_stream() => {
                let commit = &recorded.commit;
                // A header that is not what was hashed does not say whose it is.
                let is_intact = chain_hash(commit.header(), commit.body()) == commit.hash();
                let first_revision = is_intact.then_some(commit.header().first_revision);
                let tenant = is_intact.then(|| commit.tenant().clone());
                (recorded.position, tenant, first_revision, fault.in_full(), delta.extend(&recorded))
            }
            End::Damaged { position, what } => (position, None, None, damaged(&what), delta.pass_over(position)),
            other => return Err(other),
        };
        if tenant.is_none() {
            tenant = self.log.tenant_at(position).await.map_err(unreadable)?;
        }
        let Some(tenant) = tenant else {
            return Err(End::Damaged { position, what: format!("{reason}; it is not known whose it is").into() });
        };
        if let Some(recorded) = issuing.filter(|_| P::KNOWS_KEYS) {
            keys.note_keys(&recorded, &tenant);
        }
        let is_known = self.quarantine.holds(&tenant);
        let change = if is_known {
            keys.count(&tenant);
            Change::PassedOver(keys)
        } else {
            Change::SetAside(SetAside::at(position, tenant.clone(), first_revision, &reason), keys)
        };
        let next = moved.map_err(Fault::from).and_then(|()| Ok(self.checkpoint.advanced_by(&delta)?));
        next.and_then(|next| self.commit(next, change)).map_err(|fault| broken(position, fault))?;
        if !is_known {
            tracing::error!(view = P::NAME, tenant.id = %tenant, %position, reason, "the view sets a stream aside");
        }
        Ok(())
    }

    /// Tries again to fold the streams that are set aside, a turn of each: what comes meanwhile must not wait for a long past.
    pub(super) async fn try_again(&mut self) -> Result<(), End> {
        let asked = *self.retries.borrow_and_update();
        self.again_at = None;
        let mut goes_on = false;
        for aside in self.quarantine.all() {
            let after = match self.catch_up(aside).await? {
                Turn::Done => continue,
                Turn::GoesOn => OTHERS_TURN,
                Turn::Hindered => AGAIN_AFTER,
            };
            goes_on |= after == OTHERS_TURN;
            let at = Instant::now() + after;
            self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
        }
        if !goes_on {
            self.progress.tried(asked);
        }
        Ok(())
    }

    /// Folds a stream from where it was set aside up to where the view is, some pages of it. Where it cannot be folded, it
    /// stays aside.
    async fn catch_up(&mut self, mut aside: SetAside) -> Result<Turn, End> {
        match self.log.read_at(aside.position).await {
            Ok(Some(recorded)) if *recorded.commit.tenant() == aside.tenant => {
                aside.first_revision.get_or_insert(recorded.commit.header().first_revision);
            }
            // A log that has lost the commit ends before it, or goes on behind it: neither is the whole stream.
            Ok(_) => return self.stays(aside, None, "the log does not have the commit any more"),
            Err(ReadError::Damaged { what, .. }) => return self.stays(aside, None, &damaged(&what)),
            Err(error) => return Ok(hindered::<P>(&aside, &error)),
        }
        let mut commits_at_once = self.config.batch_events.max(1);
        for _ in 0..PAGES_A_TURN {
            if *self.orders.borrow() != Order::Follow {
                return Ok(Turn::Done);
            }
            let limit = ReadLimit { commits: commits_at_once, bytes: READ_BYTES };
            let Some(from) = aside.first_revision else { return Ok(Turn::Done) };
            let mut page = match self.log.read_stream(&aside.tenant, from, limit).await {
                Ok(page) => page,
                Err(ReadError::Damaged { position, what }) => {
                    return self.stays(aside, Some(position), &damaged(&what));
                }
                Err(error) => return Ok(hindered::<P>(&aside, &error)),
            };
            match gap(&aside, from, &page) {
                Some(0) => {
                    let at = page.first().map(|recorded| recorded.position);
                    return self.stays(aside, at, "the commit before it is missing, or is another tenant's");
                }
                // The next page begins with it.
                Some(before) => page.truncate(before),
                None => {}
            }
            match self.fold_page(&aside, &page) {
                Ok(Folded::Released) => {
                    tracing::info!(view = P::NAME, tenant.id = %aside.tenant, "a stream is folded again");
                    return Ok(Turn::Done);
                }
                Ok(Folded::UpTo(further)) => aside = further,
                Ok(Folded::Short) => {
                    let reason = format!("{} commits that were passed over are missing", aside.commits);
                    return self.stays(aside, None, &reason);
                }
                Err(fault) if fault.is_of_stream() => {
                    self.projection.discard();
                    if commits_at_once == 1 {
                        let at = page.first().map(|recorded| recorded.position);
                        return self.stays(aside, at, &fault.in_full());
                    }
                    // One by one, all before the one that is at fault are folded.
                    commits_at_once = 1;
                }
                Err(fault) => return Err(broken(self.checkpoint.position, fault)),
            }
        }
        Ok(Turn::GoesOn)
    }

    /// Folds a page of a stream and writes how far that is. The stream is set aside no more once all of it is folded that was
    /// passed over, up to where the view is.
    fn fold_page(&mut self, aside: &SetAside, page: &[Arc<Recorded>]) -> Result<Folded, Fault> {
        let until = self.checkpoint.position;
        let mut left = aside.commits;
        for recorded in page.iter().filter(|recorded| recorded.position <= until) {
            self.fold_events(recorded)?;
            left = left.saturating_sub(1);
        }
        let further = page.last().filter(|last| last.position <= until).map(|last| SetAside {
            first_revision: Some(last.commit.last_revision().next()),
            commits: left,
            ..aside.clone()
        });
        match further {
            Some(further) if left > 0 => {
                self.commit(self.checkpoint, Change::SetAside(further.clone(), PassedOver::default()))?;
                Ok(Folded::UpTo(further))
            }
            _ if left == 0 => {
                self.commit(self.checkpoint, Change::Released(aside.tenant.clone()))?;
                Ok(Folded::Released)
            }
            _ => {
                self.projection.discard();
                Ok(Folded::Short)
            }
        }
    }

    /// A stream cannot be folded yet: at the same place, or at another one. How far it is folded does not change.
    fn stays(&mut self, aside: SetAside, at: Option<Position>, reason: &str) -> Result<Turn, End> {
        let position = at.unwrap_or(aside.position);
        tracing::warn!(view = P::NAME, tenant.id = %aside.tenant, %position, reason, "a stream stays set aside");
        let still = SetAside::at(position, aside.tenant, aside.first_revision, reason);
        let still = SetAside { commits: aside.commits, ..still };
        let change = Change::SetAside(still, PassedOver::default());
        self.commit(self.checkpoint, change).map_err(|fault| broken(position, fault))?;
        Ok(Turn::Done)
    }
}

/// Index of the first commit that does not follow what comes before it, when the page should begin with `from`.
fn gap(aside: &SetAside, from: Revision, page: &[Arc<Recorded>]) -> Option<usize> {
    let mut expected = from;
    page.iter().position(|recorded| {
        let header = recorded.commit.header();
        let follows = header.first_revision == expected && header.tenant == aside.tenant;
        expected = recorded.commit.last_revision().next();
        !follows
    })
}

/// What came of a turn.
enum Turn {
    /// It is folded, or cannot be.
    Done,
    /// There is more of it.
    GoesOn,
    /// The log does not answer at the moment.
    Hindered,
}

/// What came of a page.
enum Folded {
    UpTo(SetAside),
    Released,
    /// The stream ends before all is folded that was passed over.
    Short,
}

fn hindered<P: Projection>(aside: &SetAside, error: &ReadError) -> Turn {
    tracing::warn!(view = P::NAME, tenant.id = %aside.tenant, %error, "a stream stays set aside and is tried again");
    Turn::Hindered
}

fn damaged(what: &str) -> String {
    format!("the log is damaged: {what}")
}
