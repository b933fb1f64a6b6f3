//! Whatever is stored, whatever part of it is asked for and whatever goes wrong in between: what is read is what was
//! stored there, once and in order.

mod node_under_test;

use futures::future::BoxFuture;
use hstream_testkit::{Fault, RpcProxy};
use hstreamdb::{Client, Offset, PolledReader, ReadFrom, Reader, ReceivedBatch, RecordId, StreamPosition};
use hstreamdb_proto::api;
use node_under_test::{TestNode, soon};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

const KEYS: [&str; 2] = ["a", "b"];

/// One appended batch: its shard, and the key and size of each record.
type Shape = (usize, Vec<(usize, usize)>);

/// Where reading starts or ends, by the number of a stored record.
#[derive(Debug, Clone, Copy)]
enum Place {
    Default,
    Record(prop::sample::Index),
    Time(prop::sample::Index),
    /// Behind the record, as the position of an earlier reader.
    Behind(prop::sample::Index),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Shard,
    OnlyShard,
    Stream,
    Key,
    Polled(u32),
}

/// What happens after so many batches were read.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Cut,
    Restart,
    LoseReplies(u32),
    /// Another process takes over.
    HandOver,
}

#[derive(Debug, Clone)]
struct Case {
    shards: usize,
    batches: Vec<Shape>,
    kind: Kind,
    from: Place,
    until: Place,
    prefetch: u32,
    troubles: BTreeMap<u8, Trouble>,
}

fn cases() -> impl Strategy<Value = Case> {
    let kind = prop_oneof![
        2 => Just(Kind::Shard),
        1 => Just(Kind::OnlyShard),
        2 => Just(Kind::Stream),
        1 => Just(Kind::Key),
        3 => (1..5u32).prop_map(Kind::Polled),
    ];
    let place = |behind: u32| {
        prop_oneof![
            2 => Just(Place::Default),
            2 => any::<prop::sample::Index>().prop_map(Place::Record),
            2 => any::<prop::sample::Index>().prop_map(Place::Time),
            behind => any::<prop::sample::Index>().prop_map(Place::Behind),
        ]
    };
    let trouble = prop_oneof![
        4 => Just(Trouble::Cut),
        1 => Just(Trouble::Restart),
        2 => (1..4u32).prop_map(Trouble::LoseReplies),
        2 => Just(Trouble::HandOver),
    ];
    let size = prop_oneof![6 => 0..200usize, 1 => Just(70_000)];
    let records = prop::collection::vec((0..KEYS.len(), size), 1..6);
    (
        1..4usize,
        prop::collection::vec((0..3usize, records), 1..40),
        kind,
        (place(2), place(0)),
        1..4u32,
        prop::collection::btree_map(0..12u8, trouble, 0..4),
    )
        .prop_map(|(shards, batches, kind, (from, until), prefetch, troubles)| {
            // Keys are not placed here: with one shard, all of them are in it.
            let shards = if matches!(kind, Kind::OnlyShard | Kind::Key) { 1 } else { shards };
            Case { shards, batches, kind, from, until, prefetch, troubles }
        })
}

/// A record as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    id: RecordId,
    key: String,
    payload: Vec<u8>,
    time: i64,
}

fn of_batch(batch: &ReceivedBatch) -> Vec<Stored> {
    let records = batch.records().unwrap();
    records
        .into_iter()
        .map(|r| Stored { id: r.id, key: r.key, payload: r.payload.to_vec(), time: batch.publish_time_ms() })
        .collect()
}

/// Which records are within a bound.
type Choice = Box<dyn Fn(&Stored) -> bool>;

enum Open {
    Streamed(Reader),
    Polled(PolledReader, u32),
}

struct World {
    node: TestNode,
    proxy: RpcProxy,
    client: Client,
}

