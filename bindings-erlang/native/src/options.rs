//! Option lists, passed through to the core untouched.

use hstreamdb::OptionValue;
use rustler::{Binary, Decoder, Error, NifResult, Term};

/// One `{Name, Value}` pair.
pub struct Given {
    /// The core's option name.
    pub name: String,
    /// Its value.
    pub value: OptionValue,
}

impl<'a> Decoder<'a> for Given {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let (name, value): (String, Term<'a>) = term.decode()?;
        let value = if let Ok(value) = value.decode::<bool>() {
            OptionValue::Bool(value)
        } else if let Ok(value) = value.decode::<i64>() {
            OptionValue::Integer(value)
        } else if let Ok(value) = value.decode::<f64>() {
            OptionValue::Number(value)
        } else {
            let bytes: Binary<'a> = value.decode()?;
            match std::str::from_utf8(bytes.as_slice()) {
                Ok(text) => OptionValue::Text(text.to_owned()),
                Err(_) => return Err(Error::BadArg),
            }
        };
        Ok(Given { name, value })
    }
}

/// Hands every pair to a builder's `set`.
pub fn set_all<B>(
    builder: B,
    given: Vec<Given>,
    set: impl Fn(B, &str, OptionValue) -> hstreamdb::Result<B>,
) -> hstreamdb::Result<B> {
    given.into_iter().try_fold(builder, |builder, Given { name, value }| set(builder, &name, value))
}
