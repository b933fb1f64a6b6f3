//! Core errors as JSON text; the TypeScript side rebuilds the error class from it.

use hstreamdb::{Error, ErrorKind};
use napi_derive::napi;

/// What every error of the core looks like on its way through a JavaScript error's message.
pub fn to_json(error: &Error) -> String {
    let extra = error.extra_json().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    serde_json::json!({
        "hstreamdb": error.kind().name(),
        "text": error.to_string(),
        "operation": error.operation(),
        "resource": error.resource(),
        "status": error.status(),
        "code": error.code(),
        "message": error.message(),
        "extra": extra,
        "node": error.node(),
        "retryable": error.is_retryable(),
        "mayHaveBeenApplied": error.may_have_been_applied(),
    })
    .to_string()
}

/// The error to throw or to reject with.
pub fn to_napi(error: &Error) -> napi::Error {
    napi::Error::new(napi::Status::GenericFailure, to_json(error))
}

/// An argument that the core never saw.
pub fn invalid_argument(message: impl Into<String>) -> napi::Error {
    let message = message.into();
    let json = serde_json::json!({
        "hstreamdb": ErrorKind::InvalidArgument.name(),
        "text": message,
        "message": message,
        "retryable": false,
        "mayHaveBeenApplied": false,
    });
    napi::Error::new(napi::Status::InvalidArg, json.to_string())
}

/// One row of the core's table of kinds.
#[napi(object, object_from_js = false)]
pub struct KindRow {
    pub name: &'static str,
    pub class_name: String,
    pub number: u32,
    pub doc: &'static str,
}

/// The core's table of error kinds; a test compares it with the TypeScript classes.
#[napi]
pub fn error_kinds() -> Vec<KindRow> {
    ErrorKind::ALL
        .iter()
        .map(|kind| KindRow {
            name: kind.name(),
            class_name: kind.class_name().to_string(),
            number: u32::from(kind.number()),
            doc: kind.doc(),
        })
        .collect()
}
