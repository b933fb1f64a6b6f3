//! Responses are charged until the transport has let go of them.

use super::budget::{Charge, InTransport};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

thread_local! {
    /// Charges of the messages that the body being polled on this thread has produced.
    static HANDED_OVER: RefCell<Vec<Charge>> = const { RefCell::new(Vec::new()) };
}

/// Called by a response stream, while it is polled, for a message it yields: the charge stays with the
/// message until the peer has taken it.
pub fn hand_over(charge: Charge) {
    HANDED_OVER.with(|charges| charges.borrow_mut().push(charge));
}

fn handed_over() -> Vec<Charge> {
    HANDED_OVER.with(RefCell::take)
}

/// The body of one response.
pub(super) struct ResponseBody {
    pub(super) inner: Body,
    pub(super) connection: CancellationToken,
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
        let charges = handed_over();
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
