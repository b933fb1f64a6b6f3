//! What a command answers, as JSON text.

use serde_json::json;

/// The answer to a command that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Rows under headers.
    Table { headers: Vec<String>, rows: Vec<Vec<String>> },
    /// A sentence.
    Plain(String),
    /// Why there is no answer.
    Error(String),
}

impl Answer {
    pub(super) fn ok() -> Self {
        Answer::Plain("OK".to_owned())
    }

    pub(super) fn not_found() -> Self {
        Answer::Plain("Not Found".to_owned())
    }

    pub(super) fn table<const N: usize>(
        headers: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        Answer::Table {
            headers: headers.map(str::to_owned).to_vec(),
            rows: rows.into_iter().map(Vec::from).collect(),
        }
    }

    pub(super) fn to_json(&self) -> String {
        let answer = match self {
            Answer::Table { headers, rows } => {
                json!({ "type": "table", "content": { "headers": headers, "rows": rows } })
            }
            Answer::Plain(text) => json!({ "type": "plain", "content": text }),
            Answer::Error(text) => json!({ "type": "error", "content": text }),
        };
        answer.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_json_with_a_type_and_a_content() {
        let table = Answer::table(["a", "b"], [["1".to_owned(), "\"2\"".to_owned()]]);
        assert_eq!(
            table.to_json(),
            r#"{"content":{"headers":["a","b"],"rows":[["1","\"2\""]]},"type":"table"}"#
        );
        assert_eq!(Answer::ok().to_json(), r#"{"content":"OK","type":"plain"}"#);
        assert_eq!(Answer::Error("no".into()).to_json(), r#"{"content":"no","type":"error"}"#);
    }
}
