//! How a view sets a stream aside, and how it takes it up again: see [`crate::quarantine`].

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use tokio::time::Instant;
use wasmwiz_events::{
    commit::Recorded,
    ledger::chain_hash,
    log::{ReadError, ReadLimit},
    revision::Position,
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

    /// Takes a stream up again for a turn. If that skipped commits of other streams, there is another turn: those that came before
    /// this one are tried anew.
    async fn catch_up(&mut self, aside: SetAside) -> Result<Turn, End> {
        let mut skips = false;
        let turn = self.fold_a_turn(aside, &mut skips).await?;
        Ok(if skips { Turn::GoesOn } else { turn })
    }

    /// Folds a stream from where it was set aside up to where the view is, some pages of it. Where it cannot be folded, and no
    /// operator has skipped the place, it stays aside. `skips` is set once a folded page skips something.
    async fn fold_a_turn(&mut self, mut aside: SetAside, skips: &mut bool) -> Result<Turn, End> {
        if aside.behind.is_none() {
            let place = aside.position;
            let fault = match self.log.read_at(place).await {
                Ok(Some(recorded)) if *recorded.commit.tenant() == aside.tenant => {
                    aside.first_revision.get_or_insert(recorded.commit.header().first_revision);
                    None
                }
                // A log that has lost the commit ends before it, or goes on behind it: neither is the whole stream.
                Ok(_) => Some("the log does not have the commit any more".to_owned()),
                Err(ReadError::Damaged { what, .. }) => Some(damaged(&what)),
                Err(error) => return Ok(hindered::<P>(&aside, &error)),
            };
            if let Some(reason) = fault {
                aside = match self.pass_over(aside, place, &reason).await? {
                    ControlFlow::Continue(further) => further,
                    ControlFlow::Break(turn) => return Ok(turn),
                };
            }
        }
        let mut commits_at_once = self.config.batch_events.max(1);
        for _ in 0..PAGES_A_TURN {
            if *self.orders.borrow() != Order::Follow {
                return Ok(Turn::Done);
            }
            let limit = ReadLimit { commits: commits_at_once, bytes: READ_BYTES };
            let mut page = match self.page(&aside, limit).await {
                Ok(page) => page,
                Err(ReadError::Damaged { position, what }) => {
                    aside = match self.pass_over(aside, position, &damaged(&what)).await? {
                        ControlFlow::Continue(further) => further,
                        ControlFlow::Break(turn) => return Ok(turn),
                    };
                    continue;
                }
                Err(error) => return Ok(hindered::<P>(&aside, &error)),
            };
            match gap(&aside, &page) {
                Some(0) => {
                    // What lies behind the gap is sound: the place that is named is the last one before it.
                    let before = aside.behind.unwrap_or(aside.position);
                    let at = page.first().map_or(before, |recorded| recorded.position);
                    let reason = format!("commits of the stream are missing between positions {before} and {at}");
                    return self.stays(aside, before, &reason);
                }
                // The next page begins with it.
                Some(before) => page.truncate(before),
                None => {}
            }
            match self.fold_page(&aside, &page, skips) {
                Ok(Folded::Released) => return Ok(Turn::Done),
                Ok(Folded::UpTo(further)) => aside = further,
                Ok(Folded::Short) => return self.stays_short(aside, &page),
                Err(fault) if fault.is_of_stream() => {
                    self.projection.discard();
                    if commits_at_once == 1 {
                        let at = page.first().map_or(aside.position, |recorded| recorded.position);
                        aside = match self.pass_over(aside, at, &fault.in_full()).await? {
                            ControlFlow::Continue(further) => further,
                            ControlFlow::Break(turn) => return Ok(turn),
                        };
                        continue;
                    }
                    // One by one, all before the one that is at fault are folded.
                    commits_at_once = 1;
                }
                Err(fault) => return Err(broken(self.checkpoint.position, fault)),
            }
        }
        Ok(Turn::GoesOn)
    }

    /// The commits of a stream that are folded next.
    async fn page(&self, aside: &SetAside, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let from = aside.first_revision.unwrap_or_default();
        match aside.behind {
            Some(behind) => self.log.read_stream_behind(&aside.tenant, from, behind, limit).await,
            None => self.log.read_stream(&aside.tenant, from, limit).await,
        }
    }

    /// Goes on behind a commit that cannot be folded, if an operator has skipped it and the stream goes on. Otherwise the stream stays
    /// set aside, and its turn is over.
    async fn pass_over(
        &mut self,
        aside: SetAside,
        at: Position,
        reason: &str,
    ) -> Result<ControlFlow<Turn, SetAside>, End> {
        let is_next = aside.behind.is_none_or(|behind| behind < at) && at <= self.checkpoint.position;
        if !is_next || !self.quarantine.has_skipped(&aside.tenant, at) {
            return self.stays(aside, at, reason).map(ControlFlow::Break);
        }
        // Each commit that is passed over is counted as one of the stream's own. One of another stream must never be.
        let whose = self.log.tenant_at(at).await;
        match whose {
            Ok(Some(tenant)) if tenant == aside.tenant => {}
            Ok(_) => {
                let reason = format!("{reason}; it is skipped, and nothing says that it is a commit of this tenant");
                return self.stays(aside, at, &reason).map(ControlFlow::Break);
            }
            Err(error) => return Ok(ControlFlow::Break(hindered::<P>(&aside, &error))),
        }
        let left = aside.commits.saturating_sub(1);
        if left == 0 {
            // It may have revoked a key, and nobody could do so again: where the stream ends, nothing says that can be read.
            let reason = format!("{reason}; it is skipped, and is the newest commit of the stream: restore the log");
            return self.stays(aside, at, &reason).map(ControlFlow::Break);
        }
        tracing::warn!(
            view = P::NAME, tenant.id = %aside.tenant, position = %at, reason,
            "the view passes over a commit that an operator has skipped"
        );
        // Where the next one begins, nothing says that can be read.
        let further = SetAside { first_revision: None, commits: left, behind: Some(at), ..aside };
        let change = Change::SetAside(further.clone(), PassedOver::default());
        self.commit(self.checkpoint, change).map_err(|fault| broken(at, fault))?;
        Ok(ControlFlow::Continue(further))
    }

    /// The stream ends before all is folded that was passed over. There is no commit that could be skipped.
    fn stays_short(&mut self, aside: SetAside, page: &[Arc<Recorded>]) -> Result<Turn, End> {
        let until = self.checkpoint.position;
        let folded = page.iter().rfind(|recorded| recorded.position <= until).map(|recorded| recorded.position);
        let found = page.iter().filter(|recorded| recorded.position <= until).count() as u64;
        let (before, missing) = (aside.behind.unwrap_or(aside.position), aside.commits.saturating_sub(found));
        let behind = folded.unwrap_or(before);
        let reason = format!(
            "{missing} commits that were passed over are missing between positions {behind} and {until}: no skip helps, restore the \
             log"
        );
        self.stays(aside, before, &reason)
    }

    fn release(&self, aside: &SetAside, notes: PassedOver) -> Change {
        tracing::info!(view = P::NAME, tenant.id = %aside.tenant, "a stream is folded again");
        Change::Released(aside.tenant.clone(), notes)
    }

    /// Folds a page of a stream and writes how far that is. The stream is set aside no more once all of it is folded that was
    /// passed over, up to where the view is.
    fn fold_page(&mut self, aside: &SetAside, page: &[Arc<Recorded>], skips: &mut bool) -> Result<Folded, Fault> {
        let until = self.checkpoint.position;
        let (mut left, mut notes, mut has_skipped) = (aside.commits, PassedOver::default(), false);
        for recorded in page.iter().filter(|recorded| recorded.position <= until) {
            self.fold_events(recorded)?;
            has_skipped |= notes.note_skips(&aside.tenant, recorded.commit.events()?).count() > 0;
            left = left.saturating_sub(1);
        }
        let further = page.last().filter(|last| last.position <= until).map(|last| SetAside {
            first_revision: Some(last.commit.last_revision().next()),
            commits: left,
            behind: Some(last.position),
            ..aside.clone()
        });
        match further {
            Some(further) if left > 0 => {
                self.commit(self.checkpoint, Change::SetAside(further.clone(), notes))?;
                *skips |= has_skipped;
                Ok(Folded::UpTo(further))
            }
            _ if left == 0 => {
                let released = self.release(aside, notes);
                self.commit(self.checkpoint, released)?;
                *skips |= has_skipped;
                Ok(Folded::Released)
            }
            _ => {
                self.projection.discard();
                Ok(Folded::Short)
            }
        }
    }

    /// A stream cannot be folded yet: at the same place, or at another one. How far it is folded does not change.
    fn stays(&mut self, aside: SetAside, position: Position, reason: &str) -> Result<Turn, End> {
        tracing::warn!(view = P::NAME, tenant.id = %aside.tenant, %position, reason, "a stream stays set aside");
        let still = SetAside::at(position, aside.tenant, aside.first_revision, reason);
        let still = SetAside { commits: aside.commits, behind: aside.behind, ..still };
        let change = Change::SetAside(still, PassedOver::default());
        self.commit(self.checkpoint, change).map_err(|fault| broken(position, fault))?;
        Ok(Turn::Done)
    }
}

/// Index of the first commit that does not follow what comes before it. What comes behind a commit that was passed over, the page
/// says itself.
fn gap(aside: &SetAside, page: &[Arc<Recorded>]) -> Option<usize> {
    let begins = page.first().map(|first| first.commit.header().first_revision);
    let mut expected = aside.first_revision.or(begins).unwrap_or_default();
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
    /// All of it.
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
