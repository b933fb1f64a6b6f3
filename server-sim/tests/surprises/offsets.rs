//! Every start with every end, by every call that takes them.

use crate::support::*;
use hstreamdb_proto::api::*;
use tonic::{Code, Status};

/// Batches in the shard; each has a time of its own.
const BATCHES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Absent,
    /// The offset is there, but says nothing.
    Empty,
    Earliest,
    Latest,
    Record(usize),
    /// The time of a batch, or one before all, or one after all.
    Time(usize),
    Before,
    After,
    /// A record of another shard.
    Elsewhere,
}

use Place::*;

const PLACES: [Place; 11] =
    [Absent, Empty, Earliest, Latest, Record(0), Record(2), Time(0), Time(2), Before, After, Elsewhere];

struct Filled {
    ids: Vec<RecordId>,
    times: Vec<i64>,
}

impl Filled {
    async fn fill(client: &mut Client, shard: u64) -> Filled {
        let mut filled = Filled { ids: Vec::new(), times: Vec::new() };
        while filled.ids.len() < BATCHES {
            // A batch that shares its millisecond with the one before is trimmed away, and all is tried again.
            let id = append(client, shard, &filled.ids.len().to_string()).await;
            let received = read_all(client, shard).await;
            let time = received.last().unwrap().record.as_ref().unwrap().publish_time.unwrap();
            let time = time.seconds * 1000 + i64::from(time.nanos) / 1_000_000;
            if filled.times.last() == Some(&time) {
                let trim_point = at_record(id);
                let request = TrimShardRequest { shard_id: shard, trim_point, ..Default::default() };
                client.trim_shard(request).await.unwrap();
                filled = Filled { ids: Vec::new(), times: Vec::new() };
                continue;
            }
            filled.ids.push(id);
            filled.times.push(time);
        }
        filled
    }

    fn time(&self, place: Place) -> Option<i64> {
        match place {
            Time(number) => Some(self.times[number]),
            Before => Some(self.times[0] - 1),
            After => Some(self.times[BATCHES - 1] + 3_600_000),
            _ => None,
        }
    }

    fn of_shard(&self, place: Place) -> Option<ShardOffset> {
        let at_time = |timestamp_in_ms| {
            shard_offset::Offset::TimestampOffset(TimestampOffset { timestamp_in_ms, strict_accuracy: true })
        };
        let offset = match place {
            Absent => return None,
            Empty => None,
            Earliest => Some(shard_offset::Offset::SpecialOffset(0)),
            Latest => Some(shard_offset::Offset::SpecialOffset(1)),
            Record(number) => Some(shard_offset::Offset::RecordOffset(self.ids[number])),
            Elsewhere => {
                let id = RecordId { shard_id: self.ids[0].shard_id + 1, ..self.ids[0] };
                Some(shard_offset::Offset::RecordOffset(id))
            }
            Time(_) | Before | After => self.time(place).map(at_time),
        };
        Some(ShardOffset { offset })
    }

    fn of_stream(&self, place: Place) -> Option<StreamOffset> {
        let offset = match self.of_shard(place)?.offset {
            Some(shard_offset::Offset::SpecialOffset(special)) => {
                Some(stream_offset::Offset::SpecialOffset(special))
            }
            Some(shard_offset::Offset::TimestampOffset(time)) => {
                Some(stream_offset::Offset::TimestampOffset(time))
            }
            Some(shard_offset::Offset::RecordOffset(_)) | None => None,
        };
        Some(StreamOffset { offset })
    }

    /// Number of the first batch to read, as published servers resolve a start; 901 for another shard.
    fn start(&self, place: Place) -> Result<usize, i32> {
        Ok(match place {
            Absent | Empty | Earliest | Before => 0,
            Latest | After => BATCHES,
            Record(number) | Time(number) => number,
            Elsewhere => return Err(901),
        })
    }

    /// How many batches lie before the end; 901 for an end before the start.
    fn selected(&self, from: Place, until: Place) -> Result<Vec<String>, i32> {
        let start = self.start(from)?;
        let oldest = matches!(from, Absent | Empty | Earliest);
        let (nominal, end) = match until {
            Absent | Empty | Latest | After => (BATCHES - 1, BATCHES),
            // Before the first record there is: nothing, and a conflict with every start but the oldest.
            Earliest if oldest => (0, 0),
            Earliest => return Err(901),
            Record(number) | Time(number) => (number, number + 1),
            // Resolves to the first batch, whose time is past it.
            Before => (0, 0),
            Elsewhere => return Err(901),
        };
        if start > nominal && !oldest {
            return Err(901);
        }
        Ok((start..end).map(|number| number.to_string()).collect())
    }
}

