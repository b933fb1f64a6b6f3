//! JSON objects as `google.protobuf.Struct`, which is what every client decodes under the JSON flag.

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value as Json};
use std::{fmt, str::FromStr};

/// Deepest nesting that is written. Each level costs three levels of protobuf messages, of which decoders
/// accept 100.
const MAX_DEPTH: usize = 30;

/// Largest integer up to which a double holds every integer.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A JSON object as it travels: a protobuf Struct, which every client of HStreamDB can read.
///
/// What a Struct cannot hold is lost when the record is made, not on the way: numbers become IEEE doubles, so
/// integers beyond 2^53 lose digits (send those as text), and members lose their order.
///
/// ```
/// # fn main() -> hstreamdb::Result<()> {
/// use hstreamdb::{HRecord, Record};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct Reading { sensor: String, celsius: Option<f64> }
///
/// let reading = Reading { sensor: "roof".into(), celsius: Some(21.5) };
/// let hrecord = HRecord::from_serialize(&reading)?;
/// assert_eq!(hrecord.to_json(), r#"{"celsius":21.5,"sensor":"roof"}"#);
/// assert_eq!(hrecord.deserialize::<Reading>()?, reading);
/// let record = Record::hrecord(&hrecord).with_key("roof");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct HRecord {
    /// Its numbers are finite.
    fields: Struct,
}

impl HRecord {
    /// From the text of a JSON object.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is not JSON, not an object, or nested deeper than 30 levels.
    pub fn from_json(text: &str) -> Result<Self> {
        let json =
            serde_json::from_str(text).map_err(|error| invalid(format!("the text is not JSON: {error}")))?;
        Self::from_value(json)
    }

    /// From anything that serialises to a JSON object: a struct, or a map with text keys. NaN and infinities become
    /// null, as in JSON.
    ///
    /// # Errors
    /// `InvalidArgument` when it does not, or is nested deeper than 30 levels.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let json = serde_json::to_value(value)
            .map_err(|error| invalid(format!("the value has no JSON form: {error}")))?;
        Self::from_value(json)
    }

    fn from_value(json: Json) -> Result<Self> {
        let Json::Object(map) = json else {
            return Err(invalid("an HRecord must be a JSON object".into()));
        };
        let fields = to_struct(map, MAX_DEPTH)
            .ok_or_else(|| invalid(format!("the object is nested deeper than {MAX_DEPTH} levels")))?;
        Ok(HRecord { fields })
    }

    /// As the text of a JSON object, members in alphabetical order, whole numbers without a fraction.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }

    /// As a value of a type that deserialises from a JSON object.
    ///
    /// # Errors
    /// `Codec` when the object is not one of that type.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.to_value())
            .map_err(|error| codec(format!("the HRecord is none of the wanted type: {error}")))
    }

    fn to_value(&self) -> Json {
        // No number is missing: they are finite.
        Json::Object(from_struct(self.fields.clone()).unwrap_or_default())
    }

    /// From a record's payload.
    pub(super) fn decode(payload: &Bytes) -> Result<Self> {
        let fields = Struct::decode(payload.clone())
            .map_err(|error| codec(format!("the payload is not a protobuf Struct: {error}")))?;
        if from_struct(fields.clone()).is_none() {
            return Err(codec("a number in the payload is NaN or infinite, which JSON cannot say".into()));
        }
        Ok(HRecord { fields })
    }

    /// As a record's payload.
    pub(super) fn encode(&self) -> Bytes {
        Bytes::from(self.fields.encode_to_vec())
    }
}

impl FromStr for HRecord {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        HRecord::from_json(text)
    }
}

/// The object as JSON.
impl fmt::Display for HRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}

/// Contents are the user's: they do not belong into logs.
impl fmt::Debug for HRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HRecord").field("members", &self.fields.fields.len()).finish_non_exhaustive()
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, "encode hrecord").with_message(message)
}

fn codec(message: String) -> Error {
    Error::new(ErrorKind::Codec, "decode hrecord").with_message(message)
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
        HRecord::decode(&HRecord::from_json(text).unwrap().encode()).unwrap().to_json()
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
            assert_eq!(HRecord::from_json(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn the_deepest_object_that_is_written_can_be_read() {
        let nested = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert_eq!(round_trip(&nested(MAX_DEPTH)), nested(MAX_DEPTH));
        assert_eq!(
            HRecord::from_json(&nested(MAX_DEPTH + 1)).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }

    #[test]
    fn payloads_that_are_no_struct_are_codec_errors() {
        let not_finite =
            Struct { fields: [("x".to_owned(), Value { kind: Some(Kind::NumberValue(f64::NAN)) })].into() };
        for payload in [Bytes::from_static(b"{\"a\":1}"), Bytes::from(not_finite.encode_to_vec())] {
            assert_eq!(HRecord::decode(&payload).unwrap_err().kind(), ErrorKind::Codec);
        }
    }

    #[test]
    fn integers_beyond_what_a_double_holds_lose_digits_at_once() {
        let hrecord = HRecord::from_json(r#"{"exact":9007199254740992,"not":9007199254740993}"#).unwrap();
        assert_eq!(hrecord.to_json(), r#"{"exact":9007199254740992,"not":9007199254740992}"#);
        assert_eq!(HRecord::decode(&hrecord.encode()).unwrap(), hrecord, "and none on the way");
        assert_eq!(round_trip(r#"{"n":18446744073709551615}"#), r#"{"n":1.8446744073709552e+19}"#);
    }

    #[test]
    fn types_of_the_application_come_back_as_they_were() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Order {
            id: u32,
            note: Option<String>,
            lines: Vec<(String, f64)>,
        }
        let order = Order { id: 7, note: None, lines: vec![("ü".into(), -0.5), (String::new(), 3.0)] };
        let hrecord = HRecord::from_serialize(&order).unwrap();
        assert_eq!(hrecord.deserialize::<Order>().unwrap(), order);
        assert_eq!(hrecord.deserialize::<Vec<u8>>().unwrap_err().kind(), ErrorKind::Codec);
        assert_eq!(HRecord::from_serialize(&[1, 2]).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        assert_eq!(HRecord::from_serialize(&keys).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(
            HRecord::from_serialize(
                &[("x", f64::NAN)].into_iter().collect::<std::collections::HashMap<_, _>>()
            )
            .unwrap()
            .to_json(),
            r#"{"x":null}"#
        );
    }

    #[test]
    fn debug_does_not_show_contents() {
        let hrecord: HRecord = r#"{"password":"secret"}"#.parse().unwrap();
        assert_eq!(format!("{hrecord:?}"), "HRecord { members: 1, .. }");
        assert_eq!(hrecord.to_string(), r#"{"password":"secret"}"#);
    }
}
