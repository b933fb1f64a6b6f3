//! The operator's command line over the wire: every command, its headers, rows and errors.

mod support;

use hstreamdb_proto::api::*;
use serde_json::{Value, json};
use support::fetch::{Consumer, attach, subscribe, wait_for_consumers};
use support::*;
use tonic::{Code, Status};

async fn send(client: &mut Client, command: &str) -> Result<Value, Status> {
    let request = AdminCommandRequest { command: command.to_owned() };
    let answer = client.send_admin_command(request).await?.into_inner();
    Ok(serde_json::from_str(&answer.result).expect("the answer is JSON"))
}

/// Headers and rows of a table.
async fn table(client: &mut Client, command: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let answer = send(client, command).await.unwrap_or_else(|status| panic!("{command:?}: {status}"));
    assert_eq!(answer["type"], "table", "{command:?}: {answer}");
    let content = answer["content"].clone();
    (
        serde_json::from_value(content["headers"].clone()).expect("headers are texts"),
        serde_json::from_value(content["rows"].clone()).expect("cells are texts"),
    )
}

/// Sends a command that answers a sentence.
async fn plain(client: &mut Client, command: &str) -> String {
    let answer = send(client, command).await.unwrap_or_else(|status| panic!("{command:?}: {status}"));
    assert_eq!(answer["type"], "plain", "{command:?}: {answer}");
    answer["content"].as_str().unwrap().to_owned()
}

async fn error(client: &mut Client, command: &str) -> String {
    let answer = send(client, command).await.unwrap_or_else(|status| panic!("{command:?}: {status}"));
    assert_eq!(answer["type"], "error", "{command:?}: {answer}");
    answer["content"].as_str().unwrap().to_owned()
}

/// Status and code with which a command fails.
async fn failure(client: &mut Client, command: &str) -> (Code, i32) {
    let (code, body) = refusal(send(client, command).await);
    (code, body.unwrap_or_else(|| panic!("{command:?} fails without a JSON body")).0)
}

struct Fixture {
    node: TestNode,
    _dir: tempfile::TempDir,
}

async fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture { node: TestNode::start(dir.path()).await, _dir: dir }
}

#[tokio::test]
async fn the_node_tells_its_state() {
    let mut fixture = start().await;
    let address = format!("127.0.0.1:{}", fixture.node.node.address().port());
    let client = &mut fixture.node.client;
    let status = send(client, "server status").await.unwrap();
    assert_eq!(
        status,
        json!({ "type": "table", "content": {
            "headers": ["Node ID", "State", "Address"],
            "rows": [["1", "Running", address]],
        }})
    );
    assert_eq!(plain(client, "server init").await, "Server successfully received init signal");
    assert_eq!(plain(client, "server ready").await, "Cluster is ready");
    fixture.node.stop().await;
}

#[tokio::test]
async fn what_does_not_parse_is_internal_and_plain_text_with_the_usage() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    let long = format!("server stream describe {}", "x".repeat(1 << 20));
    for command in ["", "status", "server", "server fly", "server stream create", "server 'stream", &long] {
        let status = send(client, command).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(serde_json::from_str::<Value>(status.message()).is_err(), "{}", status.message());
        assert!(!status.message().is_empty() && status.message().len() < 8_000);
    }
    let status = send(client, "server stream create").await.unwrap_err();
    assert!(status.message().contains("Usage: server stream create"), "{}", status.message());
    assert!(plain(client, "server stream --help").await.contains("describe"));
    fixture.node.stop().await;
}