impl World {
    async fn fill(&mut self, stream: &str, case: &Case) -> (Vec<u64>, Vec<Stored>) {
        let shards = self.node.stream(stream, case.shards as u32).await;
        let mut number = 0u32;
        for (shard, shape) in &case.batches {
            let records: Vec<_> = shape
                .iter()
                .map(|&(key, size)| {
                    number += 1;
                    let mut payload = number.to_be_bytes().to_vec();
                    payload.resize(4 + size, 7);
                    (KEYS[key], payload)
                })
                .collect();
            self.node.append(stream, shards[shard % shards.len()], &records).await;
        }
        // What is stored, by the bare wire.
        let mut stored = Vec::new();
        for &shard_id in &shards {
            let until = Some(api::ShardOffset {
                offset: Some(api::shard_offset::Offset::SpecialOffset(api::SpecialOffset::Latest as i32)),
            });
            let request = api::ReadShardStreamRequest { shard_id, until, ..Default::default() };
            let Ok(answer) = self.node.wire.read_shard_stream(request).await else { continue };
            let mut answer = answer.into_inner();
            while let Ok(Some(message)) = answer.message().await {
                for batch in message.received_records {
                    let record = batch.record.unwrap();
                    let time = record.publish_time.unwrap();
                    let content: api::BatchHStreamRecords = prost::Message::decode(record.payload).unwrap();
                    for (id, record) in batch.record_ids.into_iter().zip(content.records) {
                        stored.push(Stored {
                            id: id.into(),
                            key: record.header.unwrap_or_default().key,
                            payload: record.payload.to_vec(),
                            time: time.seconds * 1000 + i64::from(time.nanos) / 1_000_000,
                        });
                    }
                }
            }
        }
        (shards, stored)
    }

    async fn open(&self, case: &Case, stream: &str, shard: u64, from: ReadFrom, until: Offset) -> Open {
        let builder = match case.kind {
            Kind::Shard => self.client.shard_reader(stream, shard),
            Kind::OnlyShard => self.client.single_shard_reader(stream),
            Kind::Stream => self.client.stream_reader(stream),
            Kind::Key => self.client.key_reader(stream, KEYS[0]),
            Kind::Polled(most) => {
                let reader = self.client.polled_reader(stream, shard).from(from);
                return Open::Polled(soon(reader.open()).await.unwrap(), most);
            }
        };
        let reader = builder.from(from).until(until).prefetch_batches(case.prefetch).unwrap();
        Open::Streamed(soon(reader.open()).await.unwrap())
    }

