//! What a client was built with.

use super::{
    address::{HostMapping, NodeAddress},
    dialer::ConnectionSettings,
    headers::{CallHeaders, Credentials},
    names::Names,
    tls::{Pem, TlsSettings},
    token::TokenProvider,
    url::ServiceUrl,
};
use crate::{
    VERSION,
    error::{Error, ErrorKind, Result},
    metrics::MetricsRecorder,
    options::{OptionScope, OptionValue, Setting},
    retry::RetryPolicy,
};
use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

/// Options of a client as given; `finish` checks what only makes sense together.
#[derive(Clone)]
pub(crate) struct RawSettings {
    urls: Vec<String>,
    hosts: Vec<String>,
    use_tls: Option<bool>,
    tls: TlsSettings,
    credentials: Credentials,
    names: Names,
    metadata: Vec<(String, String)>,
    user_agent_lang: String,
    host_mapping: Vec<(String, String)>,
    request_timeout: Duration,
    total_timeout: Duration,
    connect_timeout: Duration,
    retry: RetryPolicy,
    silence_timeout: Duration,
    node_check_interval: Duration,
    discovery_interval: Duration,
    max_receive_bytes: usize,
    recorder: Option<Arc<dyn MetricsRecorder>>,
    channels_per_node: usize,
    http2_keepalive: Duration,
}

impl Default for RawSettings {
    fn default() -> Self {
        RawSettings {
            urls: Vec::new(),
            hosts: Vec::new(),
            use_tls: None,
            tls: TlsSettings::default(),
            credentials: Credentials::default(),
            names: Names::default(),
            metadata: Vec::new(),
            user_agent_lang: "rust".into(),
            host_mapping: Vec::new(),
            request_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            retry: RetryPolicy::default(),
            silence_timeout: Duration::from_millis(500),
            node_check_interval: Duration::from_secs(2),
            discovery_interval: Duration::from_secs(30),
            max_receive_bytes: 32 << 20,
            recorder: None,
            channels_per_node: 1,
            http2_keepalive: Duration::ZERO,
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

    pub(crate) fn set_token_provider(&mut self, provider: TokenProvider) {
        self.credentials.token_provider = Some(provider);
    }

    pub(crate) fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    pub(crate) fn add_metadata(&mut self, name: String, value: String) {
        self.metadata.push((name, value));
    }

    pub(crate) fn add_host_mapping(&mut self, from: String, to: String) {
        self.host_mapping.push((from, to));
    }

    pub(crate) fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let setting = Setting::new(OptionScope::Client, name, value)?;
        match setting.name() {
            "url" => self.urls.push(setting.text()?),
            "urls" => self.urls.extend(setting.text_list()?),
            "hosts" => self.hosts.extend(setting.text_list()?),
            "tls" => self.use_tls = Some(setting.bool()?),
            "tls_ca_pem" => self.tls.ca = Some(Pem::Text(setting.bytes()?)),
            "tls_ca_path" => self.tls.ca = Some(Pem::File(setting.text()?.into())),
            "tls_use_system_roots" => self.tls.use_system_roots = setting.bool()?,
            "tls_cert_pem" => self.tls.cert = Some(Pem::Text(setting.bytes()?)),
            "tls_cert_path" => self.tls.cert = Some(Pem::File(setting.text()?.into())),
            "tls_key_pem" => self.tls.key = Some(Pem::Text(setting.bytes()?)),
            "tls_key_path" => self.tls.key = Some(Pem::File(setting.text()?.into())),
            "tls_domain_name" => self.tls.domain_name = Some(setting.text()?),
            "auth_token" => self.credentials.auth_token = Some(setting.text()?),
            "username" => self.credentials.username = Some(setting.text()?),
            "password" => self.credentials.password = Some(setting.text()?),
            "metadata" => self.metadata = setting.text_map()?,
            "user_agent_lang" => self.user_agent_lang = setting.text()?,
            "host_mapping" => self.host_mapping = setting.text_map()?,
            "request_timeout_ms" => self.request_timeout = setting.millis()?,
            "total_timeout_ms" => self.total_timeout = setting.millis()?,
            "connect_timeout_ms" => self.connect_timeout = setting.millis()?,
            "retry_max_attempts" => self.retry.max_attempts = setting.integer()?,
            "retry_base_ms" => self.retry.base = setting.millis()?,
            "retry_max_ms" => self.retry.max = setting.millis()?,
            "silence_timeout_ms" => self.silence_timeout = setting.millis()?,
            "node_check_interval_ms" => self.node_check_interval = setting.millis()?,
            "discovery_interval_ms" => self.discovery_interval = setting.millis()?,
            "max_receive_bytes" => self.max_receive_bytes = setting.integer()?,
            "channels_per_node" => self.channels_per_node = setting.integer()?,
            "http2_keepalive_ms" => self.http2_keepalive = setting.millis()?,
            _ => return Err(setting.refuse("it is in the table but not wired")),
        }
        Ok(())
    }

    /// Checks everything and brings it into the form the cluster uses.
    pub(crate) fn finish(&self) -> Result<Settings> {
        let (bootstrap, tls) = self.addresses()?;
        if !tls && self.tls.is_set() {
            return Err(refuse(
                "url",
                "TLS options are set, but the url does not ask for TLS; write hstreams://, or set tls",
            ));
        }
        let agent = format!("hstreamdb-{}/{VERSION}", self.user_agent_lang);
        if !agent.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse("user_agent_lang", "it is not printable ASCII without spaces"));
        }
        let headers = CallHeaders::new(&self.credentials, &self.metadata)?;
        Ok(Settings {
            bootstrap,
            host_mapping: HostMapping::new(&self.host_mapping)?,
            request_timeout: self.request_timeout,
            total_timeout: self.total_timeout,
            connect_timeout: self.connect_timeout,
            retry: self.retry,
            silence_timeout: self.silence_timeout,
            node_check_interval: self.node_check_interval,
            discovery_interval: self.discovery_interval,
            recorder: self.recorder.clone(),
            connection: ConnectionSettings {
                tls: if tls { Some(self.tls.config()?) } else { None },
                headers,
                names: self.names.clone(),
                user_agent: agent,
                connect_timeout: self.connect_timeout,
                max_receive_bytes: self.max_receive_bytes,
                channels_per_node: self.channels_per_node.max(1),
                http2_keepalive: Some(self.http2_keepalive).filter(|every| !every.is_zero()),
            },
        })
    }

    /// The addresses to start at, and whether TLS is spoken there.
    fn addresses(&self) -> Result<(Vec<NodeAddress>, bool)> {
        let mut addresses: Vec<NodeAddress> = Vec::new();
        let mut tls = self.use_tls;
        for text in &self.urls {
            let url = ServiceUrl::parse(text)?;
            if tls.is_some_and(|tls| tls != url.tls) {
                return Err(match self.use_tls {
                    Some(true) => {
                        refuse("tls", "it is set, but a url does not ask for TLS; write hstreams://")
                    }
                    Some(false) => refuse("tls", "it is false, but a url asks for TLS; write hstream://"),
                    None => refuse("urls", "some addresses ask for TLS and some do not"),
                });
            }
            tls = Some(url.tls);
            addresses.extend(url.addresses);
        }
        for host in &self.hosts {
            addresses.push(NodeAddress::parse(host.trim()).map_err(|reason| refuse("hosts", &reason))?);
        }
        let mut known = HashSet::new();
        addresses.retain(|address| known.insert(address.clone()));
        if addresses.is_empty() {
            return Err(refuse("url", "it is missing; write hstream://host:6570"));
        }
        Ok((addresses, tls.unwrap_or(false)))
    }
}

