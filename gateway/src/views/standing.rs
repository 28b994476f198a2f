//! How the views of a node stand, on the wire.

use poem_openapi::Object;
use serde::Serialize;
use wasmwiz_projections::{SetAside, State, ViewStatus};

use super::written;

/// Streams that are named of one view: an event of a newer version may be in those of all tenants.
const STREAMS_SHOWN: usize = 100;

/// Has a commit passed over that cannot be folded.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct SkipRequest {
    /// Whose stream it is in.
    pub(crate) tenant: String,
    /// Where it is: the position that GET /v1/views names.
    pub(crate) position: u64,
    /// Why, in the operator's words: 1 to 500 characters.
    pub(crate) reason: String,
}

/// How the views of a node stand.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Views {
    /// Each of them.
    pub(crate) views: Vec<ViewStanding>,
}

/// How one view stands.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ViewStanding {
    /// keys, modules, executions, usage or audit.
    pub(crate) name: String,
    /// catching_up, live or stopped.
    pub(crate) state: String,
    /// The position of the log that it has folded up to.
    pub(crate) position: u64,
    /// How many positions of the log it is behind.
    pub(crate) lag_commits: u64,
    /// When the last commit that it has folded was recorded; null before the first one.
    pub(crate) last_recorded_at: Option<String>,
    /// Is it being built from the log, so that it has a part of it, and queries that need it are answered 503?
    pub(crate) building: bool,
    /// What keeps it from going on; null when nothing does.
    pub(crate) trouble: Option<String>,
    /// How many streams it cannot fold.
    pub(crate) set_aside_streams: u64,
    /// Those streams; the first hundred, by their tenants.
    pub(crate) set_aside: Vec<StreamSetAside>,
}

/// A stream that a view cannot fold.
#[derive(Debug, Serialize, Object)]
pub(crate) struct StreamSetAside {
    /// Whose stream.
    pub(crate) tenant: String,
    /// The position of the commit that cannot be folded, or of the last one before commits that are missing: reason says which.
    pub(crate) position: u64,
    /// Revision of the first event that is not folded; null while the commit cannot be read.
    pub(crate) first_revision: Option<u64>,
    /// Why it is set aside.
    pub(crate) reason: String,
    /// How many commits of the stream were passed over since.
    pub(crate) commits: u64,
}

impl From<Vec<ViewStatus>> for Views {
    fn from(views: Vec<ViewStatus>) -> Self {
        Self { views: views.into_iter().map(ViewStanding::from).collect() }
    }
}

impl From<ViewStatus> for ViewStanding {
    fn from(view: ViewStatus) -> Self {
        let (state, trouble) = match &view.state {
            State::CatchingUp => ("catching_up", view.trouble.as_deref()),
            State::Live => ("live", view.trouble.as_deref()),
            State::Stopped { reason, .. } => ("stopped", Some(&**reason)),
        };
        Self {
            name: view.name.to_owned(),
            state: state.to_owned(),
            position: view.position.get(),
            lag_commits: view.lag_commits,
            last_recorded_at: view.last_recorded_at.map(written),
            building: view.building,
            trouble: trouble.map(str::to_owned),
            set_aside_streams: view.set_aside.len() as u64,
            set_aside: view.set_aside.into_iter().take(STREAMS_SHOWN).map(StreamSetAside::from).collect(),
        }
    }
}

impl From<SetAside> for StreamSetAside {
    fn from(aside: SetAside) -> Self {
        Self {
            tenant: aside.tenant.to_string(),
            position: aside.position.get(),
            first_revision: aside.first_revision.map(wasmwiz_events::revision::Revision::get),
            reason: aside.reason.to_string(),
            commits: aside.commits,
        }
    }
}
