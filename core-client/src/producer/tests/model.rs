//! The pipelines against a model of a server that keeps the protocol of `hstreamdb_proto::metadata`, behind a
//! network that loses requests and answers, and delivers some of them late.

use super::super::{
    Producer,
    settings::ProducerSettings,
    shared::{Identity, Shared},
    transport::{Answer, Stamp, Transport},
};
use crate::{
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    record::RecordId,
    retry::RetryPolicy,
    routing::ShardMap,
};
use futures::future::BoxFuture;
use hstreamdb_proto::{
    api::{AppendRequest, BatchHStreamRecords, Shard},
    metadata::producer_error,
    partition::even_range,
};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::sleep;
use tonic::{Code, Status};

/// How often the network does what, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub connect_fails: u32,
    pub request_lost: u32,
    pub answer_lost: u32,
    pub late: u32,
    pub hangs: u32,
    pub slow: u32,
}

#[derive(Debug, Default)]
pub struct ShardLog {
    /// Payloads in the order they were stored, with their ids.
    pub records: Vec<(String, RecordId)>,
    batches: u64,
    pub producers: HashMap<u128, (u32, BTreeMap<u64, Vec<RecordId>>)>,
}

#[derive(Debug)]
pub struct Model {
    pub shards: Mutex<BTreeMap<u64, ShardLog>>,
    random: Mutex<StdRng>,
    faults: Faults,
    honours_stamps: bool,
    pub metrics: Metrics,
    /// Fails every call as if no connection could be made.
    pub down: AtomicBool,
    /// Answers so many appends as a node that does not know the shard yet.
    pub ignorant: AtomicU32,
    /// Appends that came.
    pub appends: AtomicU32,
    /// How often the shards were asked for.
    pub lookups: AtomicU32,
}

impl Model {
    pub fn new(seed: u64, shards: u32, faults: Faults, honours_stamps: bool) -> Arc<Self> {
        Arc::new(Model {
            shards: Mutex::new((1..=u64::from(shards)).map(|id| (id, ShardLog::default())).collect()),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults,
            honours_stamps,
            metrics: Metrics::default(),
            down: false.into(),
            ignorant: 0.into(),
            appends: 0.into(),
            lookups: 0.into(),
        })
    }

    fn percent(&self) -> u32 {
        self.random.lock().unwrap().random_range(0..100)
    }

    /// What the server does with a request that reaches it.
    fn store(&self, request: &AppendRequest, stamp: Option<Stamp>) -> Result<Answer> {
        let refuse = |code, class: &str| {
            let body = format!(r#"{{"error":0,"message":"{class}","extra":null}}"#);
            Err(Error::from_status("append", &Status::new(code, body)))
        };
        let batch = request.records.as_ref().unwrap();
        let records = BatchHStreamRecords::decode(batch.payload.clone()).unwrap().records;
        let payloads: Vec<String> =
            records.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()).collect();
        if payloads.iter().any(|payload| payload.contains("poison")) {
            return refuse(Code::InvalidArgument, "Poison");
        }
        let mut shards = self.shards.lock().unwrap();
        let Some(log) = shards.get_mut(&request.shard_id) else {
            return Err(Error::from_status("append", &Status::unavailable("log not found")));
        };
        if let Some(stamp) = stamp.filter(|_| self.honours_stamps) {
            if !log.producers.contains_key(&stamp.producer) && stamp.sequence > 0 {
                // Nothing of this producer was ever stored here, or it is forgotten.
                return refuse(Code::FailedPrecondition, producer_error::EXPIRED);
            }
            let (epoch, stored) = log.producers.entry(stamp.producer).or_default();
            if stamp.epoch < *epoch {
                return refuse(Code::FailedPrecondition, producer_error::FENCED);
            }
            if stamp.epoch > *epoch {
                if stamp.sequence > 0 {
                    return refuse(Code::Aborted, producer_error::SEQUENCE_GAP);
                }
                (*epoch, *stored) = (stamp.epoch, BTreeMap::new());
            }
            if let Some(ids) = stored.get(&stamp.sequence) {
                return Ok(Answer { ids: ids.clone(), honours_stamps: true });
            }
            if stamp.sequence > stored.len() as u64 {
                return refuse(Code::Aborted, producer_error::SEQUENCE_GAP);
            }
        }
        log.batches += 1;
        let ids: Vec<RecordId> = (0..payloads.len() as u32)
            .map(|batch_index| RecordId {
                shard_id: request.shard_id,
                batch_id: 1000 + log.batches,
                batch_index,
            })
            .collect();
        log.records.extend(payloads.into_iter().zip(ids.iter().copied()));
        if let Some(stamp) = stamp.filter(|_| self.honours_stamps)
            && let Some((_, stored)) = log.producers.get_mut(&stamp.producer)
        {
            stored.insert(stamp.sequence, ids.clone());
        }
        Ok(Answer { ids, honours_stamps: self.honours_stamps })
    }
}

