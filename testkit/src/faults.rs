//! What the proxy can do to calls, one fault at a time.
//!
//! A fault changes messages on their way in ([`Fault::of_requests`]), on their way out ([`Fault::of_responses`]), or
//! answers in the server's place ([`Fault::instead`], [`Fault::refusal`]).

use crate::messages::{Change, MessageBody};
use bytes::Bytes;
use hstreamdb_proto::{api, batch::split_records, compression::decompress, metadata};
use prost::Message;
use std::collections::{HashSet, VecDeque};
use tonic::{Code, body::Body, codegen::http};

/// Most bytes a batch may take when the proxy looks into it.
const MAX_CONTENT: usize = 64 << 20;

/// What the proxy does to the calls that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    None,
    /// Appends are stored, then answered UNAVAILABLE; each count is used up by one append.
    LoseReplies(u32),
    /// Readers are created or polled, which moves them, and the call is then answered UNAVAILABLE; each count is used
    /// up by one call.
    LoseReaderReplies(u32),
    /// Appends never get an answer.
    Hang,
    /// Every append reaches the server up to so many milliseconds late, also when the client has given it up by then,
    /// and so before earlier ones.
    Late(u32),
    /// Appends are acknowledged with invented ids and thrown away.
    ForgetAppends,
    /// Appends that the server refuses are acknowledged with an invented id.
    AcceptEverything,
    /// Acks of a streaming fetch never reach the server.
    DropAcks,
    /// Each pair of delivered batches changes places.
    Reorder,
    /// Every delivered batch arrives twice.
    Duplicate,
    /// Every second delivered batch vanishes.
    LoseBatches,
    /// Batches that nobody can read are never delivered.
    SkipPoison,
    /// A batch that is delivered again claims another compression than it has.
    WrongCompression,
    /// Producer stamps never reach the server, which therefore stores a repeat again.
    DropStamps,
    /// Redelivery policies never reach the server, which creates subscriptions without them.
    DropPolicies,
    /// No fault of the server's: it speaks the published protocol and nothing beyond it.
    Published,
    /// Commands of operators are answered and not carried out.
    IgnoreCommands,
    /// Whatever the server refuses is refused with an error of another class.
    WrongErrors,
    /// Subscriptions know no bound on what is unacknowledged.
    IgnoreMaxUnacked,
    /// A subscription from the earliest record starts at the latest, and the other way round.
    SwapStarts,
    /// Two consumers of one name are two consumers.
    ShareNames,
    /// A consumer is not told that its call is over.
    EndlessConsumers,
    /// Deletions are answered and not done.
    ForgetDeletes,
    /// Trims are answered and not done.
    IgnoreTrims,
    /// Reads start at the oldest record and end, if at all, at the newest.
    IgnoreOffsets,
    /// Reads know no bound on their batches.
    IgnoreMaxBatches,
    /// A read by key gives the records of another key.
    OtherKey,
    /// Whoever creates a stream that is there is told that it was created.
    EveryCreatorWins,
    /// Each shard is said to take the keys of another one.
    WrongRanges,
    /// Streams and subscriptions are described with other figures than they were created with.
    WrongDescriptions,
}

