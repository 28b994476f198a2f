//! The connection to the stream, opened again for as long as the log lives.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    JetstreamLogConfig,
    durability::Watched,
    session::{Identity, Missing, OpenError, Session},
};

/// The pause before the second attempt to connect; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// For so long servers that have just begun may not know all that they had: they learn of it from each other. Then it is gone.
const DOUBTED_FOR: Duration = Duration::from_secs(5);

/// How it stands.
#[derive(Clone)]
pub(super) enum Standing {
    Open(Arc<Session>),
    /// What is in the way.
    Hindered(Arc<str>),
}

/// Gives the session that is open now.
pub(super) struct Link {
    standing: watch::Receiver<Standing>,
    /// Whether what is acknowledged is synced, for who writes.
    durability: Option<Watched>,
    stopping: CancellationToken,
    _keeper: JoinHandle<()>,
}

impl Link {
    /// Connects, within the bound that is set for it. What will not pass by waiting is an error at once.
    pub(super) async fn open(
        config: &JetstreamLogConfig,
        missing: Missing,
        poison: watch::Sender<Option<Arc<str>>>,
    ) -> Result<Self, OpenError> {
        let end = Instant::now() + config.connect_within();
        let mut pause = FIRST_PAUSE;
        let session = loop {
            match Session::open(config, missing).await {
                Ok(session) => break session,
                Err(error @ OpenError::Gone { .. }) => return Err(error),
                Err(error) if error.may_pass() && Instant::now() + pause < end => {
                    tracing::warn!(%error, "the log cannot be opened yet");
                }
                Err(error) => return Err(error),
            }
            sleep(pause).await;
            pause = longer(pause);
        };
        let (told, standing) = watch::channel(Standing::Open(Arc::new(session)));
        let stopping = CancellationToken::new();
        let keeping = Box::pin(stopping.clone().run_until_cancelled_owned(keep(config.clone(), told, poison)));
        let keeper = tokio::spawn(async move { keeping.await.unwrap_or_default() });
        // Whoever takes no other log than the one that is there only reads it.
        let writes = missing == Missing::IsMade;
        let durability = writes.then(|| Watched::begin(config, standing.clone(), stopping.clone()));
        Ok(Self { standing, durability, stopping, _keeper: keeper })
    }

    /// The session that is open, or the next one if that comes before `end`. The error says what is in the way.
    pub(super) async fn session_until(&self, end: Instant) -> Result<Arc<Session>, Arc<str>> {
        let mut standing = self.standing.clone();
        let waited = timeout_at(end, standing.wait_for(|standing| matches!(standing, Standing::Open(_)))).await;
        match waited {
            Ok(Ok(open)) => match &*open {
                Standing::Open(session) => Ok(Arc::clone(session)),
                Standing::Hindered(why) => Err(Arc::clone(why)),
            },
            Ok(Err(_)) => Err("the log is closed".into()),
            Err(_) => match &*self.standing.borrow() {
                Standing::Open(session) => Ok(Arc::clone(session)),
                Standing::Hindered(why) => Err(Arc::clone(why)),
            },
        }
    }

    /// The session that is open, whenever that is. `None`: the log is closed.
    pub(super) async fn session(&self) -> Option<Arc<Session>> {
        next_session(&mut self.standing.clone(), &Weak::new()).await
    }

    /// Does what is acknowledged outlive a loss of power? Nothing to say for who does not write.
    pub(super) fn durability(&self) -> Result<Option<Arc<str>>, Arc<str>> {
        self.durability.as_ref().map(Watched::told).transpose()
    }

    /// Is there a session?
    pub(super) fn check(&self) -> Result<String, String> {
        match &*self.standing.borrow() {
            Standing::Open(_) => Ok("connected to the stream".to_owned()),
            Standing::Hindered(why) => Err(why.to_string()),
        }
    }

    /// Ends it.
    pub(super) fn close(&self) {
        self.stopping.cancel();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

/// The session that is open, whenever that is, unless it is the one `before`. `None`: the log is closed.
pub(super) async fn next_session(
    standing: &mut watch::Receiver<Standing>,
    before: &Weak<Session>,
) -> Option<Arc<Session>> {
    let is_next = |standing: &Standing| match standing {
        Standing::Open(session) => !std::ptr::eq(before.as_ptr(), Arc::as_ptr(session)),
        Standing::Hindered(_) => false,
    };
    match standing.wait_for(is_next).await.as_deref() {
        Ok(Standing::Open(session)) => Some(Arc::clone(session)),
        Ok(Standing::Hindered(_)) | Err(_) => None,
    }
}

/// Waits until the session is lost, opens another one, and so on, until the stream is not the one that it was.
async fn keep(config: JetstreamLogConfig, told: watch::Sender<Standing>, poison: watch::Sender<Option<Arc<str>>>) {
    let (mut pause, mut known, mut doubted) = (FIRST_PAUSE, None, None);
    loop {
        let open = match &*told.borrow() {
            Standing::Open(session) => Some(Arc::clone(session)),
            Standing::Hindered(_) => None,
        };
        if let Some(session) = open {
            session.lost().await;
            known = Some(session.identity());
            tracing::warn!("the connection to the log was lost");
            told.send_replace(Standing::Hindered("the connection to NATS was lost; it is opened again.".into()));
        }
        let (why, is_over) = match open_again(&config, known.as_ref()).await {
            Ok(session) => {
                tracing::info!("the log is connected again");
                told.send_replace(Standing::Open(Arc::new(session)));
                (pause, doubted) = (FIRST_PAUSE, None);
                continue;
            }
            Err(Hindrance::Passing(why)) => {
                doubted = None;
                (why, false)
            }
            Err(Hindrance::Doubted(why)) => {
                let since = *doubted.get_or_insert_with(Instant::now);
                (why, since.elapsed() >= DOUBTED_FOR)
            }
            Err(Hindrance::Final(why)) => (why, true),
        };
        told.send_replace(Standing::Hindered(why.as_str().into()));
        if is_over {
            poison.send_replace(Some(why.into()));
            return;
        }
        sleep(pause).await;
        pause = longer(pause);
    }
}

/// Why there is no session again.
enum Hindrance {
    /// It may pass.
    Passing(String),
    /// It may pass, or the stream is not what it was.
    Doubted(String),
    /// The stream is not the one that it was.
    Final(String),
}

async fn open_again(config: &JetstreamLogConfig, known: Option<&Identity>) -> Result<Session, Hindrance> {
    let session = Session::open(config, Missing::IsGone).await.map_err(|error| match error {
        OpenError::Gone { .. } => Hindrance::Doubted(error.to_string()),
        error => Hindrance::Passing(error.to_string()),
    })?;
    let (Some(known), found) = (known, session.identity()) else { return Ok(session) };
    if known.created != found.created {
        let why =
            "the log's stream is not the one that it was: it was removed and made again, or these are other servers";
        return Err(Hindrance::Final(why.to_owned()));
    }
    if known.last_sequence > found.last_sequence {
        let (had, has) = (known.last_sequence, found.last_sequence);
        let why = format!("the log's stream ends at {has} and had acknowledged {had}: its servers have lost commits");
        return Err(Hindrance::Doubted(why));
    }
    Ok(session)
}

fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}
