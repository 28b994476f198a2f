//! What every log promises, and the faults that this one has on demand.

use super::*;
use crate::log::conformance::{Log, Stream};

fn append(stream: &Stream) -> Append {
    Append { commit: stream.seal(1), payloads: Vec::new() }
}

crate::event_log_conformance!((Arc::new(MemoryLog::new()) as Log, ()));

#[tokio::test]
async fn a_fault_on_demand_stores_nothing() {
    let (log, stream) = (MemoryLog::new(), Stream::fresh());
    log.fail_next_append(AppendError::Busy);
    assert!(matches!(log.append(append(&stream)).await, Err(AppendError::Busy)));
    assert!(log.commits().is_empty());
    assert!(log.append(append(&stream)).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_is_found_by_appending_again() {
    let (log, stream) = (MemoryLog::new(), Stream::fresh());
    let append = append(&stream);
    log.lose_next_answer();
    assert!(matches!(log.append(append.clone()).await, Err(AppendError::Unknown(_))));
    assert!(log.append(append).await.unwrap().repeated);
}

#[tokio::test]
async fn appends_are_held_back_until_they_are_released() {
    let (log, one, other) = (MemoryLog::new(), Stream::fresh(), Stream::fresh());
    log.hold();
    let (first, second) = (log.append(append(&one)), log.append(append(&other)));
    let release = async {
        log.held_back(2).await;
        assert!(log.commits().is_empty());
        log.release();
    };
    let (first, second, ()) = tokio::join!(first, second, release);
    assert!(first.is_ok() && second.is_ok());
}

#[tokio::test]
async fn a_follower_is_shown_no_more_than_it_should_be() {
    let (log, one, other) = (MemoryLog::new(), Stream::fresh(), Stream::fresh());
    let first = log.append(append(&one)).await.unwrap().position;
    log.append(append(&other)).await.unwrap();
    log.show_until(first);
    let mut follower = log.subscribe(Position::START).await.unwrap();
    assert_eq!(follower.next(ReadLimit::default()).await.unwrap().len(), 1);
    let (next, ()) = tokio::join!(follower.next(ReadLimit::default()), async { log.show_all() });
    assert_eq!(next.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stream_is_read_in_as_many_small_pages_as_are_given() {
    let (log, mut stream) = (MemoryLog::new(), Stream::fresh());
    for _ in 0..3 {
        log.append(append(&stream)).await.unwrap();
        stream.head = log.head(&stream.tenant).await.unwrap();
    }
    let read = async |after: Position| {
        log.read_stream_behind(&stream.tenant, Revision::new(1), after, ReadLimit::default()).await.unwrap()
    };
    log.page(Some(2));
    let first = read(Position::START).await;
    let second = read(first.last().unwrap().position).await;
    assert_eq!((first.len(), second.len()), (1, 1));
    log.paged().await;
    let (all, ()) = tokio::join!(read(Position::START), async { log.page(None) });
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn a_poisoned_log_refuses_everything_and_says_why() {
    let (log, stream) = (MemoryLog::new(), Stream::fresh());
    log.hold();
    let held = log.append(append(&stream));
    let poison = async {
        log.held_back(1).await;
        log.poison("the disk is gone");
    };
    let (held, ()) = tokio::join!(held, poison);
    assert!(matches!(held, Err(AppendError::Poisoned(_))));
    assert!(matches!(log.append(append(&stream)).await, Err(AppendError::Poisoned(_))));
    assert_eq!(&*log.poisoned().await, "the disk is gone");
}
