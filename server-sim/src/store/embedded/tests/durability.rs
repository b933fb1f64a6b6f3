//! What was acknowledged stays, what was not may go, and nothing is acknowledged early.

use super::*;
use crate::store::disk::LocalDisk;
use futures::future::join_all;

#[tokio::test]
async fn batches_read_back_as_they_were_stored_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for round in 0..3 {
        let disk = Arc::new(LocalDisk::open(&path).unwrap());
        let store = EmbeddedStore::open(disk, options()).await.unwrap();
        let log = store.log();
        if round == 0 {
            log.create_shards(&[spec(1), spec(2)]).await.unwrap();
        }
        let appended = log.append(1, batch(format!("a{round}"))).await.unwrap();
        assert_eq!((appended.lsn, appended.repeat), (lsn(round), false));
        let (gaps, batches) = read_all(&log, 1).await;
        assert_eq!((gaps, texts(&batches).len()), (vec![], round as usize + 1));
        assert_eq!(log.tail(2).unwrap(), FIRST_LSN - 1);
        store.close().await;
        assert_eq!(log.append(1, batch("late")).await, Err(StoreError::Closed));
        assert_eq!(log.read(1, FIRST_LSN, ALL).await, Err(StoreError::Closed));
    }
}
