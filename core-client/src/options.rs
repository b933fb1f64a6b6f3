//! The one table of options: names, kinds, units, defaults and words, from which parsing, type stubs and
//! reference pages come.

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::{fmt, time::Duration};

/// What an option belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OptionScope {
    /// `Client`.
    Client,
    /// Creating a stream.
    Stream,
    /// Creating a subscription.
    Subscription,
    /// `Producer`.
    Producer,
    /// `Consumer`.
    Consumer,
    /// Running handlers on a consumer.
    Handler,
    /// Readers.
    Reader,
}

impl OptionScope {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            OptionScope::Client => "client",
            OptionScope::Stream => "stream",
            OptionScope::Subscription => "subscription",
            OptionScope::Producer => "producer",
            OptionScope::Consumer => "consumer",
            OptionScope::Handler => "handler",
            OptionScope::Reader => "reader",
        }
    }
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionKind {
    /// True or false.
    Bool,
    /// A whole number, both ends inclusive.
    Integer {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// A number.
    Number,
    /// Text.
    Text,
    /// Bytes; text is accepted too.
    Bytes,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text to text.
    TextMap,
    /// Several texts; one text is accepted too.
    TextList,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// What it belongs to.
    pub scope: OptionScope,
    /// Name in snake case, with its unit where it has one.
    pub name: &'static str,
    /// What values it takes.
    pub kind: OptionKind,
    /// Unit in words, empty where there is none.
    pub unit: &'static str,
    /// The default as text, empty where there is none.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// A value on its way from a language or a configuration file to an option.
#[derive(Clone, PartialEq)]
pub enum OptionValue {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Bytes),
    /// Text to text.
    TextMap(Vec<(String, String)>),
    /// Several texts.
    TextList(Vec<String>),
}

impl OptionValue {
    fn kind_name(&self) -> &'static str {
        match self {
            OptionValue::Bool(_) => "a bool",
            OptionValue::Integer(_) => "an integer",
            OptionValue::Number(_) => "a number",
            OptionValue::Text(_) => "text",
            OptionValue::Bytes(_) => "bytes",
            OptionValue::TextMap(_) => "a map",
            OptionValue::TextList(_) => "a list",
        }
    }
}

/// Shows the kind only: values may be secrets.
impl fmt::Debug for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OptionValue({})", self.kind_name())
    }
}

macro_rules! value_from {
    ($($from:ty => |$value:ident| $into:expr;)*) => {
        $(impl From<$from> for OptionValue {
            fn from($value: $from) -> Self { $into }
        })*
    };
}

value_from! {
    bool => |value| OptionValue::Bool(value);
    i64 => |value| OptionValue::Integer(value);
    i32 => |value| OptionValue::Integer(i64::from(value));
    u32 => |value| OptionValue::Integer(i64::from(value));
    // Out of range saturates; every integer option has a maximum below it, so such a value is refused.
    u64 => |value| OptionValue::Integer(i64::try_from(value).unwrap_or(i64::MAX));
    usize => |value| OptionValue::Integer(i64::try_from(value).unwrap_or(i64::MAX));
    f64 => |value| OptionValue::Number(value);
    &str => |value| OptionValue::Text(value.to_owned());
    String => |value| OptionValue::Text(value);
    Bytes => |value| OptionValue::Bytes(value);
    Vec<u8> => |value| OptionValue::Bytes(Bytes::from(value));
    Vec<(String, String)> => |value| OptionValue::TextMap(value);
    Vec<String> => |value| OptionValue::TextList(value);
}

/// All options of all scopes.
pub fn option_table() -> &'static [OptionSpec] {
    TABLE
}

const fn integer(min: i64, max: i64) -> OptionKind {
    OptionKind::Integer { min, max }
}

/// Longest duration an option takes: ten years in milliseconds, far below what a clock can add.
const MAX_MS: i64 = 10 * 365 * 86_400_000;
/// Largest number of bytes or records an option takes.
const MAX_COUNT: i64 = 1 << 40;
const MAX_U32: i64 = u32::MAX as i64;
const MAX_I32: i64 = i32::MAX as i64;

const fn spec(
    scope: OptionScope,
    name: &'static str,
    kind: OptionKind,
    unit: &'static str,
    default: &'static str,
    doc: &'static str,
) -> OptionSpec {
    OptionSpec { scope, name, kind, unit, default, doc }
}

