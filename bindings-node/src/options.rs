//! Options on their way to the core, which alone knows names, units and ranges.

use bytes::Bytes;
use hstreamdb::{OptionKind, OptionValue, option_table};
use napi::bindgen_prelude::{BigInt, Buffer, Result};
use napi_derive::napi;

use crate::errors::{invalid_argument, to_napi};

/// One option with exactly one of the values set.
#[napi(object)]
pub struct OptionEntry {
    pub name: String,
    pub bool: Option<bool>,
    pub number: Option<f64>,
    pub text: Option<String>,
    pub bytes: Option<Buffer>,
    pub list: Option<Vec<String>>,
    pub map: Option<Vec<Vec<String>>>,
}

impl OptionEntry {
    fn value(self) -> Result<(String, OptionValue)> {
        let name = self.name;
        let value = if let Some(value) = self.bool {
            OptionValue::Bool(value)
        } else if let Some(value) = self.number {
            // Beyond 2^53 a JavaScript number no longer is the integer that was written.
            if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
                OptionValue::Integer(value as i64)
            } else {
                OptionValue::Number(value)
            }
        } else if let Some(value) = self.text {
            OptionValue::Text(value)
        } else if let Some(value) = self.bytes {
            OptionValue::Bytes(Bytes::copy_from_slice(&value))
        } else if let Some(value) = self.list {
            OptionValue::TextList(value)
        } else if let Some(value) = self.map {
            OptionValue::TextMap(value.into_iter().map(pair).collect::<Result<_>>()?)
        } else {
            return Err(invalid_argument(format!("option \"{name}\" has no value")));
        };
        Ok((name, value))
    }
}

/// `[name, value]` as a pair.
pub fn pair(entry: Vec<String>) -> Result<(String, String)> {
    <[String; 2]>::try_from(entry)
        .map(|[name, value]| (name, value))
        .map_err(|entry| invalid_argument(format!("a pair of texts is needed, not {} of them", entry.len())))
}

/// Hands every option to the core's `set`.
pub fn apply<B>(
    builder: B,
    entries: Vec<OptionEntry>,
    set: impl Fn(B, &str, OptionValue) -> hstreamdb::Result<B>,
) -> Result<B> {
    entries.into_iter().try_fold(builder, |builder, entry| {
        let (name, value) = entry.value()?;
        set(builder, &name, value).map_err(|error| to_napi(&error))
    })
}

/// A bigint that has to fit into 64 unsigned bits.
pub fn unsigned(value: &BigInt, what: &str) -> Result<u64> {
    match value.get_u64() {
        (false, value, true) => Ok(value),
        _ => Err(invalid_argument(format!("{what} is not an unsigned integer of 64 bits"))),
    }
}

/// One row of the core's table of options; the TypeScript interfaces are written from it.
#[napi(object, object_from_js = false)]
pub struct OptionRow {
    pub scope: &'static str,
    pub name: &'static str,
    /// The type in TypeScript.
    pub kind: String,
    pub unit: &'static str,
    pub default: &'static str,
    pub doc: &'static str,
}

/// The core's table of options.
#[napi]
pub fn option_rows() -> Vec<OptionRow> {
    option_table()
        .iter()
        .map(|row| OptionRow {
            scope: row.scope.name(),
            name: row.name,
            kind: match &row.kind {
                OptionKind::Bool => "boolean".into(),
                OptionKind::Integer { .. } | OptionKind::Number => "number".into(),
                OptionKind::Text => "string".into(),
                OptionKind::Bytes => "string | Uint8Array".into(),
                OptionKind::Choice(words) => {
                    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" | ")
                }
                OptionKind::TextMap => "Record<string, string>".into(),
                OptionKind::TextList => "string[]".into(),
            },
            unit: row.unit,
            default: row.default,
            doc: row.doc,
        })
        .collect()
}
