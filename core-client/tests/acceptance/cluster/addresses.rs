//! Point 12, where nodes are: names, both families of addresses, rewritten ones.

use super::relay::{Network, Relay};
use crate::node_under_test::{PATIENCE, soon};
use hstream_server::node::{Node, NodeConfig};
use hstream_testkit::eventually;
use hstreamdb::{Client, Offset, Record, StartFrom, StreamOptions, SubscriptionOptions};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

/// A real node at an address, which clients are told under a name.
async fn node_at(ip: IpAddr, port: u16, advertised: &str) -> (Node, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        bind_address: ip,
        port,
        advertised_address: Some(advertised.to_owned()),
        data_dir: directory.path().join("data"),
        ..NodeConfig::default()
    };
    (Node::start(config).await.unwrap(), directory)
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[tokio::test]
async fn p12_a_name_whose_address_changed_is_found() {
    let (first, _one) = node_at(loopback(1), 0, "db.test").await;
    let port = first.address().port();
    let last = Arc::new(AtomicU8::new(1));
    let present = last.clone();
    let client = Client::builder()
        .url(format!("hstream://db.test:{port}"))
        .name_resolver(move |host| {
            assert_eq!(host, "db.test");
            let present = present.load(Ordering::SeqCst);
            async move { Ok(vec![loopback(present)]) }
        })
        .connect();
    let client = soon(client).await.unwrap();
    soon(client.create_stream("first", StreamOptions::new())).await.unwrap();

    // The name moves while the old node is still there: the connection stays, until it is told to look again.
    let (second, _two) = node_at(loopback(2), port, "db.test").await;
    last.store(2, Ordering::SeqCst);
    assert_eq!(soon(client.list_streams()).await.unwrap().len(), 1);
    soon(client.reconnect()).await.unwrap();
    assert_eq!(soon(client.list_streams()).await.unwrap().len(), 0);

    // And it moves back because the node is gone: nobody has to tell.
    last.store(1, Ordering::SeqCst);
    second.shutdown(Duration::from_secs(2)).await;
    assert_eq!(soon(client.list_streams()).await.unwrap()[0].name, "first");
    drop(first);
}

#[tokio::test]
async fn p12_every_address_of_a_name_is_tried_in_both_families() {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let v4 = loopback(1);
    for (listens, named) in
        [(v4, vec![v6, v4]), (v6, vec![v4, v6]), (v4, vec![loopback(9), loopback(8), v6, v4])]
    {
        let (node, _directory) = node_at(listens, 0, "db.test").await;
        let client = Client::builder()
            .url(format!("hstream://db.test:{}", node.address().port()))
            .name_resolver(move |_| {
                let named = named.clone();
                async move { Ok(named) }
            })
            .connect();
        let client = soon(client).await.unwrap();
        assert_eq!(soon(client.echo("x")).await.unwrap(), "x", "{listens}");
    }
}

#[tokio::test]
async fn p12_names_that_cannot_be_resolved_say_so() {
    let client = Client::builder()
        .url("hstream://db.test")
        .name_resolver(|_| async { Ok(Vec::new()) })
        .connect_timeout(Duration::from_secs(10))
        .unwrap();
    let error = soon(client.connect()).await.unwrap_err();
    assert!(error.to_string().contains("\"db.test\" has no address"), "{error}");
    let client = Client::builder()
        .url("hstream://db.test")
        .name_resolver(|_| std::future::pending())
        .connect_timeout(Duration::from_millis(100))
        .unwrap();
    let error = soon(client.connect()).await.unwrap_err();
    assert!(error.to_string().contains("within 100ms"), "{error}");
}

#[tokio::test]
async fn p12_ipv6_literals_work_in_the_url_among_the_nodes_and_in_the_mapping() {
    let (node, _directory) = node_at(Ipv6Addr::LOCALHOST.into(), 0, "::1").await;
    let port = node.address().port();
    let client = soon(Client::connect(&format!("hstream://[::1]:{port}"))).await.unwrap();
    assert_eq!(client.nodes()[0].address.to_string(), format!("[::1]:{port}"));
    soon(client.create_stream("s", StreamOptions::new())).await.unwrap();
    // The owner is named as `::1`, too.
    let producer = soon(client.producer("s").build()).await.unwrap();
    soon(soon(producer.append(Record::raw("x"))).await.unwrap()).await.unwrap();

    let relay = Relay::to(node.address()).await;
    let mapped = Client::builder()
        .url(format!("hstream://[::1]:{port}"))
        .host_mapping(format!("[::1]:{port}"), relay.address().to_string())
        .connect();
    let mapped = soon(mapped).await.unwrap();
    assert_eq!(mapped.nodes()[0].address.to_string(), relay.address().to_string());
}

/// What the cluster calls its node cannot be reached from here, whoever is asked: only the mapping leads there.
#[tokio::test]
async fn p12_host_mapping_applies_to_owners_and_to_consumers_and_readers() {
    let (node, _directory) = node_at(loopback(1), 0, "node-1.invalid").await;
    let relay = Relay::to(node.address()).await;
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .host_mapping("node-1.invalid", relay.address().to_string())
        .connect();
    let client = soon(client).await.unwrap();
    assert_eq!(client.nodes()[0].address.to_string(), relay.address().to_string());
    soon(client.create_stream("s", StreamOptions::new())).await.unwrap();
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest);
    soon(client.create_subscription("c", "s", options)).await.unwrap();
    let producer = soon(client.producer("s").build()).await.unwrap();
    soon(soon(producer.append(Record::raw("x"))).await.unwrap()).await.unwrap();
    let consumer = soon(client.consumer("c").start()).await.unwrap();
    assert_eq!(soon(consumer.next_batch()).await.unwrap().unwrap().len(), 1);
    let reader = soon(client.stream_reader("s").from(Offset::Earliest).open()).await.unwrap();
    assert_eq!(soon(reader.next_batch()).await.unwrap().unwrap().len(), 1);
    assert_eq!(client.metrics().get("connect_failures"), Some(0));
    assert!(relay.frames().connections.load(Ordering::SeqCst) >= 3, "calls, consumer, reader");
}

#[tokio::test]
async fn p12_several_connections_per_node_are_used_in_turn_and_replaced_when_they_break() {
    let (node, _directory) = node_at(loopback(1), 0, "127.0.0.1").await;
    let relay = Relay::to(node.address()).await;
    let client = Client::builder()
        .url(format!("hstream://{}", relay.address()))
        .host_mapping(node.address().to_string(), relay.address().to_string())
        .channels_per_node(3)
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    let mut events = client.events();
    for _ in 0..9 {
        soon(client.echo("x")).await.unwrap();
    }
    assert_eq!(relay.frames().connections.load(Ordering::SeqCst), 3);
    relay.cut();
    let gone = soon(async {
        while let Some(event) = events.next().await {
            if let hstreamdb::ClientEvent::Disconnected { connections: 0, .. } = event {
                return;
            }
        }
        panic!("the client is gone");
    });
    gone.await;
    // They broke while nobody used them, so no call fails.
    for _ in 0..9 {
        soon(client.echo("x")).await.unwrap();
    }
    assert_eq!(client.metrics().get("call_retries"), Some(0));
    assert_eq!(relay.frames().connections.load(Ordering::SeqCst), 6);
    assert_eq!(client.metrics().get("node_suspects"), Some(0));
    relay.set(Network::Well);
    eventually("the connections", PATIENCE, || async {
        (client.metrics().get("connects") == Some(6)).then_some(())
    })
    .await;
}