use OptionKind::{Bool, Bytes as BytesKind, Choice, Text, TextList, TextMap};
use OptionScope::{Client, Consumer, Handler, Producer, Reader, Stream, Subscription};

#[rustfmt::skip]
static TABLE: &[OptionSpec] = &[
    spec(Client, "url", Text, "", "", "Where to start: hstream://host:6570,host2 (hstreams:// for TLS); http:// and https:// are accepted. Any node that answers suffices, and all are kept for ever."),
    spec(Client, "urls", TextList, "", "", "Several such addresses; added to url."),
    spec(Client, "hosts", TextList, "", "", "Hosts without a scheme, such as host or host:6570 or [::1]:6570; added to url and urls."),
    spec(Client, "tls", Bool, "", "", "Whether to speak TLS where only hosts are given; urls say so by their scheme."),
    spec(Client, "tls_ca_pem", BytesKind, "", "", "Certificates in PEM that the servers' certificates must lead to. Default: the system's."),
    spec(Client, "tls_cert_pem", BytesKind, "", "", "The client's certificate chain in PEM, for mutual TLS; together with tls_key_pem."),
    spec(Client, "tls_key_pem", BytesKind, "", "", "The client's private key in PEM, for mutual TLS; together with tls_cert_pem."),
    spec(Client, "tls_ca_path", Text, "", "", "File with what tls_ca_pem holds; read when connecting. The one set last counts, so for all three files."),
    spec(Client, "tls_cert_path", Text, "", "", "File with what tls_cert_pem holds."),
    spec(Client, "tls_key_path", Text, "", "", "File with what tls_key_pem holds."),
    spec(Client, "tls_use_system_roots", Bool, "", "false", "Whether to trust the system's certificates besides those of tls_ca_pem."),
    spec(Client, "tls_domain_name", Text, "", "", "Name the servers' certificates must carry, instead of the host connected to."),
    spec(Client, "auth_token", Text, "", "", "Sent as `authorization: Basic <token>`, as the published clients do; a value that begins with `Basic ` or `Bearer ` is sent as it is."),
    spec(Client, "username", Text, "", "", "Name for basic authentication; together with password."),
    spec(Client, "password", Text, "", "", "Password for basic authentication; together with username."),
    spec(Client, "metadata", TextMap, "", "", "Headers added to every call; names in lower case."),
    spec(Client, "user_agent_lang", Text, "", "rust", "Language named in the user agent `hstreamdb-<lang>/<version>`; set by bindings."),
    spec(Client, "host_mapping", TextMap, "", "", "From host:port as the cluster names it (or host alone) to the host:port to connect to (or host alone); for NAT and containers."),
    spec(Client, "request_timeout_ms", integer(1, MAX_MS), "milliseconds", "5000", "Deadline of one try of a call."),
    spec(Client, "total_timeout_ms", integer(1, MAX_MS), "milliseconds", "30000", "Deadline of a call altogether: tries and the pauses between them."),
    spec(Client, "connect_timeout_ms", integer(1, MAX_MS), "milliseconds", "5000", "Deadline of connecting: of one connection, and of finding the first node that answers."),
    spec(Client, "silence_timeout_ms", integer(0, MAX_MS), "milliseconds", "500", "How long a node may owe an answer without a sign of life before calls that may be repeated go to another node, if there is one; it is asked for an echo in between. 0 waits for the deadlines above."),
    spec(Client, "node_check_interval_ms", integer(0, MAX_MS), "milliseconds", "2000", "How long nothing may be heard of a node that consumers or readers listen to before it is asked for a sign of life: one small call per node, however many listen. 0 leaves that to probe_interval_ms."),
    spec(Client, "retry_max_attempts", integer(1, 1000), "", "5", "Tries of a call altogether; 1 never retries."),
    spec(Client, "retry_base_ms", integer(0, MAX_MS), "milliseconds", "100", "Longest pause before the second try; it doubles with every further one. The pause is random between half and all of that."),
    spec(Client, "retry_max_ms", integer(0, MAX_MS), "milliseconds", "5000", "Longest pause between two tries."),
    spec(Client, "discovery_interval_ms", integer(10, MAX_MS), "milliseconds", "30000", "How often the list of nodes is refreshed in the background."),
    spec(Client, "max_receive_bytes", integer(64 * 1024, 2_147_483_647), "bytes", "33554432", "Largest message accepted from a server."),
    spec(Client, "channels_per_node", integer(1, 64), "connections", "1", "Connections per node that calls and appends take in turn. Consumers and readers have their own."),
    spec(Client, "http2_keepalive_ms", integer(0, MAX_MS), "milliseconds", "0", "Pause between two HTTP/2 pings on an idle connection; 0 sends none, and TCP finds dead peers. Published servers end connections that ping more often than every 300000."),

    spec(Stream, "replication_factor", integer(1, MAX_U32), "", "1", "Copies of every record."),
    spec(Stream, "backlog_duration_secs", integer(0, MAX_U32), "seconds", "86400", "Retention; 0 keeps records for ever."),
    spec(Stream, "shard_count", integer(1, MAX_U32), "", "1", "Shards the key space is split into."),

    spec(Subscription, "ack_timeout_secs", integer(1, MAX_I32), "seconds", "600", "A delivered record that is not acknowledged for this long is delivered again."),
    spec(Subscription, "max_unacked_records", integer(0, MAX_I32), "records", "10000", "Delivery pauses while this many records wait for their acknowledgement; 0 never delivers."),
    spec(Subscription, "offset", Choice(&["earliest", "latest"]), "", "latest", "Where a new subscription starts."),
    spec(Subscription, "redeliver_on_disconnect", Bool, "", "false", "What a consumer has when it leaves or is lost goes to others at once instead of after the ack timeout. Needs a server that can."),
    spec(Subscription, "max_deliveries", integer(0, MAX_U32), "deliveries", "0", "Deliveries of a record before it goes to the dead-letter stream; 0 is no limit. Needs dead_letter_stream and a server that can."),
    spec(Subscription, "dead_letter_stream", Text, "", "", "Existing stream for records that reached max_deliveries."),

    spec(Producer, "batch_max_records", integer(1, MAX_I32), "records", "100", "A batch is sent when it holds this many records."),
    spec(Producer, "batch_max_bytes", integer(1, MAX_I32), "bytes", "524288", "A batch is sent before its encoded size exceeds this. Servers refuse batches above 1 MiB by default."),
    spec(Producer, "batch_max_age_ms", integer(0, MAX_MS), "milliseconds", "100", "A batch is sent when its first record is this old; 0 sends as soon as the shard has room in flight."),
    spec(Producer, "compression", Choice(&["none", "gzip", "zstd"]), "", "none", "Compression of batches."),
    spec(Producer, "compression_level", integer(-7, 22), "", "", "gzip 0 to 9 (default 6), zstd -7 to 22 (default 3)."),
    spec(Producer, "flow_control_bytes", integer(1, MAX_COUNT), "bytes", "104857600", "Bytes of records waiting for their acknowledgement, altogether."),
    spec(Producer, "flow_control_records", integer(1, MAX_COUNT), "records", "1000000", "Records waiting for their acknowledgement, altogether."),
    spec(Producer, "when_full", Choice(&["wait", "fail"]), "", "wait", "What append does when flow control has no room."),
    spec(Producer, "when_full_timeout_ms", integer(0, MAX_MS), "milliseconds", "0", "Longest wait for room before the append fails as overloaded; 0 waits without limit."),
    spec(Producer, "max_inflight_per_shard", integer(1, 64), "batches", "5", "Batches of one shard in flight at a time; 1 against servers that cannot order them."),
    spec(Producer, "delivery_timeout_ms", integer(1, MAX_MS), "milliseconds", "120000", "Longest time from append to a result, tries included."),
    spec(Producer, "allow_duplicates", Bool, "", "false", "Against servers that cannot tell a repeat: retry also what may have been stored, at the risk of storing it twice."),
    spec(Producer, "request_timeout_ms", integer(1, MAX_MS), "milliseconds", "", "Deadline of one try of a batch. Default: the client's."),
    spec(Producer, "retry_max_attempts", integer(1, 1000), "", "", "Tries of a batch altogether; 1 never retries. Default: as many as delivery_timeout_ms has time for, the client's number where the server says that it failed."),
    spec(Producer, "retry_base_ms", integer(0, MAX_MS), "milliseconds", "", "Longest pause before the second try; it doubles with every further one. Default: the client's."),
    spec(Producer, "retry_max_ms", integer(0, MAX_MS), "milliseconds", "", "Longest pause between two tries. Default: the client's."),

    spec(Consumer, "name", Text, "", "", "Name of the consumer, unique in its subscription: 1 to 255 characters, no control characters. Default: consumer- and 16 random hexadecimal digits."),
    spec(Consumer, "name_taken", Choice(&["suffix", "fail"]), "", "suffix", "When another consumer keeps the name, found three times in a row: go on under the name with a suffix, or end with the error. A consumer that was attached before goes on in either case: there it is its own last session."),
    spec(Consumer, "ack_max_records", integer(1, MAX_I32), "records", "100", "Acknowledgements are sent when this many wait."),
    spec(Consumer, "ack_max_age_ms", integer(0, MAX_MS), "milliseconds", "100", "Acknowledgements are sent when the first has waited this long."),
    spec(Consumer, "prefetch_bytes", integer(1, MAX_COUNT), "bytes", "16777216", "Bytes of batches received ahead of the application. One batch and at most 2 MiB on the way come on top."),
    spec(Consumer, "prefetch_batches", integer(1, MAX_I32), "batches", "100", "Batches received ahead of the application."),
    spec(Consumer, "reconnect_max_attempts", integer(0, MAX_I32), "", "0", "Sessions in a row that may be lost, or not be attached, before the consumer ends with the last error; 0 is without limit."),
    spec(Consumer, "reconnect_timeout_ms", integer(0, MAX_MS), "milliseconds", "0", "How long there may be no working session before the consumer ends with the last error; 0 is without limit."),
    spec(Consumer, "probe_interval_ms", integer(0, MAX_MS), "milliseconds", "15000", "How long the server may say nothing before it is asked whether the session is still one; 0 never asks."),

    spec(Handler, "concurrency", integer(1, 100_000), "handlers", "1", "Handlers at work at the same time."),
    spec(Handler, "ordered", Bool, "", "true", "A batch waits for those before it on its shard, also when several handlers run."),
    spec(Handler, "retries", integer(0, MAX_I32), "", "0", "How often a batch or record is given to the handler again after it failed."),
    spec(Handler, "retry_base_ms", integer(0, MAX_MS), "milliseconds", "100", "Longest pause before the first retry; it doubles with every further one. The pause is random between half and all of that."),
    spec(Handler, "retry_max_ms", integer(0, MAX_MS), "milliseconds", "5000", "Longest pause before any retry."),
    spec(Handler, "on_error", Choice(&["skip", "acknowledge", "stop"]), "", "skip", "When no retry is left: leave the records unacknowledged (they come again after the ack timeout), acknowledge them, or stop the consumer."),
    spec(Handler, "on_unreadable", Choice(&["acknowledge", "skip", "stop"]), "", "acknowledge", "The same for a batch that cannot be decoded."),
    spec(Handler, "expect", Choice(&["any", "raw", "hrecord"]), "", "any", "The only kind of payload handlers of single records are given; another one is a failure."),
    spec(Handler, "stop_timeout_ms", integer(0, MAX_MS), "milliseconds", "30000", "How long stopping after a failure, and waiting for handlers after the consumer has ended by itself, may take."),

    spec(Reader, "from", Text, "", "earliest", "Where to start: earliest, latest, a record id, milliseconds since 1970, or the position of an earlier reader."),
    spec(Reader, "until", Text, "", "", "Where to end: latest, a record id, or milliseconds since 1970, as of when the reader is opened. Default: never."),
    spec(Reader, "max_batches", integer(0, MAX_COUNT), "batches", "0", "End after this many batches; 0 is without limit."),
    spec(Reader, "timeout_ms", integer(0, MAX_MS), "milliseconds", "0", "Longest wait for the next batch before it fails as timed out; 0 waits without limit. For a polled reader: how long a read waits when nothing is there; 0 answers at once."),
    spec(Reader, "prefetch_bytes", integer(1, MAX_COUNT), "bytes", "16777216", "Bytes of batches received ahead of the application, over all shards. One message per shard and what is on the way come on top."),
    spec(Reader, "prefetch_batches", integer(1, MAX_I32), "batches", "100", "Batches received ahead of the application, over all shards."),
    spec(Reader, "probe_interval_ms", integer(0, MAX_MS), "milliseconds", "15000", "How long a connection may say nothing before it is tried with an echo; 0 never tries it."),
    spec(Reader, "reader_id", Text, "", "", "Id of a polled reader on the server. Default: reader- and 16 random hexadecimal digits."),
];

