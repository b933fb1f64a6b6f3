//! Responses are charged until the transport has let go of them.

use super::budget::{Charge, InTransport};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

/// Answers up to this many bytes that are no streams are free; every call may have one.
pub const FREE_ANSWER: usize = 16 * 1024;

thread_local! {
    /// Charges of the messages that the body being polled on this thread has produced.
    static HANDED_OVER: RefCell<Vec<Charge>> = const { RefCell::new(Vec::new()) };
}

/// Called by a response stream, while it is polled, for a message it yields: the charge stays with the
/// message until the peer has taken it.
pub fn hand_over(charge: Charge) {
    HANDED_OVER.with(|charges| charges.borrow_mut().push(charge));
}

/// The charge of an answer that is no stream, on its way from the handler to the body. Of clones only one gets it.
#[derive(Debug, Clone)]
struct AnswerCharge(Arc<Mutex<Option<Charge>>>);

/// Leaves a charge with an answer until the peer has taken it.
pub fn charge_answer<T>(response: &mut tonic::Response<T>, charge: Charge) {
    response.extensions_mut().insert(AnswerCharge(Arc::new(Mutex::new(Some(charge)))));
}

/// Takes the charge that [`charge_answer`] left.
pub(super) fn answer_charge<T>(response: &mut http::Response<T>) -> Option<Charge> {
    let AnswerCharge(charge) = response.extensions_mut().remove()?;
    charge.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn handed_over() -> Vec<Charge> {
    HANDED_OVER.with(RefCell::take)
}

/// The body of one response.
pub(super) struct ResponseBody {
    pub(super) inner: Body,
    pub(super) connection: CancellationToken,
    /// Charged for the answer before its size was known.
    pub(super) answer: Option<Charge>,
    pub(super) _call: OwnedSemaphorePermit,
}

/// Bytes with what they were charged; HTTP/2 drops them when they are on the socket.
struct Charged {
    bytes: Bytes,
    _charges: Vec<InTransport>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let mut charges = handed_over();
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
            && let Some(mut charge) = self.answer.take()
        {
            charge.shrink(bytes.len());
            charges.push(charge);
        }
        if charges.is_empty() {
            return Poll::Ready(frame);
        }
        let connection = &self.connection;
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    let charges = charges.into_iter().map(|charge| charge.in_transport(connection.clone()));
                    Bytes::from_owner(Charged { bytes, _charges: charges.collect() })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
