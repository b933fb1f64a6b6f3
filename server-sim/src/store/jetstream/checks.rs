//! What is looked at before a store is used, so that what is wrong is said at the start and not at the first append.

use super::connection::Connection;
use super::failure::{ApiFailure, NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT};
use super::open_error::{Attempt, OpenError};
use super::{FRAME_ROOM, JetStreamOptions};
use tokio::time::Instant;

/// [`OLDEST`](super::open_error::OLDEST) as numbers.
const OLDEST_PARTS: (u32, u32) = (2, 12);

/// Looks at the server that this node is connected to, and whether the account may keep anything.
pub(super) async fn check(connection: &Connection, options: &JetStreamOptions) -> Result<(), Attempt> {
    let info = connection.client().server_info();
    let server =
        || if info.server_name.is_empty() { info.server_id.clone() } else { info.server_name.clone() };
    if version(&info.version).is_none_or(|version| version < OLDEST_PARTS) {
        return Err(OpenError::TooOld { server: server(), found: info.version.clone() }.into());
    }
    let needed = options.max_batch_bytes.saturating_add(FRAME_ROOM);
    if info.max_payload < needed {
        return Err(OpenError::SmallPayload { server: server(), found: info.max_payload, needed }.into());
    }
    let deadline = Instant::now() + options.timeout;
    let off = |reason: String| OpenError::NoJetStream { url: options.url.to_string(), reason };
    match connection.api::<serde_json::Value>("INFO", &serde_json::Value::Null, deadline).await {
        Ok(_) => Ok(()),
        Err(ApiFailure::Refused(error))
            if [NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT].contains(&error.err_code) =>
        {
            Err(off(error.to_string()).into())
        }
        Err(ApiFailure::Refused(error)) if error.is_passing() => Err(Attempt::Again(error.to_string())),
        Err(ApiFailure::Refused(error)) => Err(OpenError::Denied {
            url: options.url.to_string(),
            what: "say what this account may use".to_owned(),
            reason: error.to_string(),
        }
        .into()),
        // Servers of a cluster that have just started have nobody yet who answers.
        Err(ApiFailure::Lost(lost)) if !lost.sent && !info.jetstream && info.cluster.is_none() => {
            Err(off("the server does not offer it".to_owned()).into())
        }
        Err(ApiFailure::Lost(lost)) => Err(Attempt::Again(lost.why)),
    }
}

/// The first two parts of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let mut next = || parts.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (text, fits) in [
            ("2.9.10", false),
            ("2.11.99", false),
            ("2.12.0", true),
            ("2.12.0-RC.3", true),
            ("v2.15.1", true),
            ("3.0", true),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(version(text).is_some_and(|version| version >= OLDEST_PARTS), fits, "{text}");
        }
    }
}
