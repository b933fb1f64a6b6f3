//! The raw adapter: the wire itself behind JSON lines, so that the server shows without a client of ours.
//!
//! It does what the protocol leaves to clients (hashing keys, packing batches) in the plainest way and nothing
//! more: no retry, no reconnect, no stamp.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use hstreamdb_proto::{
    api::{self, h_stream_api_client::HStreamApiClient},
    compression::{compress, decompress},
    error_body::ErrorBody,
    metadata,
    partition::key_hash,
};
use prost::Message as _;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, metadata::BinaryMetadataValue, transport::Channel};

/// Bound on a call that has no other.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// Most bytes a batch may take decompressed.
const MAX_CONTENT: usize = 64 << 20;
/// Records of a key asked for at a time.
const CREDIT: u64 = 1000;
/// Longest wait of one poll, milliseconds.
const POLL_MS: u32 = 100;

type Client = HStreamApiClient<Channel>;
type Answer = Result<Value, Status>;

#[derive(Default)]
struct Adapter {
    url: String,
    client: Option<Client>,
    producer: Option<Producer>,
    consumers: HashMap<String, Consumer>,
    reader: Option<Reader>,
    /// Batches of a response that were not asked for yet.
    read: VecDeque<api::ReceivedRecord>,
}

struct Producer {
    stream: String,
    shards: Vec<api::Shard>,
    batch_max_records: usize,
    compression: api::CompressionType,
    delivery_timeout: Duration,
}

struct Consumer {
    subscription: String,
    name: String,
    requests: mpsc::Sender<api::StreamingFetchRequest>,
    responses: tonic::Streaming<api::StreamingFetchResponse>,
}

enum Reader {
    /// Batches until the server ends the call.
    Stream(BoxStream<'static, Result<Vec<api::ReceivedRecord>, Status>>),
    /// Asked for again and again; never ends.
    Polled(String),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut adapter = Adapter::default();
    let mut output = stdout();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let answer = answer(adapter.run(&command).await);
        output.write_all(format!("{answer}\n").as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

fn answer(result: Answer) -> Value {
    match result {
        Ok(ok) => json!({ "ok": ok }),
        Err(status) => json!({ "error": failure(&status) }),
    }
}

/// What the status alone says.
fn failure(status: &Status) -> Value {
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => "invalid_argument",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::FailedPrecondition | Code::Aborted => "failed_precondition",
        Code::Unavailable => "unavailable",
        Code::DeadlineExceeded => "timeout",
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "overloaded",
        Code::Unimplemented => "unimplemented",
        Code::DataLoss => "codec",
        _ => "internal",
    };
    let unclear =
        matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown);
    json!({
        "kind": kind,
        "code": ErrorBody::parse(status.message()).map(|body| body.error),
        "may_have_been_applied": unclear,
        "message": status.message(),
    })
}

fn text<'a>(command: &'a Value, name: &str) -> &'a str {
    command[name].as_str().unwrap_or_default()
}

fn option<'a>(command: &'a Value, name: &str) -> &'a Value {
    &command["options"][name]
}

fn number(value: &Value, otherwise: i64) -> i64 {
    value.as_i64().unwrap_or(otherwise)
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("no {what}"))
}

fn shard(command: &Value) -> Result<u64, Status> {
    text(command, "shard").parse().map_err(|_| missing("shard"))
}

fn ids(command: &Value) -> Result<Vec<api::RecordId>, Status> {
    let ids = command["ids"].as_array().ok_or_else(|| missing("ids"))?;
    ids.iter().map(|id| id.as_str().unwrap_or_default().parse().map_err(|_| missing("record id"))).collect()
}

fn sorted(mut names: Vec<String>) -> Value {
    names.sort();
    json!({ "names": names })
}

fn shard_offset(value: &Value) -> Result<Option<api::ShardOffset>, Status> {
    use api::shard_offset::Offset;
    let Some(text) = value.as_str() else { return Ok(None) };
    let offset = match text {
        "earliest" => Offset::SpecialOffset(api::SpecialOffset::Earliest as i32),
        "latest" => Offset::SpecialOffset(api::SpecialOffset::Latest as i32),
        _ if text.contains('-') => Offset::RecordOffset(text.parse().map_err(|_| missing("record id"))?),
        _ => Offset::TimestampOffset(api::TimestampOffset {
            timestamp_in_ms: text.parse().map_err(|_| missing("offset"))?,
            strict_accuracy: true,
        }),
    };
    Ok(Some(api::ShardOffset { offset: Some(offset) }))
}