impl Fault {
    /// Metadata of requests that the server never sees.
    pub(crate) fn hidden_keys(self) -> &'static [&'static str] {
        match self {
            Fault::DropStamps => {
                &[metadata::PRODUCER_ID, metadata::PRODUCER_EPOCH, metadata::PRODUCER_SEQUENCE]
            }
            Fault::DropPolicies => {
                &[metadata::REDELIVER_ON_DISCONNECT, metadata::MAX_DELIVERIES, metadata::DEAD_LETTER_STREAM]
            }
            Fault::Published => &[
                metadata::PRODUCER_ID,
                metadata::PRODUCER_EPOCH,
                metadata::PRODUCER_SEQUENCE,
                metadata::REDELIVER_ON_DISCONNECT,
                metadata::MAX_DELIVERIES,
                metadata::DEAD_LETTER_STREAM,
                metadata::ACK_CONFIRMATION,
                metadata::SUBSCRIPTION_INCARNATION,
                metadata::READ_GAPS,
            ],
            _ => &[],
        }
    }

    /// Metadata of responses that the client never sees.
    pub(crate) fn hidden_answers(self) -> &'static [&'static str] {
        match self {
            Fault::Published => {
                &[metadata::CAPABILITIES, metadata::SUBSCRIPTION_INCARNATION, metadata::PRODUCER_REPEAT]
            }
            _ => &[],
        }
    }

    /// The change of the messages of a request, if the fault is one of those.
    pub(crate) fn of_requests(self, method: &str) -> Option<Change> {
        Some(match (method, self) {
            ("StreamingFetch", Fault::DropAcks) => {
                let mut first = true;
                Box::new(move |message| if std::mem::take(&mut first) { vec![message] } else { Vec::new() })
            }
            ("StreamingFetch", Fault::ShareNames) => {
                let own = format!("-{:08x}", rand::random::<u32>());
                decoded(move |fetch: &mut api::StreamingFetchRequest| fetch.consumer_name += &own)
            }
            ("CreateSubscription", Fault::IgnoreMaxUnacked) => {
                decoded(|new: &mut api::Subscription| new.max_unacked_records = i32::MAX)
            }
            ("CreateSubscription", Fault::SwapStarts) => {
                decoded(|new: &mut api::Subscription| new.offset = 1 - new.offset)
            }
            ("ReadShardStream", Fault::IgnoreOffsets) => decoded(|read: &mut api::ReadShardStreamRequest| {
                read.from = None;
                read.until = read.until.take().map(|_| newest());
            }),
            ("ReadSingleShardStream", Fault::IgnoreOffsets) => {
                decoded(|read: &mut api::ReadSingleShardStreamRequest| {
                    read.from = None;
                    read.until = read.until.take().map(|_| newest());
                })
            }
            ("ReadStreamByKey", Fault::IgnoreOffsets) => decoded(|read: &mut api::ReadStreamByKeyRequest| {
                read.from = None;
                read.until = read.until.take().map(|_| newest());
            }),
            ("CreateShardReader", Fault::IgnoreOffsets) => {
                decoded(|new: &mut api::CreateShardReaderRequest| {
                    new.shard_offset = Some(api::ShardOffset {
                        offset: Some(api::shard_offset::Offset::SpecialOffset(
                            api::SpecialOffset::Earliest as i32,
                        )),
                    });
                })
            }
            ("ReadShardStream", Fault::IgnoreMaxBatches) => {
                decoded(|read: &mut api::ReadShardStreamRequest| read.max_read_batches = 0)
            }
            ("ReadStream", Fault::IgnoreMaxBatches) => {
                decoded(|read: &mut api::ReadStreamRequest| read.max_read_batches = 0)
            }
            ("ReadStreamByKey", Fault::OtherKey) => {
                decoded(|read: &mut api::ReadStreamByKeyRequest| read.key.push('0'))
            }
            _ => return None,
        })
    }

    /// The change of the messages of a response, if the fault is one of those.
    pub(crate) fn of_responses(self, method: &str) -> Option<Change> {
        Some(match (method, self) {
            ("StreamingFetch", Fault::Duplicate) => Box::new(|message| vec![message.clone(), message]),
            ("StreamingFetch", Fault::Reorder) => {
                let mut held: VecDeque<Bytes> = VecDeque::new();
                Box::new(move |message| match held.pop_front() {
                    Some(earlier) => vec![message, earlier],
                    None => {
                        held.push_back(message);
                        Vec::new()
                    }
                })
            }
            ("StreamingFetch", Fault::LoseBatches) => {
                let mut lose = true;
                Box::new(move |message| {
                    lose = !lose;
                    if lose { Vec::new() } else { vec![message] }
                })
            }
            ("StreamingFetch", Fault::SkipPoison) => {
                Box::new(|message| if is_readable(&message) { vec![message] } else { Vec::new() })
            }
            ("StreamingFetch", Fault::WrongCompression) => {
                let mut seen = HashSet::new();
                decoded(move |response: &mut api::StreamingFetchResponse| {
                    let Some(received) = &mut response.received_records else { return };
                    let batch = received.record_ids.first().map(|id| (id.shard_id, id.batch_id));
                    if !seen.insert(batch)
                        && let Some(record) = &mut received.record
                    {
                        record.compression_type = i32::from(record.compression_type == 0);
                    }
                })
            }
            ("ListShards", Fault::WrongRanges) => decoded(|list: &mut api::ListShardsResponse| {
                let mut ids: Vec<u64> = list.shards.iter().map(|shard| shard.shard_id).collect();
                ids.rotate_left(1);
                list.shards.iter_mut().zip(ids).for_each(|(shard, id)| shard.shard_id = id);
            }),
            ("GetStream", Fault::WrongDescriptions) => decoded(|answer: &mut api::GetStreamResponse| {
                answer.stream.iter_mut().for_each(|stream| stream.shard_count += 1);
            }),
            ("GetSubscription", Fault::WrongDescriptions) => {
                decoded(|answer: &mut api::GetSubscriptionResponse| {
                    answer
                        .subscription
                        .iter_mut()
                        .for_each(|subscription| subscription.ack_timeout_seconds += 1);
                })
            }
            _ => return None,
        })
    }

    /// What is answered without asking the server.
    pub(crate) fn instead(self, method: &str) -> Option<Vec<u8>> {
        match (method, self) {
            ("DeleteStream" | "DeleteSubscription", Fault::ForgetDeletes) => Some(Vec::new()),
            ("TrimStream" | "TrimShard" | "TrimShards", Fault::IgnoreTrims) => Some(Vec::new()),
            ("SendAdminCommand", Fault::IgnoreCommands) => Some(Vec::new()),
            _ => None,
        }
    }

    /// What is answered where the server refused with this status.
    pub(crate) fn refusal(self, method: &str, status: Code) -> Option<Vec<u8>> {
        match (method, self, status) {
            ("CreateStream", Fault::EveryCreatorWins, Code::AlreadyExists) => Some(Vec::new()),
            ("Append", Fault::AcceptEverything, _) => {
                let record_ids = vec![api::RecordId { shard_id: 1, batch_id: 1, batch_index: 0 }];
                Some(api::AppendResponse { record_ids, ..Default::default() }.encode_to_vec())
            }
            _ => None,
        }
    }
}