struct Network(Arc<Model>);

fn lost(kind: ErrorKind) -> Error {
    Error::new(kind, "append").with_may_have_been_applied(true).with_retryable(true)
}

impl Transport for Network {
    fn append(
        &self,
        request: AppendRequest,
        stamp: Option<Stamp>,
        _repeatable: bool,
    ) -> BoxFuture<'_, Result<Answer>> {
        let model = self.0.clone();
        Box::pin(async move {
            model.appends.fetch_add(1, SeqCst);
            if model.ignorant.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(Error::from_status("append", &Status::unavailable("log not found")));
            }
            if model.down.load(SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, "connect"));
            }
            let faults = model.faults;
            let mut dice = model.percent();
            let mut happens = |percent: u32| {
                let yes = dice < percent;
                dice = if yes { u32::MAX } else { dice.saturating_sub(percent) };
                yes
            };
            if happens(faults.connect_fails) {
                return Err(Error::new(ErrorKind::Unavailable, "connect"));
            }
            if happens(faults.request_lost) {
                return Err(lost(ErrorKind::Unavailable));
            }
            if happens(faults.late) {
                let delay = Duration::from_millis(u64::from(model.percent()) * 20);
                let server = model.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = server.store(&request, stamp);
                });
                return Err(lost(ErrorKind::Timeout));
            }
            let (loses, hangs) = (happens(faults.answer_lost), happens(faults.hangs));
            if happens(faults.slow) {
                sleep(Duration::from_millis(u64::from(model.percent()))).await;
            }
            let answer = model.store(&request, stamp);
            if hangs {
                sleep(Duration::from_secs(5)).await;
                return Err(lost(ErrorKind::Timeout));
            }
            if loses {
                return Err(lost(ErrorKind::Unavailable));
            }
            answer
        })
    }

    fn shards(&self) -> BoxFuture<'_, Result<ShardMap>> {
        self.0.lookups.fetch_add(1, SeqCst);
        let count = self.0.shards.lock().unwrap().len();
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            match count {
                0 => Err(Error::new(ErrorKind::NotFound, "list shards")),
                count => Ok(shard_map(count as u32, 1)),
            }
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

pub fn shard_map(count: u32, first: u64) -> ShardMap {
    let shards: Vec<_> = (0..count)
        .map(|index| {
            let (start, end) = even_range(index, count);
            Shard {
                shard_id: first + u64::from(index),
                start_hash_range_key: start.to_string(),
                end_hash_range_key: end.to_string(),
                ..Default::default()
            }
        })
        .collect();
    ShardMap::from_wire("s", &shards).unwrap()
}

pub fn producer(model: &Arc<Model>, settings: ProducerSettings) -> Producer {
    let map = shard_map(model.shards.lock().unwrap().len() as u32, 1);
    producer_with_map(model, settings, map)
}

pub fn producer_with_map(model: &Arc<Model>, settings: ProducerSettings, map: ShardMap) -> Producer {
    settings.validate().unwrap();
    let identity = Identity { producer_id: 77, stamps: model.honours_stamps };
    let transport = Arc::new(Network(model.clone()));
    let runtime = tokio::runtime::Handle::current();
    Producer::new(Shared::new(
        "s".into(),
        identity,
        settings,
        RetryPolicy::default(),
        transport,
        map,
        runtime,
    ))
}

pub fn small_batches() -> ProducerSettings {
    ProducerSettings {
        batch_max_records: 4,
        batch_max_age: Duration::from_millis(5),
        delivery_timeout: Duration::from_secs(120),
        ..ProducerSettings::default()
    }
}