#[tokio::test]
async fn streams_are_created_listed_described_and_deleted() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    let headers = ["Stream Name", "Replication Factor"];
    assert_eq!(plain(client, "server stream create a").await, "OK");
    assert_eq!(plain(client, "server stream create b -r 3 -b 60 -s 2").await, "OK");
    let request = GetStreamRequest { name: "a".into() };
    let a = client.get_stream(request).await.unwrap().into_inner().stream.unwrap();
    assert_eq!((a.replication_factor, a.backlog_duration, a.shard_count), (1, 604_800, 1));
    let request = GetStreamRequest { name: "b".into() };
    let b = client.get_stream(request).await.unwrap().into_inner().stream.unwrap();
    assert_eq!((b.replication_factor, b.backlog_duration, b.shard_count), (3, 60, 2));

    let (got, rows) = table(client, "server stream list").await;
    assert_eq!((got, rows), (headers.map(String::from).to_vec(), vec![row(["a", "1"]), row(["b", "3"])]));
    let (got, rows) = table(client, "server stream describe 'b'").await;
    assert_eq!((got, rows), (headers.map(String::from).to_vec(), vec![row(["b", "3"])]));

    assert_eq!(failure(client, "server stream create a").await, (Code::AlreadyExists, 201));
    assert_eq!(failure(client, "server stream create 1").await, (Code::InvalidArgument, 204));
    assert_eq!(failure(client, "server stream create c -s 0").await, (Code::InvalidArgument, 205));
    assert_eq!(failure(client, "server stream describe c").await, (Code::NotFound, 200));
    assert_eq!(failure(client, "server stream delete c").await, (Code::NotFound, 200));
    subscribe(client, "sub", "a").await;
    assert_eq!(failure(client, "server stream delete a").await, (Code::FailedPrecondition, 202));
    assert_eq!(plain(client, "server stream delete a -f").await, "OK");
    assert_eq!(plain(client, "server stream delete b").await, "OK");
    assert!(table(client, "server stream list").await.1.is_empty());
    fixture.node.stop().await;
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[tokio::test]
async fn subscriptions_are_created_listed_described_and_deleted() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    create(client, "s", 1).await;
    assert_eq!(plain(client, "server sub create a --stream s").await, "OK");
    let full = "server sub create b --stream s --ack-timeout 5 --max-unacked-records 7 --offset earliest";
    assert_eq!(plain(client, full).await, "OK");
    let (headers, rows) = table(client, "server sub list").await;
    assert_eq!(headers, ["Subscription ID", "Stream Name", "CreatedTime"]);
    assert_eq!(rows.iter().map(|row| &row[..2]).collect::<Vec<_>>(), [["a", "s"], ["b", "s"]]);
    for row in &rows {
        let date = row[2].as_bytes();
        assert!(date.starts_with(b"2") && date.contains(&b'T') && date.ends_with(b"Z"), "{row:?}");
    }
    let (headers, rows) = table(client, "server sub describe a").await;
    let expected = ["Subscription ID", "Stream Name", "Timeout", "Max Unacked", "CreatedTime", "Sub Offset"];
    assert_eq!(headers, expected);
    assert_eq!((rows[0][2].as_str(), rows[0][3].as_str(), rows[0][5].as_str()), ("60", "10000", "LATEST"));
    let (_, rows) = table(client, "server sub describe b").await;
    assert_eq!((rows[0][2].as_str(), rows[0][3].as_str(), rows[0][5].as_str()), ("5", "7", "EARLIEST"));

    assert_eq!(failure(client, "server sub create a --stream s").await, (Code::AlreadyExists, 301));
    assert_eq!(failure(client, "server sub create c --stream no").await, (Code::FailedPrecondition, 302));
    assert_eq!(failure(client, "server sub describe c").await, (Code::NotFound, 300));
    assert_eq!(failure(client, "server sub delete c").await, (Code::NotFound, 300));
    let consumer = attach(client, "a", "c").await;
    wait_for_consumers(client, "a", &["c"]).await;
    assert_eq!(failure(client, "server sub delete a").await, (Code::FailedPrecondition, 305));
    assert_eq!(failure(client, "server sub deleteall").await, (Code::FailedPrecondition, 305));
    let (_, rows) = table(client, "server sub list").await;
    assert_eq!(rows.len(), 1, "one that has to stay is no reason to keep the others: {rows:?}");
    assert_eq!(plain(client, "server sub delete a --force").await, "OK");
    drop(consumer);
    assert_eq!(plain(client, "server sub create a --stream s").await, "OK");
    assert_eq!(plain(client, "server sub deleteall -f").await, "OK");
    assert!(table(client, "server sub list").await.1.is_empty());
    fixture.node.stop().await;
}

#[tokio::test]
async fn every_kind_of_resource_is_looked_up() {
    let mut fixture = start().await;
    let port = fixture.node.node.address().port().to_string();
    let client = &mut fixture.node.client;
    for kind in ["stream", "subscription", "query", "connector", "shard", "shard-reader"] {
        let (headers, rows) = table(client, &format!("server lookup {kind} x1")).await;
        assert_eq!(headers, ["Resource ID", "Host", "Port"]);
        assert_eq!(rows, [row(["x1", "127.0.0.1", &port])], "{kind}");
    }
    assert_eq!(failure(client, "server lookup view x1").await, (Code::NotFound, 400));
    assert_eq!(failure(client, "server lookup stream a.b").await, (Code::InvalidArgument, 204));
    assert_eq!(send(client, "server lookup planet x1").await.unwrap_err().code(), Code::Internal);
    fixture.node.stop().await;
}

