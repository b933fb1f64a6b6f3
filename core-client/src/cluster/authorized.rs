//! A channel whose calls carry the client's headers and, where tokens are asked for, the present token.

use super::{
    headers::CallHeaders,
    token::{Token, TokenSource},
};
use crate::error::{Error, ErrorKind};
use futures::future::{BoxFuture, Either, MapErr, TryFutureExt as _};
use hstreamdb_proto::{api::ErrorCode, error_body::ErrorBody};
use http::header::AUTHORIZATION;
use std::{
    error::Error as StdError,
    task::{Context, Poll},
};
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::Service;

type BoxError = Box<dyn StdError + Send + Sync>;
type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Sent = <Channel as Service<Request>>::Future;
type Boxed = fn(tonic::transport::Error) -> BoxError;

/// Adds headers to every call. A call whose token was refused fails as unavailable when another token may do better, so
/// that whoever retries does so with that one; only a second refusal is final.
#[derive(Clone)]
pub(crate) struct Authorized {
    channel: Channel,
    headers: CallHeaders,
}

impl Authorized {
    pub(crate) fn new(channel: Channel, headers: CallHeaders) -> Self {
        Authorized { channel, headers }
    }
}

impl Service<Request> for Authorized {
    type Response = Response;
    type Error = BoxError;
    type Future = Either<MapErr<Sent, Boxed>, BoxFuture<'static, Result<Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        self.headers.put(request.headers_mut());
        let Some(tokens) = self.headers.tokens() else {
            let boxed: Boxed = |error| error.into();
            return Either::Left(self.channel.call(request).map_err(boxed));
        };
        // The one that is ready goes along, the clone stays.
        let clone = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, clone);
        Either::Right(Box::pin(async move {
            let token = tokens.token().await.map_err(no_token)?;
            request.headers_mut().insert(AUTHORIZATION, token.header.clone());
            let response = channel.call(request).await?;
            Ok(judge(&tokens, &token, response))
        }))
    }
}

/// Looks at the status that comes in place of an answer, as refusals do.
fn judge(tokens: &TokenSource, token: &Token, response: Response) -> Response {
    let status = response.headers().get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
    if status != Some(Code::Unauthenticated) {
        tokens.accepted(token);
        return response;
    }
    if !tokens.refused(token) {
        return response;
    }
    // A body says that the server has spoken: nothing was applied.
    let body = ErrorBody::new(
        ErrorCode::InternalError,
        "the token was refused; another one is asked for",
        None::<()>,
    );
    Status::unavailable(body.to_json()).into_http()
}

/// The failure of a provider as a status, which is all that fits through here.
fn no_token(error: Error) -> Status {
    let words = format!("no token to call with: {error}");
    let body = ErrorBody::new(ErrorCode::InternalError, words, None::<()>).to_json();
    match error.kind() {
        _ if error.is_retryable() => Status::unavailable(body),
        ErrorKind::InvalidArgument => Status::invalid_argument(body),
        ErrorKind::PermissionDenied => Status::permission_denied(body),
        _ => Status::unauthenticated(body),
    }
}
