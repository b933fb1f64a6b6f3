//! A process that is killed while it appends.

use super::*;
use crate::store::disk::LocalDisk;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const DIRECTORY: &str = "HSTREAM_TEST_KILLED_STORE";

/// Not a test of its own: what the killed process does. Prints each batch once it is acknowledged.
#[tokio::test]
#[ignore = "run by what_a_killed_process_acknowledged_is_there"]
async fn append_until_killed() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    let small = EmbeddedOptions { segment_bytes: 8192, ..options() };
    let store = EmbeddedStore::open(Arc::new(LocalDisk::open(path).unwrap()), small).await.unwrap();
    let log = store.log();
    if log.shards().is_empty() {
        log.create_shards(&[spec(1)]).await.unwrap();
    }
    loop {
        let next = log.tail(1).unwrap() + 1;
        let appended = log.append(1, batch(next.to_string().repeat(20))).await.unwrap();
        println!("\nacknowledged {}", appended.lsn);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_acknowledged_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = FIRST_LSN - 1;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["append_until_killed", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acks = lines
            .map_while(|line| line.ok())
            .filter_map(|line| line.strip_prefix("acknowledged ").and_then(|lsn| lsn.parse::<Lsn>().ok()));
        let mut killed = false;
        // What it still said after the kill counts, too.
        for (n, lsn) in acks.enumerate() {
            assert!(lsn > acknowledged, "{lsn} was given twice");
            acknowledged = lsn;
            if n == 10 + 17 * round {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the process ended on its own");

        let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
        let store = EmbeddedStore::open(disk, options()).await.unwrap();
        let (gaps, batches) = read_all(&store.log(), 1).await;
        assert!(gaps.is_empty());
        assert!(batches.last().is_some_and(|last| last.lsn >= acknowledged));
        for (n, stored) in batches.iter().enumerate() {
            assert_eq!(stored.lsn, lsn(n as u64));
            assert_eq!(stored.bytes, stored.lsn.to_string().repeat(20).as_bytes());
        }
        store.close().await;
    }
}