fn newest() -> api::ShardOffset {
    let latest = api::shard_offset::Offset::SpecialOffset(api::SpecialOffset::Latest as i32);
    api::ShardOffset { offset: Some(latest) }
}

/// A change of the decoded message; one that cannot be decoded passes as it is.
pub(crate) fn decoded<M: Message + Default>(mut change: impl FnMut(&mut M) + Send + 'static) -> Change {
    Box::new(move |message| match M::decode(message.clone()) {
        Ok(mut decoded) => {
            change(&mut decoded);
            vec![decoded.encode_to_vec().into()]
        }
        Err(_) => vec![message],
    })
}

fn is_readable(message: &Bytes) -> bool {
    let Ok(response) = api::StreamingFetchResponse::decode(message.clone()) else { return false };
    let Some(record) = response.received_records.and_then(|received| received.record) else { return true };
    let Ok(kind) = api::CompressionType::try_from(record.compression_type) else { return false };
    let content = decompress(kind, &record.payload, MAX_CONTENT);
    content.is_ok_and(|content| split_records(&content).is_ok())
}

/// An acknowledgement for an append that goes nowhere.
pub(crate) fn forget(request: http::Request<Body>) -> http::Response<Body> {
    let mut next = 2_000_000_000_000_000_000;
    let acknowledge = move |message: Bytes| {
        let Ok(append) = api::AppendRequest::decode(message) else { return Vec::new() };
        next += 1;
        let record_ids = (0..append.records.map_or(0, |records| records.batch_size))
            .map(|batch_index| api::RecordId { shard_id: append.shard_id, batch_id: next, batch_index })
            .collect();
        let answer =
            api::AppendResponse { stream_name: append.stream_name, shard_id: append.shard_id, record_ids };
        vec![answer.encode_to_vec().into()]
    };
    respond(MessageBody::new(request.into_body(), Box::new(acknowledge)).with_ok_trailers())
}

/// An answer of the proxy's own.
pub(crate) fn respond(body: MessageBody) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(body));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}
