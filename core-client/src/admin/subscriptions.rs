//! Subscriptions and who consumes them.

use super::timestamp_ms;
use crate::{
    client::Client,
    cluster::Target,
    error::{Error, ErrorKind, Result},
    options::{OptionScope, OptionValue, Setting},
    retry::Operation,
};
use hstreamdb_proto::{
    api::{self, SpecialOffset},
    metadata,
};
use tonic::{
    Request,
    metadata::{BinaryMetadataValue, MetadataMap, MetadataValue},
};

/// Where a new subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartFrom {
    /// At the oldest record that is still stored.
    Earliest,
    /// After the newest record there is when it is created.
    Latest,
}

impl StartFrom {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            StartFrom::Earliest => "earliest",
            StartFrom::Latest => "latest",
        }
    }
}

/// How a subscription is created. Defaults: acknowledgements within 600 s, 10,000 records unacknowledged, from the
/// latest record, no limit of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct SubscriptionOptions {
    ack_timeout_secs: i32,
    max_unacked_records: i32,
    offset: StartFrom,
    redeliver_on_disconnect: bool,
    max_deliveries: u32,
    dead_letter_stream: Option<String>,
}

impl Default for SubscriptionOptions {
    fn default() -> Self {
        SubscriptionOptions {
            ack_timeout_secs: 600,
            max_unacked_records: 10_000,
            offset: StartFrom::Latest,
            redeliver_on_disconnect: false,
            max_deliveries: 0,
            dead_letter_stream: None,
        }
    }
}

impl SubscriptionOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Seconds after which a record that is not acknowledged is delivered again; default 600, at least 1, at most 2^31 - 1
    /// (larger ones count as that).
    pub fn ack_timeout_secs(mut self, seconds: u32) -> Self {
        self.ack_timeout_secs = i32::try_from(seconds).unwrap_or(i32::MAX);
        self
    }

    /// Delivery pauses while this many records wait for their acknowledgement; default 10,000, at most 2^31 - 1 (larger
    /// ones count as that). 0 never delivers.
    pub fn max_unacked_records(mut self, records: u32) -> Self {
        self.max_unacked_records = i32::try_from(records).unwrap_or(i32::MAX);
        self
    }

    /// Where it starts; default latest.
    pub fn offset(mut self, offset: StartFrom) -> Self {
        self.offset = offset;
        self
    }

    /// Whether what a consumer has when it leaves or is lost goes to others at once, instead of after the ack
    /// timeout; default false. Needs a server that can.
    pub fn redeliver_on_disconnect(mut self, at_once: bool) -> Self {
        self.redeliver_on_disconnect = at_once;
        self
    }

    /// After so many deliveries, at least 1, a record that is not acknowledged goes to this stream, which must exist,
    /// and counts as acknowledged; default no limit. Needs a server that can.
    pub fn dead_letter(mut self, stream: impl Into<String>, max_deliveries: u32) -> Self {
        self.dead_letter_stream = Some(stream.into());
        self.max_deliveries = max_deliveries;
        self
    }

    /// What goes beyond the published protocol, as metadata; nothing by default.
    fn policy(&self) -> MetadataMap {
        let mut keys = MetadataMap::new();
        if self.redeliver_on_disconnect {
            keys.insert(metadata::REDELIVER_ON_DISCONNECT, MetadataValue::from_static("true"));
        }
        if self.max_deliveries > 0 {
            keys.insert(metadata::MAX_DELIVERIES, self.max_deliveries.into());
        }
        if let Some(stream) = &self.dead_letter_stream {
            let name = BinaryMetadataValue::from_bytes(stream.as_bytes());
            keys.insert_bin(metadata::DEAD_LETTER_STREAM, name);
        }
        keys
    }

    /// Sets an option of the table by name, in snake or camel case.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value that does not fit.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Subscription, name, value)?;
        match setting.name() {
            "ack_timeout_secs" => self.ack_timeout_secs = setting.integer()?,
            "max_unacked_records" => self.max_unacked_records = setting.integer()?,
            "offset" => {
                self.offset = match setting.text()?.as_str() {
                    "earliest" => StartFrom::Earliest,
                    _ => StartFrom::Latest,
                }
            }
            "redeliver_on_disconnect" => self.redeliver_on_disconnect = setting.bool()?,
            "max_deliveries" => self.max_deliveries = setting.integer()?,
            // No stream has an empty name, so that means none.
            "dead_letter_stream" => {
                self.dead_letter_stream = Some(setting.text()?).filter(|name| !name.is_empty());
            }
            _ => return Err(setting.refuse("it is in the table but not wired")),
        }
        Ok(self)
    }
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// Id, unique in the cluster.
    pub id: String,
    /// Stream it reads.
    pub stream: String,
    /// Seconds after which a record that is not acknowledged is delivered again.
    pub ack_timeout_secs: i32,
    /// Delivery pauses while this many records wait for their acknowledgement.
    pub max_unacked_records: i32,
    /// Where it started.
    pub offset: StartFrom,
    /// Creation in milliseconds since 1970, when the server says it.
    pub created_ms: Option<i64>,
}

