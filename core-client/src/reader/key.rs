//! Reading the records of one key.

use super::bound::{Bounds, start_to_wire, to_wire};
use super::connections::{Connections, Line};
use super::incoming::{Incoming, asking, told_gap};
use super::progress::Progress;
use super::source::{Source, Step};
use crate::consumer::prefetch::Prefetch;
use crate::error::Error;
use crate::record::ReceivedBatch;
use hstreamdb_proto::api::{
    BatchHStreamRecords, BatchedRecord, CompressionType, ReadStreamByKeyRequest, ReadStreamByKeyResponse,
    ReceivedRecord,
};
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Records asked for at a time.
const CREDIT: u64 = 1000;

/// A key, and how far it was read.
pub(super) struct KeySource {
    pub connections: Arc<Connections>,
    pub queue: Arc<Prefetch>,
    pub stream: String,
    pub key: String,
    /// The shard the key is in.
    pub shard: u64,
    pub bounds: Bounds,
    pub progress: Progress,
}

impl KeySource {
    fn request(&self) -> ReadStreamByKeyRequest {
        ReadStreamByKeyRequest {
            reader_id: format!("reader-{:016x}", rand::random::<u64>()),
            stream_name: self.stream.clone(),
            key: self.key.clone(),
            from: Some(start_to_wire(self.progress.start())),
            until: self.bounds.until.map(to_wire),
            read_record_count: CREDIT,
        }
    }

    /// The records of a response that were not delivered yet, as a batch. (A batch may lie across responses, and the
    /// first record of a key says nothing about those of others before it, so no gap shows here.)
    fn batch_of(&self, response: ReadStreamByKeyResponse) -> Option<ReceivedRecord> {
        let (record_ids, records): (Vec<_>, Vec<_>) = response
            .record_ids
            .into_iter()
            .zip(response.received_records)
            .filter(|(id, _)| self.progress.is_new(id))
            .unzip();
        if records.is_empty() {
            return None;
        }
        let record = BatchedRecord {
            compression_type: CompressionType::None as i32,
            publish_time: None,
            batch_size: records.len() as u32,
            payload: BatchHStreamRecords { records }.encode_to_vec().into(),
        };
        Some(ReceivedRecord { record_ids, record: Some(record) })
    }

    async fn lost(&self, line: &Arc<Line>, error: Error) -> Step {
        self.connections.failed(self.shard, line, &error).await;
        Step::Lost(error)
    }
}

impl Source for KeySource {
    async fn read(&mut self, progress: &mut bool) -> Step {
        let line = match self.connections.for_shard(self.shard).await {
            Ok(line) => line,
            Err(error) => return Step::Lost(error),
        };
        tracing::Span::current().record("node", tracing::field::display(&line.node));
        // The sender stays alive as long as the call: its end would end the read.
        let (requests, outgoing) = mpsc::channel(1);
        if requests.try_send(self.request()).is_err() {
            return Step::Done;
        }
        let mut client = line.contact.client.clone();
        let call = async move { client.read_stream_by_key(asking(ReceiverStream::new(outgoing))).await };
        let mut incoming = Incoming::new(line.clone(), call);
        let mut credit = CREDIT;
        loop {
            if !line.room(&self.queue, 0).await {
                return Step::Done;
            }
            if credit <= CREDIT / 2 {
                let more = ReadStreamByKeyRequest { read_record_count: CREDIT, ..Default::default() };
                // Full or closed: the next turn tries again, or the response side says why.
                if requests.try_send(more).is_ok() {
                    credit += CREDIT;
                }
            }
            let response = match incoming.next().await {
                Ok(Some(response)) => response,
                Ok(None) => return Step::Done,
                Err(error) => return self.lost(&line, error).await,
            };
            if incoming.tells_gaps && response.received_records.is_empty() {
                let ids = ReceivedRecord { record_ids: response.record_ids, record: None };
                if let Some((kind, first, last)) = told_gap(&ids) {
                    self.progress.gap(kind, first, last, &self.connections.gaps);
                }
                continue;
            }
            credit = credit.saturating_sub(response.received_records.len() as u64);
            let Some(received) = self.batch_of(response) else { continue };
            match ReceivedBatch::from_wire(received, self.connections.decoded_limit()) {
                Ok(batch) => {
                    *progress = true;
                    if let Some(last) = batch.ids().last() {
                        self.progress.advance(*last);
                    }
                    self.connections.count(&batch);
                    self.queue.push(0, batch);
                }
                Err(error) => return Step::Lost(error),
            }
        }
    }

    fn conflict_is_end(&self) -> bool {
        self.bounds.frozen
    }

    fn resource(&self) -> String {
        format!("stream {:?} key {:?}", self.stream, self.key)
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
