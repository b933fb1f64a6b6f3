//! Names as servers accept them.

use crate::error::{Error, ErrorKind, Result};
use hstreamdb_proto::api::ErrorCode;

/// Longest name, in characters.
const MAX_LENGTH: usize = 255;

/// Refuses a name that no server accepts, before anything is sent.
///
/// Calls that look their node up first check here: servers keep a place for whatever is looked up, for ever and whether
/// it exists or not.
///
/// # Errors
/// `InvalidArgument` with `code`, as the server would say it.
pub(super) fn check(operation: &'static str, code: ErrorCode, name: &str) -> Result<()> {
    let Some(reason) = fault(name) else { return Ok(()) };
    let shown: String = name.chars().take(80).collect();
    Err(Error::new(ErrorKind::InvalidArgument, operation)
        .with_resource(shown)
        .with_code(code as i32)
        .with_message(reason))
}

fn fault(name: &str) -> Option<String> {
    // Counting stops where it is clear, however long the text is.
    if !(1..=MAX_LENGTH).contains(&name.chars().take(MAX_LENGTH + 1).count()) {
        return Some(format!("a name has 1 to {MAX_LENGTH} characters"));
    }
    if !name.starts_with(char::is_alphabetic) {
        return Some("a name begins with a letter".to_owned());
    }
    let illegal = name.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '-' | '_')))?;
    Some(format!("{illegal:?} cannot be in a name: letters, digits, '-' and '_' can"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_letters_digits_and_two_marks_are_accepted() {
        for name in ["a", "Zähler-1_x", "ключ", "中文", &"n".repeat(255), &"ü".repeat(255)] {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn other_names_are_refused_with_the_servers_code() {
        for name in ["", "1a", "_a", "-", "a.b", "a b", "a/b", "a:b", "a\0", &"n".repeat(256)] {
            let error = check("get query", ErrorCode::QueryInvalidObjectIdentifier, name).unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(404)), "{name}");
            assert!(!error.message().is_empty() && !error.may_have_been_applied());
        }
    }
}
