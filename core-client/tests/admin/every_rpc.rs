//! No rpc of the service is forgotten: each one that its description lists is called by some method of the client.

use crate::{
    node_under_test::{TestNode, soon},
    published::Published,
};
use hstreamdb::{
    ConnectorKind, DeleteStreamOptions, NodeAddress, Offset, Record, RecordId, ResourceKind, Schema,
    StartFrom, Stat, StreamOptions, StreamRate, SubscriptionOptions,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::{collections::BTreeSet, time::Duration};

/// These cannot go on behind the record that was read last: streams, also those of one shard, are read shard by shard.
const NOT_USED: [&str; 2] = ["ReadStream", "ReadSingleShardStream"];

/// The names of all rpcs, from the description that the wire types are made from.
fn described() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(hstreamdb_proto::DESCRIPTORS).unwrap();
    let services = files.file.iter().flat_map(|file| &file.service);
    let service = services.filter(|service| service.name() == "HStreamApi");
    service.flat_map(|service| &service.method).map(|method| method.name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_of_the_service_is_called_by_the_client() {
    let mut node = TestNode::start().await;
    let published = Published::start_before(node.address().port()).await;
    let client = published.client().await;
    let here = NodeAddress::new("127.0.0.1", published.ports[0]);

    // Streams, records and readers.
    client.create_stream("s", StreamOptions::new()).await.unwrap();
    client.get_stream("s").await.unwrap();
    client.list_streams().await.unwrap();
    client.list_streams_with_prefix("s").await.unwrap();
    let shard = client.shard_for_key("s", "k").await.unwrap().id;
    client.lookup_shard(shard).await.unwrap();
    let producer = client.producer("s").build().await.unwrap();
    let id = soon(producer.append(Record::raw("r"))).await.unwrap().await.unwrap();
    client.tail_record_id("s", shard).await.unwrap();
    for reader in [client.shard_reader("s", shard), client.stream_reader("s"), client.key_reader("s", "")] {
        let reader = reader.open().await.unwrap();
        assert_eq!(soon(reader.next_batch()).await.unwrap().unwrap().ids(), [id]);
        reader.close();
    }
    let reader = client.polled_reader("s", shard).reader_id("r").open().await.unwrap();
    assert_eq!(soon(reader.read(1)).await.unwrap()[0].ids(), [id]);
    client.lookup_shard_reader("r").await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap(), ["r"]);
    client.delete_shard_reader("r").await.unwrap();
    let _ = reader.close().await;

    // Subscriptions.
    let from = SubscriptionOptions::new().offset(StartFrom::Earliest);
    client.create_subscription("sub", "s", from).await.unwrap();
    client.get_subscription("sub").await.unwrap();
    client.list_subscriptions().await.unwrap();
    client.list_subscriptions_with_prefix("s").await.unwrap();
    client.subscription_exists("sub").await.unwrap();
    let consumer = client.consumer("sub").start().await.unwrap();
    soon(consumer.next_batch()).await.unwrap().unwrap();
    client.list_consumers("sub").await.unwrap();
    consumer.stop(Duration::from_secs(5)).await.unwrap();
    client.lookup_subscription("sub").await.unwrap();
    client.delete_subscription("sub", true).await.unwrap();

    // The end of a stream.
    client.trim_shard("s", shard, Offset::Record(RecordId { batch_index: 0, ..id })).await.unwrap();
    client.trim_shards("s", &[id]).await.unwrap();
    client.trim_stream("s", Offset::Earliest).await.unwrap();

    // The cluster, its statistics and its command line.
    client.echo("e").await.unwrap();
    client.describe_cluster().await.unwrap();
    client.lookup_key("k").await.unwrap();
    client.lookup_resource(ResourceKind::Stream, "s").await.unwrap();
    client.get_stats(&here, Stat::ALL).await.unwrap();
    let second = [Duration::from_secs(1)];
    client.stream_time_series(&here, StreamRate::AppendInBytes, "s", &second).await.unwrap();
    client.stream_time_series_all(&here, StreamRate::AppendInBytes, &second).await.unwrap();
    client.admin_command("server status").await.unwrap();
    client.delete_stream("s", DeleteStreamOptions::new()).await.unwrap();

    // Queries, views, schemas, connectors.
    client.create_query("q", "CREATE VIEW v AS SELECT * FROM s").await.unwrap();
    client.create_query_with_namespace("p", "CREATE VIEW v AS SELECT * FROM s", "n_").await.unwrap();
    client.list_queries().await.unwrap();
    client.get_query("q").await.unwrap();
    client.resume_query("q").await.unwrap();
    let _ = client.pause_query("q").await;
    client.list_views().await.unwrap();
    client.get_view("v").await.unwrap();
    client.execute_query("EXPLAIN x").await.unwrap();
    client.execute_view_query("SELECT * FROM v").await.unwrap();
    client.execute_view_query_with_namespace("SELECT * FROM v", "n_").await.unwrap();
    let _ = client.delete_query("q").await;
    client.terminate_query("q").await.unwrap();
    client.delete_view("v", false).await.unwrap();
    client.register_schema(&Schema { owner: "s".into(), columns: Vec::new() }).await.unwrap();
    client.get_schema("s").await.unwrap();
    client.unregister_schema("s").await.unwrap();
    client.create_connector("c", ConnectorKind::Sink, "mysql", r#"{"host":""}"#).await.unwrap();
    client.list_connectors().await.unwrap();
    client.get_connector("c").await.unwrap();
    client.connector_spec(ConnectorKind::Sink, "mysql").await.unwrap();
    client.connector_logs("c", 1, 1).await.unwrap();
    client.alter_connector_config("c", "{}").await.unwrap();
    client.pause_connector("c").await.unwrap();
    client.resume_connector("c").await.unwrap();
    client.delete_connector("c").await.unwrap();

    let called: BTreeSet<String> = published.state().calls.iter().map(|(_, call)| call.clone()).collect();
    let forgotten: Vec<_> =
        described().difference(&called).filter(|name| !NOT_USED.contains(&name.as_str())).cloned().collect();
    assert!(NOT_USED.iter().all(|name| !called.contains(*name)), "{NOT_USED:?} is out of date");
    assert!(forgotten.is_empty(), "no method of the client calls {forgotten:?}");
    node.stop().await;
}
