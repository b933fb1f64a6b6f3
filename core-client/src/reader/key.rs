//! Reading the records of one key.

use super::bound::{Bounds, to_wire};
use super::source::{Connections, Source, Step};
use crate::cluster::NodeAddress;
use crate::consumer::prefetch::Prefetch;
use crate::error::Error;
use crate::record::{Offset, ReceivedBatch, RecordId};
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
    /// The record delivered last.
    pub last: Option<RecordId>,
}

impl KeySource {
    fn request(&self) -> ReadStreamByKeyRequest {
        ReadStreamByKeyRequest {
            reader_id: format!("reader-{:016x}", rand::random::<u64>()),
            stream_name: self.stream.clone(),
            key: self.key.clone(),
            from: Some(to_wire(self.last.map_or(self.bounds.from, Offset::Record))),
            until: self.bounds.until.map(to_wire),
            read_record_count: CREDIT,
        }
    }

    /// The records of a response that were not delivered yet, as a batch.
    fn batch_of(&self, response: ReadStreamByKeyResponse) -> Option<ReceivedRecord> {
        let last = self.last.map(|id| (id.batch_id, id.batch_index));
        let (record_ids, records): (Vec<_>, Vec<_>) = response
            .record_ids
            .into_iter()
            .zip(response.received_records)
            .filter(|(id, _)| last.is_none_or(|last| (id.batch_id, id.batch_index) > last))
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
}

impl KeySource {
    async fn lost(&self, node: &NodeAddress, status: &tonic::Status) -> Step {
        let error = Error::from_status("read key", status).with_node(node).with_may_have_been_applied(false);
        self.connections.failed(self.shard, node, &error).await;
        Step::Lost(error)
    }
}

impl Source for KeySource {
    async fn read(&mut self, progress: &mut bool) -> Step {
        let (node, mut client) = match self.connections.for_shard(self.shard).await {
            Ok(found) => found,
            Err(error) => return Step::Lost(error),
        };
        // The sender stays alive as long as the call: its end would end the read.
        let (requests, outgoing) = mpsc::channel(1);
        if requests.try_send(self.request()).is_err() {
            return Step::Done;
        }
        let mut responses = match client.read_stream_by_key(ReceiverStream::new(outgoing)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return self.lost(&node, &status).await,
        };
        let mut credit = CREDIT;
        loop {
            if !self.queue.room(0).await {
                return Step::Done;
            }
            if credit <= CREDIT / 2 {
                let more = ReadStreamByKeyRequest { read_record_count: CREDIT, ..Default::default() };
                // Full or closed: the next turn tries again, or the response side says why.
                if requests.try_send(more).is_ok() {
                    credit += CREDIT;
                }
            }
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Step::Done,
                Err(status) => return self.lost(&node, &status).await,
            };
            credit = credit.saturating_sub(response.received_records.len() as u64);
            let Some(received) = self.batch_of(response) else { continue };
            match ReceivedBatch::from_wire(received, self.connections.decoded_limit()) {
                Ok(batch) => {
                    *progress = true;
                    self.last = batch.ids().last().copied().or(self.last);
                    self.connections.count(&batch);
                    self.queue.push(0, batch);
                }
                Err(error) => return Step::Lost(error),
            }
        }
    }

    fn conflict_is_end(&self) -> bool {
        self.bounds.frozen || self.last.is_some()
    }

    fn resource(&self) -> String {
        format!("stream {:?} key {:?}", self.stream, self.key)
    }
}
