//! JSON objects as `google.protobuf.Struct`, which is what every client decodes under the JSON flag.

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Number, Value as Json};

/// Deepest nesting that is written. Each level costs three levels of protobuf messages, of which decoders
/// accept 100.
const MAX_DEPTH: usize = 30;

/// Largest integer up to which a double holds every integer.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Encodes the text of a JSON object.
pub(super) fn encode_json(text: &str) -> Result<Bytes> {
    let invalid =
        |message: String| Error::new(ErrorKind::InvalidArgument, "encode hrecord").with_message(message);
    let json: Json =
        serde_json::from_str(text).map_err(|error| invalid(format!("the text is not JSON: {error}")))?;
    let Json::Object(map) = json else {
        return Err(invalid("an HRecord must be a JSON object".into()));
    };
    let fields = to_struct(map, MAX_DEPTH)
        .ok_or_else(|| invalid(format!("the object is nested deeper than {MAX_DEPTH} levels")))?;
    Ok(Bytes::from(fields.encode_to_vec()))
}

/// The JSON object of an encoded Struct, members in alphabetical order.
pub(super) fn decode_json(payload: &Bytes) -> Result<String> {
    let codec = |message: String| Error::new(ErrorKind::Codec, "decode hrecord").with_message(message);
    let fields = Struct::decode(payload.clone())
        .map_err(|error| codec(format!("the payload is not a protobuf Struct: {error}")))?;
    let map = from_struct(fields)
        .ok_or_else(|| codec("a number in the payload is NaN or infinite, which JSON cannot say".into()))?;
    Ok(Json::Object(map).to_string())
}

fn to_struct(map: Map<String, Json>, depth: usize) -> Option<Struct> {
    let depth = depth.checked_sub(1)?;
    let fields =
        map.into_iter().map(|(name, value)| Some((name, to_value(value, depth)?))).collect::<Option<_>>()?;
    Some(Struct { fields })
}

fn to_value(json: Json, depth: usize) -> Option<Value> {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        // Without serde_json's arbitrary precision every number has a double.
        Json::Number(number) => Kind::NumberValue(number.as_f64()?),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => {
            let depth = depth.checked_sub(1)?;
            let values = values.into_iter().map(|value| to_value(value, depth)).collect::<Option<_>>()?;
            Kind::ListValue(ListValue { values })
        }
        Json::Object(map) => Kind::StructValue(to_struct(map, depth)?),
    };
    Some(Value { kind: Some(kind) })
}

fn from_struct(fields: Struct) -> Option<Map<String, Json>> {
    fields.fields.into_iter().map(|(name, value)| Some((name, from_value(value)?))).collect()
}

fn from_value(value: Value) -> Option<Json> {
    Some(match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(number)) => Json::Number(from_double(number)?),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => {
            Json::Array(list.values.into_iter().map(from_value).collect::<Option<_>>()?)
        }
        Some(Kind::StructValue(fields)) => Json::Object(from_struct(fields)?),
    })
}

/// Whole numbers are written without a fraction, as they went in.
fn from_double(number: f64) -> Option<Number> {
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT && !(number == 0.0 && number.is_sign_negative()) {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        decode_json(&encode_json(text).unwrap()).unwrap()
    }

    #[test]
    fn objects_survive_a_round_trip() {
        for text in [
            "{}",
            r#"{"a":null,"b":true,"c":[1,[],{"d":"ü"},-2.5],"e":{}}"#,
            r#"{"big":9007199254740991,"small":-9007199254740991,"tiny":1e-300}"#,
        ] {
            assert_eq!(round_trip(text), text);
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "1", "[]", "null", "{", r#"{"a":}"#] {
            assert_eq!(encode_json(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn the_deepest_object_that_is_written_can_be_read() {
        let nested = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert_eq!(round_trip(&nested(MAX_DEPTH)), nested(MAX_DEPTH));
        assert_eq!(encode_json(&nested(MAX_DEPTH + 1)).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn payloads_that_are_no_struct_are_codec_errors() {
        let not_finite =
            Struct { fields: [("x".to_owned(), Value { kind: Some(Kind::NumberValue(f64::NAN)) })].into() };
        for payload in [Bytes::from_static(b"{\"a\":1}"), Bytes::from(not_finite.encode_to_vec())] {
            assert_eq!(decode_json(&payload).unwrap_err().kind(), ErrorKind::Codec);
        }
    }
}
