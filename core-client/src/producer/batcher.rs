//! Records into batches: one open batch per shard, closed by count, size or age, and the queue of closed ones.

use super::{
    batch::{Batch, FlushWait, Generations},
    flow::Permit,
    lookup::Fetched,
    observer::Observer,
    outcome::Call,
    settings::ProducerSettings,
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{
        RecordBatch, RecordId, RecordView,
        codec::{BatchEncoder, RecordLayout},
    },
    routing::ShardMap,
};
use hstreamdb_proto::api::ErrorCode;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// What waits for one shard.
#[derive(Debug)]
struct Lane {
    shard_id: u64,
    open: Option<Batch>,
    ready: VecDeque<Batch>,
    generations: Generations,
    /// Length of the last batch: the next one's buffer need not grow to it step by step.
    usual: usize,
    wake: Arc<Notify>,
    /// Whether a pipeline serves it.
    served: bool,
}

/// A lane that got its first records and needs a pipeline.
#[derive(Debug)]
pub(super) struct NewLane {
    pub shard_id: u64,
    pub wake: Arc<Notify>,
}

/// What a pipeline does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send this.
    Batch(Batch),
    /// Nothing before this moment, unless woken.
    At(Instant),
    /// Nothing until woken.
    Idle,
    /// Nothing ever again.
    Finished,
}

/// Everything that was accepted and is not yet with a pipeline.
#[derive(Debug)]
pub(super) struct Intake {
    settings: Arc<ProducerSettings>,
    observer: Option<Observer>,
    shards: Fetched,
    lanes: Vec<Lane>,
    index: HashMap<u64, usize>,
    /// What is left of shards that are gone.
    gone: Generations,
    closed: bool,
}

impl Intake {
    pub fn new(settings: Arc<ProducerSettings>, observer: Option<Observer>, map: ShardMap) -> Self {
        let shards = Fetched { asked: Instant::now(), map: Arc::new(map) };
        let mut intake = Intake {
            settings,
            observer,
            shards: shards.clone(),
            lanes: Vec::new(),
            index: HashMap::new(),
            gone: Generations::default(),
            closed: false,
        };
        // A fresh intake has nothing to give back.
        drop(intake.route_by(shards));
        intake
    }

    /// Whether nothing is accepted any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether every key has a shard.
    pub fn takes_every_key(&self) -> bool {
        self.shards.map.is_complete()
    }

    /// Accepts one record of this layout, or says why it never could be.
    pub fn push(
        &mut self,
        view: &RecordView<'_>,
        layout: RecordLayout,
        mut permit: Permit,
        sender: oneshot::Sender<Result<RecordId>>,
        started: &mut Vec<NewLane>,
    ) -> Result<()> {
        let lane = self.lane_of(view.key)?;
        let batch = self.place(lane, view, layout, &mut permit, started)?;
        batch.waiters.push_one(sender);
        self.seal_if_full(lane);
        Ok(())
    }

    /// Accepts the records of a call; those that never could be sent fail alone.
    pub fn push_many(
        &mut self,
        records: &RecordBatch,
        mut permit: Permit,
        call: &Arc<Call>,
        started: &mut Vec<NewLane>,
    ) -> Vec<(usize, Error)> {
        let mut refused = Vec::new();
        let mut last: Option<(&str, usize)> = None;
        for (position, view) in records.views().enumerate() {
            let lane = match last {
                // Runs of one key are common, and hashing is the most expensive step here.
                Some((key, lane)) if key == view.key => Ok(lane),
                _ => self.lane_of(view.key),
            };
            let placed = lane.and_then(|lane| {
                last = Some((view.key, lane));
                let layout = measure(&self.settings, &view)?;
                let batch = self.place(lane, &view, layout, &mut permit, started)?;
                batch.waiters.push_many(call, position);
                self.seal_if_full(lane);
                Ok(())
            });
            if let Err(error) = placed {
                refused.push((position, error));
            }
        }
        refused
    }

    fn lane_of(&self, key: &str) -> Result<usize> {
        self.shards.map.index_for_key(key).ok_or_else(|| {
            Error::new(ErrorKind::Routing, "append")
                .with_resource(format!("key {key:?}"))
                .with_message("no shard of the stream takes the hash of this key; append it again later")
        })
    }