fn stream_offset(value: &Value) -> Result<Option<api::StreamOffset>, Status> {
    use api::{shard_offset::Offset as Of, stream_offset::Offset};
    let Some(offset) = shard_offset(value)?.and_then(|offset| offset.offset) else { return Ok(None) };
    let offset = match offset {
        Of::SpecialOffset(special) => Offset::SpecialOffset(special),
        Of::TimestampOffset(time) => Offset::TimestampOffset(time),
        Of::RecordOffset(_) => return Err(missing("offset of a whole stream")),
    };
    Ok(Some(api::StreamOffset { offset: Some(offset) }))
}

/// The records of a batch, or why it cannot be read.
fn decode(received: &api::ReceivedRecord) -> Result<Value, String> {
    let batch = received.record.as_ref().ok_or("no batch")?;
    let kind = api::CompressionType::try_from(batch.compression_type).map_err(|error| error.to_string())?;
    let content = decompress(kind, &batch.payload, MAX_CONTENT).map_err(|error| error.to_string())?;
    let records = api::BatchHStreamRecords::decode(content).map_err(|error| error.to_string())?.records;
    if records.len() != received.record_ids.len() {
        return Err(format!("{} ids for {} records", received.record_ids.len(), records.len()));
    }
    let records = records.into_iter().zip(&received.record_ids).map(|(record, id)| {
        let key = record.header.unwrap_or_default().key;
        json!({ "id": id.to_string(), "key": key, "payload": BASE64.encode(&record.payload) })
    });
    Ok(records.collect())
}

impl Adapter {
    async fn run(&mut self, command: &Value) -> Answer {
        match text(command, "do") {
            "connect" => {
                self.url = text(command, "url").replace("hstream://", "http://");
                self.client = Some(connect(&self.url).await?);
            }
            "together" => return self.together(command).await,
            "producer" => self.producer = Some(self.open_producer(command).await?),
            "append" => return self.append(command).await,
            "attach" => {
                let consumer = self.attach(command).await?;
                self.consumers.insert(text(command, "consumer").to_owned(), consumer);
            }
            "receive" => return self.receive(command).await,
            "ack" => {
                let ids = ids(command)?;
                self.consumer(command)?.ack(ids).await?;
            }
            "detach" => {
                let consumer = self.consumers.remove(text(command, "consumer"));
                let mut consumer = consumer.ok_or_else(|| missing("consumer"))?;
                drop(consumer.requests);
                let end = async {
                    while consumer.responses.message().await?.is_some() {}
                    Ok::<_, Status>(())
                };
                let clean = timeout(CALL_WITHIN, end).await.is_ok_and(|end| end.is_ok());
                return Ok(json!({ "clean": clean }));
            }
            "open_reader" => {
                self.read.clear();
                self.reader = Some(self.open_reader(command).await?);
            }
            "read" => return self.read(command).await,
            "close_reader" => {
                if let Some(Reader::Polled(reader_id)) = self.reader.take() {
                    self.client()?.delete_shard_reader(api::DeleteShardReaderRequest { reader_id }).await?;
                }
            }
            "close" => *self = Adapter::default(),
            _ => return within(CALL_WITHIN, admin(&mut self.client()?, command)).await,
        }
        Ok(json!({}))
    }

    fn client(&self) -> Result<Client, Status> {
        self.client.clone().ok_or_else(|| missing("client"))
    }

    fn consumer(&mut self, command: &Value) -> Result<&mut Consumer, Status> {
        self.consumers.get_mut(text(command, "consumer")).ok_or_else(|| missing("consumer"))
    }

    async fn together(&self, command: &Value) -> Answer {
        let mut clients = Vec::new();
        for _ in 0..number(&command["connections"], 0) {
            clients.push(connect(&self.url).await?);
        }
        let calls = clients.iter_mut().map(|client| admin(client, &command["command"]));
        let results = futures::future::join_all(calls).await;
        Ok(json!({ "answers": results.into_iter().map(answer).collect::<Vec<_>>() }))
    }

