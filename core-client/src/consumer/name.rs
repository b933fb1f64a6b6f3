//! Names of consumers.
//!
//! Servers put no rule on them; they are shown in lists and logs, and they must be unique in their subscription. Ours
//! are as long as other names at most, and hold nothing that would garble a log.

use crate::error::{Error, ErrorKind, Result};

/// Longest name in characters, as for streams and subscriptions.
const MAX_CHARS: usize = 255;
/// What a suffix takes: a dash and eight digits.
const SUFFIX_CHARS: usize = 9;

/// Checks a name given by the user.
///
/// # Errors
/// `InvalidArgument` with the rule.
pub(super) fn check(name: &str) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::new(ErrorKind::InvalidArgument, "set consumer option").with_resource("name").with_message(
            format!("{reason}; a name has 1 to {MAX_CHARS} characters, none of them a control character"),
        ))
    };
    match name.chars().take(MAX_CHARS + 1).count() {
        0 => return refuse("it is empty".into()),
        1..=MAX_CHARS => {}
        _ => return refuse(format!("it is longer than {MAX_CHARS} characters")),
    }
    match name.chars().find(|letter| letter.is_control()) {
        Some(letter) => refuse(format!("it holds {letter:?}")),
        None => Ok(()),
    }
}

/// A name that nobody else has: `consumer-` and 16 random hexadecimal digits.
pub(super) fn generated() -> String {
    format!("consumer-{:016x}", rand::random::<u64>())
}

/// The name with a dash and eight random hexadecimal digits; a long one is cut to make room.
pub(super) fn with_suffix(base: &str) -> String {
    let kept: String = base.chars().take(MAX_CHARS - SUFFIX_CHARS).collect();
    format!("{kept}-{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_take_is_taken() {
        for name in ["a", "worker-1", "host.example:42", "Лена 7", &"ß".repeat(255)] {
            check(name).unwrap();
        }
    }

    #[test]
    fn others_are_refused_with_the_rule() {
        for (name, reason) in [("", "empty"), ("a\nb", "'\\n'"), (&*"x".repeat(256), "longer than 255")] {
            let error = check(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(reason) && error.to_string().contains("1 to 255"), "{error}");
        }
    }

    #[test]
    fn generated_and_suffixed_names_are_names() {
        check(&generated()).unwrap();
        let long = with_suffix(&"ß".repeat(255));
        check(&long).unwrap();
        assert_eq!(long.chars().count(), 255);
        assert!(with_suffix("worker").starts_with("worker-"));
    }
}