    /// Writes the record into the shard's open batch, which it opens if need be.
    fn place(
        &mut self,
        lane: usize,
        view: &RecordView<'_>,
        layout: RecordLayout,
        permit: &mut Permit,
        started: &mut Vec<NewLane>,
    ) -> Result<&mut Batch> {
        let unknown = || Error::new(ErrorKind::Internal, "append").with_message("the shard has no queue");
        let lane = self.lanes.get_mut(lane).ok_or_else(unknown)?;
        if lane
            .open
            .as_ref()
            .is_some_and(|batch| batch.encoder.encoded_len_with(layout) > self.settings.batch_max_bytes)
        {
            lane.seal();
        }
        if !lane.served {
            lane.served = true;
            started.push(NewLane { shard_id: lane.shard_id, wake: lane.wake.clone() });
        }
        if lane.open.is_none() {
            // The pipeline learns when the batch will be old enough.
            lane.wake.notify_one();
        }
        let batch = match &mut lane.open {
            Some(batch) => batch,
            none => {
                let (generation, observer) = (lane.generations.current(), self.observer.clone());
                let encoder = BatchEncoder::with_capacity(lane.usual);
                none.insert(Batch::open(lane.shard_id, encoder, permit.split(0, 0), generation, observer))
            }
        };
        batch.permit.absorb(permit, 1, view.flow_bytes());
        batch.encoder.push(view, layout);
        batch.records += 1;
        batch.bytes = batch.encoder.content_len();
        Ok(batch)
    }

    fn seal_if_full(&mut self, lane: usize) {
        let settings = &self.settings;
        if let Some(lane) = self.lanes.get_mut(lane)
            && lane.open.as_ref().is_some_and(|batch| {
                batch.encoder.records() >= settings.batch_max_records
                    || batch.encoder.encoded_len() >= settings.batch_max_bytes
            })
        {
            lane.seal();
        }
    }

    /// The next batch of a shard that is full, old enough, or flushed.
    pub fn next(&mut self, shard_id: u64, now: Instant) -> Next {
        let age = self.settings.batch_max_age;
        let closed = self.closed;
        let Some(lane) = self.lane_mut(shard_id) else { return Next::Finished };
        if let Some(batch) = lane.ready.pop_front() {
            return Next::Batch(batch);
        }
        match &lane.open {
            Some(batch) => match batch.opened.checked_add(age) {
                Some(due) if due > now && !closed => Next::At(due),
                // A deadline beyond the clock is never reached; there flushing and closing decide.
                None if !closed => Next::Idle,
                _ => lane.take_open().map_or(Next::Idle, Next::Batch),
            },
            None if closed => Next::Finished,
            None => Next::Idle,
        }
    }

    /// Closes all open batches; what waits for everything accepted so far.
    pub fn flush(&mut self) -> FlushWait {
        let mut wait = FlushWait::default();
        for lane in &mut self.lanes {
            lane.flush(&mut wait);
        }
        self.gone.wait_for_all(&mut wait);
        wait
    }

    /// Closes the open batch of a key's shard; what waits for everything accepted so far for that shard.
    pub fn flush_key(&mut self, key: &str) -> Result<FlushWait> {
        let mut wait = FlushWait::default();
        let lane = self.lane_of(key)?;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.flush(&mut wait);
        }
        Ok(wait)
    }

    /// The same for a shard by its id.
    pub fn flush_shard(&mut self, shard_id: u64) -> Result<FlushWait> {
        let mut wait = FlushWait::default();
        let lane = self.lane_mut(shard_id).ok_or_else(|| {
            Error::new(ErrorKind::Routing, "flush")
                .with_resource(format!("shard {shard_id}"))
                .with_message("the stream has no such shard")
        })?;
        lane.flush(&mut wait);
        Ok(wait)
    }

    /// Accepts nothing from now on; what is in it is still sent.
    pub fn close(&mut self) {
        self.closed = true;
        for lane in &mut self.lanes {
            lane.seal();
            lane.wake.notify_one();
        }
    }

    /// All that waits for a shard, taken out: the caller resolves or drops it outside the lock.
    pub fn drain(&mut self, shard_id: u64) -> VecDeque<Batch> {
        let Some(lane) = self.lane_mut(shard_id) else { return VecDeque::new() };
        lane.seal();
        std::mem::take(&mut lane.ready)
    }

    /// Routes by these shards from now on, unless newer ones are known. Batches of shards that are gone are
    /// returned.
    #[must_use]
    pub fn route_by(&mut self, shards: Fetched) -> Vec<Batch> {
        if shards.asked < self.shards.asked {
            return Vec::new();
        }
        let mut old: HashMap<u64, Lane> =
            std::mem::take(&mut self.lanes).into_iter().map(|lane| (lane.shard_id, lane)).collect();
        self.lanes = shards
            .map
            .ranges()
            .iter()
            .map(|range| old.remove(&range.id).unwrap_or_else(|| Lane::new(range.id)))
            .collect();
        self.index = self.lanes.iter().enumerate().map(|(at, lane)| (lane.shard_id, at)).collect();
        self.shards = shards;
        let mut left = Vec::new();
        for mut lane in old.into_values() {
            lane.seal();
            // Its pipeline finds nothing of its shard and ends.
            lane.wake.notify_one();
            left.extend(lane.ready);
            self.gone.adopt(lane.generations);
        }
        left
    }

    fn lane_mut(&mut self, shard_id: u64) -> Option<&mut Lane> {
        let at = *self.index.get(&shard_id)?;
        self.lanes.get_mut(at)
    }
}

