//! What a subscription can do beyond the published protocol.

mod support;

use hstreamdb_proto::api::*;
use hstreamdb_proto::metadata::{
    ACK_CONFIRMATION, CAPABILITIES, DEAD_LETTER_STREAM, MAX_DELIVERIES, REDELIVER_ON_DISCONNECT,
    SUBSCRIPTION_INCARNATION,
};
use prost::Message as _;
use support::consumer::Consumer;
use support::fetch::subscription;
use support::*;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

/// An ack timeout of 0 means the shortest there is.
fn impatient(id: &str) -> Subscription {
    subscription(id, "s", 0)
}

async fn create_with(
    client: &mut Client,
    subscription: Subscription,
    keys: &[(&'static str, &str)],
    dead_letter: Option<&[u8]>,
) -> Result<(), Status> {
    let mut request = Request::new(subscription);
    for (key, value) in keys {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    if let Some(name) = dead_letter {
        request.metadata_mut().insert_bin(DEAD_LETTER_STREAM, MetadataValue::from_bytes(name));
    }
    client.create_subscription(request).await.map(|_| ())
}

fn records_of(received: &[ReceivedRecord]) -> Vec<HStreamRecord> {
    let batches = received.iter().map(|received| received.record.as_ref().unwrap().payload.clone());
    batches.flat_map(|payload| BatchHStreamRecords::decode(payload).unwrap().records).collect()
}

#[tokio::test]
async fn records_delivered_too_often_go_to_the_dead_letter_stream_once() {
    let dir = tempfile::tempdir().unwrap();
    let TestNode { node, mut client } = TestNode::start(dir.path()).await;
    let shard = create(&mut client, "s", 1).await[0];
    let dead = create(&mut client, "totenbriefkasten-ü", 2).await;
    let keys = [(MAX_DELIVERIES, "2")];
    create_with(&mut client, impatient("sub"), &keys, Some("totenbriefkasten-ü".as_bytes())).await.unwrap();
    let records = batch(vec![record("a", "poison"), record("b", "fine"), record("c", "poison too")]);
    let id = client.append(append_request(shard, records)).await.unwrap().into_inner().record_ids[0];

    let mut consumer = Consumer::attach(&client, "sub", "c").await.unwrap();
    let first = consumer.next().await;
    consumer.ack(vec![first.record_ids[1]]).await;
    let again = consumer.next().await;
    assert_eq!(payloads(&[again]), ["poison", "poison too"]);
    let mut buried = Vec::new();
    poll("the records are put aside", async || {
        buried.clear();
        for shard in &dead {
            buried.extend(records_of(&read_all(&mut client, *shard).await));
        }
        buried.len() == 2
    })
    .await;
    let mut told: Vec<_> = buried
        .iter()
        .map(|record| {
            let header = record.header.clone().unwrap();
            let attribute = |name: &str| header.attributes[name].clone();
            assert_eq!(attribute("dead-letter-subscription"), "sub");
            assert_eq!(attribute("dead-letter-deliveries"), "2");
            (header.key.clone(), attribute("dead-letter-record-id"), record.payload.clone())
        })
        .collect();
    told.sort();
    let from = |index: u32| RecordId { batch_index: index, ..id }.to_string();
    assert_eq!(told, [("a".into(), from(0), "poison".into()), ("c".into(), from(2), "poison too".into())]);
    consumer.silent().await;
    poll("the checkpoint passes them", async || {
        let request = GetSubscriptionRequest { id: "sub".into() };
        let answer = client.get_subscription(request).await.unwrap().into_inner();
        answer.offsets[0].batch_id == id.batch_id
    })
    .await;
    drop(node);
}

/// Metadata, the dead-letter stream, and what the refusal says.
type Case<'a> = (&'a [(&'static str, &'a str)], Option<&'a [u8]>, Code, &'a str);

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_refused_and_nothing_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let TestNode { node: _node, mut client } = TestNode::start(dir.path()).await;
    create(&mut client, "s", 1).await;
    create(&mut client, "dead", 1).await;
    let cases: [Case<'_>; 8] = [
        (&[(MAX_DELIVERIES, "3")], None, Code::InvalidArgument, "never dropped"),
        (&[], Some(b"dead"), Code::InvalidArgument, "at least 1"),
        (&[(MAX_DELIVERIES, "3")], Some(b"s"), Code::InvalidArgument, "own subscription"),
        (&[(MAX_DELIVERIES, "3")], Some(b"nobody"), Code::NotFound, "nobody"),
        (&[(MAX_DELIVERIES, "-3")], Some(b"dead"), Code::InvalidArgument, "below 2^32"),
        (&[(MAX_DELIVERIES, "4294967296")], Some(b"dead"), Code::InvalidArgument, "below 2^32"),
        (&[(MAX_DELIVERIES, "3")], Some(b"\xff"), Code::InvalidArgument, "UTF-8"),
        (&[(REDELIVER_ON_DISCONNECT, "yes")], None, Code::InvalidArgument, "true or false"),
    ];
    for (keys, dead_letter, code, said) in cases {
        let refused = create_with(&mut client, impatient("sub"), keys, dead_letter).await;
        let (status, body) = refusal(refused);
        let (_, _, extra) = body.expect("a JSON body");
        assert_eq!(status, code, "{keys:?}");
        assert!(extra.as_str().is_some_and(|extra| extra.contains(said)), "{extra}");
    }
    let exists = CheckSubscriptionExistRequest { subscription_id: "sub".into() };
    assert!(!client.check_subscription_exist(exists).await.unwrap().into_inner().exists);
}

#[tokio::test]
async fn what_a_lost_consumer_had_reaches_another_at_once_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let TestNode { node, mut client } = TestNode::start(dir.path()).await;
    let shard = create(&mut client, "s", 1).await[0];
    let patient = subscription("sub", "s", 600);
    create_with(&mut client, patient, &[(REDELIVER_ON_DISCONNECT, "true")], None).await.unwrap();
    append(&mut client, shard, "precious").await;
    let other = connect(node.address().port()).await;
    let mut lost = Consumer::attach(&other, "sub", "lost").await.unwrap();
    assert_eq!(payloads(&[lost.next().await]), ["precious"]);
    let mut next = Consumer::attach(&client, "sub", "next").await.unwrap();
    next.silent().await;
    // Neither a half-close nor an acknowledgement: the connection is gone.
    drop((lost, other));
    assert_eq!(payloads(&[next.next().await]), ["precious"]);
}