#[tokio::test]
async fn queries_views_and_connectors_answer_that_there_are_none() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    for (command, headers) in [
        ("view list", &["View ID", "Status", "CreatedTime"][..]),
        ("query list", &["Query ID", "Type", "Status", "CreatedTime", "SQL"]),
        ("connector list", &["Connector Name", "Type", "Target", "Task ID", "Status", "CreatedTime"]),
    ] {
        let (got, rows) = table(client, &format!("server {command}")).await;
        assert_eq!(got, headers);
        assert!(rows.is_empty());
    }
    assert!(error(client, "server query status -i q").await.contains("query q"));
    for command in ["query describe -i q", "query resume --id q"] {
        assert_eq!(failure(client, &format!("server {command}")).await, (Code::NotFound, 400));
    }
    for command in ["connector describe -i c", "connector resume -i c", "connector delete --id=c"] {
        assert_eq!(failure(client, &format!("server {command}")).await, (Code::NotFound, 600));
    }
    fixture.node.stop().await;
}

#[tokio::test]
async fn metadata_are_dumped() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    create(client, "s", 1).await;
    subscribe(client, "sub", "s").await;
    let described = table(client, "server sub describe sub").await;
    assert_eq!(table(client, "server meta list -r subscription").await, described);
    assert_eq!(table(client, "server meta get -r subscription -i sub").await, described);
    for kind in ["qv-relation", "connectors", "connector-infos"] {
        assert!(table(client, &format!("server meta list -r {kind}")).await.1.is_empty());
    }
    for kind in ["query-info", "view-info"] {
        assert_eq!(plain(client, &format!("server meta list --resource {kind}")).await, "");
    }
    for kind in ["subscription", "query-info", "query-status", "view-info", "qv-relation", "connector"] {
        assert_eq!(plain(client, &format!("server meta get -r {kind} -i none")).await, "Not Found");
    }
    assert_eq!(plain(client, "server meta get -r connector-info -i none").await, "Not Found");
    assert_eq!(plain(client, "server meta get-task -r subscription -i sub").await, "Not Found");
    assert_eq!(plain(client, "server meta clean-connectors").await, "OK");
    let (headers, rows) = table(client, "server meta info").await;
    assert_eq!(headers, ["Meta Type", "Connection Info"]);
    assert_eq!(rows, [row(["file", fixture._dir.path().to_str().unwrap()])]);
    fixture.node.stop().await;
}

#[tokio::test]
async fn every_counter_series_and_histogram_has_its_table() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    let shard = create(client, "s", 1).await[0];
    subscribe(client, "sub", "s").await;
    append(client, shard, "x").await;
    let cases: [(&str, &str, &[&str], usize); 6] = [
        (
            "stream_counter",
            "stream_name",
            &[
                "append_total",
                "append_failed",
                "append_in_bytes",
                "append_in_records",
                "read_in_bytes",
                "read_in_batches",
            ],
            1,
        ),
        (
            "subscription_counter",
            "subscription_id",
            &[
                "send_out_bytes",
                "send_out_records",
                "send_out_records_failed",
                "resend_records",
                "resend_records_failed",
                "received_acks",
                "request_messages",
                "response_messages",
                "checklist_size",
            ],
            1,
        ),
        ("connector_counter", "task_name", &["delivered_in_records", "delivered_in_bytes"], 0),
        (
            "query_counter",
            "query_name",
            &["total_input_records", "total_output_records", "total_execute_errors"],
            0,
        ),
        ("view_counter", "view_name", &["total_execute_queries"], 0),
        ("server_histogram", "p50", &[], 1),
    ];
    for (category, first, names, rows) in cases {
        for name in names {
            let (headers, got) = table(client, &format!("server stats {category} {name}")).await;
            assert_eq!(headers, [first, name]);
            assert_eq!(got.len(), rows, "{category} {name}");
        }
        assert!(error(client, &format!("server stats {category} nonsense")).await.contains("nonsense"));
    }
    let series: [(&str, &str, &[&str], &str); 3] = [
        (
            "stream",
            "stream_name",
            &[
                "appends",
                "append_in_bytes",
                "append_in_records",
                "append_in_requests",
                "append_failed_requests",
            ],
            "s",
        ),
        (
            "subscription",
            "subscription_id",
            &[
                "sends",
                "send_out_bytes",
                "send_out_records",
                "acks",
                "acknowledgements",
                "request_messages",
                "response_messages",
            ],
            "sub",
        ),
        ("handle", "handle_name", &["queries_in", "queries"], "append"),
    ];
    for (category, first, names, object) in series {
        for name in names {
            let (headers, rows) = table(client, &format!("server stats {category} {name}")).await;
            let columns = ["1min", "5min", "10min"].map(|interval| format!("{name}_{interval}"));
            assert_eq!(headers, [&[first.to_owned()], &columns[..]].concat());
            assert_eq!((rows.len(), rows[0].len(), rows[0][0].as_str()), (1, 4, object));
            assert!(rows[0][1..].iter().all(|cell| cell.parse::<u64>().is_ok()), "{rows:?}");
        }
        assert!(error(client, &format!("server stats {category} nonsense")).await.contains("nonsense"));
    }
    for histogram in [
        "append_request_latency",
        "append_latency",
        "read_latency",
        "append_cache_store_latency",
        "read_cache_store_latency",
        "check_store_cluster_healthy_latency",
        "check_meta_cluster_healthy_latency",
    ] {
        let (headers, rows) = table(client, &format!("server stats server_histogram {histogram}")).await;
        assert_eq!(headers, ["p50", "p75", "p95", "p99"]);
        let counted = rows[0].iter().all(|cell| cell.parse::<u64>().unwrap() > 0);
        assert_eq!(
            counted,
            histogram.starts_with("append_request") || histogram == "append_latency",
            "{rows:?}"
        );
    }
    let asked = "server stats server_histogram append_latency -p 0.1 --percentiles 0.999";
    assert_eq!(table(client, asked).await.0, ["p10", "p99.9"]);
    fixture.node.stop().await;
}

