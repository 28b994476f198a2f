//! Blobs in an object store bucket of the same JetStream: content-addressed, so that every node reads what any has kept.
//!
//! An object's name is the hexadecimal digest of its bytes. What is there is compared with that name before it is given, and a
//! damaged one is replaced by whoever keeps the same bytes again. Nothing is ever removed from the bucket.

use std::{io, sync::Arc, time::Duration};

use async_nats::jetstream::object_store::{GetErrorKind, InfoErrorKind, ObjectInfo, ObjectMetadata};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::{io::AsyncReadExt as _, time::timeout};

use super::{
    Shared,
    session::{Failure, Session},
    tries::Tries,
};
use crate::{
    blobs::{BlobError, Blobs, Pieces},
    digest::Digest,
    nats::with_causes,
};

/// So often bytes that are not those of the digest are read again: a copy of the bucket that lags gives too few.
const READ_TRIES: u32 = 4;

/// Tries until it is done or the time is over.
macro_rules! trying {
    ($shared:expr, $within:expr, $doing:literal, |$session:ident| $work:expr) => {{
        let mut tries = Tries::within(&$shared.link, $within);
        loop {
            let Some($session) = tries.session().await else {
                return Err(failed($doing, tries.why().to_string()));
            };
            match $work.await {
                Ok(done) => break done,
                Err(Failure::Passing(why)) => tries.failed(why).await,
                Err(Failure::Damaged(_, why)) => return Err(failed($doing, why)),
            }
        }
    }};
}

/// A store of blobs beside the log, through the log's connection.
#[derive(Clone)]
pub struct JetstreamBlobs {
    shared: Arc<Shared>,
}

impl JetstreamBlobs {
    pub(super) const fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn read(&self, digest: Digest) -> Result<Option<Bytes>, BlobError> {
        let (within, name) = (self.shared.config.read_within(), digest.to_hex());
        for _ in 0..READ_TRIES {
            let read = trying!(self.shared, within, "reading a blob", |session| whole(&session, &name, within));
            match read {
                None => return Ok(None),
                Some(bytes) if Digest::of(&bytes) == digest => return Ok(Some(bytes)),
                Some(_) => {}
            }
        }
        Err(BlobError::Damaged(digest))
    }

    async fn info(&self, digest: Digest) -> Result<Option<ObjectInfo>, BlobError> {
        let (within, name) = (self.shared.config.read_within(), digest.to_hex());
        Ok(trying!(self.shared, within, "looking for a blob", |session| info(&session, &name)))
    }
}

#[async_trait]
impl Blobs for JetstreamBlobs {
    async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let digest = Digest::of(&bytes);
        // Reading what is there costs less than the copies and syncs that are saved.
        if let Ok(Some(_)) = self.read(digest).await {
            return Ok(digest);
        }
        let (within, name) = (self.shared.config.append_within(), digest.to_hex());
        trying!(self.shared, within, "keeping a blob", |session| put(&session, &name, &bytes, within));
        Ok(digest)
    }

    async fn get(&self, digest: Digest) -> Result<Option<Bytes>, BlobError> {
        self.read(digest).await
    }

    async fn open_pieces(&self, digest: Digest) -> Result<Option<Pieces>, BlobError> {
        let (within, name) = (self.shared.config.read_within(), digest.to_hex());
        let opened = trying!(self.shared, within, "opening a blob", |session| open(&session, &name));
        let Some((info, reader)) = opened else { return Ok(None) };
        Ok(Some(Pieces::over(Box::pin(reader), info.size as u64, digest, within)))
    }

    async fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(self.info(digest).await?.is_some())
    }
}

async fn info(session: &Session, name: &str) -> Result<Option<ObjectInfo>, Failure> {
    match session.unless_lost(session.bucket().info(name)).await? {
        Ok(info) => Ok((!info.deleted).then_some(info)),
        Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Passing(with_causes(&error))),
    }
}

async fn open(
    session: &Session,
    name: &str,
) -> Result<Option<(ObjectInfo, impl tokio::io::AsyncRead + Send + Unpin + 'static)>, Failure> {
    match session.unless_lost(session.bucket().get(name)).await? {
        Ok(object) => Ok(Some((object.info().clone(), object))),
        Err(error) if error.kind() == GetErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Passing(with_causes(&error))),
    }
}

async fn whole(session: &Session, name: &str, within: Duration) -> Result<Option<Bytes>, Failure> {
    let Some((info, mut reader)) = open(session, name).await? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(info.size);
    match timeout(within, session.unless_lost(reader.read_to_end(&mut bytes))).await {
        Ok(read) => match read? {
            Ok(_) => Ok(Some(bytes.into())),
            // The client compares the bytes with what the bucket says of them: who asks decides how often that may be.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(bytes.into())),
            Err(error) => Err(Failure::Passing(with_causes(&error))),
        },
        Err(_) => Err(Failure::Passing("the bucket did not give the whole blob in time".to_owned())),
    }
}

async fn put(session: &Session, name: &str, bytes: &Bytes, within: Duration) -> Result<(), Failure> {
    let meta = ObjectMetadata { name: name.to_owned(), ..Default::default() };
    let mut rest = bytes.as_ref();
    let putting = Box::pin(session.bucket().put(meta, &mut rest));
    match timeout(within, session.unless_lost(putting)).await {
        Ok(kept) => kept?.map(drop).map_err(|error| Failure::Passing(with_causes(&error))),
        Err(_) => Err(Failure::Passing("the bucket did not take the blob in time".to_owned())),
    }
}

fn failed(doing: &'static str, why: String) -> BlobError {
    BlobError::Io { doing, source: io::Error::other(why) }
}
