//! What a client was built with.

use super::{
    address::{HostMapping, NodeAddress},
    auth::CallHeaders,
    pool::ConnectionSettings,
    tls::TlsSettings,
    url::ServiceUrl,
};
use crate::{
    VERSION,
    error::{Error, ErrorKind, Result},
    metrics::MetricsRecorder,
    options::{OptionScope, OptionValue, Setting},
    retry::RetryPolicy,
};
use std::{fmt, sync::Arc, time::Duration};

/// Options of a client as given; `finish` checks what only makes sense together.
#[derive(Clone)]
pub(crate) struct RawSettings {
    urls: Vec<String>,
    tls: TlsSettings,
    auth_token: Option<String>,
    username: Option<String>,
    password: Option<String>,
    metadata: Vec<(String, String)>,
    user_agent_lang: String,
    host_mapping: Vec<(String, String)>,
    request_timeout: Duration,
    connect_timeout: Duration,
    retry: RetryPolicy,
    discovery_interval: Duration,
    max_receive_bytes: usize,
    recorder: Option<Arc<dyn MetricsRecorder>>,
}

impl Default for RawSettings {
    fn default() -> Self {
        RawSettings {
            urls: Vec::new(),
            tls: TlsSettings::default(),
            auth_token: None,
            username: None,
            password: None,
            metadata: Vec::new(),
            user_agent_lang: "rust".into(),
            host_mapping: Vec::new(),
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            retry: RetryPolicy::default(),
            discovery_interval: Duration::from_secs(30),
            max_receive_bytes: 32 << 20,
            recorder: None,
        }
    }
}

impl RawSettings {
    pub(crate) fn add_url(&mut self, url: String) {
        self.urls.push(url);
    }

    pub(crate) fn set_recorder(&mut self, recorder: Arc<dyn MetricsRecorder>) {
        self.recorder = Some(recorder);
    }

    pub(crate) fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let setting = Setting::new(OptionScope::Client, name, value)?;
        match setting.name() {
            "url" => self.urls.push(setting.text()?),
            "urls" => self.urls.extend(setting.text_list()?),
            "tls_ca_pem" => self.tls.ca_pem = Some(setting.bytes()?),
            "tls_cert_pem" => self.tls.cert_pem = Some(setting.bytes()?),
            "tls_key_pem" => self.tls.key_pem = Some(setting.bytes()?),
            "tls_domain_name" => self.tls.domain_name = Some(setting.text()?),
            "auth_token" => self.auth_token = Some(setting.text()?),
            "username" => self.username = Some(setting.text()?),
            "password" => self.password = Some(setting.text()?),
            "metadata" => self.metadata = setting.text_map()?,
            "user_agent_lang" => self.user_agent_lang = setting.text()?,
            "host_mapping" => self.host_mapping = setting.text_map()?,
            "request_timeout_ms" => self.request_timeout = setting.millis()?,
            "connect_timeout_ms" => self.connect_timeout = setting.millis()?,
            "retry_max_attempts" => self.retry.max_attempts = setting.integer()?,
            "retry_base_ms" => self.retry.base = setting.millis()?,
            "retry_max_ms" => self.retry.max = setting.millis()?,
            "discovery_interval_ms" => self.discovery_interval = setting.millis()?,
            "max_receive_bytes" => self.max_receive_bytes = setting.integer()?,
            _ => return Err(setting.refuse("it is in the table but not wired")),
        }
        Ok(())
    }

    /// Checks everything and brings it into the form the cluster uses.
    pub(crate) fn finish(&self) -> Result<Settings> {
        let mut bootstrap: Vec<NodeAddress> = Vec::new();
        let mut scheme = None;
        for text in &self.urls {
            let url = ServiceUrl::parse(text)?;
            if scheme.is_some_and(|tls| tls != url.tls) {
                return Err(refuse("urls", "some addresses ask for TLS and some do not"));
            }
            scheme = Some(url.tls);
            for address in url.addresses {
                if !bootstrap.contains(&address) {
                    bootstrap.push(address);
                }
            }
        }
        let Some(tls) = scheme else {
            return Err(refuse("url", "it is missing; write hstream://host:6570"));
        };
        if !tls && self.tls.is_set() {
            return Err(refuse(
                "url",
                "TLS options are set, but the url does not ask for TLS; write hstreams://",
            ));
        }
        let agent = format!("hstreamdb-{}/{VERSION}", self.user_agent_lang);
        if !agent.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse("user_agent_lang", "it is not printable ASCII without spaces"));
        }
        let headers = CallHeaders::new(
            self.auth_token.as_deref(),
            (self.username.as_deref(), self.password.as_deref()),
            &self.metadata,
        )?;
        Ok(Settings {
            bootstrap,
            host_mapping: HostMapping::new(&self.host_mapping)?,
            request_timeout: self.request_timeout,
            connect_timeout: self.connect_timeout,
            retry: self.retry,
            discovery_interval: self.discovery_interval,
            recorder: self.recorder.clone(),
            connection: ConnectionSettings {
                tls: if tls { Some(self.tls.config()?) } else { None },
                headers,
                user_agent: agent,
                connect_timeout: self.connect_timeout,
                max_receive_bytes: self.max_receive_bytes,
            },
        })
    }
}

/// Neither credentials nor metadata.
impl fmt::Debug for RawSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSettings")
            .field("urls", &self.urls.len())
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("retry", &self.retry)
            .field("discovery_interval", &self.discovery_interval)
            .finish_non_exhaustive()
    }
}

/// Checked options of a client.
#[derive(Clone)]
pub(crate) struct Settings {
    pub bootstrap: Vec<NodeAddress>,
    pub host_mapping: HostMapping,
    /// Deadline of one try of a unary call.
    pub request_timeout: Duration,
    pub connect_timeout: Duration,
    pub retry: RetryPolicy,
    pub discovery_interval: Duration,
    pub recorder: Option<Arc<dyn MetricsRecorder>>,
    pub connection: ConnectionSettings,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

fn refuse(option: &str, reason: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "set client option").with_resource(option).with_message(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OptionKind, option_table};

    #[test]
    fn every_client_option_of_the_table_can_be_set() {
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Client) {
            let value = match row.kind {
                OptionKind::Integer { max, .. } => OptionValue::Integer(max),
                OptionKind::TextMap => OptionValue::TextMap(Vec::new()),
                OptionKind::TextList => OptionValue::TextList(Vec::new()),
                OptionKind::Bytes => OptionValue::from("x"),
                _ => OptionValue::from("x"),
            };
            RawSettings::default().set(row.name, value).unwrap();
        }
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let mut from_table = RawSettings::default();
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Client) {
            if !row.default.is_empty() {
                from_table.set(row.name, row.default.into()).unwrap();
            }
        }
        let plain = RawSettings::default();
        assert_eq!(format!("{from_table:?}"), format!("{plain:?}"));
        assert_eq!(from_table.max_receive_bytes, plain.max_receive_bytes);
        assert_eq!(from_table.user_agent_lang, plain.user_agent_lang);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[], "missing"),
            (&[("url", "hstream://a"), ("url", "hstreams://b")], "some do not"),
            (&[("url", "hstream://a"), ("tls_ca_pem", "-----BEGIN X")], "hstreams://"),
            (&[("url", "hstream://a"), ("username", "u")], "password"),
        ];
        for (options, reason) in cases {
            let mut settings = RawSettings::default();
            for (name, value) in options {
                settings.set(name, (*value).into()).unwrap();
            }
            let error = settings.finish().unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
