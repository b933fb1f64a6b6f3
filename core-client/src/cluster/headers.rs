//! What travels with every call: credentials, free metadata and, for unary calls, the deadline.

use super::token::{TokenProvider, TokenSource, header_of};
use crate::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE, TE, USER_AGENT},
};
use std::{fmt, sync::Arc, time::Duration};

/// How much later than the client the server gives up, so that the client's own deadline decides the error.
const DEADLINE_MARGIN: Duration = Duration::from_millis(250);
/// More headers than any server takes.
const MAX_METADATA: usize = 256;

/// Who the client says it is.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub auth_token: Option<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub token_provider: Option<TokenProvider>,
}

impl Credentials {
    /// The header that stays the same for the life of the client.
    fn header(&self) -> Result<Option<HeaderValue>> {
        let (option, token) = match (&self.auth_token, &self.username, &self.password, &self.token_provider) {
            (Some(_), Some(_), _, _) | (Some(_), _, Some(_), _) => {
                return Err(refuse("auth_token", "it excludes username and password"));
            }
            (Some(_), _, _, Some(_)) | (_, Some(_), _, Some(_)) | (_, _, Some(_), Some(_)) => {
                return Err(refuse("token_provider", "it excludes auth_token, username and password"));
            }
            (Some(token), ..) => ("auth_token", token.clone()),
            (None, Some(username), Some(password), _) => {
                if username.contains(':') {
                    return Err(refuse("username", "it must not contain a colon"));
                }
                let encoded =
                    base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                ("username", format!("Basic {encoded}"))
            }
            (None, Some(_), None, _) => return Err(refuse("password", "username is set without it")),
            (None, None, Some(_), _) => return Err(refuse("username", "password is set without it")),
            (None, None, None, _) => return Ok(None),
        };
        header_of(&token).map(Some).ok_or_else(|| refuse(option, "the value is not printable ASCII"))
    }
}

/// Headers of every call; cheap to clone.
#[derive(Clone)]
pub(crate) struct CallHeaders {
    fixed: Arc<HeaderMap>,
    tokens: Option<Arc<TokenSource>>,
    timeout: Option<HeaderValue>,
}

impl CallHeaders {
    /// Headers of the client's credentials and metadata.
    ///
    /// # Errors
    /// `InvalidArgument` when a header is not one, or when two ways to authenticate are used; the text names
    /// the option and never its value.
    pub(crate) fn new(credentials: &Credentials, metadata: &[(String, String)]) -> Result<Self> {
        if metadata.len() > MAX_METADATA {
            return Err(refuse("metadata", format!("more than {MAX_METADATA} headers")));
        }
        let mut fixed = HeaderMap::new();
        for (name, value) in metadata {
            let key: HeaderName =
                name.parse().map_err(|_| refuse("metadata", format!("{name:?} is not a header name")))?;
            let own = [CONTENT_TYPE, TE, USER_AGENT].contains(&key) || key.as_str().starts_with("grpc-");
            if own {
                return Err(refuse("metadata", format!("the client sets {name:?} itself")));
            }
            if key.as_str().ends_with("-bin") {
                return Err(refuse("metadata", format!("{name:?} names a binary header; use text")));
            }
            let value = Some(value)
                .filter(|value| value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()))
                .and_then(|value| HeaderValue::from_str(value).ok())
                .ok_or_else(|| refuse("metadata", format!("the value of {name:?} is not printable ASCII")))?;
            fixed.append(key, value);
        }
        if let Some(value) = credentials.header()? {
            fixed.insert(AUTHORIZATION, value);
        }
        let tokens = credentials.token_provider.clone().map(|provider| Arc::new(TokenSource::new(provider)));
        Ok(CallHeaders { fixed: Arc::new(fixed), tokens, timeout: None })
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
        CallHeaders { timeout: HeaderValue::from_str(&text).ok(), ..self.clone() }
    }

    /// Adds them to a call's.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in self.fixed.iter() {
            headers.append(name.clone(), value.clone());
        }
        if let Some(timeout) = &self.timeout {
            headers.insert("grpc-timeout", timeout.clone());
        }
    }

    /// Where the present token comes from, when tokens are asked for.
    pub(crate) fn tokens(&self) -> Option<Arc<TokenSource>> {
        self.tokens.clone()
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for CallHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.fixed.keys().map(HeaderName::as_str).collect();
        f.debug_struct("CallHeaders").field("names", &names).field("timeout", &self.timeout).finish()
    }
}

fn refuse(option: &str, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, "set client option").with_resource(option).with_message(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(token: Option<&str>, user: Option<&str>, password: Option<&str>) -> Credentials {
        Credentials {
            auth_token: token.map(String::from),
            username: user.map(String::from),
            password: password.map(String::from),
            token_provider: None,
        }
    }

    fn sent(headers: &CallHeaders, name: &str) -> Option<String> {
        let mut map = HeaderMap::new();
        headers.put(&mut map);
        map.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    fn authorization(token: Option<&str>, user: Option<&str>, password: Option<&str>) -> Option<String> {
        sent(&CallHeaders::new(&credentials(token, user, password), &[]).unwrap(), "authorization")
    }

    fn metadata(name: &str, value: &str) -> Result<CallHeaders> {
        CallHeaders::new(&Credentials::default(), &[(name.to_owned(), value.to_owned())])
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
    fn half_and_double_credentials_are_refused_without_repeating_them() {
        let provider = Some(TokenProvider::new(|| async { Ok("x".into()) }));
        for (token, user, password, token_provider) in [
            (Some("hunter2"), Some("a"), None, None),
            (None, Some("hunter2"), None, None),
            (None, None, Some("hunter2"), None),
            (Some("hunter2\n"), None, None, None),
            (Some("hunter2"), None, None, provider.clone()),
            (None, Some("hunter2"), None, provider),
        ] {
            let given = Credentials { token_provider, ..credentials(token, user, password) };
            let error = CallHeaders::new(&given, &[]).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn metadata_is_checked_when_it_is_given() {
        assert_eq!(
            sent(&metadata("X-Forwarded-For", "10.0.0.1").unwrap(), "x-forwarded-for").unwrap(),
            "10.0.0.1"
        );
        for (name, value, reason) in [
            ("two words", "x", "not a header name"),
            ("x", "line\nbreak", "not printable"),
            ("x", "\u{e9}", "not printable"),
            ("Grpc-Timeout", "1S", "itself"),
            ("user-agent", "mine", "itself"),
            ("x-bin", "AAAA", "binary"),
        ] {
            let error = metadata(name, value).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn deadlines_fit_into_eight_digits() {
        let headers = metadata("a", "b").unwrap();
        for (timeout, text) in
            [(Duration::from_millis(5000), "5250m"), (Duration::from_secs(99_999_999_999), "99999999S")]
        {
            assert_eq!(sent(&headers.with_timeout(timeout), "grpc-timeout").unwrap(), text);
        }
    }

    #[test]
    fn debug_shows_no_values() {
        let metadata = [("x-secret".to_owned(), "hunter2".to_owned())];
        let headers = CallHeaders::new(&credentials(Some("hunter2"), None, None), &metadata).unwrap();
        assert!(!format!("{headers:?}").contains("hunter2"));
    }
}