    async fn befall(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Cut => self.proxy.cut_connections(),
            Trouble::Restart => {
                self.node.stop().await;
                self.node.start_again().await;
            }
            Trouble::LoseReplies(count) => self.proxy.set(Fault::LoseReaderReplies(count)),
            Trouble::HandOver => {}
        }
    }

    async fn check(&mut self, case: Case, stream: &str) -> Result<(), TestCaseError> {
        let (shards, stored) = self.fill(stream, &case).await;
        self.proxy.set(Fault::None);
        let read: Vec<&Stored> = match case.kind {
            Kind::Stream => stored.iter().collect(),
            Kind::Key => stored.iter().filter(|record| record.key == KEYS[0]).collect(),
            _ => stored.iter().filter(|record| record.id.shard_id == shards[0]).collect(),
        };
        let shard = shards[0];
        let one_shard = !matches!(case.kind, Kind::Stream);
        let pick = |index: prop::sample::Index| (!read.is_empty()).then(|| read[index.index(read.len())]);
        let (from, starts): (ReadFrom, Choice) = match case.from {
            Place::Record(index) | Place::Behind(index) if one_shard && pick(index).is_some() => {
                let first = pick(index).unwrap().id;
                if matches!(case.from, Place::Record(_)) {
                    (Offset::Record(first).into(), Box::new(move |r| r.id.batch_id >= first.batch_id))
                } else {
                    let mut position = StreamPosition::new();
                    position.advance(first);
                    (position.into(), Box::new(move |r| r.id > first))
                }
            }
            Place::Behind(index) if pick(index).is_some() => {
                let last = pick(index).unwrap().id;
                let mut position = StreamPosition::new();
                position.advance(last);
                (position.into(), Box::new(move |r| r.id.shard_id != last.shard_id || r.id > last))
            }
            Place::Time(index) if pick(index).is_some() => {
                let time = pick(index).unwrap().time;
                (Offset::Timestamp(time).into(), Box::new(move |r| r.time >= time))
            }
            _ => (Offset::Earliest.into(), Box::new(|_| true)),
        };
        let polled = matches!(case.kind, Kind::Polled(_));
        let (until, ends): (Offset, Choice) = match case.until {
            Place::Record(index) if one_shard && !polled && pick(index).is_some() => {
                let last = pick(index).unwrap().id;
                (Offset::Record(last), Box::new(move |r| r.id.batch_id <= last.batch_id))
            }
            Place::Time(index) if !polled && pick(index).is_some() => {
                let time = pick(index).unwrap().time;
                (Offset::Timestamp(time), Box::new(move |r| r.time <= time))
            }
            _ => (Offset::Latest, Box::new(|_| true)),
        };
        let mut expected: BTreeMap<u64, Vec<Stored>> = BTreeMap::new();
        for record in read.iter().filter(|record| starts(record) && ends(record)) {
            expected.entry(record.id.shard_id).or_default().push((*record).clone());
        }
        if matches!(until, Offset::Record(_)) && expected.is_empty() {
            // A start behind the end is refused, which other tests look at.
            return Ok(());
        }
        let wanted: usize = expected.values().map(Vec::len).sum();

        let mut seen: BTreeMap<u64, Vec<Stored>> = BTreeMap::new();
        let mut reader = self.open(&case, stream, shard, from, until).await;
        let mut turn = 0u8;
        loop {
            if let Some(trouble) = case.troubles.get(&turn).copied() {
                self.befall(trouble).await;
                if matches!(trouble, Trouble::HandOver) {
                    let position = match &reader {
                        Open::Streamed(reader) => reader.position(),
                        Open::Polled(reader, _) => reader.position(),
                    };
                    let kept = position.to_string().parse::<StreamPosition>().unwrap();
                    reader = self.open(&case, stream, shard, kept.into(), until).await;
                }
            }
            turn = turn.saturating_add(1);
            let next: BoxFuture<'_, _> = match &reader {
                Open::Streamed(reader) => Box::pin(async { reader.next_batch().await.map(Vec::from_iter) }),
                Open::Polled(reader, most) => Box::pin(async { reader.read(*most).await }),
            };
            let batches = soon(next).await.map_err(|error| TestCaseError::fail(error.to_string()))?;
            if batches.is_empty() {
                break;
            }
            for batch in &batches {
                // A batch of one key has no time of its own.
                for mut record in of_batch(batch) {
                    let known = read.iter().find(|known| known.id == record.id);
                    record.time = known.map_or(record.time, |known| known.time);
                    seen.entry(record.id.shard_id).or_default().push(record);
                }
            }
        }
        let count: usize = seen.values().map(Vec::len).sum();
        prop_assert_eq!(count, wanted);
        prop_assert!(seen == expected, "what was read is not what was stored");
        let gaps = match &reader {
            Open::Streamed(reader) => reader.gap_count(),
            Open::Polled(reader, _) => reader.gap_count(),
        };
        prop_assert_eq!(gaps, 0);
        Ok(())
    }
}

#[test]
fn what_is_read_is_what_was_stored_once_and_in_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut world = runtime.block_on(async {
        let node = TestNode::start().await;
        let proxy = RpcProxy::start(node.address().port()).await.unwrap();
        let client = Client::builder()
            .url(proxy.url())
            .set("retry_base_ms", 2)
            .and_then(|builder| builder.set("retry_max_ms", 50))
            .and_then(|builder| builder.set("retry_max_attempts", 20))
            .unwrap();
        let client = client.connect().await.unwrap();
        World { node, proxy, client }
    });
    let cases_to_run = std::env::var("READER_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    let mut runner = TestRunner::new(Config {
        cases: cases_to_run,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Config::default()
    });
    let number = AtomicU32::new(0);
    let world = std::cell::RefCell::new(&mut world);
    runner
        .run(&cases(), |case| {
            let stream = format!("s{}", number.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(world.borrow_mut().check(case, &stream))
        })
        .unwrap();
}