/// Neither credentials nor metadata.
impl fmt::Debug for RawSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSettings")
            .field("urls", &self.urls.len())
            .field("request_timeout", &self.request_timeout)
            .field("total_timeout", &self.total_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("retry", &self.retry)
            .field("silence_timeout", &self.silence_timeout)
            .field("node_check_interval", &self.node_check_interval)
            .field("discovery_interval", &self.discovery_interval)
            .field("max_receive_bytes", &self.max_receive_bytes)
            .field("channels_per_node", &self.channels_per_node)
            .field("http2_keepalive", &self.http2_keepalive)
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
    /// Deadline of a unary call, tries and pauses included.
    pub total_timeout: Duration,
    pub connect_timeout: Duration,
    pub retry: RetryPolicy,
    /// How long a node may owe an answer without a sign of life; zero is without limit.
    pub silence_timeout: Duration,
    /// How long nothing may be heard of a node that somebody listens to; zero is without limit.
    pub node_check_interval: Duration,
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
                OptionKind::Bool => OptionValue::from(true),
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
        assert_eq!(from_table.user_agent_lang, plain.user_agent_lang);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[], "missing"),
            (&[("url", "hstream://a"), ("url", "hstreams://b")], "some do not"),
            (&[("url", "hstream://a"), ("tls_ca_pem", "-----BEGIN X")], "hstreams://"),
            (&[("url", "hstream://a"), ("username", "u")], "password"),
            (&[("url", "hstream://a"), ("tls", "true")], "hstreams://"),
            (&[("url", "hstreams://a"), ("tls", "false")], "hstream://"),
            (&[("hosts", "a:x")], "not a port"),
            (&[("hosts", "a"), ("tls_ca_path", "/nowhere")], "or set tls"),
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

    #[test]
    fn hosts_need_no_scheme_and_follow_the_urls() {
        let mut settings = RawSettings::default();
        settings
            .set("hosts", vec!["a".to_owned(), "[::1]:7000".to_owned(), "b:6570".to_owned()].into())
            .unwrap();
        settings.set("url", "hstreams://b,c".into()).unwrap();
        let (addresses, tls) = settings.addresses().unwrap();
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["b:6570", "c:6570", "a:6570", "[::1]:7000"]);
        assert!(tls);
        let mut settings = RawSettings::default();
        settings.set("hosts", "a".into()).unwrap();
        assert!(!settings.addresses().unwrap().1);
        settings.set("tls", true.into()).unwrap();
        assert!(settings.addresses().unwrap().1);
    }

    #[test]
    fn debug_shows_no_secrets() {
        let mut settings = RawSettings::default();
        for name in ["url", "auth_token", "username", "password", "tls_key_pem"] {
            settings.set(name, "hunter2".into()).unwrap();
        }
        settings.add_metadata("x".into(), "hunter2".into());
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