impl From<api::Subscription> for SubscriptionInfo {
    fn from(subscription: api::Subscription) -> Self {
        SubscriptionInfo {
            offset: match subscription.offset() {
                SpecialOffset::Earliest => StartFrom::Earliest,
                SpecialOffset::Latest => StartFrom::Latest,
            },
            id: subscription.subscription_id,
            stream: subscription.stream_name,
            ack_timeout_secs: subscription.ack_timeout_seconds,
            max_unacked_records: subscription.max_unacked_records,
            created_ms: timestamp_ms(subscription.creation_time),
        }
    }
}

/// A consumer attached to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Name, unique in its subscription.
    pub name: String,
    /// Where it connects from.
    pub uri: String,
    /// Its software.
    pub user_agent: String,
}

impl Client {
    /// Creates a subscription to a stream.
    ///
    /// # Errors
    /// `AlreadyExists`, `FailedPrecondition` when the stream does not exist, `InvalidArgument`, `NotFound` when the
    /// dead-letter stream does not exist, `Unimplemented` when the server cannot do what the options ask for;
    /// `OutcomeUnknown` when the connection broke after the call was sent: it is not repeated then.
    pub async fn create_subscription(
        &self,
        id: &str,
        stream: &str,
        options: SubscriptionOptions,
    ) -> Result<SubscriptionInfo> {
        let offset = match options.offset {
            StartFrom::Earliest => SpecialOffset::Earliest,
            StartFrom::Latest => SpecialOffset::Latest,
        };
        let request = api::Subscription {
            subscription_id: id.to_owned(),
            stream_name: stream.to_owned(),
            ack_timeout_seconds: options.ack_timeout_secs,
            max_unacked_records: options.max_unacked_records,
            offset: offset as i32,
            creation_time: None,
        };
        let policy = options.policy();
        let target = if policy.is_empty() { Target::Any } else { self.node_with_policies(id).await? };
        let created = self
            .cluster
            .call(Operation::once("create subscription"), Some(id), target, |mut client| {
                let mut request = Request::new(request.clone());
                *request.metadata_mut() = policy.clone();
                async move { client.create_subscription(request).await }
            })
            .await?;
        Ok(created.into())
    }

