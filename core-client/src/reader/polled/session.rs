//! The reader on the server, as far as it is known where it is.

use super::calls::{self, Remains};
use crate::cluster::{Cluster, NodeAddress};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::bound::start_to_wire;
use crate::reader::gap::{GapKind, Gaps, ReadGap};
use crate::reader::position::{Start, StreamPosition};
use crate::reader::progress::Progress;
use crate::reader::source::Verdict;
use crate::record::{ReceivedBatch, RecordId};
use hstreamdb_proto::api::{CreateShardReaderRequest, ErrorCode, ReceivedRecord};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// Gaps passed over within one read; then the application has its turn.
const GAPS_PER_READ: u32 = 16;
/// Readers that are created one after another until the owner of one is a node that answers.
const OTHER_OWNERS: u32 = 8;
/// How long one read takes answers that hold nothing new. A reader that was set back far gets this far in it.
const REPEATS_FOR: Duration = Duration::from_secs(60);

/// What is read, and how.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub stream: String,
    pub shard: u64,
    /// Longest wait of a read.
    pub timeout: Duration,
    /// Longest wait of a poll.
    pub wait: Duration,
}

/// Where the reader is, readable while a read is under way.
#[derive(Debug)]
pub(super) struct Place(Mutex<StreamPosition>);

impl Place {
    pub fn position(&self) -> StreamPosition {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn advance(&self, record: RecordId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).advance(record);
    }
}

/// A reader on the server of which it is certain that its next batch is the one behind what was delivered.
#[derive(Debug)]
struct OnServer {
    id: String,
    node: NodeAddress,
}

/// One polled reader.
#[derive(Debug)]
pub(super) struct Session {
    cluster: Cluster,
    spec: Spec,
    pub place: Arc<Place>,
    pub gaps: Arc<Gaps>,
    pub remains: Arc<Remains>,
    progress: Progress,
    /// Taken out before every poll and put back after an answer: whatever happens in between, a dropped future included,
    /// leaves none.
    on_server: Option<OnServer>,
    /// The id the application wants.
    name: Option<String>,
    /// The id of a creation whose outcome is open. Generated, so a reader of this id is ours.
    creating: Option<String>,
    /// Most batches in one answer, halved when one was too large to be received.
    most: u32,
}

/// What becomes of a failed poll.
enum Fate {
    /// It told of a gap; the reader is behind it.
    Gap(GapKind),
    /// The same, but only once.
    OddGap,
    /// Another reader is created.
    Anew,
    /// Another reader is created, and asked for less.
    Smaller,
    /// The application is told.
    Final,
}

fn fate(error: &Error) -> Fate {
    let is = |code: ErrorCode| error.code() == Some(code as i32);
    if is(ErrorCode::ShardReaderDataLossGap) {
        Fate::Gap(GapKind::Lost)
    } else if is(ErrorCode::ShardReaderAccessGap) {
        Fate::Gap(GapKind::Forbidden)
    } else if is(ErrorCode::ShardReaderUnknownGap) {
        Fate::OddGap
    } else if calls::is_gone(error) {
        Fate::Anew
    } else if error.kind() == ErrorKind::Overloaded && !error.is_retryable() {
        // Too large for our side to take; the server has moved on all the same.
        Fate::Smaller
    } else {
        match Verdict::of(error) {
            Verdict::Final => Fate::Final,
            Verdict::Odd | Verdict::Transient => Fate::Anew,
        }
    }
}

impl Session {
    pub fn new(
        cluster: Cluster,
        spec: Spec,
        start: Start,
        name: Option<String>,
        gaps: Arc<Gaps>,
        remains: Arc<Remains>,
    ) -> Self {
        let mut position = StreamPosition::new();
        position.begin(spec.shard, start);
        let progress = Progress::new(spec.shard, start);
        Session {
            cluster,
            spec,
            place: Arc::new(Place(Mutex::new(position))),
            gaps,
            remains,
            progress,
            on_server: None,
            name,
            creating: None,
            most: u32::MAX,
        }
    }

    pub fn resource(&self) -> String {
        format!("stream {:?} shard {}", self.spec.stream, self.spec.shard)
    }

