//! The answers to one streamed read.

use super::connections::Line;
use crate::error::{Error, Result};
use futures::future::BoxFuture;
use hstreamdb_proto::api::ReceivedRecord;
use hstreamdb_proto::metadata::{GAP_TRIMMED, READ_GAPS};
use std::sync::Arc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

/// A call whose response side some servers open only with the first message.
pub(super) struct Incoming<T> {
    line: Arc<Line>,
    call: Call<T>,
    /// The server tells by itself what is missing.
    pub tells_gaps: bool,
}

enum Call<T> {
    Opening(BoxFuture<'static, Result<Response<Streaming<T>>, Status>>),
    Open(Box<Streaming<T>>),
}

impl<T> Incoming<T> {
    pub fn new(
        line: Arc<Line>,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    ) -> Self {
        Incoming { line, call: Call::Opening(Box::pin(call)), tells_gaps: false }
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// What the server or the connection failed with, a connection that died without a word included.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            let line = self.line.clone();
            let arrival = tokio::select! {
                biased;
                arrival = self.arrival() => arrival,
                error = line.silence() => return Err(error),
            };
            self.line.hear();
            match arrival {
                Ok(Some(Arrival::Opened(stream))) => self.call = Call::Open(stream),
                Ok(Some(Arrival::Message(message))) => return Ok(Some(message)),
                Ok(None) => return Ok(None),
                Err(status) => {
                    return Err(Error::from_status("read", &status)
                        .with_node(&self.line.node)
                        .with_may_have_been_applied(false));
                }
            }
        }
    }

    async fn arrival(&mut self) -> Result<Option<Arrival<T>>, Status> {
        match &mut self.call {
            Call::Opening(call) => {
                let (keys, stream, _) = call.as_mut().await?.into_parts();
                self.tells_gaps = keys.get(READ_GAPS).is_some_and(|value| value == "1");
                Ok(Some(Arrival::Opened(Box::new(stream))))
            }
            Call::Open(stream) => Ok(stream.message().await?.map(Arrival::Message)),
        }
    }
}

enum Arrival<T> {
    Opened(Box<Streaming<T>>),
    Message(T),
}

/// A request whose reader wants to know what is missing.
pub(super) fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(READ_GAPS, MetadataValue::from_static("1"));
    request
}

/// The gap that ids without a batch tell of: why, first and last batch.
pub(super) fn told_gap(received: &ReceivedRecord) -> Option<(super::GapKind, u64, u64)> {
    let [first, last] = &received.record_ids[..] else { return None };
    if received.record.is_some() || last.batch_id < first.batch_id {
        return None;
    }
    let kind = if first.batch_index == GAP_TRIMMED { super::GapKind::Trimmed } else { super::GapKind::Lost };
    Some((kind, first.batch_id, last.batch_id))
}
