//! One consumer's call: acknowledgements in, batches out.

use super::ConsumerId;
use super::live::Live;
use super::outbox::{End, Outbox};
use crate::limits::Budget;
use futures::{Stream, StreamExt as _};
use hstreamdb_proto::api::{StreamingFetchRequest, StreamingFetchResponse};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// Who opens a fetch.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Where it calls from, as `ListConsumers` shows it.
    pub uri: String,
    /// Its software, as `ListConsumers` shows it.
    pub user_agent: String,
    /// Whether it asked to be told which checkpoints are durable.
    pub confirm: bool,
    /// The incarnation of the subscription its acknowledgements are for, if it says one.
    pub incarnation: Option<u64>,
    /// What tells it from other consumers of its name: it takes the place of an earlier call of its own.
    pub instance: Option<String>,
    /// Memory for what is on its way to it.
    pub memory: Option<Arc<Budget>>,
}

/// Response stream of a consumer; dropping it detaches the consumer.
#[derive(Debug)]
pub struct Fetch {
    live: Arc<Live>,
    id: ConsumerId,
    outbox: Arc<Outbox>,
    /// The consumer knows which incarnation of the subscription it acknowledges.
    informed: bool,
    over: bool,
    /// Ends the task that reads the consumer's requests.
    _gone: Option<DropGuard>,
}

impl Fetch {
    pub(super) fn new(live: Arc<Live>, id: ConsumerId, outbox: Arc<Outbox>, informed: bool) -> Self {
        Fetch { live, id, outbox, informed, over: false, _gone: None }
    }

    /// Incarnation of the subscription: acknowledgements given under another one mean nothing to it.
    pub fn incarnation(&self) -> u64 {
        self.live.incarnation()
    }

    /// Takes the consumer's acknowledgements from `first` and then from `requests` until the consumer closes
    /// its side, which ends the call once everything acknowledged is durable.
    pub(super) fn read<S>(mut self, first: &StreamingFetchRequest, mut requests: S) -> Self
    where
        S: Stream<Item = Result<StreamingFetchRequest, Status>> + Send + Unpin + 'static,
    {
        let gone = CancellationToken::new();
        self._gone = Some(gone.clone().drop_guard());
        // After a reconnect a client may begin with what it could not acknowledge before.
        self.live.ack(&first.ack_ids, self.informed);
        let (live, id, outbox, informed) = (self.live.clone(), self.id, self.outbox.clone(), self.informed);
        tokio::spawn(async move {
            loop {
                let request = tokio::select! {
                    () = gone.cancelled() => return,
                    request = requests.next() => request,
                };
                match request {
                    Some(Ok(request)) => live.ack(&request.ack_ids, informed),
                    // Cancelled or cut off: nobody hears an answer.
                    Some(Err(_)) => {
                        live.detach(id);
                        return outbox.end(Ok(()));
                    }
                    None => break,
                }
            }
            live.detach(id);
            outbox.end(live.flush().await);
        });
        self
    }
}

impl Stream for Fetch {
    type Item = Result<StreamingFetchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        // As late as can be: another node may deliver from the next moment on.
        if !self.live.owned() {
            self.live.fenced();
        }
        match self.outbox.poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok((message, wanted))) => {
                self.live.sent(&message);
                if wanted {
                    self.live.room();
                }
                Poll::Ready(Some(Ok(message)))
            }
            Poll::Ready(Err(End(end))) => {
                self.over = true;
                Poll::Ready(end.err().map(|error| {
                    let (code, message) = error.to_wire();
                    Err(Status::new(code, message))
                }))
            }
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.live.detach(self.id);
    }
}
