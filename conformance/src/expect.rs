//! Answers and errors against what a scenario says of them.

use crate::{adapter::Failure, scenario::ExpectedError};
use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

/// The command must have failed as expected.
///
/// # Errors
/// How it ended instead.
pub fn failed(answer: Result<Map<String, Value>, Failure>, expected: &ExpectedError) -> Result<()> {
    let failure = match answer {
        Ok(ok) => bail!("it succeeded: {}", Value::Object(ok)),
        Err(failure) => failure,
    };
    ensure!(expected.kind.contains(&failure.kind), "it failed with {failure:?}");
    if let Some(code) = expected.code {
        ensure!(failure.code == Some(code), "it failed with {failure:?}");
    }
    if let Some(applied) = expected.may_have_been_applied {
        ensure!(failure.may_have_been_applied == applied, "it failed with {failure:?}");
    }
    Ok(())
}

/// Whether `actual` holds at least what `expected` says: members of objects may be left out, lists must be equally
/// long. `null` expects nothing.
pub fn holds(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (_, Value::Null) => true,
        (Value::Object(actual), Value::Object(expected)) => expected
            .iter()
            .all(|(name, expected)| actual.get(name).is_some_and(|actual| holds(actual, expected))),
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len()
                && actual.iter().zip(expected).all(|(actual, expected)| holds(actual, expected))
        }
        (actual, expected) => actual == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_may_hold_more_but_nothing_else() {
        let actual = json!({ "names": ["a", "b"], "count": 2, "more": true });
        assert!(holds(&actual, &json!({ "names": ["a", "b"], "count": 2 })));
        assert!(holds(&actual, &json!({})));
        assert!(holds(&actual, &Value::Null));
        assert!(!holds(&actual, &json!({ "names": ["a"] })));
        assert!(!holds(&actual, &json!({ "names": ["a", "c"] })));
        assert!(!holds(&actual, &json!({ "other": 1 })));
    }
}
