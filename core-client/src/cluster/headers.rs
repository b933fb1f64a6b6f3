//! What travels with every call: credentials, free metadata and, for unary calls, the deadline.

use crate::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use std::{fmt, sync::Arc, time::Duration};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    service::Interceptor,
};

/// How much later than the client the server gives up, so that the client's own deadline decides the error.
const DEADLINE_MARGIN: Duration = Duration::from_millis(250);

/// Headers of every call; cheap to clone.
#[derive(Clone)]
pub(crate) struct CallHeaders {
    fixed: Arc<MetadataMap>,
    timeout: Option<AsciiMetadataValue>,
}

impl CallHeaders {
    /// Headers of the client's credentials and metadata.
    ///
    /// # Errors
    /// `InvalidArgument` when a header is not one, or when both ways to authenticate are used; the text names
    /// the option and never its value.
    pub(crate) fn new(
        auth_token: Option<&str>,
        basic: (Option<&str>, Option<&str>),
        metadata: &[(String, String)],
    ) -> Result<Self> {
        let mut fixed = MetadataMap::new();
        for (name, value) in metadata {
            let key: AsciiMetadataKey = name
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| refuse("metadata", format!("{name:?} is not a header name")))?;
            let value: AsciiMetadataValue = value
                .parse()
                .map_err(|_| refuse("metadata", format!("the value of {name:?} is not printable ASCII")))?;
            fixed.append(key, value);
        }
        let authorization = match (auth_token, basic) {
            (Some(_), (Some(_), _) | (_, Some(_))) => {
                return Err(refuse("auth_token", "it excludes username and password".into()));
            }
            (Some(token), _) if token.starts_with("Basic ") || token.starts_with("Bearer ") => {
                Some(("auth_token", token.to_owned()))
            }
            (Some(token), _) => Some(("auth_token", format!("Basic {token}"))),
            (None, (Some(username), Some(password))) => {
                if username.contains(':') {
                    return Err(refuse("username", "it must not contain a colon".into()));
                }
                let encoded =
                    base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                Some(("username", format!("Basic {encoded}")))
            }
            (None, (Some(_), None)) => return Err(refuse("password", "username is set without it".into())),
            (None, (None, Some(_))) => return Err(refuse("username", "password is set without it".into())),
            (None, (None, None)) => None,
        };
        if let Some((option, value)) = authorization {
            let mut value: AsciiMetadataValue =
                value.parse().map_err(|_| refuse(option, "the value is not printable ASCII".into()))?;
            // Keeps the value out of HTTP/2 header tables and out of Debug.
            value.set_sensitive(true);
            fixed.insert("authorization", value);
        }
        Ok(CallHeaders { fixed: Arc::new(fixed), timeout: None })
    }

    /// The same headers with a deadline the server sees, so that it drops work nobody waits for.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        // At most 8 digits are allowed, so milliseconds only where they fit.
        let millis = timeout.saturating_add(DEADLINE_MARGIN).as_millis();
        let text = if millis < 100_000_000 {
            format!("{millis}m")
        } else {
            format!("{}S", (millis / 1000).min(99_999_999))
        };
        CallHeaders { fixed: self.fixed.clone(), timeout: text.parse().ok() }
    }
}

impl Interceptor for CallHeaders {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        for entry in self.fixed.iter() {
            match entry {
                tonic::metadata::KeyAndValueRef::Ascii(key, value) => {
                    metadata.append(key.clone(), value.clone());
                }
                tonic::metadata::KeyAndValueRef::Binary(key, value) => {
                    metadata.append_bin(key.clone(), value.clone());
                }
            }
        }
        if let Some(timeout) = &self.timeout {
            metadata.insert("grpc-timeout", timeout.clone());
        }
        Ok(request)
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for CallHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.fixed.keys().map(|key| format!("{key:?}")).collect();
        f.debug_struct("CallHeaders").field("names", &names).field("timeout", &self.timeout).finish()
    }
}

fn refuse(option: &str, reason: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, "set client option").with_resource(option).with_message(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(token: Option<&str>, user: Option<&str>, password: Option<&str>) -> Option<String> {
        let mut headers = CallHeaders::new(token, (user, password), &[]).unwrap();
        let request = headers.call(Request::new(())).unwrap();
        request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn tokens_and_names_become_the_published_header() {
        assert_eq!(authorization(None, None, None), None);
        assert_eq!(authorization(Some("dG9r"), None, None).unwrap(), "Basic dG9r");
        assert_eq!(authorization(Some("Bearer abc"), None, None).unwrap(), "Bearer abc");
        assert_eq!(
            authorization(None, Some("Aladdin"), Some("open sesame")).unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }

    #[test]
    fn half_credentials_are_refused_without_repeating_them() {
        for (token, user, password) in [
            (Some("hunter2"), Some("a"), None),
            (None, Some("hunter2"), None),
            (None, None, Some("hunter2")),
            (Some("hunter2\n"), None, None),
        ] {
            let error = CallHeaders::new(token, (user, password), &[]).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn deadlines_fit_into_eight_digits() {
        let headers = CallHeaders::new(None, (None, None), &[]).unwrap();
        for (timeout, text) in
            [(Duration::from_millis(5000), "5250m"), (Duration::from_secs(99_999_999_999), "99999999S")]
        {
            let request = headers.with_timeout(timeout).call(Request::new(())).unwrap();
            assert_eq!(request.metadata().get("grpc-timeout").unwrap(), text);
        }
    }

    #[test]
    fn debug_shows_no_values() {
        let metadata = [("x-secret".to_owned(), "hunter2".to_owned())];
        let headers = CallHeaders::new(Some("hunter2"), (None, None), &metadata).unwrap();
        assert!(!format!("{headers:?}").contains("hunter2"));
    }
}