#[tokio::test]
async fn a_consumer_that_asks_is_told_which_acknowledgements_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let TestNode { node: _node, mut client } = TestNode::start(dir.path()).await;
    let shard = create(&mut client, "s", 1).await[0];
    client.create_subscription(subscription("sub", "s", 600)).await.unwrap();
    let id = append(&mut client, shard, "x").await;
    let mut asks = MetadataMap::new();
    asks.insert(ACK_CONFIRMATION, "1".parse().unwrap());
    let (mut consumer, keys) = Consumer::attach_with(&client, "sub", "asks", asks.clone()).await.unwrap();
    let names = keys.get(CAPABILITIES).unwrap().to_str().unwrap();
    assert!(names.split(',').any(|name| name == "ack-confirmation"), "{names}");
    assert!(keys.get(SUBSCRIPTION_INCARNATION).unwrap().to_str().unwrap().parse::<u64>().is_ok());
    let received = consumer.next().await;
    assert!(received.record.is_some());
    consumer.ack(received.record_ids).await;
    let confirmed = consumer.next().await;
    assert_eq!((confirmed.record, &confirmed.record_ids[..]), (None, &[id][..]));
    let request = GetSubscriptionRequest { id: "sub".into() };
    let answer = client.get_subscription(request).await.unwrap().into_inner();
    assert_eq!(answer.offsets[0].batch_id, id.batch_id, "it is what the store has");
    consumer.finish().await;

    let (mut again, _) = Consumer::attach_with(&client, "sub", "again", asks).await.unwrap();
    assert_eq!(again.next().await.record_ids, [id], "who attaches later hears it first");
    let mut published = Consumer::attach(&client, "sub", "published").await.unwrap();
    published.silent().await;
}

/// Rows of the table a command answers.
async fn table(client: &mut Client, command: &str) -> Vec<Vec<String>> {
    let answer = client.send_admin_command(AdminCommandRequest { command: command.into() }).await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer.into_inner().result).unwrap();
    assert_eq!(answer["type"], "table", "{answer}");
    serde_json::from_value(answer["content"]["rows"].clone()).unwrap()
}

