//! A node's seat in its cluster: what it owns is served here, and commands for what others own go to them.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use wasmwiz_actors::{
    bus::{BusConfig, CommandBus, Server},
    dispatch::Dispatch,
    ownership::{Owner, Ownership},
    region::Region,
};
use wasmwiz_events::{revision::Epoch, shard::Shard, time::Clock};

use super::{
    config::ClusterConfig,
    membership::{Beliefs, Identity, Membership},
    shards::Shards,
    transport::NatsTransport,
};

/// How often a start that waits for its cluster says so.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);

/// Whoever owns this shard does what one node does for all.
const TURNS: Shard = Shard::new(0);

/// A node's seat. Dropped without [`Self::leave`], its lease ends by itself.
pub struct Seat {
    membership: Membership,
    transport: Arc<NatsTransport>,
    bus: BusConfig,
    drain: Duration,
}

impl Seat {
    /// A seat that is not taken yet: nothing is owned.
    pub fn new(config: &ClusterConfig, identity: Identity, clock: Arc<dyn Clock>) -> Self {
        let transport = NatsTransport::start(config.nats.clone(), identity.node.clone());
        let drain = Duration::from_millis(config.drain_ms);
        let membership = Membership::new(config.clone(), identity, clock);
        Self { membership, transport: Arc::new(transport), bus: config.bus, drain }
    }

    /// Who owns what, as this node believes.
    pub fn beliefs(&self) -> Beliefs {
        self.membership.beliefs()
    }

    /// The way to all tenants, wherever they are.
    pub fn bus(&self, region: Region) -> CommandBus {
        CommandBus::new(region, Arc::clone(&self.transport) as _, self.bus)
    }

    /// Takes it: from now on shards are owned here, and others' commands are answered.
    pub fn take(&mut self, region: Region, dispatch: Dispatch) {
        self.transport.serve(Server::new(region.clone(), dispatch, self.bus));
        let transport = Arc::clone(&self.transport);
        self.membership.begin(Arc::new(Serving { region, transport, drain: self.drain }));
    }

    /// Waits until every shard has an owner.
    ///
    /// # Errors
    /// When this node may not be a member of the cluster. A bus that is away is waited for.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let (beliefs, waiting) = (self.beliefs(), async {
            self.membership.joined().await.context("this node may not be a member of its cluster")?;
            let beliefs = self.beliefs();
            for shard in Shard::all() {
                while beliefs.owner(shard) == Owner::Nobody {
                    beliefs.changed(shard, &Owner::Nobody).await;
                }
            }
            Ok(())
        });
        tokio::pin!(waiting);
        loop {
            match timeout(STILL_WAITING_EVERY, &mut waiting).await {
                Ok(settled) => return settled,
                Err(_) => {
                    let trouble = beliefs.topology().trouble;
                    tracing::warn!(trouble, "still waiting until every shard of the cluster has an owner");
                }
            }
        }
    }

    /// Is it this node's turn to do what one node does for all? It is while it owns shard 0.
    pub fn turns(&self) -> watch::Receiver<bool> {
        let (turn, turns) = watch::channel(false);
        let beliefs = self.beliefs();
        tokio::spawn(async move {
            while !turn.is_closed() {
                let owner = beliefs.owner(TURNS);
                turn.send_replace(matches!(owner, Owner::Here(_)));
                tokio::select! {
                    () = turn.closed() => {}
                    () = beliefs.changed(TURNS, &owner) => {}
                }
            }
        });
        turns
    }

    /// Hands over what it owns, and is no member any more, `within` this time. Whoever asks it nevertheless is answered.
    pub async fn leave(self, within: Duration) {
        let begun = Instant::now();
        self.membership.leave(within).await;
        self.transport.finish(within.saturating_sub(begun.elapsed())).await;
    }
}

/// The shards that are owned here, served.
struct Serving {
    region: Region,
    transport: Arc<NatsTransport>,
    drain: Duration,
}

#[async_trait]
impl Shards for Serving {
    fn take_up(&self, shard: Shard, epoch: Epoch) {
        self.region.take_up(shard, epoch);
        self.transport.listen(shard, epoch);
    }

    async fn release(&self, shard: Shard, epoch: Epoch) {
        self.transport.fall_silent(shard, epoch);
        if let Err(error) = self.region.release(shard, self.drain).await {
            tracing::warn!(%error, "a shard is given up with something under way; the log decides");
        }
    }

    fn lives_ended(&self) {
        self.region.look();
    }
}
