//! A gRPC body whose messages can be changed, dropped, doubled or swapped as they pass.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::{Status, body::Body, codegen::http::HeaderMap};

/// Compression flag and length.
const PREFIX: usize = 5;

/// Decides what becomes of one message.
pub type Change = Box<dyn FnMut(Bytes) -> Vec<Bytes> + Send>;

/// See the module.
pub struct MessageBody {
    inner: Body,
    received: BytesMut,
    ready: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    endless: bool,
    change: Change,
}

impl fmt::Debug for MessageBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBody").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl MessageBody {
    /// `inner` with every message passed through `change`.
    pub fn new(inner: Body, change: Change) -> Self {
        MessageBody {
            inner,
            received: BytesMut::new(),
            ready: VecDeque::new(),
            trailers: None,
            ended: false,
            endless: false,
            change,
        }
    }

    /// One message and nothing else.
    pub fn holding(message: Bytes) -> Self {
        let mut body = MessageBody::new(Body::empty(), Box::new(|message| vec![message]));
        body.ready.push_back(message);
        body
    }

    /// Goes on for ever, silently, where it would end.
    pub fn without_end(mut self) -> Self {
        self.endless = true;
        self
    }

    /// Ends with status OK, for a body that answers instead of a server.
    pub fn with_ok_trailers(mut self) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", tonic::codegen::http::HeaderValue::from_static("0"));
        self.trailers = Some(trailers);
        self
    }

    /// The next message after the change, without its prefix; `None` at the end.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(message)));
            }
            if self.ended {
                return if self.endless { Poll::Pending } else { Poll::Ready(None) };
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => self.ended = true,
                Some(Err(status)) => {
                    self.ended = true;
                    return if self.endless { Poll::Pending } else { Poll::Ready(Some(Err(status))) };
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.receive(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.trailers = Some(trailers);
                        }
                        self.ended = true;
                    }
                },
            }
        }
    }

    fn receive(&mut self, data: Bytes) {
        self.received.put(data);
        while self.received.len() >= PREFIX {
            let mut prefix = &self.received[1..PREFIX];
            let length = prefix.get_u32() as usize;
            if self.received.len() < PREFIX + length {
                break;
            }
            self.received.advance(PREFIX);
            let message = self.received.split_to(length).freeze();
            self.ready.extend((self.change)(message));
        }
    }
}

impl http_body::Body for MessageBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match ready!(this.poll_message(cx)) {
            Some(Ok(message)) => {
                let mut framed = BytesMut::with_capacity(PREFIX + message.len());
                framed.put_u8(0);
                framed.put_u32(message.len() as u32);
                framed.put(message);
                Poll::Ready(Some(Ok(Frame::data(framed.freeze()))))
            }
            Some(Err(status)) => Poll::Ready(Some(Err(status))),
            None => Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }
}