/// A value that was checked against its row of the table.
pub(crate) struct Setting {
    spec: &'static OptionSpec,
    value: OptionValue,
}

impl Setting {
    /// Looks the option up and checks the value. Names in snake case and in camel case are accepted.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value of another kind or range.
    pub(crate) fn new(scope: OptionScope, name: &str, value: impl Into<OptionValue>) -> Result<Setting> {
        let wanted = snake_case(name);
        let spec = TABLE.iter().find(|row| row.scope == scope && row.name == wanted).ok_or_else(|| {
            let known: Vec<_> = TABLE.iter().filter(|row| row.scope == scope).map(|row| row.name).collect();
            refuse(scope, name, format!("unknown option; the options are {}", known.join(", ")))
        })?;
        let value = check(spec, value.into())?;
        Ok(Setting { spec, value })
    }

    /// The option's name in the table.
    pub(crate) fn name(&self) -> &'static str {
        self.spec.name
    }

    pub(crate) fn bool(&self) -> Result<bool> {
        match self.value {
            OptionValue::Bool(value) => Ok(value),
            _ => Err(self.mismatch()),
        }
    }

    pub(crate) fn integer<T: TryFrom<i64>>(&self) -> Result<T> {
        match self.value {
            OptionValue::Integer(value) => T::try_from(value).map_err(|_| self.mismatch()),
            _ => Err(self.mismatch()),
        }
    }

    pub(crate) fn millis(&self) -> Result<Duration> {
        Ok(Duration::from_millis(self.integer()?))
    }

    pub(crate) fn text(self) -> Result<String> {
        match self.value {
            OptionValue::Text(value) => Ok(value),
            _ => Err(self.mismatch()),
        }
    }

    pub(crate) fn bytes(self) -> Result<Bytes> {
        match self.value {
            OptionValue::Bytes(value) => Ok(value),
            _ => Err(self.mismatch()),
        }
    }

    pub(crate) fn text_map(self) -> Result<Vec<(String, String)>> {
        match self.value {
            OptionValue::TextMap(value) => Ok(value),
            _ => Err(self.mismatch()),
        }
    }

    pub(crate) fn text_list(self) -> Result<Vec<String>> {
        match self.value {
            OptionValue::TextList(value) => Ok(value),
            _ => Err(self.mismatch()),
        }
    }

    /// An error that names this option, for rules the table cannot express.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        refuse(self.spec.scope, self.spec.name, reason.into())
    }

    fn mismatch(&self) -> Error {
        self.refuse(format!("{} was given", self.value.kind_name()))
    }
}

