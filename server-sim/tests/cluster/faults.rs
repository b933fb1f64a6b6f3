//! What happens to nodes, and what the others see of it.

use crate::support::{DEADLINE, cluster};
use hstream_server::cluster::MemberState;
use hstream_server::test_cluster::{NodeStatus, TestClusterError};

#[tokio::test]
async fn three_nodes_find_each_other_and_serve() {
    let begun = std::time::Instant::now();
    let cluster = cluster(3).await;
    eprintln!("ready after {:?}", begun.elapsed());
    for node in 1..=3 {
        let members = cluster.members(node).await.unwrap().expect("it runs");
        assert_eq!(members.takers().map(|member| member.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_killed_node_is_found_dead_and_comes_back_on_the_same_ports_as_a_later_run() {
    let cluster = cluster(3).await;
    let generation = |members: &hstream_server::cluster::Members| {
        members.get(hstream_server::cluster::NodeId(2)).map(|member| member.generation)
    };
    let before = cluster.members(1).await.unwrap().expect("it runs");
    let address = cluster.address(2).unwrap();
    cluster.kill(2).await.unwrap();
    assert_eq!(cluster.status(2).await.unwrap(), NodeStatus::Killed);
    cluster.await_seen(2, MemberState::Down, DEADLINE).await.unwrap();
    cluster.restart(2).await.unwrap();
    cluster.await_ready(DEADLINE).await.unwrap();
    let after = cluster.members(1).await.unwrap().expect("it runs");
    assert!(generation(&after) > generation(&before));
    assert_eq!(cluster.address(2).unwrap(), address);
}

#[tokio::test]
async fn a_paused_node_is_found_dead_and_refutes_it_when_it_goes_on() {
    let cluster = cluster(3).await;
    cluster.pause(3).await.unwrap();
    assert_eq!(cluster.members(3).await.unwrap().map(|_| ()), None, "what stands still sees nothing");
    cluster.await_seen(3, MemberState::Down, DEADLINE).await.unwrap();
    cluster.resume(3).await.unwrap();
    cluster.await_ready(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_stopped_node_has_left_at_once() {
    let cluster = cluster(3).await;
    cluster.stop(1).await.unwrap();
    cluster.await_seen(1, MemberState::Left, DEADLINE).await.unwrap();
    let error = cluster.pause(1).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot pause node 1, which is stopped: restart it first");
    cluster.restart(1).await.unwrap();
    cluster.await_ready(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn parted_nodes_find_each_other_dead_and_together_again() {
    let cluster = cluster(3).await;
    cluster.partition(1).await.unwrap();
    cluster.await_seen(1, MemberState::Down, DEADLINE).await.unwrap();
    for other in [2, 3] {
        cluster.await_seen_by(&[1], other, MemberState::Down, DEADLINE).await.unwrap();
    }
    cluster.await_seen_by(&[2], 3, MemberState::Alive, DEADLINE).await.unwrap();
    cluster.heal().await.unwrap();
    cluster.await_ready(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_what_to_do_instead() {
    let cluster = cluster(1).await;
    let error = cluster.kill(7).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no node 7; this cluster has the nodes 1 to 1");
    assert!(matches!(cluster.resume(1).await, Err(TestClusterError::Status { .. })));
    cluster.kill(1).await.unwrap();
    assert!(matches!(cluster.kill(1).await, Err(TestClusterError::Status { .. })));
    cluster.restart(1).await.unwrap();
    cluster.await_ready(DEADLINE).await.unwrap();
    cluster.pause(1).await.unwrap();
    assert!(matches!(cluster.restart(1).await, Err(TestClusterError::Status { .. })));
}
