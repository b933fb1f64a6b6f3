//! Requests are charged by message, whole, before most of it is taken off the connection: a message that has
//! begun never waits for memory another half message holds.

use super::budget::{Budget, Charge};
use crate::error::{Class, ServerError};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// Messages up to this size are free; every call may hold one.
const FREE: usize = 16 * 1024;
/// Compression flag and length before every message.
const PREFIX: usize = 5;

/// What one call's requests were charged; it outlives the body when the answer needs the message.
pub(super) type Charges = Arc<Mutex<Option<Charge>>>;

type Waiting = Pin<Box<dyn Future<Output = Charge> + Send>>;

/// The body of one request.
pub(super) struct RequestBody {
    pub(super) inner: Body,
    pub(super) budget: Arc<Budget>,
    pub(super) charges: Charges,
    /// Largest message.
    pub(super) most: usize,
    /// Time for a message from its first to its last byte.
    pub(super) complete_within: Duration,
    /// Whether more messages than one may come, so that each is let go when the next is asked for.
    pub(super) streaming: bool,
    /// What a message that is too large is told.
    pub(super) append: bool,
    pub(super) message: Message,
    pub(super) waiting: Option<(Bytes, Waiting)>,
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
}

/// Where in a message the body is.
#[derive(Debug, Default)]
pub(super) struct Message {
    prefix: [u8; PREFIX],
    seen: usize,
    left: usize,
}

impl Message {
    fn between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    /// Goes over more bytes; returns the size of what begins there and is not free, or the message that is too
    /// large.
    fn advance(&mut self, mut bytes: &[u8], most: usize) -> Result<usize, usize> {
        let mut charged = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = PREFIX.saturating_sub(self.seen).min(bytes.len());
                let (head, rest) = bytes.split_at(wanted);
                if let Some(slot) = self.prefix.get_mut(self.seen..self.seen + wanted) {
                    slot.copy_from_slice(head);
                }
                (self.seen, bytes) = (self.seen + wanted, rest);
                if self.seen < PREFIX {
                    break;
                }
                let [_, a, b, c, d] = self.prefix;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > most {
                    return Err(length);
                }
                if length > FREE {
                    charged += length;
                }
                (self.seen, self.left) = (0, length);
            }
            let passed = self.left.min(bytes.len());
            self.left -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
        }
        Ok(charged)
    }
}

impl RequestBody {
    fn keep(&self, charge: Option<Charge>) {
        *self.charges.lock().unwrap_or_else(PoisonError::into_inner) = charge;
    }

    fn too_large(&self, size: usize) -> Status {
        crate::api::status::status(if self.append {
            ServerError::new(Class::InvalidRecordSize, size)
        } else {
            let most = self.most;
            ServerError::new(
                Class::ResourceExhausted,
                format!("the request has {size} bytes; this server takes at most {most}"),
            )
        })
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some((bytes, mut waiting)) = this.waiting.take() {
            let Poll::Ready(charge) = waiting.as_mut().poll(context) else {
                this.waiting = Some((bytes, waiting));
                return Poll::Pending;
            };
            this.keep(Some(charge));
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if this.streaming && this.message.between() {
            this.keep(None);
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(other) => return Poll::Ready(other),
            Poll::Pending => {
                let Some(deadline) = &mut this.deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(context));
                let text = format!("the request was not complete within {:?}", this.complete_within);
                let late = ServerError::new(Class::ResourceExhausted, text);
                return Poll::Ready(Some(Err(crate::api::status::status(late))));
            }
        };
        let Some(bytes) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
        let charged = match this.message.advance(bytes, this.most) {
            Ok(charged) => charged,
            Err(size) => return Poll::Ready(Some(Err(this.too_large(size)))),
        };
        if this.message.between() {
            this.deadline = None;
        } else if this.deadline.is_none() {
            this.deadline = Some(Box::pin(tokio::time::sleep(this.complete_within)));
        }
        if charged > 0 {
            // Given back first: nobody holds a part while waiting for another.
            this.keep(None);
            match this.budget.try_reserve(charged) {
                Some(charge) => this.keep(Some(charge)),
                None => {
                    let budget = this.budget.clone();
                    let waiting: Waiting = Box::pin(async move { budget.reserve(charged).await });
                    let bytes = frame.into_data().unwrap_or_default();
                    this.waiting = Some((bytes, waiting));
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(std::iter::repeat_n(7, length));
        bytes
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let bytes = [framed(3), framed(0), framed(FREE + 1), framed(FREE)].concat();
        for piece in [1, 2, 5, 7, 1000, bytes.len()] {
            let mut message = Message::default();
            let charged: usize =
                bytes.chunks(piece).map(|chunk| message.advance(chunk, 1 << 20).unwrap()).sum();
            assert_eq!(charged, FREE + 1, "pieces of {piece}");
            assert!(message.between());
        }
        let mut message = Message::default();
        assert_eq!(message.advance(&framed(11)[..6], 10), Err(11));
        let mut message = Message::default();
        message.advance(&framed(11)[..6], 11).unwrap();
        assert!(!message.between());
    }
}