async fn collected(
    call: Result<tonic::Response<tonic::Streaming<ReadShardStreamResponse>>, Status>,
) -> Result<Vec<String>, Status> {
    let mut answer = call?.into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await? {
        received.extend(payloads(&message.received_records));
    }
    Ok(received)
}

async fn of_key(client: &mut Client, request: ReadStreamByKeyRequest) -> Result<Vec<String>, Status> {
    let mut answer = client.read_stream_by_key(tokio_stream::iter([request])).await?.into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await? {
        let texts = message.received_records.into_iter().map(|record| record.payload.to_vec());
        received.extend(texts.map(|text| String::from_utf8(text).unwrap()));
    }
    Ok(received)
}

fn code(outcome: Result<Vec<String>, Status>) -> Result<Vec<String>, i32> {
    outcome.map_err(|status| {
        assert_eq!(status.code(), Code::InvalidArgument);
        refusal(Err::<(), _>(status)).1.unwrap().0
    })
}

#[tokio::test]
async fn every_start_with_every_end_selects_what_published_servers_select() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let filled = Filled::fill(client, shard).await;
    for from in PLACES {
        for until in PLACES {
            let expected = filled.selected(from, until);
            let case = format!("from {from:?} until {until:?}");
            let follows = matches!(until, Absent | Empty);
            let wanted = expected.as_ref().map_or(0, Vec::len) as u64;
            // A read that follows the tail is ended by its number of batches; one that would get none is not made.
            if !follows || wanted > 0 {
                let request = ReadShardStreamRequest {
                    shard_id: shard,
                    from: filled.of_shard(from),
                    until: filled.of_shard(until),
                    max_read_batches: if follows { wanted } else { 0 },
                    ..Default::default()
                };
                let got = collected(client.read_shard_stream(request).await).await;
                assert_eq!(code(got), expected, "{case}");
            }
            // By key the end is never absent: it is the tail.
            let request = ReadStreamByKeyRequest {
                stream_name: "s".into(),
                from: filled.of_shard(from),
                until: filled.of_shard(until),
                read_record_count: 100,
                ..Default::default()
            };
            let got = of_key(client, request).await;
            assert_eq!(code(got), expected, "by key, {case}");
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_whole_stream_takes_conflicts_for_nothing_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let filled = Filled::fill(client, shard).await;
    let places = PLACES.into_iter().filter(|place| !matches!(place, Record(_) | Elsewhere));
    for from in places.clone() {
        for until in places.clone().filter(|until| !matches!(until, Absent | Empty)) {
            let request = ReadStreamRequest {
                stream_name: "s".into(),
                from: filled.of_stream(from),
                until: filled.of_stream(until),
                ..Default::default()
            };
            let mut answer = client.read_stream(request).await.unwrap().into_inner();
            let mut received = Vec::new();
            while let Some(message) = answer.message().await.unwrap() {
                received.extend(payloads(&message.received_records));
            }
            let expected = filled.selected(from, until).unwrap_or_default();
            assert_eq!(received, expected, "from {from:?} until {until:?}");
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_polled_reader_starts_where_its_offset_was_when_it_was_created() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let filled = Filled::fill(client, shard).await;
    let places: Vec<Place> = PLACES.into_iter().filter(|place| !matches!(place, Absent | Empty)).collect();
    for (number, place) in places.iter().enumerate() {
        let request = CreateShardReaderRequest {
            stream_name: "s".into(),
            shard_id: shard,
            shard_offset: filled.of_shard(*place),
            reader_id: format!("r{number}"),
            timeout: 0,
        };
        let created = client.create_shard_reader(request).await;
        assert_eq!(created.is_ok(), filled.start(*place).is_ok(), "{place:?}");
    }
    append(client, shard, "later").await;
    for (number, place) in places.iter().enumerate() {
        let Ok(start) = filled.start(*place) else { continue };
        let request = ReadShardRequest { reader_id: format!("r{number}"), max_records: 100 };
        let received = payloads(&client.read_shard(request).await.unwrap().into_inner().received_records);
        let mut expected: Vec<String> = (start..BATCHES).map(|number| number.to_string()).collect();
        expected.push("later".into());
        assert_eq!(received, expected, "{place:?}");
    }
    node.stop().await;
}