    async fn open_producer(&self, command: &Value) -> Result<Producer, Status> {
        let known = ["batch_max_records", "batch_max_age_ms", "compression", "delivery_timeout_ms"];
        for name in command["options"].as_object().into_iter().flatten().map(|(name, _)| name) {
            if !known.contains(&name.as_str()) {
                return Err(missing(&format!("option {name}")));
            }
        }
        let stream = text(command, "stream").to_owned();
        // ListShards calls a stream that is not there a matter of time.
        self.client()?.get_stream(api::GetStreamRequest { name: stream.clone() }).await?;
        let request = api::ListShardsRequest { stream_name: stream.clone() };
        let compression = match option(command, "compression").as_str() {
            Some("gzip") => api::CompressionType::Gzip,
            Some("zstd") => api::CompressionType::Zstd,
            _ => api::CompressionType::None,
        };
        Ok(Producer {
            stream,
            shards: self.client()?.list_shards(request).await?.into_inner().shards,
            batch_max_records: number(option(command, "batch_max_records"), 100) as usize,
            compression,
            delivery_timeout: match number(option(command, "delivery_timeout_ms"), 0) {
                0 => CALL_WITHIN,
                ms => Duration::from_millis(ms as u64),
            },
        })
    }

    async fn append(&self, command: &Value) -> Answer {
        let producer = self.producer.as_ref().ok_or_else(|| missing("producer"))?;
        let mut by_shard: BTreeMap<u64, Vec<(usize, api::HStreamRecord)>> = BTreeMap::new();
        let records = command["records"].as_array().ok_or_else(|| missing("records"))?;
        for (place, record) in records.iter().enumerate() {
            let key = record[0].as_str().unwrap_or_default();
            let payload = BASE64.decode(record[1].as_str().unwrap_or_default());
            let record = api::HStreamRecord {
                header: Some(api::HStreamRecordHeader { flag: 1, key: key.into(), ..Default::default() }),
                payload: payload.map_err(|_| missing("payload"))?.into(),
            };
            by_shard.entry(producer.shard_of(key)?).or_default().push((place, record));
        }
        let mut ids = vec![String::new(); records.len()];
        let calls =
            by_shard.into_iter().map(|(shard_id, records)| producer.append(self.client(), shard_id, records));
        for (place, id) in futures::future::try_join_all(calls).await?.into_iter().flatten() {
            if let Some(slot) = ids.get_mut(place) {
                *slot = id.to_string();
            }
        }
        Ok(json!({ "ids": ids }))
    }

    async fn attach(&self, command: &Value) -> Result<Consumer, Status> {
        let subscription = text(command, "subscription").to_owned();
        let name = option(command, "name").as_str().unwrap_or(text(command, "consumer")).to_owned();
        let (requests, outgoing) = mpsc::channel(16);
        let first = api::StreamingFetchRequest {
            subscription_id: subscription.clone(),
            consumer_name: name.clone(),
            ack_ids: Vec::new(),
        };
        // The channel is empty, so there is room.
        let _ = requests.try_send(first);
        let mut client = self.client()?;
        let call = client.streaming_fetch(ReceiverStream::new(outgoing));
        let responses = within(CALL_WITHIN, call).await?.into_inner();
        Ok(Consumer { subscription, name, requests, responses })
    }

    async fn receive(&mut self, command: &Value) -> Answer {
        let consumer = self.consumer(command)?;
        let within = Duration::from_millis(number(&command["timeout_ms"], 1000) as u64);
        let Ok(message) = timeout(within, consumer.responses.message()).await else {
            return Ok(json!({ "records": [] }));
        };
        let message = message?.ok_or_else(|| Status::unavailable("the server ended the call"))?;
        let received = message.received_records.unwrap_or_default();
        if command["ack"] == true {
            consumer.ack(received.record_ids.clone()).await?;
        }
        let compression = received.record.as_ref().map_or("none", |batch| match batch.compression_type {
            0 => "none",
            1 => "gzip",
            2 => "zstd",
            _ => "unknown",
        });
        match decode(&received) {
            Ok(records) => Ok(json!({ "records": records, "compression": compression })),
            Err(message) => {
                let unreadable = json!({ "kind": "codec", "message": message });
                Ok(json!({ "records": [], "unreadable": unreadable }))
            }
        }
    }

