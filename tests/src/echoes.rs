//! Light tenants: each has a small guest run at a fixed rate, whether or not the last answer is there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{client::Client, times::Times};

/// After this an echo is given up: also a node that answers nobody has so many of each tenant under way and no more.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// What became of echoes.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// How long those took that were answered as they should be, each from when it was due.
    pub times: Times,
    /// What came of the others.
    pub wrong: Vec<String>,
}

/// Echoes under way.
#[derive(Debug)]
pub struct Echoes {
    enough: Arc<AtomicBool>,
    tenants: JoinSet<Heard>,
}

impl Echoes {
    /// Lets each of these tenants, which have a module `echo`, ask so often a second. They take turns within the time between
    /// two echoes of one.
    pub fn begin(tenants: &[Client], per_second: u32) -> Self {
        let (enough, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let apart = Duration::from_secs(1) / per_second.max(1);
        let turn = apart / u32::try_from(tenants.len()).unwrap_or(u32::MAX).max(1);
        let (mut asking, mut first) = (JoinSet::new(), begun);
        for tenant in tenants {
            asking.spawn(at_a_rate(tenant.clone(), first, apart, Arc::clone(&enough)));
            first += turn;
        }
        Self { enough, tenants: asking }
    }

    /// Asks no more, waits for the answers that are still to come, and gives what became of all.
    ///
    /// # Errors
    /// When a tenant panicked.
    pub async fn end(mut self) -> anyhow::Result<Heard> {
        self.enough.store(true, Ordering::Relaxed);
        let mut all = Heard::default();
        while let Some(heard) = self.tenants.join_next().await {
            let heard = heard.context("a tenant panicked")?;
            all.times.extend(&heard.times);
            all.wrong.extend(heard.wrong);
        }
        Ok(all)
    }
}

impl Heard {
    fn add(&mut self, echoed: Result<Duration, String>) {
        match echoed {
            Ok(took) => self.times.push(took),
            Err(wrong) => self.wrong.push(wrong),
        }
    }
}

async fn at_a_rate(client: Client, first: Instant, apart: Duration, enough: Arc<AtomicBool>) -> Heard {
    let (mut under_way, mut heard, mut due) = (JoinSet::new(), Heard::default(), first);
    for number in 0_u64.. {
        sleep_until(due).await;
        if enough.load(Ordering::Relaxed) {
            break;
        }
        under_way.spawn(echo(client.clone(), due, number));
        due += apart;
        while let Some(echoed) = under_way.try_join_next() {
            heard.add(echoed.unwrap_or_else(|panicked| Err(panicked.to_string())));
        }
    }
    while let Some(echoed) = under_way.join_next().await {
        heard.add(echoed.unwrap_or_else(|panicked| Err(panicked.to_string())));
    }
    heard
}

/// One echo, and how long after it was due it was answered.
async fn echo(client: Client, due: Instant, number: u64) -> Result<Duration, String> {
    let input = number.to_string();
    let answered = timeout(GIVEN_UP_AFTER, client.execute("echo", input.clone())).await;
    let took = due.elapsed();
    match answered {
        Ok(Ok(ended)) if ended.outcome.as_deref() == Some("succeeded") && ended.stdout == input => Ok(took),
        Ok(Ok(ended)) => Err(format!("{ended:?}")),
        Ok(Err(error)) => Err(format!("after {took:?}: {error:#}")),
        Err(_) => Err(format!("no answer after {took:?}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::sleep,
    };

    use super::*;

    /// A server that stands still for so long before it refuses the first request of each connection.
    async fn refusing_after(still: Duration) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
                    sleep(still).await;
                    let refusal = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy";
                    stream.write_all(refusal).await.unwrap();
                });
            }
        });
        Client::new(&url, Some("ww_secret")).unwrap()
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_nobody_waits_for_it_to_ask_again() {
        let client = refusing_after(Duration::from_millis(200)).await;
        let echoes = Echoes::begin(&[client.clone(), client], 50);
        sleep(Duration::from_millis(500)).await;
        let heard = echoes.end().await.unwrap();
        // One after the other it would be five.
        assert!(heard.wrong.len() > 10 && heard.times.count() == 0, "{heard:?}");
        assert!(heard.wrong[0].contains("503") && heard.wrong[0].contains("busy"), "{heard:?}");
    }
}
