//! What clients and operators see of the nodes, and what they say to them.

use crate::wire::{Client, DEADLINE, connect, on_chosen_store, poll};
use hstream_server::cluster::{GossipSettings, MemberState};
use hstream_server::listener::parse_listeners;
use hstream_server::node::NodeConfig;
use hstream_server::test_cluster::TestCluster;
use hstreamdb_proto::api::*;
use std::collections::BTreeMap;
use std::time::Duration;

pub async fn client(cluster: &TestCluster, node: u32) -> Client {
    connect(cluster.address(node).unwrap().port()).await
}

pub async fn describe(client: &mut Client) -> DescribeClusterResponse {
    client.describe_cluster(()).await.expect("DescribeCluster always answers").into_inner()
}

/// States by number.
fn states(cluster: &DescribeClusterResponse) -> BTreeMap<u32, NodeState> {
    let states = cluster.server_nodes_status.iter();
    states.map(|status| (status.node.as_ref().unwrap().id, status.state())).collect()
}

fn usable(cluster: &DescribeClusterResponse) -> Vec<u32> {
    cluster.server_nodes.iter().map(|node| node.id).collect()
}

pub async fn command(client: &mut Client, command: &str) -> serde_json::Value {
    let request = AdminCommandRequest { command: command.to_owned() };
    let answer = client.send_admin_command(request).await.unwrap().into_inner().result;
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn every_node_describes_the_whole_cluster_and_itself_first() {
    let cluster = crate::support::cluster(3).await;
    for node in 1..=3 {
        let mut client = client(&cluster, node).await;
        // Gossip brings the last change of phase a moment after the nodes themselves are ready.
        poll("all nodes are seen running", async || {
            states(&describe(&mut client).await).values().all(|state| *state == NodeState::Running)
        })
        .await;
        let seen = describe(&mut client).await;
        assert_eq!(seen.server_nodes.len(), 3);
        let first = &seen.server_nodes[0];
        assert_eq!((first.id, first.port), (node, u32::from(cluster.address(node).unwrap().port())));
        assert_eq!(seen.server_nodes_status[0].node.as_ref(), Some(first));
        for listed in &seen.server_nodes {
            assert_eq!(listed.port, u32::from(cluster.address(listed.id).unwrap().port()));
            assert!(!listed.version.as_ref().unwrap().version.is_empty());
        }
        let running = |id: u32| [id.to_string(), "Running".into(), cluster.address(id).unwrap().to_string()];
        let others = (1..=3).filter(|other| *other != node);
        let rows: Vec<_> = std::iter::once(node).chain(others).map(running).collect();
        let expected = serde_json::json!({
            "type": "table",
            "content": { "headers": ["Node ID", "State", "Address"], "rows": rows },
        });
        assert_eq!(command(&mut client, "server status").await, expected);
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_time_a_cluster_is_up_counts_from_its_founding_and_is_the_same_everywhere() {
    let cluster = crate::support::builder().nodes(2).start().await.unwrap();
    let mut one = client(&cluster, 1).await;
    poll("a second has passed", async || describe(&mut one).await.cluster_up_time >= 1).await;
    cluster.restart(2).await.unwrap();
    let mut two = client(&cluster, 2).await;
    assert!(describe(&mut two).await.cluster_up_time >= 1, "a node that has just begun knows it, too");
    cluster.shutdown().await;
}

/// Three nodes that give a suspect minutes to answer.
async fn patient() -> TestCluster {
    let gossip = GossipSettings { suspicion_mult: 100, ..GossipSettings::default() };
    crate::support::builder().nodes(3).gossip(gossip).start().await.unwrap()
}

#[tokio::test]
async fn a_suspect_is_dead_when_its_lease_is_over() {
    let cluster = patient().await;
    cluster.kill(2).await.unwrap();
    let within = Duration::from_secs(30);
    cluster.await_seen(2, MemberState::Down, within).await.unwrap();
    // As any other that was found dead.
    cluster.restart(2).await.unwrap();
    cluster.await_ready(within).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_suspect_that_renews_its_lease_is_given_its_time() {
    let cluster = patient().await;
    cluster.partition(2).await.unwrap();
    cluster.await_seen_by(&[1], 2, MemberState::Suspect, DEADLINE).await.unwrap();
    // Longer than a lease lasts.
    let down = cluster.await_seen_by(&[1], 2, MemberState::Down, Duration::from_secs(5)).await;
    assert!(down.is_err());
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_falls_silent_is_unavailable_before_it_is_dead_and_no_client_is_sent_to_it() {
    let cluster = crate::support::cluster(3).await;
    let mut one = client(&cluster, 1).await;
    poll("all are running", async || usable(&describe(&mut one).await).len() == 3).await;
    cluster.kill(2).await.unwrap();
    let mut seen = Vec::new();
    poll("the node is found dead", async || {
        let told = describe(&mut one).await;
        let state = states(&told)[&2];
        assert_eq!(usable(&told).contains(&2), state == NodeState::Running, "{state:?}");
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        state == NodeState::Dead
    })
    .await;
    assert_eq!(seen, [NodeState::Running, NodeState::Unavailable, NodeState::Dead]);
    let rows = command(&mut one, "server status").await["content"]["rows"].to_string();
    assert!(rows.contains("Dead"), "{rows}");
    cluster.restart(2).await.unwrap();
    poll("it is back", async || states(&describe(&mut one).await)[&2] == NodeState::Running).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_left_in_order_is_not_listed_any_more() {
    let cluster = crate::support::cluster(3).await;
    let mut one = client(&cluster, 1).await;
    poll("all are running", async || usable(&describe(&mut one).await).len() == 3).await;
    cluster.stop(3).await.unwrap();
    poll("it is gone from the list", async || !states(&describe(&mut one).await).contains_key(&3)).await;
    assert_eq!(usable(&describe(&mut one).await), [1, 2]);
    cluster.shutdown().await;
}

#[tokio::test]
async fn whoever_comes_through_a_listener_is_told_the_addresses_of_its_key_on_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        extra_listeners: parse_listeners("inside:hstream://inside.test:0").unwrap(),
        data_dir: dir.path().to_owned(),
        ..NodeConfig::default()
    };
    let cluster = TestCluster::builder()
        .config(on_chosen_store(config))
        .auto_init(true)
        .port(0)
        .nodes(2)
        .start()
        .await
        .unwrap();
    let mut main = client(&cluster, 1).await;
    poll("both are running", async || usable(&describe(&mut main).await).len() == 2).await;
    let inside = cluster.members(1).await.unwrap().unwrap();
    let port_of = |id: u32| {
        let member = inside.nodes.values().find(|member| member.id.0 == id).unwrap();
        member.advertised.through(Some("inside"))[0].port
    };
    let mut client = connect(port_of(2)).await;
    let told = describe(&mut client).await.server_nodes;
    let told: Vec<_> = told.into_iter().map(|node| (node.id, node.host, node.port)).collect();
    let expected = [2, 1].map(|id| (id, "inside.test".to_owned(), u32::from(port_of(id))));
    assert_eq!(told, expected);
    // Lookups name nodes by the same addresses.
    for shard_id in 0..8 {
        let found = client.lookup_shard(LookupShardRequest { shard_id }).await.unwrap().into_inner();
        assert_eq!(found.server_node.unwrap().host, "inside.test");
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn several_seeds_wait_for_init_and_lookups_wait_with_them() {
    let cluster = crate::support::builder().nodes(3).auto_init(false).start().await.unwrap();
    let mut clients = Vec::new();
    for node in 1..=3 {
        clients.push(client(&cluster, node).await);
    }
    for client in &mut clients {
        poll("the nodes see each other", async || states(&describe(client).await).len() == 3).await;
        let told = describe(client).await;
        assert!(states(&told).values().all(|state| *state == NodeState::Starting), "{told:?}");
        assert_eq!(usable(&told).len(), 3, "clients that never ask again know all nodes");
        assert_eq!(told.cluster_up_time, 0);
        let ready = command(client, "server ready").await;
        assert_eq!(ready, serde_json::json!({ "type": "error", "content": "Cluster is not ready!" }));
    }
    // What needs no placement is served.
    crate::wire::create(&mut clients[0], "early", 1).await;
    let mut patient = clients[2].clone();
    let waiting = tokio::spawn(async move {
        patient.lookup_subscription(LookupSubscriptionRequest { subscription_id: "s".into() }).await
    });
    let mut hurried = clients[2].clone();
    let hurried = hurried.lookup_shard(LookupShardRequest { shard_id: 1 });
    assert!(tokio::time::timeout(Duration::from_millis(200), hurried).await.is_err(), "nobody places yet");
    for _ in 0..2 {
        let told = command(&mut clients[1], "server init").await;
        assert_eq!(told["content"], "Server successfully received init signal");
    }
    let found = tokio::time::timeout(DEADLINE, waiting).await.expect("the lookup is answered").unwrap();
    found.expect("with a node");
    for client in &mut clients {
        poll("the node is ready", async || {
            command(client, "server ready").await["content"] == "Cluster is ready"
        })
        .await;
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_cluster_that_was_down_as_a_whole_comes_back_without_a_second_init() {
    let cluster = crate::support::builder().nodes(2).auto_init(false).start().await.unwrap();
    command(&mut client(&cluster, 1).await, "server init").await;
    cluster.await_ready(DEADLINE).await.unwrap();
    cluster.kill(1).await.unwrap();
    cluster.kill(2).await.unwrap();
    cluster.restart(2).await.unwrap();
    // Alone, although the other one still has a lease.
    let mut two = client(&cluster, 2).await;
    poll("the first one back serves", async || {
        command(&mut two, "server ready").await["content"] == "Cluster is ready"
    })
    .await;
    cluster.restart(1).await.unwrap();
    cluster.await_ready(DEADLINE).await.unwrap();
    cluster.shutdown().await;
}
