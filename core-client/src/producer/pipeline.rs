//! One shard's ordered pipeline: batches leave in order, several at a time where the server can order them, and
//! are settled in order.

use super::{
    batch::Batch,
    batcher::{NewLane, Next},
    delivery::{Delivered, Delivery, Journey},
    shared::Shared,
    transport::{Answer, Stamp, Transport},
};
use crate::error::{Error, ErrorKind};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use hstreamdb_proto::api::{AppendRequest, BatchedRecord};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, field::Empty};

/// How often a batch goes again under a new epoch because the server has forgotten the producer.
const MAX_RESTARTS: u32 = 3;

/// A batch with its final bytes.
struct Parcel {
    batch: Batch,
    encoded: BatchedRecord,
    restarts: u32,
}

/// A batch on its way, as the metrics show it; taken back on drop, however the flight ends.
struct OnTheWay {
    transport: Arc<dyn Transport>,
    bytes: i64,
}

impl OnTheWay {
    fn new(transport: Arc<dyn Transport>, encoded: &BatchedRecord) -> Self {
        let bytes = i64::try_from(encoded.payload.len()).unwrap_or(i64::MAX);
        transport.metrics().append_inflight_batches.change(1);
        transport.metrics().append_inflight_bytes.change(bytes);
        OnTheWay { transport, bytes }
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.transport.metrics().append_inflight_batches.change(-1);
        self.transport.metrics().append_inflight_bytes.change(-self.bytes);
    }
}

/// A parcel on its way.
struct Flight {
    /// Counts launches; tells answers of abandoned tries apart.
    number: u64,
    parcel: Parcel,
    journey: Arc<Journey>,
    outcome: Option<Delivered>,
    _on_the_way: OnTheWay,
}

/// Starts a pipeline for every lane. Never under the intake's lock: on a runtime that is going away the task is
/// dropped at once, and takes the lock to tell everybody.
pub(super) fn start(shared: &Arc<Shared>, lanes: Vec<NewLane>) {
    for lane in lanes {
        let pipeline = Pipeline::new(shared.clone(), lane.shard_id, lane.wake);
        drop(shared.runtime.spawn(pipeline.run()));
    }
}

/// Serves one shard until the producer ends.
struct Pipeline {
    shared: Arc<Shared>,
    shard_id: u64,
    wake: Arc<Notify>,
    epoch: u32,
    next_sequence: u64,
    launched: u64,
    /// To be sent before anything new.
    again: VecDeque<Parcel>,
    flights: VecDeque<Flight>,
    tries: FuturesUnordered<BoxFuture<'static, (u64, Delivered)>>,
    progress: watch::Sender<u64>,
    stamps: Arc<AtomicBool>,
    ended: bool,
}

impl Pipeline {
    fn new(shared: Arc<Shared>, shard_id: u64, wake: Arc<Notify>) -> Self {
        let stamps = Arc::new(AtomicBool::new(shared.stamps));
        Pipeline {
            shared,
            shard_id,
            wake,
            epoch: 0,
            next_sequence: 0,
            launched: 0,
            again: VecDeque::new(),
            flights: VecDeque::new(),
            tries: FuturesUnordered::new(),
            progress: watch::Sender::new(0),
            stamps,
            ended: false,
        }
    }

    /// Runs until the producer is closed and everything is settled, or until it is aborted.
    async fn run(mut self) {
        let abort = self.shared.abort.clone();
        tokio::select! {
            biased;
            () = abort.cancelled() => {}
            () = self.serve() => {}
        }
        // What is left is resolved by `drop`, as it is when the runtime goes away.
    }

