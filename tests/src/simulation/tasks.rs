//! Several futures side by side, polled in one order: what a runtime does, without its own say in what comes first.

use std::{future::poll_fn, pin::Pin, task::Poll};

/// A future among others.
pub(super) type Task<'t, T> = Pin<Box<dyn Future<Output = T> + 't>>;

/// What the first of them that ends gives. The others are dropped then. Each is polled whenever this is, whoever has woken it.
pub(super) async fn first<T>(mut tasks: Vec<Task<'_, T>>) -> T {
    poll_fn(|context| {
        for task in &mut tasks {
            if let Poll::Ready(ended) = task.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}