#[tokio::test]
async fn intervals_are_those_asked_for_if_they_are_remembered() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, &"x".repeat(10_000)).await;
    let asked = "server stats stream appends -i 500ms -i10s --intervals 1min --intervals=10min";
    let (headers, rows) = table(client, asked).await;
    assert_eq!(headers, ["stream_name", "appends_500ms", "appends_10s", "appends_1min", "appends_10min"]);
    // Ten thousand bytes within the life of the node, which every deadline of a test is shorter than.
    assert!(rows[0][3].parse::<u64>().unwrap() > 100, "{rows:?}");
    for beyond in ["1h", "0s", "601s"] {
        let command = format!("server stats stream appends -i {beyond}");
        assert_eq!(failure(client, &command).await, (Code::InvalidArgument, 0), "{beyond}");
    }
    let status = send(client, "server stats stream appends -i soon").await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("10s"), "{}", status.message());
    let many = format!("server stats stream appends{}", " -i 1s".repeat(65));
    assert_eq!(failure(client, &many).await, (Code::InvalidArgument, 0));
    fixture.node.stop().await;
}

#[tokio::test]
async fn counters_follow_what_happens_and_a_reset_sets_them_to_zero() {
    let mut fixture = start().await;
    let client = &mut fixture.node.client;
    let shard = create(client, "s", 1).await[0];
    subscribe(client, "sub", "s").await;
    let mut consumer: Consumer = attach(client, "sub", "c").await;
    for number in 0..3 {
        append(client, shard, &format!("{number}")).await;
        let received = consumer.next().await;
        consumer.ack(received.record_ids).await;
    }
    consumer.finish().await;
    let all = "stream_counter append_total|stream_counter append_in_records|subscription_counter received_acks|\
               subscription_counter send_out_records|subscription_counter response_messages|\
               stream_counter read_in_batches";
    for statistic in all.split('|') {
        let (_, rows) = table(client, &format!("server stats {statistic}")).await;
        assert_eq!(rows[0][1], "3", "{statistic}");
    }
    // The consumer introduced itself and acknowledged three times.
    let (_, rows) = table(client, "server stats subscription_counter request_messages").await;
    assert_eq!(rows[0][1], "4");
    assert_eq!(plain(client, "server reset-stats").await, "OK");
    for statistic in all.split('|') {
        let (_, rows) = table(client, &format!("server stats {statistic}")).await;
        assert_eq!(rows[0][1], "0", "{statistic}");
    }
    let (_, rows) = table(client, "server stats server_histogram append_latency").await;
    assert_eq!(rows, [row(["0", "0", "0", "0"])]);
    fixture.node.stop().await;
}
