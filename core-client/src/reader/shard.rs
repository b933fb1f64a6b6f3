//! Reading one shard, named by its id or as the only one of its stream.

use super::bound::{Bounds, start_to_wire, to_wire};
use super::connections::{Connections, Line};
use super::incoming::{Incoming, asking, told_gap};
use super::position::Start;
use super::progress::Progress;
use super::source::{Source, Step};
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::ReceivedBatch;
use hstreamdb_proto::api::{
    ReadShardStreamRequest, ReadShardStreamResponse, ReadSingleShardStreamRequest,
    ReadSingleShardStreamResponse, ReceivedRecord,
};
use std::sync::Arc;

/// A shard, and how far it was read.
pub(super) struct ShardSource {
    pub connections: Arc<Connections>,
    pub queue: Arc<Prefetch>,
    pub lane: usize,
    pub stream: String,
    pub shard: u64,
    /// The shard is asked for by the name of its stream, which has no other.
    pub by_name: bool,
    pub bounds: Bounds,
    /// Batches still to deliver, if they were limited.
    pub left: Option<u64>,
    pub progress: Progress,
}

/// The answers to either call.
enum Batches {
    ById(Incoming<ReadShardStreamResponse>),
    ByName(Incoming<ReadSingleShardStreamResponse>),
}

impl Batches {
    async fn next(&mut self) -> Result<Option<Vec<ReceivedRecord>>> {
        Ok(match self {
            Batches::ById(incoming) => incoming.next().await?.map(|response| response.received_records),
            Batches::ByName(incoming) => incoming.next().await?.map(|response| response.received_records),
        })
    }

    fn tells_gaps(&self) -> bool {
        match self {
            Batches::ById(incoming) => incoming.tells_gaps,
            Batches::ByName(incoming) => incoming.tells_gaps,
        }
    }
}

impl ShardSource {
    fn call(&self, line: &Arc<Line>) -> Batches {
        let from = Some(start_to_wire(self.progress.start()));
        let until = self.bounds.until.map(to_wire);
        // The batch read last comes once more.
        let again = u64::from(self.progress.has_begun());
        let max_read_batches = self.left.map_or(0, |left| left.saturating_add(again));
        // Only logged by servers.
        let reader_id = format!("reader-{:016x}", rand::random::<u64>());
        let stream_name = self.stream.clone();
        let mut client = line.contact.client.clone();
        if self.by_name {
            let message =
                ReadSingleShardStreamRequest { reader_id, stream_name, from, until, max_read_batches };
            let call = async move { client.read_single_shard_stream(asking(message)).await };
            return Batches::ByName(Incoming::new(line.clone(), call));
        }
        let shard_id = self.shard;
        let message =
            ReadShardStreamRequest { reader_id, shard_id, from, max_read_batches, until, stream_name };
        let call = async move { client.read_shard_stream(asking(message)).await };
        Batches::ById(Incoming::new(line.clone(), call))
    }

    async fn lost(&self, line: &Arc<Line>, error: Error) -> Step {
        self.connections.failed(self.shard, line, &error).await;
        Step::Lost(error)
    }

    /// Whether a batch is older than where reading begins: servers find the place for a time when the call comes, so what
    /// is appended after a call for a time to come is not what was asked for.
    fn is_too_old(&self, batch: &ReceivedBatch) -> bool {
        match self.progress.start() {
            Start::Time(ms) => batch.publish_time_ms() > 0 && batch.publish_time_ms() < ms,
            _ => false,
        }
    }

    /// Delivers what is new; true when nothing more is wanted.
    fn deliver(&mut self, mut received: ReceivedRecord, tells_gaps: bool) -> Result<bool> {
        let gaps = &self.connections.gaps;
        if tells_gaps && let Some((kind, first, last)) = told_gap(&received) {
            self.progress.gap(kind, first, last, gaps);
            return Ok(false);
        }
        if received.record_ids.iter().any(|id| id.shard_id != self.shard) {
            return Err(Error::new(ErrorKind::NotFound, "read").with_message(format!(
                "shard {} is not the stream's any more: the stream was deleted and created again; open a new reader",
                self.shard
            )));
        }
        if !self.progress.take(&mut received, tells_gaps, gaps) {
            return Ok(false);
        }
        let batch = ReceivedBatch::from_wire(received, self.connections.decoded_limit())?;
        if self.is_too_old(&batch) {
            return Ok(false);
        }
        let Some(last) = batch.ids().last() else { return Ok(false) };
        self.progress.advance(*last);
        self.connections.count(&batch);
        self.queue.push(self.lane, batch);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            return Ok(*left == 0);
        }
        Ok(false)
    }
}

impl Source for ShardSource {
    async fn read(&mut self, progress: &mut bool) -> Step {
        if self.left == Some(0) {
            return Step::Done;
        }
        let line = match self.connections.for_shard(self.shard).await {
            Ok(line) => line,
            Err(error) => return Step::Lost(error),
        };
        tracing::Span::current().record("node", tracing::field::display(&line.node));
        self.progress.begin_call();
        let mut batches = self.call(&line);
        loop {
            if !line.room(&self.queue, self.lane).await {
                return Step::Done;
            }
            let received = match batches.next().await {
                Ok(Some(received)) => received,
                Ok(None) if self.bounds.until.is_some() => return Step::Done,
                // Without an end it was the server that went away. (A limit was counted below.)
                Ok(None) => {
                    let error = Error::new(ErrorKind::Unavailable, "read")
                        .with_node(&line.node)
                        .with_message("the server ended the read");
                    return self.lost(&line, error).await;
                }
                Err(error) => return self.lost(&line, error).await,
            };
            let before = self.progress.start();
            for received in received {
                match self.deliver(received, batches.tells_gaps()) {
                    Ok(false) => {}
                    Ok(true) => return Step::Done,
                    Err(error) => return Step::Lost(error.with_node(&line.node)),
                }
            }
            *progress |= self.progress.start() != before;
        }
    }

    fn conflict_is_end(&self) -> bool {
        // By name, a place that was good and is none any more is one of another stream of that name.
        self.bounds.frozen && !(self.by_name && self.progress.start() != self.bounds.from)
    }

    fn resource(&self) -> String {
        format!("stream {:?} shard {}", self.stream, self.shard)
    }

    fn span(&self) -> tracing::Span {
        tracing::debug_span!(
            "hstreamdb.read",
            stream = %self.stream,
            shard = self.shard,
            node = tracing::field::Empty
        )
    }
}
