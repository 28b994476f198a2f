//! Commands from node to node over core NATS: request and reply, nothing that lasts.
//!
//! ```text
//! wasmwiz.cmd.<shard>.<epoch>   commands for whoever owns the shard in that epoch: nobody else listens there
//! wasmwiz.node.<node>           what a node is told, without an answer
//! ```
//! A subject without a listener is answered by the server at once, so that a command for an epoch that is over is known
//! not to be taken in. What was sent when the connection ends is not known to be, and is said so.
//!
//! Servers of a cluster tell each other late who listens where: a command that its server passes on to where somebody has
//! just stopped listening is dropped without a word, and whoever sent it never knows whether it was taken in; and what comes
//! while a subscription is being ended is dropped by the client. Therefore a shard that is given up is listened for until a
//! younger epoch of it is, or the node leaves, and a while longer, and what comes is answered with "not here". One that is taken
//! up again in the same epoch is listened for by the same subscription: by a second one each command would be decided twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use wasmwiz_actors::bus::{Letter, Server, Transport, Unanswered};
use wasmwiz_events::{
    id::NodeId,
    nats::{Connection, NatsConfig, Purpose, with_causes},
    revision::Epoch,
    shard::Shard,
};

/// How long one server may take to accept the connection. Commands have deadlines of their own.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait before the next connection, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long commands of an epoch that is over are answered still, with "not here", once a younger one is listened for or the node
/// leaves: until every other node has heard of it.
const LINGER: Duration = Duration::from_secs(1);

/// How long what had come by then may take to be answered.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// W3C trace context, for whoever watches the bus; the owner has it from the frame.
const TRACEPARENT: &str = "traceparent";

/// The way to other nodes. Connects by itself, again and again, until it is dropped.
pub struct NatsTransport {
    shared: Arc<Shared>,
    _running: DropGuard,
}

struct Shared {
    node: NodeId,
    /// The connection, while there is one.
    link: watch::Sender<Option<Link>>,
    /// The epochs in which shards are served here.
    served: watch::Sender<BTreeMap<Shard, Epoch>>,
    /// Answers what comes in, once it is there.
    server: OnceLock<Server>,
    /// Is nothing to be listened for any more?
    finishing: AtomicBool,
    /// Whoever listens or answers now.
    answering: TaskTracker,
}

/// A connection, and when it is over.
#[derive(Clone)]
struct Link {
    client: Client,
    over: CancellationToken,
}

impl NatsTransport {
    /// Begins to connect. Nothing is served before [`Self::serve`].
    pub fn start(config: NatsConfig, node: NodeId) -> Self {
        let (link, _) = watch::channel(None);
        let (served, _) = watch::channel(BTreeMap::new());
        let (finishing, answering) = (AtomicBool::new(false), TaskTracker::new());
        let shared = Arc::new(Shared { node, link, served, server: OnceLock::new(), finishing, answering });
        let stopping = CancellationToken::new();
        tokio::spawn(stopping.clone().run_until_cancelled_owned(stay(Arc::clone(&shared), config)));
        Self { shared, _running: stopping.drop_guard() }
    }

    /// Whoever answers commands. Only the first one given does.
    pub fn serve(&self, server: Server) {
        if self.shared.server.set(server).is_ok() {
            self.shared.served.send_modify(|_| {});
        }
    }

    /// Listens for the commands of a shard, in one epoch.
    pub fn listen(&self, shard: Shard, epoch: Epoch) {
        self.shared.served.send_modify(|served| {
            served.insert(shard, epoch);
        });
    }

    /// Serves a shard no more, if it still does in this epoch. Commands that come nevertheless are answered for a moment.
    pub fn fall_silent(&self, shard: Shard, epoch: Epoch) {
        self.shared.served.send_modify(|served| {
            if served.get(&shard) == Some(&epoch) {
                served.remove(&shard);
            }
        });
    }