    /// A node that understands a redelivery policy; another one would ignore it without a word.
    async fn node_with_policies(&self, id: &str) -> Result<Target<'static>> {
        let describe = Operation::read("create subscription");
        let (node, response) = self
            .cluster
            .call_response(describe, Some(id), Target::Any, |mut client| async move {
                client.describe_cluster(()).await
            })
            .await?;
        self.cluster.note_capabilities(&node, response.metadata());
        if self.cluster.capabilities(&node).await?.subscription_policy {
            return Ok(Target::Node(node));
        }
        Err(Error::new(ErrorKind::Unimplemented, "create subscription")
            .with_resource(id)
            .with_node(&node)
            .with_message(
                "the server has no redelivery policies; leave out redeliver_on_disconnect, max_deliveries and \
                 dead_letter_stream",
            ))
    }

    /// Deletes a subscription; `force` also when consumers are attached.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when consumers are attached and `force` is not set, `OutcomeUnknown` as for
    /// [`create_subscription`](Client::create_subscription).
    pub async fn delete_subscription(&self, id: &str, force: bool) -> Result<()> {
        let request = api::DeleteSubscriptionRequest { subscription_id: id.to_owned(), force };
        self.cluster
            .call(Operation::once("delete subscription"), Some(id), Target::Subscription(id), |mut client| {
                let request = request.clone();
                async move { client.delete_subscription(request).await }
            })
            .await
    }

    /// Describes a subscription, with the committed checkpoint of each shard: all records up to and with that batch
    /// were acknowledged.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn get_subscription(&self, id: &str) -> Result<(SubscriptionInfo, Vec<(u64, u64)>)> {
        let request = api::GetSubscriptionRequest { id: id.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("get subscription"), Some(id), Target::Subscription(id), |mut client| {
                let request = request.clone();
                async move { client.get_subscription(request).await }
            })
            .await?;
        let subscription = response.subscription.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "get subscription")
                .with_resource(id)
                .with_message("the answer holds no subscription")
        })?;
        let checkpoints = response.offsets.iter().map(|offset| (offset.shard_id, offset.batch_id)).collect();
        Ok((subscription.into(), checkpoints))
    }

    /// The committed checkpoint of each shard of a subscription, as [`get_subscription`](Client::get_subscription) gives
    /// them: shard and the batch up to and with which all records were acknowledged.
    ///
    /// # Errors
    /// As [`get_subscription`](Client::get_subscription).
    pub async fn subscription_offsets(&self, id: &str) -> Result<Vec<(u64, u64)>> {
        Ok(self.get_subscription(id).await?.1)
    }

    /// Whether a subscription exists.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn subscription_exists(&self, id: &str) -> Result<bool> {
        let request = api::CheckSubscriptionExistRequest { subscription_id: id.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("check subscription"), Some(id), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.check_subscription_exist(request).await }
            })
            .await?;
        Ok(response.exists)
    }

    /// All subscriptions.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        let response = self
            .cluster
            .call(Operation::read("list subscriptions"), None, Target::Any, |mut client| async move {
                client.list_subscriptions(api::ListSubscriptionsRequest {}).await
            })
            .await?;
        Ok(response.subscription.into_iter().map(SubscriptionInfo::from).collect())
    }

    /// All subscriptions whose id begins with a prefix.
    ///
    /// # Errors
    /// As [`list_subscriptions`](Client::list_subscriptions).
    pub async fn list_subscriptions_with_prefix(&self, prefix: &str) -> Result<Vec<SubscriptionInfo>> {
        let request = api::ListSubscriptionsWithPrefixRequest { prefix: prefix.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("list subscriptions"), Some(prefix), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.list_subscriptions_with_prefix(request).await }
            })
            .await?;
        Ok(response.subscription.into_iter().map(SubscriptionInfo::from).collect())
    }

    /// The consumers attached to a subscription now.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_consumers(&self, subscription: &str) -> Result<Vec<ConsumerInfo>> {
        let request = api::ListConsumersRequest { subscription_id: subscription.to_owned() };
        let target = Target::Subscription(subscription);
        let response = self
            .cluster
            .call(Operation::read("list consumers"), Some(subscription), target, |mut client| {
                let request = request.clone();
                async move { client.list_consumers(request).await }
            })
            .await?;
        let consumer = |consumer: api::Consumer| ConsumerInfo {
            name: consumer.name,
            uri: consumer.uri,
            user_agent: consumer.user_agent,
        };
        Ok(response.consumers.into_iter().map(consumer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::option_table;

    #[test]
    fn every_subscription_option_of_the_table_can_be_set_and_defaults_agree() {
        let mut from_table = SubscriptionOptions::new()
            .ack_timeout_secs(1)
            .max_unacked_records(u32::MAX)
            .offset(StartFrom::Earliest)
            .redeliver_on_disconnect(true)
            .dead_letter("dead", 3);
        assert_eq!(from_table.max_unacked_records, i32::MAX);
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Subscription) {
            from_table = from_table.set(row.name, row.default).unwrap();
        }
        assert_eq!(from_table, SubscriptionOptions::default());
    }
}