    /// Creates the first reader. An id the application gave must be free.
    pub async fn open(&mut self) -> Result<()> {
        if let Some(name) = self.name.clone() {
            let request = self.request(&name);
            match calls::create(&self.cluster, &request, false).await {
                Ok(()) => {
                    self.remains.add(&name);
                    let node = calls::owner(&self.cluster, &name).await?;
                    self.on_server = Some(OnServer { id: name, node });
                    return Ok(());
                }
                // It may be there now, and nobody can say whether it is ours; it is left alone.
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                    tracing::warn!(id = name, %error, "the id may be taken by our own lost try; another one is used");
                }
                Err(error) => return Err(error),
            }
        }
        self.on_server = Some(self.create().await?);
        Ok(())
    }

    fn request(&self, id: &str) -> CreateShardReaderRequest {
        CreateShardReaderRequest {
            stream_name: self.spec.stream.clone(),
            shard_id: self.spec.shard,
            shard_offset: Some(start_to_wire(self.progress.start())),
            reader_id: id.to_owned(),
            timeout: u32::try_from(self.spec.wait.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// Another reader, behind what was delivered, and at a node that answers if there is one.
    async fn create(&mut self) -> Result<OnServer> {
        let mut reader = self.create_one().await?;
        // The cluster may not have noticed yet that a node is gone; it gives others to other ids.
        for _ in 0..OTHER_OWNERS {
            if !(self.cluster.is_suspect(&reader.node) && self.cluster.has_other(&reader.node)) {
                break;
            }
            reader = self.create_one().await?;
        }
        Ok(reader)
    }

    async fn create_one(&mut self) -> Result<OnServer> {
        let id = self.creating.get_or_insert_with(|| {
            let number: u64 = rand::random();
            match &self.name {
                // Ids are at most 255 characters long.
                Some(name) => format!("{}-{number:016x}", name.chars().take(238).collect::<String>()),
                None => format!("reader-{number:016x}"),
            }
        });
        let id = id.clone();
        self.remains.add(&id);
        let request = self.request(&id);
        calls::create(&self.cluster, &request, true).await?;
        let node = calls::owner(&self.cluster, &id).await?;
        self.creating = None;
        self.progress.begin_call();
        self.sweep(&id);
        Ok(OnServer { id, node })
    }

    /// Deletes in the background what was given up: the cluster answers again.
    fn sweep(&self, in_use: &str) {
        let ids = self.remains.abandoned(in_use);
        if ids.is_empty() {
            return;
        }
        let (cluster, remains) = (self.cluster.clone(), self.remains.clone());
        let limit = self.cluster.request_timeout();
        tokio::spawn(async move {
            // What is left is tried again when the reader is closed.
            let _ = tokio::time::timeout(limit, calls::delete_these(&cluster, &remains, &ids)).await;
        });
    }

    fn span(&self) -> tracing::Span {
        tracing::debug_span!(
            "hstreamdb.read",
            stream = %self.spec.stream,
            shard = self.spec.shard,
            node = tracing::field::Empty
        )
    }

    pub async fn read(&mut self, max_batches: u32) -> Result<Vec<ReceivedBatch>> {
        let span = self.span();
        self.read_on(max_batches).instrument(span).await
    }

    async fn read_on(&mut self, max_batches: u32) -> Result<Vec<ReceivedBatch>> {
        let started = Instant::now();
        let deadline = started + self.spec.timeout;
        let mut pauses = self.cluster.backoff();
        let (mut tries, mut gaps, mut odd_gaps) = (0, 0, 0);
        let mut was_replaced = false;
        loop {
            let reader = match self.on_server.take() {
                Some(reader) => reader,
                // Tried as often as other calls are.
                None => self.create().await.map_err(|error| error.with_resource(self.resource()))?,
            };
            tracing::Span::current().record("node", tracing::field::display(&reader.node));
            let asked = max_batches.min(self.most);
            let polled = calls::poll(&self.cluster, &reader.node, &reader.id, asked, self.spec.wait).await;
            let error = match polled {
                Ok(received) if received.is_empty() => {
                    self.on_server = Some(reader);
                    if Instant::now() >= deadline {
                        return Ok(Vec::new());
                    }
                    continue;
                }
                Ok(received) => {
                    let end = received.last().and_then(|batch| batch.record_ids.last()).copied();
                    let batches = self.take(received)?;
                    // One that was set back, perhaps by much, is replaced, but only once: the next one would be, too.
                    let is_behind =
                        batches.is_empty() && end.is_some_and(|end| self.progress.is_behind(&end));
                    if was_replaced || !is_behind {
                        self.on_server = Some(reader);
                    }
                    was_replaced |= is_behind;
                    if !batches.is_empty() {
                        return Ok(batches);
                    }
                    if Instant::now() >= deadline.max(started + REPEATS_FOR) {
                        return Err(Error::new(ErrorKind::Internal, "read")
                            .with_resource(self.resource())
                            .with_message("the server gives what was read before, again and again"));
                    }
                    continue;
                }
                Err(error) => {
                    // It said so itself, and is behind the gap.
                    if matches!(fate(&error), Fate::Gap(_) | Fate::OddGap) {
                        self.on_server = Some(reader);
                    }
                    error
                }
            };
            let hopeless = match fate(&error) {
                Fate::Gap(kind) => {
                    self.tell(kind);
                    gaps += 1;
                    if gaps == GAPS_PER_READ {
                        return Ok(Vec::new());
                    }
                    continue;
                }
                Fate::OddGap => {
                    self.tell(GapKind::Unknown);
                    odd_gaps += 1;
                    if odd_gaps == 1 {
                        continue;
                    }
                    true
                }
                Fate::Anew => false,
                Fate::Smaller => {
                    let asked = max_batches.min(self.most);
                    self.most = (asked / 2).max(1);
                    asked == 1
                }
                Fate::Final => true,
            };
            tries += 1;
            let pause = if hopeless { None } else { pauses.next() };
            let Some(pause) = pause else {
                return Err(error.with_resource(self.resource()).with_tries(tries, started.elapsed()));
            };
            tracing::debug!(resource = %self.resource(), %error, ?pause, "polled reader is created anew");
            self.cluster.metrics().reader_reconnects.add(1);
            tokio::time::sleep(pause).await;
        }
    }

    fn tell(&self, kind: GapKind) {
        self.gaps.tell(ReadGap { shard_id: self.spec.shard, kind, batches: None });
    }

    /// What is new in an answer.
    fn take(&mut self, received: Vec<ReceivedRecord>) -> Result<Vec<ReceivedBatch>> {
        let mut batches = Vec::with_capacity(received.len());
        for mut received in received {
            if !self.progress.take(&mut received, false, &self.gaps) {
                continue;
            }
            // Before the place moves: an answer that makes no sense is asked for again.
            let batch = ReceivedBatch::from_wire(received, self.cluster.decoded_limit())?;
            if let (Start::Time(ms), true) = (self.progress.start(), batch.publish_time_ms() > 0)
                && batch.publish_time_ms() < ms
            {
                continue;
            }
            batches.push(batch);
            if let Some(last) = batches.last().and_then(|batch| batch.ids().last()) {
                self.progress.advance(*last);
            }
        }
        // All of it is handed out from here on, without a wait.
        if let Some(last) = batches.last().and_then(|batch| batch.ids().last()) {
            self.place.advance(*last);
        }
        let metrics = self.cluster.metrics();
        metrics.reader_batches.add(batches.len() as u64);
        metrics.reader_records.add(batches.iter().map(|batch| batch.len() as u64).sum());
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hstreamdb_proto::error_body::ErrorBody;
    use tonic::{Code, Status};

    fn fate_of(code: Code, error: ErrorCode, class: &str) -> Fate {
        let body = ErrorBody::new(error, class, "").to_json();
        fate(&Error::from_status("read", &Status::new(code, body)))
    }

    #[test]
    fn gaps_are_passed_over_or_told_as_the_published_codes_say() {
        use ErrorCode as E;
        assert!(matches!(
            fate_of(Code::DataLoss, E::ShardReaderDataLossGap, "DataLossGapError"),
            Fate::Gap(GapKind::Lost)
        ));
        assert!(matches!(
            fate_of(Code::PermissionDenied, E::ShardReaderAccessGap, "AccessGapError"),
            Fate::Gap(GapKind::Forbidden)
        ));
        assert!(matches!(
            fate_of(Code::NotFound, E::ShardReaderNotInConfigGap, "NotInConfigGapError"),
            Fate::Final
        ));
        assert!(matches!(fate_of(Code::Unknown, E::ShardReaderUnknownGap, "UnknownGapError"), Fate::OddGap));
    }

    #[test]
    fn a_reader_that_is_gone_or_in_doubt_is_created_anew_and_refusals_are_final() {
        use ErrorCode as E;
        assert!(matches!(
            fate_of(Code::FailedPrecondition, E::InternalError, "EmptyShardReader"),
            Fate::Anew
        ));
        assert!(matches!(fate_of(Code::FailedPrecondition, E::InternalError, "other"), Fate::Final));
        let plain = |code| fate(&Error::from_status("read", &Status::new(code, "x")));
        for code in
            [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded, Code::Aborted, Code::Internal]
        {
            assert!(matches!(plain(code), Fate::Anew), "{code:?}");
        }
        assert!(matches!(plain(Code::OutOfRange), Fate::Smaller));
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::InvalidArgument, Code::NotFound] {
            assert!(matches!(plain(code), Fate::Final), "{code:?}");
        }
    }
}
