//! Tokens that change while a client lives: asked for when needed, kept until they end or are refused.

use crate::error::{Error, ErrorKind, Result};
use http::HeaderValue;
use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::OnceCell, time::Instant};

/// A token is replaced this long before it ends, or a tenth of its life before if that is less.
const REPLACE_BEFORE_END: Duration = Duration::from_secs(30);

/// A token for the `authorization` header, with the time it is good for. Debug shows neither.
#[derive(Clone)]
pub struct AuthToken {
    text: String,
    valid_for: Option<Duration>,
}

impl AuthToken {
    /// A token sent as `Basic <token>`; one that begins with `Basic ` or `Bearer ` is sent as it is. Good until a
    /// server refuses it.
    pub fn new(text: impl Into<String>) -> Self {
        AuthToken { text: text.into(), valid_for: None }
    }

    /// Good for this long from now; the next one is asked for shortly before the end.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.valid_for = Some(time);
        self
    }
}

impl<T: Into<String>> From<T> for AuthToken {
    fn from(text: T) -> Self {
        AuthToken::new(text)
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthToken").finish_non_exhaustive()
    }
}

/// The header's value of a token, marked so that neither Debug nor HTTP/2 header tables hold it; `None` when it is not
/// printable ASCII.
pub(crate) fn header_of(token: &str) -> Option<HeaderValue> {
    let with_scheme = token.starts_with("Basic ") || token.starts_with("Bearer ");
    let mut value = if with_scheme {
        HeaderValue::from_str(token).ok()?
    } else {
        HeaderValue::from_str(&format!("Basic {token}")).ok()?
    };
    value.set_sensitive(true);
    Some(value)
}

type Answer = Pin<Box<dyn Future<Output = Result<AuthToken>> + Send>>;

/// What the user gave to be asked for tokens.
#[derive(Clone)]
pub(crate) struct TokenProvider(Arc<dyn Fn() -> Answer + Send + Sync>);

impl TokenProvider {
    pub(crate) fn new<F, Fut>(provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<AuthToken>> + Send + 'static,
    {
        TokenProvider(Arc::new(move || Box::pin(provider())))
    }
}

impl fmt::Debug for TokenProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenProvider").finish_non_exhaustive()
    }
}

/// The present token of a client.
pub(crate) struct TokenSource {
    provider: TokenProvider,
    present: Mutex<Arc<Issue>>,
}

/// One token from its asking to its end. Callers that come while it is being asked for wait for the same answer.
#[derive(Default)]
struct Issue {
    token: OnceCell<Issued>,
    /// A server took it.
    accepted: AtomicBool,
    /// Asked for because the one before it was refused.
    second: bool,
}

struct Issued {
    header: HeaderValue,
    replace_at: Option<Instant>,
}

/// A token on its way with one call.
pub(crate) struct Token {
    pub header: HeaderValue,
    issue: Arc<Issue>,
}

impl TokenSource {
    pub(crate) fn new(provider: TokenProvider) -> Self {
        TokenSource { provider, present: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Issue>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present token; asks for one when there is none or it ends soon. The provider is never called under a lock.
    ///
    /// # Errors
    /// The provider's, and `InvalidArgument` for a token that is no header value.
    pub(crate) async fn token(&self) -> Result<Token> {
        let issue = {
            let mut present = self.lock();
            let ends = present.token.get().and_then(|token| token.replace_at);
            if ends.is_some_and(|ends| Instant::now() >= ends) {
                *present = Arc::default();
            }
            present.clone()
        };
        let issued = issue.token.get_or_try_init(|| self.ask()).await?;
        Ok(Token { header: issued.header.clone(), issue: issue.clone() })
    }

    async fn ask(&self) -> Result<Issued> {
        let asked = Instant::now();
        let token = (self.provider.0)().await?;
        let header = header_of(&token.text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "ask the token provider")
                .with_message("the token is not printable ASCII")
        })?;
        let replace_at = token
            .valid_for
            .and_then(|time| asked.checked_add(time.saturating_sub(REPLACE_BEFORE_END.min(time / 10))));
        Ok(Issued { header, replace_at })
    }

    /// A server took the token.
    pub(crate) fn accepted(&self, token: &Token) {
        // Read first: all calls share the line this is on.
        if !token.issue.accepted.load(Ordering::Relaxed) {
            token.issue.accepted.store(true, Ordering::Relaxed);
        }
    }

    /// A server refused the token, so it is used no more. Tells whether another one may do better: not when this one
    /// replaced a refused one and nobody has taken it.
    pub(crate) fn refused(&self, token: &Token) -> bool {
        let mut present = self.lock();
        if !Arc::ptr_eq(&present, &token.issue) {
            // Somebody else saw to it.
            return true;
        }
        let again = !token.issue.second || token.issue.accepted.load(Ordering::Relaxed);
        *present = Arc::new(Issue { second: again, ..Issue::default() });
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// Tokens `t1`, `t2` …, each good for `valid_for`.
    fn counting(valid_for: Option<Duration>) -> (TokenSource, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let provider = TokenProvider::new(move || {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let token = AuthToken::new(format!("Bearer t{number}"));
                Ok(match valid_for {
                    Some(time) => token.valid_for(time),
                    None => token,
                })
            }
        });
        (TokenSource::new(provider), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn callers_at_the_same_time_share_one_asking() {
        let (source, asked) = counting(None);
        let tokens = futures::future::join_all((0..50).map(|_| source.token())).await;
        assert!(tokens.iter().all(|token| token.as_ref().is_ok_and(|token| token.header == "Bearer t1")));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_the_asking_to_the_next() {
        let (source, asked) = counting(None);
        let short = tokio::time::timeout(Duration::from_millis(1), source.token()).await;
        assert!(short.is_err());
        assert_eq!(source.token().await.unwrap().header, "Bearer t2");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_before_it_ends() {
        let (source, _) = counting(Some(Duration::from_secs(100)));
        assert_eq!(source.token().await.unwrap().header, "Bearer t1");
        tokio::time::advance(Duration::from_secs(89)).await;
        assert_eq!(source.token().await.unwrap().header, "Bearer t1");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(source.token().await.unwrap().header, "Bearer t2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_replaced_once() {
        let (source, asked) = counting(None);
        let first = source.token().await.unwrap();
        let same = source.token().await.unwrap();
        assert!(source.refused(&first));
        // The other call that carried it may use the next one, too.
        assert!(source.refused(&same));
        let second = source.token().await.unwrap();
        assert!(!source.refused(&second), "two in a row are refused: a third would be, too");
        assert!(source.refused(&source.token().await.unwrap()), "a later call begins afresh");
        let taken = source.token().await.unwrap();
        source.accepted(&taken);
        assert!(source.refused(&taken), "it was good before, so it has ended");
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", AuthToken::new("hunter2")).contains("hunter2"));
    }
}