    async fn open_reader(&self, command: &Value) -> Result<Reader, Status> {
        let stream_name = text(command, "stream").to_owned();
        let (from, until) = (option(command, "from"), option(command, "until"));
        let max_read_batches = number(option(command, "max_batches"), 0) as u64;
        let reader_id = "raw-reader".to_owned();
        let mut client = self.client()?;
        Ok(match text(command, "kind") {
            "shard" => {
                let (from, until) = (shard_offset(from)?, shard_offset(until)?);
                let shard_id = shard(command)?;
                let request = api::ReadShardStreamRequest {
                    reader_id,
                    shard_id,
                    from,
                    max_read_batches,
                    until,
                    stream_name,
                };
                let responses = client.read_shard_stream(request).await?.into_inner();
                Reader::Stream(responses.map_ok(|response| response.received_records).boxed())
            }
            "stream" => {
                let (from, until) = (stream_offset(from)?, stream_offset(until)?);
                let request =
                    api::ReadStreamRequest { reader_id, stream_name, from, until, max_read_batches };
                let responses = client.read_stream(request).await?.into_inner();
                Reader::Stream(responses.map_ok(|response| response.received_records).boxed())
            }
            "single" => {
                let (from, until) = (shard_offset(from)?, shard_offset(until)?);
                let request = api::ReadSingleShardStreamRequest {
                    reader_id,
                    stream_name,
                    from,
                    until,
                    max_read_batches,
                };
                let responses = client.read_single_shard_stream(request).await?.into_inner();
                Reader::Stream(responses.map_ok(|response| response.received_records).boxed())
            }
            "key" => {
                let (from, until) = (shard_offset(from)?, shard_offset(until)?);
                let key = text(command, "key").to_owned();
                let first = api::ReadStreamByKeyRequest {
                    reader_id,
                    stream_name,
                    key,
                    from,
                    until,
                    read_record_count: CREDIT,
                };
                let (requests, outgoing) = mpsc::channel(1);
                let _ = requests.try_send(first);
                let responses = client.read_stream_by_key(ReceiverStream::new(outgoing)).await?.into_inner();
                let batches = responses.map_ok(move |response| {
                    // What was used up is asked for again; the sender lives as long as the read.
                    let used = response.received_records.len() as u64;
                    let more = api::ReadStreamByKeyRequest { read_record_count: used, ..Default::default() };
                    let _ = requests.try_send(more);
                    vec![of_key(response)]
                });
                Reader::Stream(batches.boxed())
            }
            "polled" => {
                let request = api::CreateShardReaderRequest {
                    stream_name,
                    shard_id: shard(command)?,
                    shard_offset: shard_offset(from)?,
                    reader_id: reader_id.clone(),
                    timeout: POLL_MS,
                };
                client.create_shard_reader(request).await?;
                Reader::Polled(reader_id)
            }
            other => return Err(missing(&format!("reader of kind {other:?}"))),
        })
    }

    async fn read(&mut self, command: &Value) -> Answer {
        if self.read.is_empty() {
            let within = Duration::from_millis(number(&command["timeout_ms"], 1000) as u64);
            let mut client = self.client()?;
            self.read = match self.reader.as_mut().ok_or_else(|| missing("reader"))? {
                Reader::Stream(responses) => match timeout(within, responses.next()).await {
                    Err(_) => Vec::new(),
                    Ok(None) => return Ok(json!({ "records": [], "end": true })),
                    Ok(Some(batches)) => batches?,
                },
                Reader::Polled(reader_id) => {
                    let request = api::ReadShardRequest { reader_id: reader_id.clone(), max_records: 3 };
                    client.read_shard(request).await?.into_inner().received_records
                }
            }
            .into();
        }
        let records = match self.read.pop_front() {
            Some(batch) => decode(&batch).map_err(Status::data_loss)?,
            None => json!([]),
        };
        Ok(json!({ "records": records, "end": false }))
    }
}

/// Records of a key in the form of a batch.
fn of_key(response: api::ReadStreamByKeyResponse) -> api::ReceivedRecord {
    let content = api::BatchHStreamRecords { records: response.received_records }.encode_to_vec();
    let record = api::BatchedRecord { payload: content.into(), ..Default::default() };
    api::ReceivedRecord { record_ids: response.record_ids, record: Some(record) }
}

