//! Between the moment in which an owner has read a stream and its first commit there: what an owner of before has under way may
//! still come in between.

use tokio::task::JoinHandle;
use wasmwiz_actors::{
    aggregate::Authority,
    handle::{Ask, Decided},
};
use wasmwiz_events::key::Scope;

use super::{cluster::key, *};

/// Asks something that writes nothing.
async fn may_read(node: &Node) -> Result<Decided, AskError> {
    let (command, by) = (Command::Authorise(Scope::ModulesRead), Authority::Key(key()));
    let ask = Ask { command, by, origin: Origin::internal(Ids.command()), payloads: vec![] };
    node.bus.ask(&acme(), ask).await
}

/// The first node's commit is held back while the second, which owns the tenant in the next epoch, has read the stream.
async fn under_way(bounds: Bounds, command: Command) -> (Cluster, JoinHandle<()>) {
    let cluster = Cluster::start(bounds).await;
    let old = Arc::clone(cluster.node(1));
    // Its lease ended with this under way, or it stood still: it does not know.
    *old.view.believes.lock().unwrap() = Some(Owner::Here(Epoch::FIRST));
    cluster.log.hold();
    let late = tokio::spawn(async move {
        old.ask(command).await.unwrap();
    });
    cluster.log.held_back(1).await;
    cluster.table.give(Some((2, 2)));
    may_read(cluster.node(2)).await.unwrap();
    (cluster, late)
}

/// It is stored after that.
async fn overtaken(bounds: Bounds, command: Command) -> Cluster {
    let (cluster, late) = under_way(bounds, command).await;
    cluster.log.release();
    late.await.unwrap();
    cluster
}

#[tokio::test]
async fn what_came_late_is_known_soon_to_an_owner_that_writes_nothing() {
    let cluster = overtaken(Bounds::default(), Command::RevokeKey { key_id: key() }).await;
    let refused = async {
        loop {
            match may_read(cluster.node(2)).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                Err(error) => return error,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert!(matches!(refused, AskError::Refused(Refusal::KeyRevoked)), "{refused}");
    assert_eq!(cluster.epochs(), [1], "it has written");
}

#[tokio::test]
async fn an_owner_that_cannot_read_what_came_late_says_so_and_reads_again_until_it_can() {
    let (cluster, stored) = under_way(Bounds::default(), Command::RevokeKey { key_id: key() }).await;
    let late = cluster.log.commits().last().unwrap().position.next();
    cluster.log.damage(late);
    cluster.log.release();
    stored.await.unwrap();
    let unavailable = async {
        while !matches!(may_read(cluster.node(2)).await, Err(AskError::Unavailable { .. })) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), unavailable).await.unwrap();
    cluster.log.mend(late);
    let refused = async {
        while !matches!(may_read(cluster.node(2)).await, Err(AskError::Refused(Refusal::KeyRevoked))) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
}

#[tokio::test]
async fn what_came_late_is_built_upon_by_the_next_commit_and_nothing_comes_behind_that() {
    let cluster = overtaken(short(), rename("late")).await;
    cluster.node(2).ask(rename("next")).await.unwrap();
    assert_eq!((cluster.renamed("late"), cluster.renamed("next"), cluster.epochs()), (1, 1, vec![1, 2]));
    let error = cluster.node(1).ask(rename("too late")).await.unwrap_err();
    assert!(reason(&error).contains("nothing was decided"), "{error}");
    assert_eq!((cluster.renamed("too late"), cluster.epochs()), (0, vec![1, 2]));
}
