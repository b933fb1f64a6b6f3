//! Rows as JSON objects: what queries answer and connectors report.

use prost_types::{Struct, Value as Wire, value::Kind};
use serde_json::{Map, Number, Value as Json};

/// A JSON object, members in alphabetical order: a row of a query's result, or a position of a connector.
///
/// Servers without schemas write SQL numbers, times and bytes as objects of one member, such as `{"$numberLong":"22"}`;
/// [`plain_row`] turns them into plain JSON.
pub type Row = Map<String, Json>;

/// Largest integer up to which a double holds every integer.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A row off the wire. Numbers that JSON cannot say become the texts `NaN`, `Infinity` and `-Infinity`.
pub(super) fn from_wire(fields: Struct) -> Row {
    fields.fields.into_iter().map(|(name, value)| (name, value_from_wire(value))).collect()
}

// The decoder accepts 100 levels of messages, which bounds the depth here.
fn value_from_wire(value: Wire) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(number)) => number_from_wire(number),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(value_from_wire).collect()),
        Some(Kind::StructValue(fields)) => Json::Object(from_wire(fields)),
    }
}

/// Whole numbers come without a fraction, as they went in.
fn number_from_wire(number: f64) -> Json {
    let negative_zero = number == 0.0 && number.is_sign_negative();
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT && !negative_zero {
        return Json::Number(Number::from(number as i64));
    }
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => Json::String("NaN".to_owned()),
        None if number > 0.0 => Json::String("Infinity".to_owned()),
        None => Json::String("-Infinity".to_owned()),
    }
}

/// The row with SQL values as plain JSON: `$numberLong` and `$numberDouble` become numbers, `$date`, `$time`,
/// `$timestamp`, `$interval` and `$binary` (Base64) become texts. What is no such value stays as it is.
///
/// ```
/// use hstreamdb::{Row, plain_row};
/// let row: Row = serde_json::from_str(r#"{"n":{"$numberLong":"22"},"city":"Ulm"}"#)?;
/// assert_eq!(serde_json::to_string(&plain_row(row))?, r#"{"city":"Ulm","n":22}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn plain_row(row: Row) -> Row {
    row.into_iter().map(|(name, value)| (name, plain(value))).collect()
}

fn plain(value: Json) -> Json {
    match value {
        Json::Array(values) => Json::Array(values.into_iter().map(plain).collect()),
        Json::Object(row) => extended(&row).unwrap_or_else(|| Json::Object(plain_row(row))),
        other => other,
    }
}

/// The value of an object of one member that stands for something plain.
fn extended(row: &Row) -> Option<Json> {
    if row.len() != 1 {
        return None;
    }
    let (name, value) = row.iter().next()?;
    match name.as_str() {
        "$numberLong" => value.as_str()?.parse::<i64>().ok().map(Json::from),
        "$numberDouble" => {
            let number: f64 = value.as_str()?.parse().ok()?;
            Some(Number::from_f64(number).map_or_else(|| value.clone(), Json::Number))
        }
        "$date" | "$time" | "$timestamp" | "$interval" => Some(Json::String(value.as_str()?.to_owned())),
        "$binary" => Some(Json::String(value.get("base64")?.as_str()?.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::ListValue;
    use serde_json::json;

    fn number(number: f64) -> Wire {
        Wire { kind: Some(Kind::NumberValue(number)) }
    }

    #[test]
    fn every_kind_of_value_has_a_json_form() {
        let wire = Struct {
            fields: [
                ("whole".to_owned(), number(3.0)),
                ("half".to_owned(), number(0.5)),
                ("large".to_owned(), number(1e300)),
                ("nan".to_owned(), number(f64::NAN)),
                ("low".to_owned(), number(f64::NEG_INFINITY)),
                ("none".to_owned(), Wire { kind: None }),
                (
                    "list".to_owned(),
                    Wire { kind: Some(Kind::ListValue(ListValue { values: vec![number(1.0)] })) },
                ),
            ]
            .into(),
        };
        let expected = json!({
            "whole": 3, "half": 0.5, "large": 1e300, "nan": "NaN", "low": "-Infinity", "none": null, "list": [1],
        });
        assert_eq!(Json::Object(from_wire(wire)), expected);
    }

    #[test]
    fn sql_values_become_plain_and_all_else_stays() {
        let row = json!({
            "int": {"$numberLong": "-9223372036854775808"},
            "float": {"$numberDouble": "2.5"},
            "nan": {"$numberDouble": "NaN"},
            "bytes": {"$binary": {"base64": "AAE=", "subType": "00"}},
            "time": {"$timestamp": "2026-01-01T00:00:00Z"},
            "nested": [{"deep": {"$numberLong": "1"}}],
            "odd": {"$numberLong": 5},
            "two": {"$numberLong": "1", "x": 1},
            "empty": {},
        });
        let Json::Object(row) = row else { unreachable!() };
        let expected = json!({
            "int": i64::MIN, "float": 2.5, "nan": "NaN", "bytes": "AAE=", "time": "2026-01-01T00:00:00Z",
            "nested": [{"deep": 1}], "odd": {"$numberLong": 5}, "two": {"$numberLong": "1", "x": 1}, "empty": {},
        });
        assert_eq!(Json::Object(plain_row(row)), expected);
    }
}
