//! The JSON object a failed call carries in its status message.
//!
//! Published clients parse `{"error": <ErrorCode>, "message": <class>, "extra": <detail>}` out of
//! `grpc-message`; whether a message is such an object at all decides which exception they raise.

use crate::api::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of a failed call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Numeric [`ErrorCode`]; 0 where no code of its own exists.
    pub error: i32,
    /// Name of the error class, for a few errors a fixed phrase.
    pub message: String,
    /// Detail: text, number, object or null.
    #[serde(default)]
    pub extra: Value,
}

impl ErrorBody {
    /// A body with its code, class name and detail.
    pub fn new(code: ErrorCode, message: impl Into<String>, extra: impl Into<Value>) -> Self {
        ErrorBody { error: code as i32, message: message.into(), extra: extra.into() }
    }

    /// Reads a status message; `None` when it is plain text.
    pub fn parse(status_message: &str) -> Option<Self> {
        serde_json::from_str(status_message).ok()
    }

    /// The code as the enum; `None` for a number this version does not know.
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::try_from(self.error).ok()
    }

    /// Compact JSON, members in alphabetical order as published servers write them.
    pub fn to_json(&self) -> String {
        // serde_json's map is sorted by key, and none of the three values can fail to serialise.
        serde_json::json!({ "error": self.error, "extra": self.extra, "message": self.message }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_is_the_published_one() {
        let body = ErrorBody::new(ErrorCode::StreamNotFound, "StreamNotFound", "s1");
        assert_eq!(body.to_json(), r#"{"error":200,"extra":"s1","message":"StreamNotFound"}"#);
        assert_eq!(ErrorBody::parse(&body.to_json()), Some(body));
    }

    #[test]
    fn plain_text_is_no_body() {
        assert_eq!(ErrorBody::parse("log not found"), None);
        assert_eq!(ErrorBody::parse("{}"), None);
    }
}