fn refuse(scope: OptionScope, name: &str, reason: String) -> Error {
    let name: String = name.chars().take(80).collect();
    Error::new(ErrorKind::InvalidArgument, format!("set {} option", scope.name()))
        .with_resource(name)
        .with_message(reason)
}

/// Brings a value into the kind of its option, or says why it cannot.
fn check(spec: &'static OptionSpec, value: OptionValue) -> Result<OptionValue> {
    use OptionValue as V;
    let wanted = |value: &OptionValue, what: &str| {
        refuse(spec.scope, spec.name, format!("{what} is expected, {} was given", value.kind_name()))
    };
    match (spec.kind, value) {
        (OptionKind::Bool, V::Bool(value)) => Ok(V::Bool(value)),
        (OptionKind::Bool, V::Text(text)) => match text.as_str() {
            "true" => Ok(V::Bool(true)),
            "false" => Ok(V::Bool(false)),
            _ => Err(refuse(spec.scope, spec.name, "true or false is expected".into())),
        },
        (OptionKind::Bool, value) => Err(wanted(&value, "true or false")),
        (OptionKind::Integer { min, max }, value) => {
            let number = match &value {
                V::Integer(number) => Some(*number),
                // Languages with one number type, and text from configuration files.
                V::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
                V::Text(text) => text.parse().ok(),
                _ => None,
            };
            let number = number.ok_or_else(|| wanted(&value, "an integer"))?;
            if number < min || number > max {
                let unit = if spec.unit.is_empty() { String::new() } else { format!(" {}", spec.unit) };
                return Err(refuse(
                    spec.scope,
                    spec.name,
                    format!("{number} is outside {min} to {max}{unit}"),
                ));
            }
            Ok(V::Integer(number))
        }
        (OptionKind::Number, V::Number(number)) => Ok(V::Number(number)),
        (OptionKind::Number, V::Integer(number)) => Ok(V::Number(number as f64)),
        (OptionKind::Number, value) => Err(wanted(&value, "a number")),
        (OptionKind::Text, V::Text(text)) => Ok(V::Text(text)),
        (OptionKind::Text, V::Integer(number)) => Ok(V::Text(number.to_string())),
        (OptionKind::Text, value) => Err(wanted(&value, "text")),
        (OptionKind::Bytes, V::Bytes(bytes)) => Ok(V::Bytes(bytes)),
        (OptionKind::Bytes, V::Text(text)) => Ok(V::Bytes(Bytes::from(text))),
        (OptionKind::Bytes, value) => Err(wanted(&value, "bytes")),
        (OptionKind::Choice(words), V::Text(text)) => {
            if words.contains(&text.as_str()) {
                Ok(V::Text(text))
            } else {
                Err(refuse(spec.scope, spec.name, format!("one of {} is expected", words.join(", "))))
            }
        }
        (OptionKind::Choice(words), value) => Err(wanted(&value, &format!("one of {}", words.join(", ")))),
        (OptionKind::TextMap, V::TextMap(map)) => Ok(V::TextMap(map)),
        (OptionKind::TextMap, value) => Err(wanted(&value, "a map of text to text")),
        (OptionKind::TextList, V::TextList(list)) => Ok(V::TextList(list)),
        (OptionKind::TextList, V::Text(text)) => Ok(V::TextList(vec![text])),
        (OptionKind::TextList, value) => Err(wanted(&value, "a list of texts")),
    }
}