impl Consumer {
    async fn ack(&self, ack_ids: Vec<api::RecordId>) -> Result<(), Status> {
        let request = api::StreamingFetchRequest {
            subscription_id: self.subscription.clone(),
            consumer_name: self.name.clone(),
            ack_ids,
        };
        self.requests.send(request).await.map_err(|_| Status::unavailable("the call is over"))
    }
}

impl Producer {
    fn shard_of(&self, key: &str) -> Result<u64, Status> {
        let hash = key_hash(key);
        let holds = |shard: &&api::Shard| {
            let bound = |text: &str| text.parse::<u128>().ok();
            match (bound(&shard.start_hash_range_key), bound(&shard.end_hash_range_key)) {
                (Some(start), Some(end)) => (start..=end).contains(&hash),
                _ => false,
            }
        };
        self.shards.iter().find(holds).map(|shard| shard.shard_id).ok_or_else(|| missing("shard for a key"))
    }

    /// Appends the records of one shard, batch after batch.
    async fn append(
        &self,
        client: Result<Client, Status>,
        shard_id: u64,
        records: Vec<(usize, api::HStreamRecord)>,
    ) -> Result<Vec<(usize, api::RecordId)>, Status> {
        let mut client = client?;
        let mut ids = Vec::with_capacity(records.len());
        for chunk in records.chunks(self.batch_max_records.max(1)) {
            let records: Vec<_> = chunk.iter().map(|(_, record)| record.clone()).collect();
            let batch_size = records.len() as u32;
            let content = Bytes::from(api::BatchHStreamRecords { records }.encode_to_vec());
            let payload = compress(self.compression, None, content)
                .map_err(|error| Status::internal(error.to_string()))?;
            let mut batch = api::BatchedRecord { batch_size, payload, ..Default::default() };
            batch.set_compression_type(self.compression);
            let request =
                api::AppendRequest { stream_name: self.stream.clone(), shard_id, records: Some(batch) };
            let answer = within(self.delivery_timeout, client.append(request)).await?.into_inner();
            ids.extend(chunk.iter().map(|(place, _)| *place).zip(answer.record_ids));
        }
        Ok(ids)
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

async fn connect(url: &str) -> Result<Client, Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned()).map_err(|_| missing("url"))?;
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(HStreamApiClient::new(channel).max_decoding_message_size(MAX_CONTENT))
}