    async fn serve(&mut self) {
        loop {
            self.settle();
            let due = match self.launch_what_is_ready() {
                Next::Finished => {
                    self.ended = true;
                    return;
                }
                Next::At(due) => Some(due),
                Next::Batch(_) | Next::Idle => None,
            };
            tokio::select! {
                Some((number, outcome)) = self.tries.next(), if !self.tries.is_empty() => {
                    if let Some(flight) = self.flights.iter_mut().find(|flight| flight.number == number) {
                        flight.outcome = Some(outcome);
                    }
                }
                () = self.wake.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn in_flight_limit(&self) -> usize {
        if self.stamps.load(Ordering::Acquire) { self.shared.settings.max_inflight_per_shard } else { 1 }
    }

    /// Sends as much as may be in flight. Says what to wait for when there is room left.
    fn launch_what_is_ready(&mut self) -> Next {
        // Behind a batch that failed nothing can be stored under this epoch.
        let failed = |flight: &Flight| {
            flight.outcome.as_ref().is_some_and(|outcome| !matches!(outcome, Delivered::Stored(_)))
        };
        while self.flights.len() < self.in_flight_limit() && !self.flights.iter().any(failed) {
            if let Some(parcel) = self.again.pop_front() {
                self.launch(parcel);
                continue;
            }
            let next = self.shared.intake().next(self.shard_id, Instant::now());
            match next {
                Next::Batch(batch) => {
                    if let Some(parcel) = self.pack(batch) {
                        self.launch(parcel);
                    }
                }
                Next::Finished if !self.flights.is_empty() => return Next::Idle,
                other => return other,
            }
        }
        Next::Idle
    }

    fn pack(&self, mut batch: Batch) -> Option<Parcel> {
        let settings = &self.shared.settings;
        let encoder = std::mem::take(&mut batch.encoder);
        match encoder.finish(settings.compression.to_wire(), settings.compression_level) {
            Ok(encoded) => {
                batch.bytes = encoded.payload.len();
                Some(Parcel { batch, encoded, restarts: 0 })
            }
            Err(error) => {
                self.fail(batch, error);
                None
            }
        }
    }

    fn launch(&mut self, parcel: Parcel) {
        let shared = &self.shared;
        let stamp = self.stamps.load(Ordering::Acquire).then(|| Stamp {
            producer: shared.producer_id,
            epoch: self.epoch,
            sequence: self.next_sequence,
        });
        if stamp.is_some() {
            self.next_sequence += 1;
        }
        let since = parcel.batch.opened;
        let journey = Arc::new(Journey::default());
        let delivery = Delivery {
            transport: shared.transport.clone(),
            lookup: shared.lookup.clone(),
            request: AppendRequest {
                stream_name: shared.stream.clone(),
                shard_id: self.shard_id,
                records: Some(parcel.encoded.clone()),
            },
            stamp,
            allow_duplicates: shared.settings.allow_duplicates,
            retry: shared.retry,
            max_tries: shared.settings.retry_max_attempts,
            deadline: far(since, shared.settings.delivery_timeout),
            since,
            journey: journey.clone(),
            progress: self.progress.subscribe(),
            turn: *self.progress.borrow() + self.flights.len() as u64,
            honoured: self.stamps.clone(),
        };
        self.launched += 1;
        let number = self.launched;
        let span = tracing::debug_span!(
            "hstreamdb.append",
            stream = %shared.stream,
            shard = self.shard_id,
            sequence = stamp.map(|stamp| stamp.sequence),
            records = parcel.batch.records,
            bytes = parcel.batch.bytes,
            node = Empty,
            tries = Empty,
        );
        let delivered = async move { (number, delivery.run().await) };
        self.tries.push(Box::pin(delivered.instrument(span)));
        let on_the_way = OnTheWay::new(self.shared.transport.clone(), &parcel.encoded);
        self.flights.push_back(Flight { number, parcel, journey, outcome: None, _on_the_way: on_the_way });
    }

    /// Settles what has an outcome, oldest first: a later batch that is stored implies that those before it are,
    /// and a batch that failed decides about the later ones.
    fn settle(&mut self) {
        while let Some(outcome) = self.flights.front_mut().and_then(|flight| flight.outcome.take()) {
            let Some(Flight { parcel, journey, .. }) = self.flights.pop_front() else { return };
            self.progress.send_modify(|settled| *settled += 1);
            match outcome {
                Delivered::Stored(answer) => self.stored(parcel, &answer),
                Delivered::Forgotten(error) => {
                    self.new_epoch();
                    if parcel.restarts < MAX_RESTARTS {
                        self.again.push_front(Parcel { restarts: parcel.restarts + 1, ..parcel });
                    } else {
                        self.fail(parcel.batch, error);
                    }
                }
                Delivered::Failed(error) => {
                    let unclear = journey.is_unclear();
                    self.fail(parcel.batch, if unclear { unknown(error) } else { certain(error) });
                    self.abandon_or_keep(unclear);
                }
                Delivered::ShardGone(error, gone) => {
                    let unclear = journey.is_unclear();
                    let error = self.shared.shard_is_gone(self.shard_id, error, gone);
                    self.fail(
                        parcel.batch,
                        if unclear { unknown(error.clone()) } else { certain(error.clone()) },
                    );
                    self.abandon_or_keep(unclear);
                    for parcel in std::mem::take(&mut self.again) {
                        self.fail(parcel.batch, certain(error.clone()));
                    }
                }
            }
        }
    }

    fn stored(&mut self, parcel: Parcel, answer: &Answer) {
        let batch = parcel.batch;
        let expected = parcel.encoded.batch_size as usize;
        if answer.ids.len() == expected {
            self.shared.count_stored(expected, parcel.encoded.payload.len());
            self.shared.transport.metrics().append_duration.observe(batch.opened.elapsed());
            batch.resolve(Ok(&answer.ids));
        } else {
            let error = Error::new(ErrorKind::Internal, "append")
                .with_message(format!(
                    "the server answered {} ids for a batch of {expected} records",
                    answer.ids.len()
                ))
                .with_may_have_been_applied(true);
            self.fail(batch, error);
        }
        if self.stamps.swap(answer.honours_stamps, Ordering::AcqRel) != answer.honours_stamps {
            tracing::debug!(
                shard = self.shard_id,
                honoured = answer.honours_stamps,
                "the server that answers for the shard has other capabilities than before"
            );
        }
    }

    /// After the oldest batch failed: what is behind it goes again under a new epoch, unless it may be stored.
    fn abandon_or_keep(&mut self, oldest_unclear: bool) {
        if self.flights.is_empty() && self.next_sequence == 0 {
            return;
        }
        let stamped = self.stamps.load(Ordering::Acquire);
        let mut keep = VecDeque::new();
        for flight in std::mem::take(&mut self.flights) {
            if let Some(Delivered::Stored(answer)) = &flight.outcome {
                self.stored(flight.parcel, answer);
                continue;
            }
            // A gap in the sequence keeps later batches out of the log, so while the oldest is certainly not
            // stored none of them is.
            let possible = flight.journey.is_unclear() && (oldest_unclear || !stamped);
            if possible {
                let error = unknown(Error::new(ErrorKind::OutcomeUnknown, "append").with_message(
                    "an earlier batch of the shard was lost track of while this one was under way",
                ));
                self.fail(flight.parcel.batch, error);
            } else {
                keep.push_back(flight.parcel);
            }
        }
        keep.append(&mut self.again);
        self.again = keep;
        self.new_epoch();
    }

    /// From here on the server refuses what is still under way under the old epoch.
    fn new_epoch(&mut self) {
        // Dropping the tries ends their calls.
        self.tries = FuturesUnordered::new();
        let mut keep: VecDeque<Parcel> = self.flights.drain(..).map(|flight| flight.parcel).collect();
        keep.append(&mut self.again);
        self.again = keep;
        self.epoch = self.epoch.saturating_add(1);
        self.next_sequence = 0;
    }

    fn fail(&self, batch: Batch, error: Error) {
        self.shared.count_failed(batch.records);
        batch.resolve(Err(&self.shared.describe(error, self.shard_id)));
    }
}

impl Drop for Pipeline {
    /// Aborted, or the runtime is going away: everybody is told, exactly once.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        for flight in self.flights.drain(..) {
            let batch = flight.parcel.batch;
            match flight.outcome {
                Some(Delivered::Stored(answer))
                    if answer.ids.len() == flight.parcel.encoded.batch_size as usize =>
                {
                    self.shared.count_stored(answer.ids.len(), flight.parcel.encoded.payload.len());
                    batch.resolve(Ok(&answer.ids));
                }
                _ => {
                    let unclear = flight.journey.is_unclear();
                    let cause = flight.journey.last_failure();
                    let error = given_up("the producer was closed before an answer came", cause.as_ref());
                    let error = if unclear { unknown(error) } else { error };
                    self.shared.count_unresolved(self.shard_id, batch.records, unclear, cause);
                    batch.resolve(Err(&self.shared.describe(error, self.shard_id)));
                }
            }
        }
        let unsent = self.again.drain(..).map(|parcel| parcel.batch);
        // The lock is released before anybody is told: completions may call the producer again.
        let queued = {
            let mut intake = self.shared.intake();
            intake.close();
            intake.drain(self.shard_id)
        };
        self.shared.flow.close();
        for batch in unsent.chain(queued) {
            let error = given_up("the producer was closed before the record was sent", None);
            self.shared.count_unresolved(self.shard_id, batch.records, false, None);
            batch.resolve(Err(&self.shared.describe(error, self.shard_id)));
        }
    }
}

/// The error of a batch that the end of the producer came before.
fn given_up(what: &str, cause: Option<&Error>) -> Error {
    let message = match cause {
        Some(cause) => format!("{what}; the last failure was {cause}"),
        None => what.to_owned(),
    };
    Error::new(ErrorKind::Closed, "append").with_message(message)
}

/// The error of a batch that may be stored.
fn unknown(error: Error) -> Error {
    error.with_kind(ErrorKind::OutcomeUnknown).with_may_have_been_applied(true)
}

/// The error of a batch that is certainly not stored.
fn certain(error: Error) -> Error {
    error.with_may_have_been_applied(false)
}

/// A deadline that stays inside what the clock can say.
fn far(since: Instant, timeout: std::time::Duration) -> Instant {
    since.checked_add(timeout).unwrap_or_else(|| since + std::time::Duration::from_secs(86_400 * 365))
}
