//! One commit from its offer to the stream until it is known what became of it.

use std::sync::Arc;

use tokio::time::timeout_at;

use super::{
    Shared, frame,
    outcome::Outcome,
    read,
    session::{Failure, Session, Tail},
    stream::subject,
    tries::Tries,
};
use crate::{
    commit::Commit,
    log::{
        Append, AppendError, Appended,
        admission::{Admission, admit},
    },
    revision::Position,
};

/// Offers a commit, the same one again and again, until it is stored or refused, or the time is over.
///
/// The same commit again is safe for ever: it is stored only where it was decided, and that place is taken once. So an answer
/// that was lost is asked for by offering it again, and by looking at what the subject ends with.
pub(super) async fn append(shared: &Shared, append: &Append) -> Result<Appended, AppendError> {
    let commit = &append.commit;
    let (header, config) = (commit.header(), &shared.config);
    let (subject, place) = (subject(config, &header.tenant), shared.place(&header.tenant));
    let mut tries = Tries::within(&shared.link, config.append_within());
    // One at a time: a replicated stream refuses the second one of a subject while the first is under way.
    let Ok(mut known) = timeout_at(tries.end(), place.lock()).await else { return Err(AppendError::Busy) };
    let message = frame::encode(append);
    // Is there an offer of which nobody knows whether it was stored? Then it may be by this append that it is there.
    let mut unknown = false;
    while let Some(session) = tries.session().await {
        let remembered = *known;
        // Whoever stops waiting here leaves nothing behind that may have become wrong.
        *known = None;
        let tail = match remembered {
            Some(tail) => tail,
            None => match session.tail(&subject, &header.tenant).await {
                Ok(tail) => tail,
                Err(Failure::Passing(why)) => {
                    tries.failed(why).await;
                    continue;
                }
                Err(Failure::Damaged(position, what)) => {
                    let reason = format!("the log is damaged at position {position}: {what}");
                    shared.poison.send_replace(Some(reason.as_str().into()));
                    return Err(AppendError::Poisoned(reason.into()));
                }
            },
        };
        match admit(&tail.head, commit) {
            Admission::Next => {}
            // Perhaps by what is remembered only.
            Admission::Taken(_) | Admission::Refused(_) if remembered.is_some() => continue,
            Admission::Refused(refusal) => return Err(refusal),
            Admission::Taken(refusal) => match is_stored(shared, &session, &tail, commit).await {
                Ok(Some(position)) => return Ok(Appended { position, repeated: !unknown }),
                Ok(None) => return Err(refusal),
                Err(why) => {
                    tries.failed(why).await;
                    continue;
                }
            },
        }
        let published = session.publish(subject.clone(), header.commit_id, tail.sequence, message.clone()).await;
        match published {
            Ok((sequence, had_it)) => {
                *known = Some(Tail { head: commit.head(), sequence });
                let repeated = had_it && !unknown;
                return Ok(Appended { position: Position::new(sequence), repeated });
            }
            // Somebody was faster, or it is this commit that the subject ends with.
            Err(Outcome::Moved) => tries.failed("the tenant's subject moves").await,
            Err(Outcome::NotNow(why)) => tries.failed(why).await,
            Err(Outcome::NotKnown(why)) => {
                unknown = true;
                tries.failed(why).await;
            }
            Err(Outcome::TooLarge) => return Err(AppendError::TooLarge),
        }
    }
    let why = tries.why();
    tracing::warn!(%why, unknown, "the log did not take a commit in time");
    if unknown { Err(AppendError::Unknown(why)) } else { Err(AppendError::Busy) }
}

/// Where the commit is stored, if the place that it wants is taken by itself.
async fn is_stored(
    shared: &Shared,
    session: &Session,
    tail: &Tail,
    commit: &Commit,
) -> Result<Option<Position>, Arc<str>> {
    if tail.head.hash == commit.hash() {
        return Ok(Some(Position::new(tail.sequence)));
    }
    let header = commit.header();
    match read::holding(shared, session, &header.tenant, header.first_revision).await {
        Ok(Some(found)) if found.commit.hash() == commit.hash() => Ok(Some(found.position)),
        Ok(_) => Ok(None),
        Err(Failure::Passing(why)) => Err(why.into()),
        Err(Failure::Damaged(position, what)) => Err(format!("the log is damaged at {position}: {what}").into()),
    }
}
