//! Point 12, who is there: the list of nodes, suspicion and how it ends, and that nobody waits for a dead node.

use super::members::{Member, Script};
use super::relay::Network;
use crate::node_under_test::{PATIENCE, soon};
use futures::future::join_all;
use hstream_testkit::eventually;
use hstreamdb::{Client, ClientBuilder, ClientEvent, ErrorKind, Events, NodeState};
use hstreamdb_proto::api;
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpListener;

/// A client that does nothing by itself unless something fails.
fn quiet(url: impl Into<String>) -> ClientBuilder {
    Client::builder()
        .url(url)
        .discovery_interval(Duration::from_secs(86_400))
        .unwrap()
        .request_timeout(Duration::from_millis(500))
        .unwrap()
        .retry_backoff(Duration::from_millis(10), Duration::from_millis(50))
        .unwrap()
}

fn url(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("hstream://{}", addresses.join(","))
}

async fn until<T>(events: &mut Events, mut wanted: impl FnMut(&ClientEvent) -> Option<T>) -> T {
    soon(async {
        loop {
            let event = events.next().await.expect("the client is gone");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
    .await
}

fn is_at(address: &hstreamdb::NodeAddress, member: &Member) -> bool {
    address.to_string() == member.address().to_string()
}

#[tokio::test]
async fn p12_bootstrap_addresses_are_kept_when_the_cluster_names_others() {
    let script = Script::default();
    let (known, other) = (Member::start(1, &script).await, Member::start(2, &script).await);
    script.running(&[&other]);
    let client = soon(quiet(url(&[known.address()])).connect()).await.unwrap();
    assert!(client.nodes().iter().all(|node| is_at(&node.address, &other)));
    // What the cluster says is wrong or out of reach; what the user said is not.
    other.relay.go_down().await;
    for _ in 0..20 {
        soon(client.list_streams()).await.unwrap();
    }
    let nodes = soon(client.refresh_nodes()).await.unwrap();
    assert_eq!(nodes.len(), 1);
    // The other way round: the first address fails, the discovered one serves, and the first one is used when it is back.
    other.relay.come_back().await;
    known.relay.go_down().await;
    soon(client.list_streams()).await.unwrap();
    other.relay.go_down().await;
    known.relay.come_back().await;
    soon(client.list_streams()).await.unwrap();
}

#[tokio::test]
async fn p12_the_list_is_refreshed_in_the_background_and_never_on_the_way_of_a_call() {
    let script = Script::default();
    let (one, two) = (Member::start(1, &script).await, Member::start(2, &script).await);
    script.running(&[&one]);
    let client = quiet(url(&[one.address()]))
        .discovery_interval(Duration::from_millis(10))
        .unwrap()
        .request_timeout(Duration::from_secs(600))
        .unwrap()
        .total_timeout(Duration::from_secs(600))
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    let mut events = client.events();
    script.running(&[&one, &two]);
    let added = until(&mut events, |event| match event {
        ClientEvent::NodeAdded(node) => Some(node.clone()),
        _ => None,
    });
    assert!(is_at(&added.await.address, &two));
    // From now on a refresh takes ten minutes; a call that waited for it would, too.
    script.silent_about_the_cluster(true);
    let asked = one.calls("DescribeCluster");
    eventually("a refresh", PATIENCE, || async { (one.calls("DescribeCluster") > asked).then_some(()) })
        .await;
    for _ in 0..50 {
        soon(client.list_streams()).await.unwrap();
    }
}

#[tokio::test]
async fn p12_nodes_that_do_not_run_are_left_alone_when_others_fail() {
    let script = Script::default();
    let members =
        [Member::start(1, &script).await, Member::start(2, &script).await, Member::start(3, &script).await];
    let states = [api::NodeState::Running, api::NodeState::Starting, api::NodeState::Running];
    script.nodes(&[(&members[0], states[0]), (&members[1], states[1]), (&members[2], states[2])]);
    // Whom a client tries next is a matter of chance, so there are many.
    let clients = join_all((0..30).map(|_| quiet(url(&[members[0].address()])).connect()));
    let clients: Vec<Client> = soon(clients).await.into_iter().map(Result::unwrap).collect();
    members[0].relay.go_down().await;
    for answer in soon(join_all(clients.iter().map(|client| client.echo("x")))).await {
        answer.unwrap();
    }
    assert_eq!((members[1].calls("Echo"), members[2].calls("Echo")), (0, 30));
}

#[tokio::test]
async fn p12_changes_of_state_are_told() {
    let script = Script::default();
    let (one, two) = (Member::start(1, &script).await, Member::start(2, &script).await);
    script.nodes(&[(&one, api::NodeState::Running), (&two, api::NodeState::Starting)]);
    let client = soon(quiet(url(&[one.address()])).connect()).await.unwrap();
    let mut events = client.events();
    script.nodes(&[(&one, api::NodeState::Unavailable), (&two, api::NodeState::Running)]);
    soon(client.refresh_nodes()).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(
            until(&mut events, |event| match event {
                ClientEvent::NodeStateChanged { node, before } => Some((node.id, *before, Some(node.state))),
                ClientEvent::NodeAdded(node) => Some((node.id, NodeState::Running, None)),
                ClientEvent::NodeRemoved(node) => Some((node.id, NodeState::Dead, None)),
                _ => None,
            })
            .await,
        );
    }
    assert_eq!(
        told,
        [
            (1, NodeState::Running, Some(NodeState::Unavailable)),
            (2, NodeState::Starting, Some(NodeState::Running)),
            (1, NodeState::Dead, None),
            (2, NodeState::Running, None),
        ]
    );
}

#[tokio::test]
async fn p12_a_suspect_node_is_probed_and_trusted_again_without_any_call() {
    let script = Script::default();
    let (one, two) = (Member::start(1, &script).await, Member::start(2, &script).await);
    script.running(&[&one]);
    let client = soon(quiet(url(&[one.address()])).connect()).await.unwrap();
    script.running(&[&one, &two]);
    soon(client.refresh_nodes()).await.unwrap();
    let mut events = client.events();
    for network in [Network::Well, Network::Silent] {
        match network {
            Network::Well => one.relay.go_down().await,
            silent => one.relay.set(silent),
        }
        // It moves on to the other one.
        soon(client.echo("x")).await.unwrap();
        let suspect = until(&mut events, |event| match event {
            ClientEvent::NodeSuspect { address, error } => Some((address.clone(), error.clone())),
            _ => None,
        });
        let (address, error) = suspect.await;
        assert!(is_at(&address, &one) && error.is_retryable(), "{error}");
        let (probes, calls) = (client.metrics().get("node_probes"), client.metrics().get("calls"));
        eventually("a probe in vain", PATIENCE, || async {
            (client.metrics().get("node_probes") > probes).then_some(())
        })
        .await;
        match network {
            Network::Well => one.relay.come_back().await,
            _ => one.relay.set(Network::Well),
        }
        let trusted = until(&mut events, |event| match event {
            ClientEvent::NodeTrusted { address } => Some(address.clone()),
            _ => None,
        });
        assert!(is_at(&trusted.await, &one));
        assert_eq!(client.metrics().get("calls"), calls, "no call found it out");
        // Back to it, for the second round.
        two.relay.go_down().await;
        soon(client.echo("x")).await.unwrap();
        two.relay.come_back().await;
        until(&mut events, |event| match event {
            ClientEvent::NodeTrusted { address } => is_at(address, &two).then_some(()),
            _ => None,
        })
        .await;
    }
}

#[tokio::test]
async fn p12_a_suspicion_that_the_cluster_confirms_ends_the_probing() {
    let script = Script::default();
    let (one, two) = (Member::start(1, &script).await, Member::start(2, &script).await);
    script.running(&[&two, &one]);
    let client = soon(quiet(url(&[two.address()])).connect()).await.unwrap();
    let mut events = client.events();
    one.relay.go_down().await;
    let address = client.nodes().into_iter().find(|node| is_at(&node.address, &one)).unwrap().address;
    soon(client.admin_command_at(&address, "server status")).await.unwrap_err();
    until(&mut events, |event| match event {
        ClientEvent::NodeSuspect { address, .. } => is_at(address, &one).then_some(()),
        _ => None,
    })
    .await;
    // A failure makes the list be asked for again, long before its time.
    script.nodes(&[(&two, api::NodeState::Running), (&one, api::NodeState::Dead)]);
    until(&mut events, |event| match event {
        ClientEvent::NodeRemoved(node) => is_at(&node.address, &one).then_some(()),
        _ => None,
    })
    .await;
    // The cluster is believed, so nothing is left to find out when the node is back: no trust has to be won again.
    one.relay.come_back().await;
    script.running(&[&two, &one]);
    soon(client.refresh_nodes()).await.unwrap();
    soon(client.admin_command_at(&address, "server status")).await.unwrap();
    assert_eq!(client.metrics().get("node_trusts"), Some(0));
}

/// Nodes that accept connections and never say anything.
async fn silent_nodes(count: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    (listeners, addresses)
}

#[tokio::test]
async fn p12_connecting_waits_for_no_dead_node_however_many_there_are() {
    let script = Script::default();
    let node = Member::start(1, &script).await;
    script.running(&[&node]);
    let (_listeners, mut addresses) = silent_nodes(40).await;
    addresses.push(node.address());
    // One after another, or sixteen at a time, they would take longer than there is time.
    let client = quiet(url(&addresses)).connect_timeout(Duration::from_secs(15)).unwrap();
    let client = soon(client.connect()).await.unwrap();
    soon(client.echo("x")).await.unwrap();
    // What was begun with the others is not kept.
    assert!(client.metrics().get("connects") >= Some(1));
    let nodes = client.nodes();
    assert_eq!(nodes.len(), 1);
}

#[tokio::test]
async fn p12_callers_of_one_dead_node_learn_of_it_together() {
    let script = Script::default();
    let node = Member::start(1, &script).await;
    script.running(&[&node]);
    let client = quiet(url(&[node.address()])).retry_max_attempts(1).unwrap();
    let client = soon(client.connect()).await.unwrap();
    let (listeners, addresses) = silent_nodes(1).await;
    drop(listeners);
    let dead = hstreamdb::NodeAddress::new(&addresses[0].ip().to_string(), addresses[0].port());
    let calls = (0..20).map(|_| client.admin_command_at(&dead, "server status"));
    for result in soon(join_all(calls)).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // One attempt for all, where each had made its own after the one before it. A probe may have added one.
    let probes = client.metrics().get("node_probes").unwrap();
    assert!(client.metrics().get("connect_failures").unwrap() <= 1 + probes);
}

#[tokio::test]
async fn p12_clients_that_were_given_one_address_spread_over_the_cluster() {
    let script = Script::default();
    let members =
        [Member::start(1, &script).await, Member::start(2, &script).await, Member::start(3, &script).await];
    script.running(&[&members[0], &members[1], &members[2]]);
    // With 40 clients one in ten million runs leaves a node out.
    let clients = join_all((0..40).map(|_| quiet(url(&[members[0].address()])).connect()));
    let clients: Vec<Client> = soon(clients).await.into_iter().map(Result::unwrap).collect();
    eventually("calls at every node", PATIENCE, || async {
        for client in &clients {
            client.echo("x").await.unwrap();
        }
        members.iter().all(|member| member.calls("Echo") > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn p12_a_client_stays_where_it_connected_when_the_named_nodes_cannot_be_reached() {
    let script = Script::default();
    let members =
        [Member::start(1, &script).await, Member::start(2, &script).await, Member::start(3, &script).await];
    script.running(&[&members[1], &members[2]]);
    for unreachable in &members[1..] {
        unreachable.relay.go_down().await;
    }
    let client = soon(quiet(url(&[members[0].address()])).connect()).await.unwrap();
    let mut events = client.events();
    until(&mut events, |event| matches!(event, ClientEvent::NodeSuspect { .. }).then_some(())).await;
    for _ in 0..20 {
        soon(client.echo("x")).await.unwrap();
    }
    assert_eq!(client.metrics().get("call_retries"), Some(0));
    assert_eq!(members[0].calls("Echo"), 20);
}

#[tokio::test]
async fn p12_connections_are_told_when_they_come_and_go() {
    let script = Script::default();
    let node = Member::start(1, &script).await;
    script.running(&[&node]);
    let client = soon(quiet(url(&[node.address()])).connect()).await.unwrap();
    let mut events = client.events();
    let mut connection = |event: &ClientEvent| match event {
        ClientEvent::Connected { address, connections } => Some((true, is_at(address, &node), *connections)),
        ClientEvent::Disconnected { address, connections } => {
            Some((false, is_at(address, &node), *connections))
        }
        _ => None,
    };
    node.relay.cut();
    assert_eq!(until(&mut events, &mut connection).await, (false, true, 0));
    soon(client.echo("x")).await.unwrap();
    assert_eq!(until(&mut events, &mut connection).await, (true, true, 1));
    // Nobody answers there, so there is no connection to tell of.
    node.relay.set(Network::Silent);
    node.relay.cut();
    assert_eq!(until(&mut events, &mut connection).await, (false, true, 0));
    soon(client.echo("x")).await.unwrap_err();
    soon(client.close(Duration::from_secs(5))).await.unwrap();
    let mut left = Vec::new();
    let closed = until(&mut events, |event| {
        left.extend(connection(event));
        matches!(event, ClientEvent::Closed).then_some(())
    });
    closed.await;
    assert_eq!(left, []);
}
