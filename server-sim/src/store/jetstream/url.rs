//! Where a replicated store is: `nats://[user:password@]host[:port],host[:port],…[/name]`.

use std::fmt;
use std::str::FromStr;

/// Port of a server that is named without one.
const DEFAULT_PORT: u16 = 4222;
/// What the store is called unless the address says otherwise.
const DEFAULT_NAME: &str = "hstream";
/// Longest name: names of streams and subjects begin with it.
const MAX_NAME: usize = 64;

/// Address of a JetStream cluster and the name of the store in it. Shows no password, however it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    tls: bool,
    servers: Vec<(String, u16)>,
    login: Option<Login>,
    name: String,
}

/// Who connects.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    User { name: String, password: String },
    Token(String),
}

impl StoreUrl {
    /// Whether every connection has to be encrypted; a server that asks for that gets it in any case.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Hosts with their ports, as they were given.
    pub fn servers(&self) -> &[(String, u16)] {
        &self.servers
    }

    /// What everything of this store is called after; stores of other names in the same servers are strangers.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Another store in the same servers.
    ///
    /// # Errors
    /// One sentence if that cannot be a name.
    pub fn with_name(mut self, name: &str) -> Result<Self, String> {
        check_name(name)?;
        name.clone_into(&mut self.name);
        Ok(self)
    }
}

/// Errors name the part that is wrong, and repeat nothing that may be a secret.
impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "nats://[user:password@]host[:port],host[:port],…[/name]";
        let text = text.trim();
        let (tls, rest) = match text.split_once("://") {
            Some(("nats", rest)) => (false, rest),
            Some(("tls", rest)) => (true, rest),
            _ => return Err(format!("it begins with neither nats:// nor tls://; the form is {FORM}")),
        };
        // A password may hold anything but what has to be written as %XX.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(Login::parse(login)?), rest),
            None => (None, rest),
        };
        // Published addresses repeat the scheme.
        let rest = rest.replace(",nats://", ",").replace(",tls://", ",");
        let (hosts, name) = match rest.split_once('/') {
            Some((hosts, name)) => (hosts, name.strip_suffix('/').unwrap_or(name)),
            None => (rest.as_str(), ""),
        };
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        check_name(name)?;
        let mut servers = Vec::new();
        for host in hosts.split(',').map(str::trim).filter(|host| !host.is_empty()) {
            let server = parse_host(host)?;
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        if servers.is_empty() {
            return Err(format!("it names no host; the form is {FORM}"));
        }
        Ok(StoreUrl { tls, servers, login, name: name.to_owned() })
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(fits) {
        return Ok(());
    }
    Err(format!(
        "the name of the store, {name:?}, is none: 1 to {MAX_NAME} letters, digits, dashes and underscores"
    ))
}

fn parse_host(text: &str) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| format!("{text:?} lacks its ]"))?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or(rest)) })
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(format!("{text:?} is an IPv6 address and has to stand in brackets"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if host.is_empty() || !host.chars().all(fits) {
        return Err(format!("{text:?} names no host"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{text:?} has no port"))?
        }
    };
    Ok((host.to_owned(), port))
}

impl Login {
    fn parse(text: &str) -> Result<Login, String> {
        let plain = |text: &str| {
            unescape(text).ok_or_else(|| {
                "what stands before the @ is not right: write %, @, /, : and , in a user or a password as %25, %40, %2F, \
                 %3A and %2C"
                    .to_owned()
            })
        };
        let login = match text.split_once(':') {
            Some((name, password)) => Login::User { name: plain(name)?, password: plain(password)? },
            None => Login::Token(plain(text)?),
        };
        match &login {
            Login::User { name, .. } if name.is_empty() => {
                Err("there is a password and no user before it".to_owned())
            }
            Login::Token(token) if token.is_empty() => Err("nothing stands before the @".to_owned()),
            _ => Ok(login),
        }
    }
}

/// `%XX` becomes the byte it stands for; `None` if that is no text.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'@' | b'/' => return None,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "tls://" } else { "nats://" })?;
        match &self.login {
            None => {}
            Some(Login::User { name, .. }) => write!(f, "{name}:***@")?,
            Some(Login::Token(_)) => f.write_str("***@")?,
        }
        for (at, (host, port)) in self.servers.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        write!(f, "/{}", self.name)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        text.parse().unwrap()
    }

    #[test]
    fn servers_name_and_login_are_read_and_shown_without_the_secret() {
        for (text, shown) in [
            ("nats://a", "nats://a:4222/hstream"),
            ("nats://a:1,b, c:3/", "nats://a:1,b:4222,c:3/hstream"),
            ("tls://a.example.com,[::1]:5/blue-1", "tls://a.example.com:4222,[::1]:5/blue-1"),
            ("nats://a,nats://b/x", "nats://a:4222,b:4222/x"),
            ("nats://me:hunter2@a/x_y", "nats://me:***@a:4222/x_y"),
            ("nats://hunter2@a", "nats://***@a:4222/hstream"),
            ("nats://a,a:4222,a", "nats://a:4222/hstream"),
        ] {
            assert_eq!(url(text).to_string(), shown);
            assert_eq!(format!("{:?}", url(text)), format!("StoreUrl({shown})"));
            assert!(!format!("{:?}", url(text).login()).contains("hunter2"));
        }
    }

    #[test]
    fn passwords_are_written_with_escapes() {
        let found = url("nats://m%3Ae:h%40u%2Fn%25t:er@a/x");
        let expected = Login::User { name: "m:e".into(), password: "h@u/n%t:er".into() };
        assert!(found.login() == Some(&expected));
    }

    #[test]
    fn another_store_in_the_same_servers_has_another_name() {
        assert_eq!(url("nats://a/x").with_name("y").unwrap(), url("nats://a/y"));
        assert!(url("nats://a/x").with_name("y.z").unwrap_err().contains("y.z"));
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not() {
        for (text, says) in [
            ("", "neither nats://"),
            ("zk://a", "neither nats://"),
            ("a:1", "neither nats://"),
            ("nats://", "no host"),
            ("nats:///x", "no host"),
            ("nats://a:0", "\"a:0\" has no port"),
            ("nats://a:65536", "\"a:65536\" has no port"),
            ("nats://a:x", "\"a:x\" has no port"),
            ("nats://::1", "brackets"),
            ("nats://[::1", "lacks its ]"),
            ("nats://a b", "names no host"),
            ("nats://a/x.y", "\"x.y\""),
            ("nats://a/x/y", "\"x/y\""),
            ("nats://hunter2%zz@a", "%25"),
            ("nats://me:hunter2@x@a", "%40"),
            (":hunter2@a", "neither nats://"),
            ("nats://:hunter2@a", "no user"),
            ("nats://@a", "nothing stands before"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("hunter2") && error.lines().count() == 1, "{error}");
        }
        let long = format!("nats://a/{}", "x".repeat(65));
        assert!(long.parse::<StoreUrl>().is_err());
    }
}
