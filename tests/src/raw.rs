//! HTTP by hand, over a bare connection: for requests that no library would send.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::wire;

/// A connection to a node.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects to the node at `url`, for instance `http://127.0.0.1:40123`.
    ///
    /// # Errors
    /// When it does not listen there.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true).context("cannot switch delays off")?;
        Ok(Self { stream })
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.stream.write_all(bytes.as_ref()).await.context("cannot send")
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        self.stream.shutdown().await.context("cannot finish sending")
    }

    /// All that comes until the node closes the connection. A reset is an end as well.
    ///
    /// # Errors
    /// When the node keeps it open for longer than `deadline`.
    pub async fn read_to_end(&mut self, deadline: Duration) -> anyhow::Result<Vec<u8>> {
        let mut read = Vec::new();
        let end = timeout(deadline, self.stream.read_to_end(&mut read)).await;
        match end.with_context(|| format!("the connection was still open after {deadline:?}"))? {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error).context("cannot read"),
            _ => Ok(read),
        }
    }

    /// The next so many bytes.
    ///
    /// # Errors
    /// When they do not come in time, or the connection ends before.
    pub async fn read(&mut self, bytes: usize, deadline: Duration) -> anyhow::Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        let came = timeout(deadline, self.stream.read_exact(&mut read)).await;
        came.with_context(|| format!("not {bytes} bytes in {deadline:?}"))?.context("cannot read")?;
        Ok(read)
    }

    /// The status of the next answer, of which only the status line is read.
    ///
    /// # Errors
    /// When none comes in time, or what comes is no answer.
    pub async fn read_status(&mut self, deadline: Duration) -> anyhow::Result<u16> {
        let mut line = Vec::new();
        let read = async {
            while !line.ends_with(b"\n") {
                line.push(self.stream.read_u8().await?);
            }
            std::io::Result::Ok(())
        };
        timeout(deadline, read).await.with_context(|| format!("no answer in {deadline:?}"))?.context("cannot read")?;
        let line = String::from_utf8_lossy(&line);
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.with_context(|| format!("not a status line: {line}"))
    }

    /// The next answer with a `Content-Length`: its status, and all of it as text.
    ///
    /// # Errors
    /// When none comes in time, or what comes is no such answer.
    pub async fn read_answer(&mut self, deadline: Duration) -> anyhow::Result<(u16, String)> {
        let mut answer = Vec::new();
        let read = timeout(deadline, wire::read_answer(&mut self.stream, &mut answer)).await;
        let status = read.with_context(|| format!("no answer in {deadline:?}"))??;
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::wait::SOON;

    #[tokio::test]
    async fn what_is_sent_and_read_is_left_as_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::open(&format!("http://{}", listener.local_addr().unwrap())).await.unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            asked
        });
        connection.send("GET / HTTP/9.9\r\n\0").await.unwrap();
        connection.finish().await.unwrap();
        assert_eq!(connection.read_status(SOON).await.unwrap(), 400);
        assert_eq!(connection.read(1, SOON).await.unwrap(), b"\r");
        assert_eq!(connection.read_to_end(SOON).await.unwrap(), b"\n");
        assert_eq!(server.await.unwrap(), b"GET / HTTP/9.9\r\n\0");
    }

    #[tokio::test]
    async fn a_connection_that_stays_open_is_told_from_one_that_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::open(&format!("http://{}", listener.local_addr().unwrap())).await.unwrap();
        let (held, _) = listener.accept().await.unwrap();
        let error = connection.read_to_end(Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("still open"), "{error}");
        drop(held);
        assert_eq!(connection.read_to_end(SOON).await.unwrap(), b"");
    }
}