/// Measures a record and refuses one that no server accepts, whatever batch it is in.
pub(super) fn measure(settings: &ProducerSettings, view: &RecordView<'_>) -> Result<RecordLayout> {
    let layout = RecordLayout::of(view);
    let alone = BatchEncoder::default().encoded_len_with(layout);
    let limit = settings.record_limit();
    if alone > limit {
        return Err(Error::new(ErrorKind::InvalidArgument, "append")
            .with_code(ErrorCode::StreamInvalidRecordSize as i32)
            .with_message(format!("the record takes {alone} bytes encoded, at most {limit} are accepted")));
    }
    Ok(layout)
}

impl Lane {
    fn new(shard_id: u64) -> Self {
        Lane {
            shard_id,
            open: None,
            ready: VecDeque::new(),
            generations: Generations::default(),
            usual: 0,
            wake: Arc::default(),
            served: false,
        }
    }

    fn flush(&mut self, wait: &mut FlushWait) {
        self.seal();
        self.generations.wait_for_all(wait);
    }

    fn take_open(&mut self) -> Option<Batch> {
        let batch = self.open.take()?;
        self.usual = batch.bytes;
        Some(batch)
    }

    fn seal(&mut self) {
        if let Some(batch) = self.take_open() {
            self.ready.push_back(batch);
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{flow::FlowControl, outcome},
        *,
    };
    use crate::record::Record;
    use futures::poll;
    use hstreamdb_proto::{api, partition::even_range};
    use prost::Message as _;
    use std::{pin::pin, sync::LazyLock, time::Duration};

    fn intake(settings: ProducerSettings, shards: u32) -> Intake {
        let shards: Vec<_> = (0..shards)
            .map(|index| {
                let (start, end) = even_range(index, shards);
                api::Shard {
                    stream_name: "s".into(),
                    shard_id: u64::from(index) + 1,
                    start_hash_range_key: start.to_string(),
                    end_hash_range_key: end.to_string(),
                    epoch: 0,
                    is_active: true,
                }
            })
            .collect();
        Intake::new(Arc::new(settings), None, ShardMap::from_wire("s", &shards).unwrap())
    }

    fn push_all(intake: &mut Intake, records: &RecordBatch) -> (Vec<(usize, Error)>, outcome::ManyReceipt) {
        static FLOW: LazyLock<Arc<FlowControl>> = LazyLock::new(|| FlowControl::new(1 << 30, 1 << 30));
        let permit = FLOW.try_acquire(records.len(), records.flow_bytes()).unwrap();
        let (done, receipt) = outcome::many_receipt(records.len());
        let call = Call::new(records.len(), records.tag(), done);
        (intake.push_many(records, permit, &call, &mut Vec::new()), receipt)
    }

    fn ready(intake: &mut Intake, shard_id: u64) -> Vec<Batch> {
        let now = Instant::now();
        std::iter::from_fn(|| match intake.next(shard_id, now) {
            Next::Batch(batch) => Some(batch),
            _ => None,
        })
        .collect()
    }

    #[tokio::test]
    async fn batches_close_by_count() {
        let mut intake = intake(ProducerSettings { batch_max_records: 3, ..Default::default() }, 1);
        let records: RecordBatch = vec![Record::raw("x"); 8].iter().collect();
        let _receipt = push_all(&mut intake, &records);
        let sizes: Vec<_> = ready(&mut intake, 1).iter().map(|batch| batch.records).collect();
        assert_eq!(sizes, [3, 3]);
        let _flush = intake.flush();
        assert_eq!(ready(&mut intake, 1).iter().map(|batch| batch.records).collect::<Vec<_>>(), [2]);
    }

    #[tokio::test]
    async fn batches_never_exceed_their_bytes_unless_one_record_does_alone() {
        let limit = 1000;
        let settings =
            ProducerSettings { batch_max_bytes: limit, batch_max_records: 1000, ..Default::default() };
        let mut intake = intake(settings, 1);
        let sizes = [0, 1, 100, 300, 700, 950, 970, 980, 990, 995, 2000, 5, 999, 1, 1, 400, 400, 400];
        let records: Vec<_> = sizes.iter().map(|size| Record::raw(vec![7; *size])).collect();
        let _receipt = push_all(&mut intake, &records.iter().collect());
        let _flush = intake.flush();
        let mut seen = 0;
        for mut batch in ready(&mut intake, 1) {
            seen += batch.records;
            let single = batch.records == 1;
            let encoder = std::mem::take(&mut batch.encoder);
            let encoded = encoder.finish(api::CompressionType::None, None).unwrap().encoded_len();
            assert!(encoded <= limit || single, "{encoded} bytes");
        }
        assert_eq!(seen, sizes.len());
    }

    #[tokio::test]
    async fn a_record_above_the_servers_limit_fails_alone() {
        let mut intake = intake(ProducerSettings::default(), 1);
        let records = [Record::raw("a"), Record::raw(vec![0; 1 << 20]), Record::raw("b")];
        let (refused, _receipt) = push_all(&mut intake, &records.iter().collect());
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].0, 1);
        assert_eq!(refused[0].1.kind(), ErrorKind::InvalidArgument);
        assert_eq!(refused[0].1.code(), Some(207));
        // 16 bytes below the limit is what is left beside the fields around it.
        let fits = [Record::raw(vec![0; (1 << 20) - 26])];
        assert!(push_all(&mut intake, &fits.iter().collect()).0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn batches_close_by_the_age_of_their_first_record() {
        let mut intake = intake(ProducerSettings::default(), 1);
        let start = Instant::now();
        let _first = push_all(&mut intake, &[Record::raw("a")].iter().collect());
        tokio::time::advance(Duration::from_millis(60)).await;
        let _second = push_all(&mut intake, &[Record::raw("b")].iter().collect());
        let due = start + Duration::from_millis(100);
        assert!(matches!(intake.next(1, Instant::now()), Next::At(at) if at == due));
        assert!(matches!(intake.next(1, due), Next::Batch(batch) if batch.records == 2));
        assert!(matches!(intake.next(1, due), Next::Idle));
    }

    #[tokio::test]
    async fn keys_go_to_their_shards_in_order() {
        let mut intake = intake(ProducerSettings::default(), 16);
        let keys = ["", "a", "key1", "hello", "demo-key", "中文", "a", "a"];
        let records: Vec<_> = keys.iter().map(|key| Record::raw("x").with_key(*key)).collect();
        let _receipt = push_all(&mut intake, &records.iter().collect());
        let _flush = intake.flush();
        for (shard, count) in [(14, 1), (1, 3), (13, 1), (6, 1), (9, 1), (11, 1), (2, 0)] {
            let batches = ready(&mut intake, shard);
            assert_eq!(batches.iter().map(|batch| batch.records).sum::<usize>(), count, "shard {shard}");
        }
    }

    #[tokio::test]
    async fn a_flush_waits_for_what_came_before_it_and_reports_its_error() {
        let mut intake = intake(ProducerSettings::default(), 1);
        let _one = push_all(&mut intake, &[Record::raw("a")].iter().collect());
        let first = intake.flush();
        let _two = push_all(&mut intake, &[Record::raw("b")].iter().collect());
        let mut batches = ready(&mut intake, 1).into_iter();
        let failed = Error::new(ErrorKind::OutcomeUnknown, "append");
        assert!(poll!(pin!(intake.flush().wait())).is_pending());
        batches.next().unwrap().resolve(Err(&failed));
        assert_eq!(first.wait().await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        let second = intake.flush();
        let _three = push_all(&mut intake, &[Record::raw("c")].iter().collect());
        ready(&mut intake, 1).remove(0).resolve(Ok(&[RecordId::default()]));
        assert!(second.wait().await.is_ok(), "the error was reported to those who asked before");
    }

    #[tokio::test]
    async fn batches_of_shards_that_are_gone_come_back() {
        let mut intake = intake(ProducerSettings::default(), 2);
        let records = [Record::raw("x").with_key("a"), Record::raw("y")];
        let (_, receipt) = push_all(&mut intake, &records.iter().collect());
        let shard = api::Shard {
            shard_id: 1,
            start_hash_range_key: "0".into(),
            end_hash_range_key: u128::MAX.to_string(),
            ..Default::default()
        };
        let map = Arc::new(ShardMap::from_wire("s", &[shard]).unwrap());
        let gone = intake.route_by(Fetched { asked: Instant::now(), map });
        assert_eq!(gone.iter().map(|batch| batch.records).collect::<Vec<_>>(), [1]);
        assert!(matches!(intake.next(2, Instant::now()), Next::Finished));
        drop(gone);
        drop(intake);
        let outcome = receipt.await;
        assert_eq!(outcome.errors.len(), 2, "one error per batch: {outcome:?}");
    }
}
