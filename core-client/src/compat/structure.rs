//! JSON-like values as the published crate shows them: a Struct of named values.

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// Named values: the content of [`Payload::HRecord`](super::Payload::HRecord). [`HRecord`](crate::HRecord) offers JSON and serde.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Struct {
    /// Values by name.
    pub fields: BTreeMap<String, Value>,
}

/// Values in a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ListValue {
    /// The values.
    pub values: Vec<Value>,
}

/// A value; `None` counts as null.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Value {
    /// What it is.
    pub kind: Option<value::Kind>,
}

/// What a [`Value`] can be.
pub mod value {
    use super::{ListValue, Struct};

    /// What a value is.
    #[derive(Debug, Clone, PartialEq)]
    pub enum Kind {
        /// Nothing; the number says nothing either.
        NullValue(i32),
        /// A number; whole numbers are exact up to 2^53.
        NumberValue(f64),
        /// Text.
        StringValue(String),
        /// True or false.
        BoolValue(bool),
        /// Named values.
        StructValue(Struct),
        /// Values in a row.
        ListValue(ListValue),
    }
}

/// Deepest nesting that is written; more could not be read again.
const MAX_DEPTH: usize = 30;

impl Struct {
    /// As a record's payload.
    ///
    /// # Errors
    /// `InvalidArgument` when it is nested deeper than 30 levels.
    pub(super) fn encode(self) -> Result<Bytes> {
        let wire = struct_to_wire(self, MAX_DEPTH).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "encode hrecord")
                .with_message(format!("the Struct is nested deeper than {MAX_DEPTH} levels"))
        })?;
        Ok(Bytes::from(wire.encode_to_vec()))
    }

    /// From a record's payload; `None` when it is none.
    pub(super) fn decode(payload: &Bytes) -> Option<Self> {
        prost_types::Struct::decode(payload.clone()).ok().map(struct_from_wire)
    }
}

fn struct_to_wire(fields: Struct, depth: usize) -> Option<prost_types::Struct> {
    let depth = depth.checked_sub(1)?;
    let fields = fields.fields.into_iter();
    let fields = fields.map(|(name, value)| Some((name, to_wire(value, depth)?))).collect::<Option<_>>()?;
    Some(prost_types::Struct { fields })
}

fn to_wire(value: Value, depth: usize) -> Option<prost_types::Value> {
    use prost_types::value::Kind as Wire;
    let kind = match value.kind {
        None => None,
        Some(value::Kind::NullValue(_)) => Some(Wire::NullValue(0)),
        Some(value::Kind::NumberValue(number)) => Some(Wire::NumberValue(number)),
        Some(value::Kind::StringValue(text)) => Some(Wire::StringValue(text)),
        Some(value::Kind::BoolValue(value)) => Some(Wire::BoolValue(value)),
        Some(value::Kind::StructValue(fields)) => Some(Wire::StructValue(struct_to_wire(fields, depth)?)),
        Some(value::Kind::ListValue(list)) => {
            let depth = depth.checked_sub(1)?;
            let values = list.values.into_iter().map(|value| to_wire(value, depth)).collect::<Option<_>>()?;
            Some(Wire::ListValue(prost_types::ListValue { values }))
        }
    };
    Some(prost_types::Value { kind })
}

// The decoder accepts 100 levels of messages, which bounds the depth here.
fn struct_from_wire(wire: prost_types::Struct) -> Struct {
    Struct { fields: wire.fields.into_iter().map(|(name, value)| (name, from_wire(value))).collect() }
}

fn from_wire(value: prost_types::Value) -> Value {
    use prost_types::value::Kind as Wire;
    let kind = value.kind.map(|kind| match kind {
        Wire::NullValue(_) => value::Kind::NullValue(0),
        Wire::NumberValue(number) => value::Kind::NumberValue(number),
        Wire::StringValue(text) => value::Kind::StringValue(text),
        Wire::BoolValue(value) => value::Kind::BoolValue(value),
        Wire::StructValue(fields) => value::Kind::StructValue(struct_from_wire(fields)),
        Wire::ListValue(list) => {
            value::Kind::ListValue(ListValue { values: list.values.into_iter().map(from_wire).collect() })
        }
    });
    Value { kind }
}

#[cfg(test)]
mod tests {
    use super::{value::Kind, *};

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    #[test]
    fn every_kind_of_value_survives_the_wire() {
        let inner = Struct { fields: [("n".to_owned(), value(Kind::NullValue(0)))].into() };
        let list = vec![value(Kind::BoolValue(true)), Value { kind: None }];
        let fields = Struct {
            fields: [
                ("half".to_owned(), value(Kind::NumberValue(0.5))),
                ("text".to_owned(), value(Kind::StringValue("ü".into()))),
                ("list".to_owned(), value(Kind::ListValue(ListValue { values: list }))),
                ("inner".to_owned(), value(Kind::StructValue(inner))),
            ]
            .into(),
        };
        assert_eq!(Struct::decode(&fields.clone().encode().unwrap()), Some(fields));
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let nested = |levels| {
            (1..levels).fold(Struct::default(), |inner, _| Struct {
                fields: [("a".to_owned(), value(Kind::StructValue(inner)))].into(),
            })
        };
        let deepest = nested(MAX_DEPTH);
        assert_eq!(Struct::decode(&deepest.clone().encode().unwrap()), Some(deepest));
        assert_eq!(nested(MAX_DEPTH + 1).encode().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(Struct::decode(&Bytes::from_static(b"\xff")), None);
    }
}