    /// Serves nothing more, and waits `within` this time until what came nevertheless is answered.
    pub async fn finish(&self, within: Duration) {
        self.shared.finishing.store(true, Ordering::Release);
        self.shared.served.send_modify(BTreeMap::clear);
        self.shared.answering.close();
        let finishing = async {
            self.shared.answering.wait().await;
            if let Ok(Link { client, .. }) = self.link() {
                // Whom the last answers do not reach takes it that nobody knows.
                let _ = client.flush().await;
            }
        };
        if timeout(within, finishing).await.is_err() {
            tracing::warn!("not all commands of other nodes could be answered before this node left");
        }
    }

    /// Waits until there is a connection.
    pub async fn connected(&self) {
        // The sender is in `self`.
        let _ = self.shared.link.subscribe().wait_for(Option::is_some).await;
    }

    fn link(&self) -> Result<Link, Unanswered> {
        let link = self.shared.link.borrow().clone().filter(|link| !link.over.is_cancelled());
        link.ok_or_else(|| Unanswered::NotSent("there is no connection to NATS".into()))
    }
}

#[async_trait]
impl Transport for NatsTransport {
    async fn request(&self, letter: Letter) -> Result<Bytes, Unanswered> {
        let Link { client, over } = self.link()?;
        let mut request = Request::new().payload(letter.frame).timeout(Some(letter.within));
        if let Some(traceparent) = &letter.traceparent {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, &**traceparent);
            request = request.headers(headers);
        }
        let answered = client.send_request(subject(letter.shard, letter.epoch), request);
        tokio::select! {
            biased;
            answered = answered => answered.map(|message| message.payload).map_err(|error| unanswered(&error)),
            () = over.cancelled() => Err(Unanswered::Lost("the connection to NATS ended".into())),
        }
    }

    async fn tell(&self, node: &NodeId, frame: Bytes) -> Result<(), Unanswered> {
        let Link { client, .. } = self.link()?;
        let told = client.publish(format!("wasmwiz.node.{node}"), frame).await;
        told.map_err(|error| Unanswered::NotSent(with_causes(&error).into()))
    }
}

fn subject(shard: Shard, epoch: Epoch) -> String {
    format!("wasmwiz.cmd.{}.{}", shard.get(), epoch.get())
}

fn unanswered(error: &async_nats::RequestError) -> Unanswered {
    match error.kind() {
        RequestErrorKind::NoResponders => Unanswered::NoResponders,
        RequestErrorKind::TimedOut => Unanswered::TimedOut,
        // Both are refused by the client.
        RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
            Unanswered::NotSent(with_causes(error).into())
        }
        RequestErrorKind::Other => Unanswered::Lost(with_causes(error).into()),
    }
}

