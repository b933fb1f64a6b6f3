//! Statistics of one node and of all.

use crate::{
    node_under_test::{TestNode, soon},
    published::Published,
};
use hstreamdb::{AdminAnswer, Client, ErrorKind, NodeAddress, Record, Stat, StreamOptions, StreamRate};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

async fn append(client: &Client, stream: &str, records: usize) {
    let producer = client.producer(stream).batch_max_age(Duration::ZERO).build().await.unwrap();
    for number in 0..records {
        soon(producer.append(Record::raw(format!("{number:04}")))).await.unwrap().await.unwrap();
    }
}

fn address(node: &TestNode) -> NodeAddress {
    NodeAddress::new("127.0.0.1", node.address().port())
}

#[tokio::test]
async fn a_node_tells_what_it_has_counted_and_what_it_cannot() {
    let node = TestNode::start().await;
    let client = node.client().await;
    client.create_stream("s", StreamOptions::new()).await.unwrap();
    client.create_stream("quiet", StreamOptions::new()).await.unwrap();
    append(&client, "s", 5).await;
    let asked = [Stat::StreamAppendTotal, Stat::StreamAppendInRecords, Stat::QueryTotalInputRecords];
    let stats = soon(client.get_stats(&address(&node), &asked)).await.unwrap();
    let values: Vec<_> = stats.values.iter().map(|values| (values.stat, values.values.clone())).collect();
    let counted = |number| [("s".to_owned(), number), ("quiet".to_owned(), 0)].into();
    assert_eq!(
        values,
        [
            (Stat::StreamAppendTotal, counted(5)),
            (Stat::StreamAppendInRecords, counted(5)),
            (Stat::QueryTotalInputRecords, [].into()),
        ]
    );
    assert!(stats.refusals.is_empty());
    // Every statistic there is has an answer.
    let all = soon(client.get_stats(&address(&node), Stat::ALL)).await.unwrap();
    assert_eq!(all.values.len() + all.refusals.len(), Stat::ALL.len());
    let error = client.get_stats(&address(&node), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[tokio::test]
async fn rates_of_one_stream_and_of_all_are_per_second() {
    let node = TestNode::start().await;
    let client = node.client().await;
    client.create_stream("s", StreamOptions::new()).await.unwrap();
    client.create_stream("quiet", StreamOptions::new()).await.unwrap();
    append(&client, "s", 60).await;
    let rate = StreamRate::AppendInRecords;
    let intervals = [MINUTE, 2 * MINUTE];
    let here = address(&node);
    let rates = soon(client.stream_time_series(&here, rate, "s", &intervals)).await.unwrap().unwrap();
    // 60 records within the last minute, at most spread over it.
    assert!(rates.len() == 2 && rates[0] > 0.0 && rates[1] > 0.0, "{rates:?}");
    assert_eq!(client.stream_time_series(&here, rate, "quiet", &intervals).await.unwrap(), None);
    let all = client.stream_time_series_all(&here, rate, &intervals).await.unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["s"]);
    let cluster = client.stream_time_series_all_nodes(rate, &intervals).await.unwrap();
    assert_eq!((cluster.rates.len(), cluster.nodes.len(), cluster.failures.len()), (1, 1, 0));
    for rate in StreamRate::ALL {
        client.stream_time_series(&here, *rate, "s", &[MINUTE]).await.unwrap();
    }
    for bad in [Duration::ZERO, Duration::from_secs(86_400)] {
        for error in [
            client.stream_time_series(&here, rate, "s", &[bad]).await.unwrap_err(),
            client.stream_time_series_all(&here, rate, &[bad]).await.unwrap_err(),
            client.stream_time_series_all_nodes(rate, &[bad]).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
    }
}

/// Two published nodes do not count here, so each goes on to a real one of its own: a cluster as its client sees it.
#[tokio::test]
async fn numbers_of_all_nodes_are_added_up_and_who_is_missing_is_named() {
    let (one, two) = (TestNode::start().await, TestNode::start().await);
    for (node, records) in [(&one, 3), (&two, 4)] {
        let client = node.client().await;
        client.create_stream("s", StreamOptions::new()).await.unwrap();
        append(&client, "s", records).await;
    }
    let published = Published::start_before_each(&[one.address().port(), two.address().port()]).await;
    let client = published.client().await;
    let asked = [Stat::StreamAppendInRecords];
    let stats = soon(client.get_stats_all_nodes(&asked)).await.unwrap();
    assert!(stats.is_complete(), "{stats:?}");
    assert_eq!(stats.totals[0].values["s"], 7);
    let rates = client.stream_time_series_all_nodes(StreamRate::AppendInRecords, &[MINUTE]).await.unwrap();
    assert!(rates.nodes.len() == 2 && rates.rates["s"][0] > 0.0, "{rates:?}");

    published.state().dead.push(1);
    let stats = soon(client.get_stats_all_nodes(&asked)).await.unwrap();
    assert!(!stats.is_complete());
    assert_eq!((stats.totals[0].values["s"], stats.nodes.len(), stats.failures.len()), (3, 1, 1));
    assert_eq!(stats.failures[0].node.port(), published.ports[1]);
    let text = stats.failures[0].error.to_string();
    assert!(text.contains("not running but dead"), "{text}");

    // A node that does not answer is told as well, and when none does, so is that.
    published.state().dead.clear();
    published.state().refused.insert("GetStats".into(), vec![1]);
    let stats = soon(client.get_stats_all_nodes(&asked)).await.unwrap();
    assert_eq!((stats.totals[0].values["s"], stats.failures.len()), (3, 1));
    assert_eq!(stats.failures[0].error.kind(), ErrorKind::Unavailable);
    published.state().refused.insert("GetStats".into(), vec![0, 1]);
    let error = soon(client.get_stats_all_nodes(&asked)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn answers_of_the_command_line_are_read() {
    let node = TestNode::start().await;
    let client = node.client().await;
    client.create_stream("s", StreamOptions::new()).await.unwrap();
    let answer = soon(client.admin_command("server stream list")).await.unwrap();
    let AdminAnswer::Table { headers, rows } = answer.parse().unwrap() else { panic!("{answer}") };
    assert_eq!((headers[0].as_str(), rows[0][0].as_str()), ("Stream Name", "s"));
    let answer = client.admin_command_at(&address(&node), "server ready").await.unwrap();
    assert!(matches!(answer.parse().unwrap(), AdminAnswer::Plain(_)), "{answer}");
}
