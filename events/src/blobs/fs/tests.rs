//! What the store keeps, lists and removes in its directory.

use futures_util::FutureExt as _;

use super::*;

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_blob_is_kept_under_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let bytes = Bytes::from_static(b"wasm");
    let digest = blobs.put(bytes.clone()).await.unwrap();
    assert_eq!(digest, Digest::of(b"wasm"));
    assert_eq!(blobs.put(bytes.clone()).await.unwrap(), digest, "putting twice is putting once");
    assert_eq!(FsBlobs::open(dir.path()).unwrap().get(digest).await.unwrap(), Some(bytes));
    assert!(blobs.contains(digest).await.unwrap());
    assert_eq!(blobs.get(Digest::of(b"other")).await.unwrap(), None);
    assert!(!blobs.contains(Digest::of(b"other")).await.unwrap());
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn bytes_that_are_kept_already_are_not_written_again() {
    // Given a store that has some bytes, and where nothing can be written
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"wasm")).await.unwrap();
    fs::remove_dir(dir.path().join("tmp")).unwrap();
    // When they are put once more, then they are kept, and others are not
    assert_eq!(blobs.put(Bytes::from_static(b"wasm")).await.unwrap(), digest);
    assert!(matches!(blobs.put(Bytes::from_static(b"other")).await, Err(BlobError::Io { .. })));
}

#[tokio::test]
async fn large_blobs_take_turns_and_others_do_not_wait_for_them() {
    // Given a store whose turns are all taken
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let turns = u32::try_from(blobs.large.available_permits()).unwrap();
    let taken = blobs.large.acquire_many(turns).await.unwrap();
    let large = Bytes::from(vec![7; LARGE_BYTES + 1]);
    let digest = Digest::of(&large);
    // When a large blob is put, then it waits, and a smaller one does not
    let mut put = Box::pin(blobs.put(large));
    assert!(put.as_mut().now_or_never().is_none());
    blobs.put(Bytes::from(vec![7; LARGE_BYTES])).await.unwrap();
    assert!(!blobs.contains(digest).await.unwrap());
    // And when there is a turn, then it is kept
    drop(taken);
    assert_eq!(put.await.unwrap(), digest);
}

#[tokio::test]
async fn damaged_bytes_are_never_served_and_a_new_put_replaces_them() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"wasm")).await.unwrap();
    fs::write(blobs.path(digest), b"wasn").unwrap();
    assert!(matches!(blobs.get(digest).await, Err(BlobError::Damaged(damaged)) if damaged == digest));
    // Of the same length, torn, and too long: whoever has the bytes repairs them.
    for damaged in [&b"wasn"[..], b"wa", b"wasmwasm"] {
        fs::write(blobs.path(digest), damaged).unwrap();
        blobs.put(Bytes::from_static(b"wasm")).await.unwrap();
        assert_eq!(blobs.get(digest).await.unwrap(), Some(Bytes::from_static(b"wasm")));
    }
}

#[tokio::test]
async fn a_blob_that_comes_in_pieces_has_the_digest_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let bytes: Vec<u8> = (0_u32..700_000).map(|n| (n % 251) as u8).collect();
    let mut writer = blobs.writer().await.unwrap();
    for piece in bytes.chunks(65_537) {
        writer.write(piece).await.unwrap();
    }
    assert_eq!(writer.size_bytes(), bytes.len() as u64);
    let digest = writer.finish().await.unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(blobs.get(digest).await.unwrap().unwrap(), bytes);
}

#[tokio::test]
async fn an_abandoned_blob_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let mut writer = blobs.writer().await.unwrap();
    writer.write(&vec![7; WRITE_BYTES]).await.unwrap();
    assert_eq!(files(&dir.path().join("tmp")).len(), 1);
    drop(writer);
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn what_is_kept_is_listed_in_order_and_removed_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    let writes = FsBlobs::open(dir.path()).unwrap();
    for n in 0..40_u8 {
        digests.push(writes.put(Bytes::copy_from_slice(&[n])).await.unwrap());
    }
    digests.sort_unstable();
    fs::write(dir.path().join("sha256/ab/notes"), b"somebody's").unwrap();
    // Another process: it has put nothing itself.
    let blobs = FsBlobs::open(dir.path()).unwrap().swept();
    assert_eq!(blobs.list(None, 100).await.unwrap(), digests);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let some = blobs.list(after, 7).await.unwrap();
        let Some(last) = some.last() else { break };
        after = Some(*last);
        found.extend(some);
    }
    assert_eq!(found, digests);
    assert_eq!(blobs.remove(digests[3]).await.unwrap(), Some(1));
    assert_eq!(blobs.remove(digests[3]).await.unwrap(), None);
    assert!(!blobs.contains(digests[3]).await.unwrap());
    assert_eq!(blobs.list(None, 100).await.unwrap().len(), 39);
}

#[tokio::test]
async fn what_was_put_lately_is_not_removed_also_if_it_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let digest = FsBlobs::open(dir.path()).unwrap().put(Bytes::from_static(b"wasm")).await.unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap().swept();
    blobs.put(Bytes::from_static(b"wasm")).await.unwrap();
    assert_eq!(blobs.remove(digest).await.unwrap(), None);
    assert!(blobs.contains(digest).await.unwrap());
}

#[tokio::test]
async fn what_was_used_lately_is_not_removed_and_what_is_gone_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let digest = FsBlobs::open(dir.path()).unwrap().put(Bytes::from_static(b"wasm")).await.unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap().swept();
    blobs.note_used(digest).await.unwrap();
    assert_eq!(blobs.remove(digest).await.unwrap(), None);
    assert!(blobs.contains(digest).await.unwrap());
    // In another process nobody uses it.
    let blobs = FsBlobs::open(dir.path()).unwrap().swept();
    assert_eq!(blobs.remove(digest).await.unwrap(), Some(4));
    blobs.note_used(digest).await.unwrap();
    assert!(!blobs.contains(digest).await.unwrap());
}

#[tokio::test]
async fn a_store_that_is_not_swept_notes_nothing_and_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"wasm")).await.unwrap();
    blobs.note_used(digest).await.unwrap();
    assert!(blobs.recent.is_none());
    assert_eq!(FsBlobs::open(dir.path()).unwrap().remove(digest).await.unwrap(), None);
    assert!(blobs.contains(digest).await.unwrap());
}

#[tokio::test]
async fn opening_removes_leftovers_but_no_blob_that_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let writer = blobs.writer().await.unwrap();
    fs::write(dir.path().join("tmp/1-1"), b"left by a crash").unwrap();
    FsBlobs::open(dir.path()).unwrap();
    assert_eq!(files(&dir.path().join("tmp")).len(), 1);
    assert_eq!(writer.finish().await.unwrap(), Digest::of(b""));
}

#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(&dir.path().join("blobs")).unwrap();
    let digest = blobs.put(Bytes::from_static(b"wasm")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&blobs.path(digest)), 0o600);
    assert_eq!(mode(&dir.path().join("blobs")), 0o700);
    assert_eq!(mode(blobs.path(digest).parent().unwrap()), 0o700);
}
