//! Which names resources may have.

use crate::error::{Class, Result, ServerError};

/// Longest name in characters.
const MAX_CHARS: usize = 255;

/// Checks the name of a stream, subscription, reader, query, view or connector; `class` tells which.
///
/// # Errors
/// `class`, with the sentence published servers answer as its detail.
pub fn check_name(class: Class, name: &str) -> Result<()> {
    check_length(class, name)?;
    if !name.starts_with(char::is_alphabetic) {
        return Err(ServerError::new(class, "The first character of a name must be a letter"));
    }
    check_characters(class, name)
}

/// The weaker rule of lookups, where an id may begin with a digit.
///
/// # Errors
/// As [`check_name`].
pub fn check_lookup_id(class: Class, id: &str) -> Result<()> {
    check_length(class, id)?;
    check_characters(class, id)
}

fn check_length(class: Class, name: &str) -> Result<()> {
    // Counting stops early: a name may be as long as a message.
    match name.chars().take(MAX_CHARS + 1).count() {
        1..=MAX_CHARS => Ok(()),
        _ => Err(ServerError::new(class, "The length must be between 1 and 255 characters.")),
    }
}

fn check_characters(class: Class, name: &str) -> Result<()> {
    match name.chars().find(|c| !(c.is_alphanumeric() || *c == '-' || *c == '_')) {
        Some(illegal) => Err(ServerError::new(class, format!("Illegal character '{illegal}' found"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str) -> Option<String> {
        match check_name(Class::InvalidStreamName, name) {
            Ok(()) => None,
            Err(ServerError::Classified { extra, .. }) => extra.as_str().map(str::to_owned),
            Err(other) => Some(other.to_string()),
        }
    }

    #[test]
    fn letters_of_any_script_digits_dashes_and_underscores_are_names() {
        for name in ["a", "stream-1", "a_b", "Ünïcode", "流", &"x".repeat(255), &"é".repeat(255)] {
            assert_eq!(refusal(name), None, "{name:?}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_published_sentences() {
        let length = "The length must be between 1 and 255 characters.";
        assert_eq!(refusal("").as_deref(), Some(length));
        assert_eq!(refusal(&"x".repeat(256)).as_deref(), Some(length));
        for name in ["1a", "-a", "_a", ".a", "1.a"] {
            assert_eq!(refusal(name).as_deref(), Some("The first character of a name must be a letter"));
        }
        assert_eq!(refusal("a.b").as_deref(), Some("Illegal character '.' found"));
        assert_eq!(refusal("a b/").as_deref(), Some("Illegal character ' ' found"));
    }

    #[test]
    fn ids_of_lookups_may_begin_with_a_digit() {
        let class = Class::InvalidShardId;
        assert_eq!(check_lookup_id(class, "123"), Ok(()));
        for id in ["", ".1", "1/2", &"1".repeat(256)] {
            assert_eq!(check_lookup_id(class, id).unwrap_err().class(), Some(class), "{id:?}");
        }
    }
}