#[tokio::test]
async fn operators_see_the_lag_and_move_a_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let TestNode { node: _node, mut client } = TestNode::start(dir.path()).await;
    let shard = create(&mut client, "s", 1).await[0];
    client.create_subscription(subscription("sub", "s", 600)).await.unwrap();
    let mut ids = Vec::new();
    for payload in ["a", "b", "c"] {
        ids.push(append(&mut client, shard, payload).await);
    }
    let lag = table(&mut client, "server sub lag sub").await;
    let tail = ids[2].batch_id.to_string();
    let start = (ids[0].batch_id - 1).to_string();
    let [of, committed, delivered, newest, behind, unacked] = lag[0].clone().try_into().unwrap();
    assert_eq!((of, newest, unacked), (shard.to_string(), tail.clone(), "0".into()));
    assert!(committed == delivered && committed.parse::<u64>().unwrap() < ids[0].batch_id, "{lag:?}");
    // LSNs may have gaps: then it says how many batches there are at most.
    let dense = start == committed;
    assert!(if dense { behind == "3" } else { behind.parse::<u64>().unwrap() >= 3 }, "{lag:?}");

    let mut consumer = Consumer::attach(&client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["a"]);
    assert_eq!(payloads(&[consumer.next().await]), ["b"]);
    poll("the acknowledgement shows", async || {
        let lag = table(&mut client, "server sub lag sub").await;
        (lag[0][4] == "2" || !dense) && lag[0][5] == "2" && lag[0][1] == ids[0].batch_id.to_string()
    })
    .await;

    let seek = |to: &str, force: &str| AdminCommandRequest {
        command: format!("server sub seek sub --to {to} {force}"),
    };
    let (code, body) = refusal(client.send_admin_command(seek("earliest", "")).await);
    assert_eq!((code, body.unwrap().0), (Code::FailedPrecondition, 305));
    for to in ["yesterday", "1-2", "-5"] {
        let (code, body) = refusal(client.send_admin_command(seek(to, "")).await);
        assert_eq!((code, body), (Code::Internal, None), "{to}");
    }
    let foreign = format!("{}-{}-0", shard + 1, ids[0].batch_id);
    let (code, body) = refusal(client.send_admin_command(seek(&foreign, "-f")).await);
    assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 210));
    assert_eq!(payloads(&[consumer.next().await]), ["c"], "a refused move sends nobody away");

    let moved = table(&mut client, &format!("server sub seek sub --to {} -f", ids[1])).await;
    assert_eq!(moved, [[shard.to_string(), ids[1].batch_id.to_string()]]);
    assert_eq!(consumer.end().await.unwrap_err().code(), Code::Unavailable);
    let mut consumer = Consumer::attach(&client, "sub", "c").await.unwrap();
    assert_eq!((consumer.take().await, consumer.take().await), (vec!["b".into()], vec!["c".into()]));
    consumer.finish().await;
    let missing = AdminCommandRequest { command: "server sub lag nobody".into() };
    let (code, body) = refusal(client.send_admin_command(missing).await);
    assert_eq!((code, body.unwrap().0), (Code::NotFound, 300));
}

#[tokio::test]
async fn operators_change_the_policy_of_a_subscription_and_consumers_feel_it() {
    let dir = tempfile::tempdir().unwrap();
    let TestNode { node, mut client } = TestNode::start(dir.path()).await;
    let shard = create(&mut client, "s", 1).await[0];
    create(&mut client, "dead", 1).await;
    client.create_subscription(subscription("sub", "s", 600)).await.unwrap();
    append(&mut client, shard, "precious").await;
    let other = connect(node.address().port()).await;
    let mut lost = Consumer::attach(&other, "sub", "lost").await.unwrap();
    lost.next().await;
    let mut next = Consumer::attach(&client, "sub", "next").await.unwrap();
    next.silent().await;
    assert_eq!(table(&mut client, "server sub policy sub").await, [["sub", "false", "0", ""]]);
    let changed = table(&mut client, "server sub policy sub --redeliver-on-disconnect true").await;
    assert_eq!(changed, [["sub", "true", "0", ""]]);
    drop((lost, other));
    assert_eq!(payloads(&[next.next().await]), ["precious"]);
    let changed = "server sub policy sub --max-deliveries 2 --dead-letter-stream dead";
    assert_eq!(table(&mut client, changed).await, [["sub", "true", "2", "dead"]]);
    let lifted = "server sub policy sub --max-deliveries 0";
    assert_eq!(table(&mut client, lifted).await, [["sub", "true", "0", ""]]);
    let nonsense = AdminCommandRequest { command: "server sub policy sub --max-deliveries 2".into() };
    let (code, body) = refusal(client.send_admin_command(nonsense).await);
    assert_eq!((code, body.unwrap().1), (Code::InvalidArgument, "InvalidRequest".into()));
    drop(next);
    TestNode { node, client }.stop().await;
    let TestNode { node: _node, mut client } = TestNode::start(dir.path()).await;
    assert_eq!(
        table(&mut client, "server sub policy sub").await,
        [["sub", "true", "0", ""]],
        "it is durable"
    );
}