/// `batchMaxAgeMs` -> `batch_max_age_ms`; snake case stays as it is.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            if !snake.is_empty() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        } else {
            snake.push(letter);
        }
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for row in option_table().iter().filter(|row| !row.default.is_empty()) {
            assert!(
                Setting::new(row.scope, row.name, row.default).is_ok(),
                "{} {}",
                row.scope.name(),
                row.name
            );
        }
    }

    #[test]
    fn names_are_unique_in_their_scope() {
        let mut names: Vec<_> = option_table().iter().map(|row| (row.scope.name(), row.name)).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn camel_case_names_are_accepted() {
        let setting = Setting::new(OptionScope::Producer, "batchMaxAgeMs", 7).unwrap();
        assert_eq!(setting.name(), "batch_max_age_ms");
        assert_eq!(setting.millis().unwrap(), Duration::from_millis(7));
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = Setting::new(OptionScope::Stream, "shards", 1).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(
            error.to_string(),
            "set stream option \"shards\": invalid argument: unknown option; the options are \
             replication_factor, backlog_duration_secs, shard_count"
        );
    }

    #[test]
    fn values_out_of_range_or_of_another_kind_are_refused() {
        let error = Setting::new(OptionScope::Stream, "shard_count", 0).err().unwrap();
        assert!(error.message().contains("0 is outside 1 to"), "{error}");
        for (name, value) in [
            ("request_timeout_ms", OptionValue::from("soon")),
            ("request_timeout_ms", OptionValue::from(1.5)),
            ("request_timeout_ms", OptionValue::from(u64::MAX)),
            ("url", OptionValue::from(true)),
            ("metadata", OptionValue::from("a=b")),
        ] {
            assert!(Setting::new(OptionScope::Client, name, value).is_err(), "{name}");
        }
        assert!(Setting::new(OptionScope::Subscription, "offset", "middle").is_err());
    }

    #[test]
    fn whole_numbers_are_accepted_in_every_form() {
        for value in [OptionValue::from(5), OptionValue::from(5.0), OptionValue::from("5")] {
            let setting = Setting::new(OptionScope::Client, "retry_max_attempts", value).unwrap();
            assert_eq!(setting.integer::<u32>().unwrap(), 5);
        }
    }

    #[test]
    fn debug_does_not_show_values() {
        assert_eq!(format!("{:?}", OptionValue::from("secret")), "OptionValue(text)");
    }
}