/// What a client does besides records.
async fn admin(client: &mut Client, command: &Value) -> Answer {
    let (stream_name, subscription_id) =
        (text(command, "stream").to_owned(), text(command, "subscription").to_owned());
    match text(command, "do") {
        "create_stream" => {
            let request = api::Stream {
                stream_name,
                replication_factor: number(option(command, "replication_factor"), 1) as u32,
                backlog_duration: number(option(command, "backlog_duration_secs"), 86_400) as u32,
                shard_count: number(option(command, "shard_count"), 1) as u32,
                creation_time: None,
            };
            client.create_stream(request).await?;
        }
        "delete_stream" => {
            let request = api::DeleteStreamRequest {
                stream_name,
                ignore_non_exist: command["ignore_missing"] == true,
                force: command["force"] == true,
            };
            client.delete_stream(request).await?;
        }
        "get_stream" => {
            let request = api::GetStreamRequest { name: stream_name };
            let stream = client.get_stream(request).await?.into_inner().stream.unwrap_or_default();
            return Ok(json!({
                "name": stream.stream_name,
                "shard_count": stream.shard_count,
                "replication_factor": stream.replication_factor,
                "backlog_duration_secs": stream.backlog_duration,
            }));
        }
        "list_streams" => {
            let streams = match command["prefix"].as_str() {
                Some(prefix) => {
                    let request = api::ListStreamsWithPrefixRequest { prefix: prefix.into() };
                    client.list_streams_with_prefix(request).await?
                }
                None => client.list_streams(api::ListStreamsRequest {}).await?,
            };
            let names = streams.into_inner().streams.into_iter().map(|stream| stream.stream_name);
            return Ok(sorted(names.collect()));
        }
        "list_shards" => {
            let mut shards =
                client.list_shards(api::ListShardsRequest { stream_name }).await?.into_inner().shards;
            // Listed in text order.
            shards.sort_by_key(|shard| shard.start_hash_range_key.parse::<u128>().unwrap_or(u128::MAX));
            let shards = shards.into_iter().map(|shard| {
                json!({
                    "id": shard.shard_id.to_string(),
                    "start": shard.start_hash_range_key,
                    "end": shard.end_hash_range_key,
                })
            });
            return Ok(json!({ "shards": shards.collect::<Vec<_>>() }));
        }
        "tail_record_id" => {
            let request = api::GetTailRecordIdRequest { stream_name, shard_id: shard(command)? };
            let id =
                client.get_tail_record_id(request).await?.into_inner().tail_record_id.unwrap_or_default();
            return Ok(json!({ "id": id.to_string() }));
        }
        "trim_stream" => {
            let trim_point = stream_offset(&command["before"])?;
            client.trim_stream(api::TrimStreamRequest { stream_name, trim_point }).await?;
        }
        "trim_shard" => {
            let (shard_id, trim_point) = (shard(command)?, shard_offset(&command["before"])?);
            client.trim_shard(api::TrimShardRequest { stream_name, shard_id, trim_point }).await?;
        }
        "trim_shards" => {
            let record_ids = ids(command)?.iter().map(ToString::to_string).collect();
            let request = api::TrimShardsRequest { stream_name, record_ids };
            let points: BTreeMap<_, _> =
                client.trim_shards(request).await?.into_inner().trim_points.into_iter().collect();
            return Ok(json!({ "ids": points.into_values().collect::<Vec<_>>() }));
        }
        "create_subscription" => {
            let latest = option(command, "offset") != "earliest";
            let request = api::Subscription {
                subscription_id,
                stream_name,
                ack_timeout_seconds: number(option(command, "ack_timeout_secs"), 600) as i32,
                max_unacked_records: number(option(command, "max_unacked_records"), 10_000) as i32,
                offset: i32::from(latest),
                creation_time: None,
            };
            let mut request = Request::new(request);
            let keys = request.metadata_mut();
            for (name, key) in [
                ("redeliver_on_disconnect", metadata::REDELIVER_ON_DISCONNECT),
                ("max_deliveries", metadata::MAX_DELIVERIES),
            ] {
                if let Some(value) = command["options"].get(name) {
                    let value = value.to_string().parse();
                    keys.insert(key, value.map_err(|_| Status::invalid_argument(name))?);
                }
            }
            if let Some(stream) = command["options"]["dead_letter_stream"].as_str() {
                let name = BinaryMetadataValue::from_bytes(stream.as_bytes());
                keys.insert_bin(metadata::DEAD_LETTER_STREAM, name);
            }
            client.create_subscription(request).await?;
        }
        "get_subscription" => {
            let request = api::GetSubscriptionRequest { id: subscription_id };
            let found = client.get_subscription(request).await?.into_inner().subscription.unwrap_or_default();
            return Ok(json!({
                "offset": if found.offset == 0 { "earliest" } else { "latest" },
                "id": found.subscription_id,
                "stream": found.stream_name,
                "ack_timeout_secs": found.ack_timeout_seconds,
                "max_unacked_records": found.max_unacked_records,
            }));
        }
        "list_subscriptions" => {
            let listed = match command["prefix"].as_str() {
                Some(prefix) => {
                    let request = api::ListSubscriptionsWithPrefixRequest { prefix: prefix.into() };
                    client.list_subscriptions_with_prefix(request).await?
                }
                None => client.list_subscriptions(api::ListSubscriptionsRequest {}).await?,
            };
            let ids = listed.into_inner().subscription.into_iter().map(|found| found.subscription_id);
            return Ok(sorted(ids.collect()));
        }
        "delete_subscription" => {
            let request = api::DeleteSubscriptionRequest { subscription_id, force: command["force"] == true };
            client.delete_subscription(request).await?;
        }
        "list_consumers" => {
            let request = api::ListConsumersRequest { subscription_id };
            let consumers = client.list_consumers(request).await?.into_inner().consumers;
            return Ok(sorted(consumers.into_iter().map(|consumer| consumer.name).collect()));
        }
        other => return Err(missing(&format!("command {other:?}"))),
    }
    Ok(json!({}))
}
