//! A cluster leaves nothing behind, however its nodes were when it was dropped. Alone in its process, because it counts.

use hstream_server::cluster::MemberState;
use hstream_server::test_cluster::TestCluster;
use hstreamdb::{Client, Record, StreamOptions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

/// Names of the threads of a process, and how many there are of each; what its descriptors lead to.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    threads: BTreeMap<String, usize>,
    sockets: usize,
    files: Vec<String>,
}

fn census() -> Census {
    let mut census = Census { threads: BTreeMap::new(), sockets: 0, files: Vec::new() };
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // One that has just ended has no name any more.
        if let Ok(name) = std::fs::read_to_string(task.unwrap().path().join("comm")) {
            *census.threads.entry(name.trim().to_owned()).or_default() += 1;
        }
    }
    for descriptor in std::fs::read_dir("/proc/self/fd").unwrap() {
        let Ok(target) = std::fs::read_link(descriptor.unwrap().path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if target.starts_with("socket:") {
            census.sockets += 1;
        } else if target.contains("hstream-test-cluster-") {
            census.files.push(target);
        }
    }
    census
}

fn folders() -> Vec<String> {
    let names = std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let prefix = format!("hstream-test-cluster-{}-", std::process::id());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Runs on threads of its own, so that those are gone, too, when it is counted again.
fn use_a_cluster() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = TestCluster::start(5).await.unwrap();
        let client = Client::connect(&cluster.url()).await.unwrap();
        client.create_stream("s", StreamOptions::new().shard_count(2)).await.unwrap();
        let producer = client.producer("s").build().await.unwrap();
        producer.append(Record::raw("x")).await.unwrap().await.unwrap();
        cluster.stop(1).await.unwrap();
        cluster.kill(2).await.unwrap();
        cluster.pause(3).await.unwrap();
        cluster.partition(4).await.unwrap();
        cluster.cut_off_store(5).await.unwrap();
        cluster.await_seen_by(&[5], 2, MemberState::Down, DEADLINE).await.unwrap();
        let begun = Instant::now();
        drop(cluster);
        assert!(begun.elapsed() < Duration::from_secs(10), "dropping it took {:?}", begun.elapsed());
        let _ = client.close(Duration::from_millis(100)).await;
    });
    runtime.shutdown_timeout(DEADLINE);
}

#[cfg(target_os = "linux")]
#[test]
fn a_dropped_cluster_leaves_no_thread_no_socket_and_no_file_however_its_nodes_were() {
    // What a process opens once and keeps is opened now.
    use_a_cluster();
    let (before, folders_before) = (census(), folders());
    use_a_cluster();
    let deadline = Instant::now() + DEADLINE;
    // The kernel takes a moment to remove a thread that has ended.
    while census() != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(census(), before);
    assert_eq!(folders(), folders_before);
}
