//! Tokens: who may call at all.

use crate::error::{Class, ServerError};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// One token; it never shows in logs.
#[derive(Clone, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

impl Token {
    /// The token itself.
    pub fn reveal(self) -> String {
        self.0
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err("an empty token would let nobody in");
        }
        Ok(Token(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Lets calls through that carry one of the tokens, or all when there are none.
#[derive(Clone, Default)]
pub struct Tokens {
    accepted: Arc<[String]>,
}

impl Tokens {
    /// Accepts `authorization: Basic <token>` for each of these, compared literally.
    pub fn new(tokens: impl IntoIterator<Item = String>) -> Self {
        Tokens { accepted: tokens.into_iter().collect() }
    }

    fn accept(&self, header: Option<&str>) -> bool {
        if self.accepted.is_empty() {
            return true;
        }
        let Some(token) = header.and_then(|header| header.strip_prefix("Basic ")) else { return false };
        // Every token is compared to its end, so that the time says nothing about a near hit.
        self.accepted
            .iter()
            .fold(false, |found, accepted| found | same(accepted.as_bytes(), token.as_bytes()))
    }
}

fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |differ, (l, r)| differ | (l ^ r)) == 0
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} accepted)", self.accepted.len())
    }
}

impl Tokens {
    /// Whether a call with this metadata may pass.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with what to send.
    pub fn check(&self, keys: &MetadataMap) -> Result<(), Status> {
        if self.accept(keys.get("authorization").and_then(|value| value.to_str().ok())) {
            return Ok(());
        }
        let refused = ServerError::new(
            Class::Unauthenticated,
            "send metadata `authorization: Basic <token>` with a valid token",
        );
        let (code, message) = refused.to_wire();
        Err(Status::new(code, message))
    }
}

impl Interceptor for Tokens {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.check(request.metadata()).map(|()| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tokens_everybody_may_call() {
        assert!(Tokens::default().accept(None));
        assert!(Tokens::default().accept(Some("Basic anything")));
    }

    #[test]
    fn with_tokens_only_their_holders_may_call() {
        let tokens = Tokens::new(["aHN0cmVhbTpoc3RyZWFt".to_owned(), "b".to_owned()]);
        for (header, accepted) in [
            (Some("Basic aHN0cmVhbTpoc3RyZWFt"), true),
            (Some("Basic b"), true),
            (Some("Basic c"), false),
            (Some("Basic "), false),
            (Some("b"), false),
            (None, false),
        ] {
            assert_eq!(tokens.accept(header), accepted, "{header:?}");
        }
    }

    #[test]
    fn debug_output_hides_the_tokens() {
        assert!(!format!("{:?}", Tokens::new(["secret".to_owned()])).contains("secret"));
    }
}