/// One connection after the other.
async fn stay(shared: Arc<Shared>, config: NatsConfig) {
    let purpose = Purpose { name: "wasmwiz-bus", section: "cluster.nats", timeout: CONNECT_WITHIN };
    let (mut pause, mut said) = (PAUSE.0, String::new());
    loop {
        match Connection::open(&config, purpose).await {
            Ok(connection) => {
                (pause, said) = (PAUSE.0, String::new());
                let link = Link { client: connection.client().clone(), over: CancellationToken::new() };
                let _over = link.over.clone().drop_guard();
                shared.link.send_replace(Some(link.clone()));
                tokio::select! {
                    () = connection.lost() => {}
                    () = answer_all(&shared, &link.client) => {}
                }
                shared.link.send_replace(None);
                tracing::warn!("the connection to NATS ended; commands for other nodes wait for the next one");
            }
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::warn!(why, "other nodes cannot be reached; trying again");
                    said = why;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Listens wherever this node serves, for as long as the connection lasts.
async fn answer_all(shared: &Arc<Shared>, client: &Client) {
    let (mut served, mut listening) = (shared.served.subscribe(), Listening::default());
    // What is told is heard by one task: it is little, and needs no answer.
    let mut told = match client.subscribe(format!("wasmwiz.node.{}", shared.node)).await {
        Ok(told) => told,
        Err(error) => return tracing::warn!(%error, "this node cannot be told anything"),
    };
    loop {
        if let Some(server) = shared.server.get() {
            let wanted = served.borrow_and_update().clone();
            let finishing = shared.finishing.load(Ordering::Acquire);
            listening.become_so((&wanted, finishing), client, server, &shared.answering);
        }
        let next_end = listening.next_end();
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            message = told.next() => match (message, shared.server.get()) {
                (Some(message), Some(server)) => server.hear(&message.payload),
                (Some(_), None) => {}
                (None, _) => return,
            },
            Some(ended) = listening.tasks.join_next() => listening.has_ended(ended.ok().flatten()),
            () = sleep_until(next_end.unwrap_or_else(Instant::now)), if next_end.is_some() => {}
        }
    }
}

/// The shards whose commands are listened for.
#[derive(Default)]
struct Listening {
    ears: BTreeMap<(Shard, Epoch), Ear>,
    tasks: JoinSet<Option<(Shard, Epoch)>>,
}

/// One subscription.
enum Ear {
    /// It is there.
    Open {
        /// Ends it.
        _end: DropGuard,
        /// How long, once it is over. Until then one stays of each shard, also where this node decides nothing in it.
        until: Option<Instant>,
    },
    /// It is being ended. Until it is, there is no other one.
    Closing,
}

impl Listening {
    fn become_so(
        &mut self,
        (wanted, finishing): (&BTreeMap<Shard, Epoch>, bool),
        client: &Client,
        server: &Server,
        answering: &TaskTracker,
    ) {
        let now = Instant::now();
        for ((shard, epoch), ear) in &mut self.ears {
            let Ear::Open { until, .. } = ear else { continue };
            let is_over = finishing || wanted.get(shard).is_some_and(|wanted| wanted > epoch);
            *until = if is_over { until.or(Some(now + LINGER)) } else { None };
            if until.is_some_and(|until| until <= now) {
                *ear = Ear::Closing;
            }
        }
        for (&shard, &epoch) in wanted {
            if self.ears.contains_key(&(shard, epoch)) {
                continue;
            }
            let end = CancellationToken::new();
            self.ears.insert((shard, epoch), Ear::Open { _end: end.clone().drop_guard(), until: None });
            let (client, server, answering) = (client.clone(), server.clone(), answering.clone());
            // The set ends them with the connection; the tracker knows of all that are left.
            self.tasks.spawn(answering.clone().track_future(async move {
                match client.subscribe(subject(shard, epoch)).await {
                    Ok(commands) => {
                        answer(commands, &client, &server, &end, &answering).await;
                        Some((shard, epoch))
                    }
                    Err(error) => {
                        tracing::warn!(%error, %shard, "commands of a shard cannot be listened for");
                        None
                    }
                }
            }));
        }
    }

    /// When the next one has been listened for long enough.
    fn next_end(&self) -> Option<Instant> {
        self.ears.values().filter_map(|ear| if let Ear::Open { until, .. } = ear { *until } else { None }).min()
    }

    /// A subscription is over, and there may be another one. One that could not be made is not tried again on this connection.
    fn has_ended(&mut self, ended: Option<(Shard, Epoch)>) {
        if let Some(ended) = ended {
            self.ears.remove(&ended);
        }
    }
}

/// Answers the commands of one shard, until that ends, and then those that were under way.
async fn answer(
    mut commands: Subscriber,
    client: &Client,
    server: &Server,
    end: &CancellationToken,
    answering: &TaskTracker,
) {
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            message = commands.next() => match message {
                Some(message) => answer_one(message, client, server, answering),
                None => return,
            },
        }
    }
    if commands.drain().await.is_ok() {
        let rest = async {
            while let Some(message) = commands.next().await {
                answer_one(message, client, server, answering);
            }
        };
        let _ = timeout(DRAIN_WITHIN, rest).await;
    }
}

/// In a task of its own, which outlives the connection: the server has bounds, and turns away what is above them.
fn answer_one(message: Message, client: &Client, server: &Server, answering: &TaskTracker) {
    let Some(reply) = message.reply else { return };
    let (client, server) = (client.clone(), server.clone());
    answering.spawn(async move {
        let answer = server.serve(message.payload).await;
        if let Err(error) = client.publish(reply, answer).await {
            tracing::warn!(%error, "an answer to another node could not be sent; it takes it that nobody knows");
        }
    });
}
