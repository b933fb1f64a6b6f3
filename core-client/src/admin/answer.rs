//! What a command of the operator's command line answers.

use crate::error::{Error, ErrorKind};
use serde::Deserialize;
use std::str::FromStr;

/// The answer to [`admin_command`](crate::Client::admin_command), read from its JSON text with [`str::parse`].
///
/// ```
/// use hstreamdb::AdminAnswer;
/// let answer: AdminAnswer = r#"{"type":"plain","content":"OK"}"#.parse()?;
/// assert_eq!(answer, AdminAnswer::Plain("OK".into()));
/// # Ok::<(), hstreamdb::Error>(())
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", content = "content", rename_all = "lowercase")]
pub enum AdminAnswer {
    /// Rows of texts under headers.
    Table {
        /// One per column.
        headers: Vec<String>,
        /// One text per column in each.
        rows: Vec<Vec<String>>,
    },
    /// A sentence.
    Plain(String),
    /// Why there is no answer.
    Error(String),
}

impl FromStr for AdminAnswer {
    type Err = Error;

    /// # Errors
    /// `Codec` for text that is no such answer.
    fn from_str(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|error| {
            Error::new(ErrorKind::Codec, "read admin answer")
                .with_message(format!("the text is no answer of a command: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_sentences_and_errors_are_told_apart() {
        let table = r#"{"content":{"headers":["a"],"rows":[["1"],["2"]]},"type":"table"}"#;
        let rows = vec![vec!["1".to_owned()], vec!["2".to_owned()]];
        assert_eq!(
            table.parse::<AdminAnswer>().unwrap(),
            AdminAnswer::Table { headers: vec!["a".into()], rows }
        );
        let error = r#"{"type":"error","content":"no"}"#;
        assert_eq!(error.parse::<AdminAnswer>().unwrap(), AdminAnswer::Error("no".into()));
        for text in ["", "{}", r#"{"type":"song","content":""}"#, r#"{"type":"plain"}"#] {
            assert_eq!(text.parse::<AdminAnswer>().unwrap_err().kind(), ErrorKind::Codec, "{text}");
        }
    }
}
