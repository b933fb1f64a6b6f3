//! What is counted: one table of statistics with name, unit and place on the wire.

use hstreamdb_proto::api::{self, stat_type::Stat as Wire};

/// What a statistic is counted about.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatSubject {
    /// Streams, by name.
    Stream,
    /// Subscriptions, by id.
    Subscription,
    /// Connectors, by name.
    Connector,
    /// Queries, by name.
    Query,
    /// Views, by name.
    View,
    /// The cache store of a node.
    CacheStore,
}

impl StatSubject {
    /// Name in snake case.
    pub fn name(self) -> &'static str {
        match self {
            StatSubject::Stream => "stream",
            StatSubject::Subscription => "subscription",
            StatSubject::Connector => "connector",
            StatSubject::Query => "query",
            StatSubject::View => "view",
            StatSubject::CacheStore => "cache_store",
        }
    }
}

/// What a statistic's number counts.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatUnit {
    /// Bytes.
    Bytes,
    /// Records.
    Records,
    /// Batches.
    Batches,
    /// Calls or messages.
    Calls,
    /// Errors.
    Errors,
    /// 1 where it is so, 0 where not.
    Flag,
}

impl StatUnit {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            StatUnit::Bytes => "bytes",
            StatUnit::Records => "records",
            StatUnit::Batches => "batches",
            StatUnit::Calls => "calls",
            StatUnit::Errors => "errors",
            StatUnit::Flag => "flag",
        }
    }
}

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $variant:ident = $subject:ident $name:literal $unit:ident $level:literal $oneof:ident($wire:path);)*) => {
        /// A statistic that nodes keep about each stream, subscription, connector, query or view. They are kept in memory and
        /// begin at 0 when a node starts.
        #[non_exhaustive]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Stat {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Stat {
            /// All statistics.
            pub const ALL: &'static [Stat] = &[$(Stat::$variant,)*];

            /// What it is counted about.
            pub fn subject(self) -> StatSubject {
                match self {
                    $(Stat::$variant => StatSubject::$subject,)*
                }
            }

            /// What its number counts.
            pub fn unit(self) -> StatUnit {
                match self {
                    $(Stat::$variant => StatUnit::$unit,)*
                }
            }

            /// Whether its number goes down as well: how much there is now, instead of how much there was altogether.
            pub fn is_level(self) -> bool {
                match self {
                    $(Stat::$variant => $level,)*
                }
            }

            /// Subject and name in snake case, such as `stream.append_in_bytes`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Stat::$variant => $name,)*
                }
            }

            /// One sentence for reference pages.
            pub fn doc(self) -> &'static str {
                match self {
                    $(Stat::$variant => concat!($($doc),+).trim_ascii_start(),)*
                }
            }

            pub(super) fn to_wire(self) -> api::StatType {
                let stat = match self {
                    $(Stat::$variant => Wire::$oneof($wire as i32),)*
                };
                api::StatType { stat: Some(stat) }
            }
        }
    };
}

stats! {
    /// Payload appended.
    StreamAppendInBytes = Stream "stream.append_in_bytes" Bytes false StreamStat(api::StreamStats::AppendInBytes);
    /// Records appended.
    StreamAppendInRecords = Stream "stream.append_in_records" Records false StreamStat(api::StreamStats::AppendInRecords);
    /// Appends.
    StreamAppendTotal = Stream "stream.append_total" Calls false StreamStat(api::StreamStats::AppendTotal);
    /// Appends that failed.
    StreamAppendFailed = Stream "stream.append_failed" Calls false StreamStat(api::StreamStats::AppendFailed);
    /// Payload read.
    StreamReadInBytes = Stream "stream.read_in_bytes" Bytes false StreamStat(api::StreamStats::ReadInBytes);
    /// Batches read.
    StreamReadInBatches = Stream "stream.read_in_batches" Batches false StreamStat(api::StreamStats::ReadInBatches);
    /// Payload delivered.
    SubscriptionSendOutBytes = Subscription "subscription.send_out_bytes" Bytes false SubStat(api::SubscriptionStats::SendOutBytes);
    /// Records delivered.
    SubscriptionSendOutRecords = Subscription "subscription.send_out_records" Records false SubStat(api::SubscriptionStats::SendOutRecords);
    /// Records whose delivery failed.
    SubscriptionSendOutRecordsFailed = Subscription "subscription.send_out_records_failed" Records false SubStat(api::SubscriptionStats::SendOutRecordsFailed);
    /// Records delivered again.
    SubscriptionResendRecords = Subscription "subscription.resend_records" Records false SubStat(api::SubscriptionStats::ResendRecords);
    /// Records whose delivery failed when it was tried again.
    SubscriptionResendRecordsFailed = Subscription "subscription.resend_records_failed" Records false SubStat(api::SubscriptionStats::ResendRecordsFailed);
    /// Records acknowledged.
    SubscriptionReceivedAcks = Subscription "subscription.received_acks" Records false SubStat(api::SubscriptionStats::ReceivedAcks);
    /// Messages from consumers.
    SubscriptionRequestMessages = Subscription "subscription.request_messages" Calls false SubStat(api::SubscriptionStats::RequestMessages);
    /// Messages to consumers.
    SubscriptionResponseMessages = Subscription "subscription.response_messages" Calls false SubStat(api::SubscriptionStats::ResponseMessages);
    /// Records that wait for their acknowledgement.
    SubscriptionChecklistSize = Subscription "subscription.checklist_size" Records true SubStat(api::SubscriptionStats::ChecklistSize);
    /// Records moved.
    ConnectorDeliveredInRecords = Connector "connector.delivered_in_records" Records false ConnStat(api::ConnectorStats::DeliveredInRecords);
    /// Payload moved.
    ConnectorDeliveredInBytes = Connector "connector.delivered_in_bytes" Bytes false ConnStat(api::ConnectorStats::DeliveredInBytes);
    /// Whether it runs.
    ConnectorIsAlive = Connector "connector.is_alive" Flag true ConnStat(api::ConnectorStats::IsAlive);
    /// Records read.
    QueryTotalInputRecords = Query "query.total_input_records" Records false QueryStat(api::QueryStats::TotalInputRecords);
    /// Records written.
    QueryTotalOutputRecords = Query "query.total_output_records" Records false QueryStat(api::QueryStats::TotalOutputRecords);
    /// Records that could not be worked on.
    QueryTotalExecuteErrors = Query "query.total_execute_errors" Errors false QueryStat(api::QueryStats::TotalExecuteErrors);
    /// Selects from it.
    ViewTotalExecuteQueries = View "view.total_execute_queries" Calls false ViewStat(api::ViewStats::TotalExecuteQueries);
    /// Payload appended to the cache store.
    CacheStoreAppendInBytes = CacheStore "cache_store.append_in_bytes" Bytes false CacheStoreStat(api::CacheStoreStats::CsAppendInBytes);
    /// Records appended to the cache store.
    CacheStoreAppendInRecords = CacheStore "cache_store.append_in_records" Records false CacheStoreStat(api::CacheStoreStats::CsAppendInRecords);
    /// Appends to the cache store.
    CacheStoreAppendTotal = CacheStore "cache_store.append_total" Calls false CacheStoreStat(api::CacheStoreStats::CsAppendTotal);
    /// Appends to the cache store that failed.
    CacheStoreAppendFailed = CacheStore "cache_store.append_failed" Calls false CacheStoreStat(api::CacheStoreStats::CsAppendFailed);
    /// Payload read from the cache store.
    CacheStoreReadInBytes = CacheStore "cache_store.read_in_bytes" Bytes false CacheStoreStat(api::CacheStoreStats::CsReadInBytes);
    /// Records read from the cache store.
    CacheStoreReadInRecords = CacheStore "cache_store.read_in_records" Records false CacheStoreStat(api::CacheStoreStats::CsReadInRecords);
    /// Records moved from the cache store to the store.
    CacheStoreDeliveredInRecords = CacheStore "cache_store.delivered_in_records" Records false CacheStoreStat(api::CacheStoreStats::CsDeliveredInRecords);
    /// Moves from the cache store to the store.
    CacheStoreDeliveredTotal = CacheStore "cache_store.delivered_total" Calls false CacheStoreStat(api::CacheStoreStats::CsDeliveredTotal);
    /// Moves from the cache store to the store that failed.
    CacheStoreDeliveredFailed = CacheStore "cache_store.delivered_failed" Calls false CacheStoreStat(api::CacheStoreStats::CsDeliveredFailed);
}

impl Stat {
    /// The statistic of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Stat> {
        Self::ALL.iter().copied().find(|stat| stat.name() == name)
    }

    pub(super) fn from_wire(stat: Option<&api::StatType>) -> Option<Stat> {
        Self::ALL.iter().copied().find(|known| Some(&known.to_wire()) == stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_every_statistic_of_the_wire_once() {
        let mut wire: Vec<Wire> = Vec::new();
        for number in 0..100 {
            wire.extend(api::StreamStats::try_from(number).map(|_| Wire::StreamStat(number)));
            wire.extend(api::SubscriptionStats::try_from(number).map(|_| Wire::SubStat(number)));
            wire.extend(api::ConnectorStats::try_from(number).map(|_| Wire::ConnStat(number)));
            wire.extend(api::QueryStats::try_from(number).map(|_| Wire::QueryStat(number)));
            wire.extend(api::ViewStats::try_from(number).map(|_| Wire::ViewStat(number)));
            wire.extend(api::CacheStoreStats::try_from(number).map(|_| Wire::CacheStoreStat(number)));
        }
        assert_eq!(wire.len(), Stat::ALL.len());
        for stat in wire {
            let wire = api::StatType { stat: Some(stat) };
            let found =
                Stat::from_wire(Some(&wire)).unwrap_or_else(|| panic!("{wire:?} is not in the table"));
            assert_eq!(found.to_wire(), wire);
        }
        assert_eq!(Stat::from_wire(None), None);
    }

    #[test]
    fn names_begin_with_their_subject_and_lead_back() {
        for stat in Stat::ALL.iter().copied() {
            assert_eq!(Stat::from_name(stat.name()), Some(stat));
            let (subject, _) = stat.name().split_once('.').unwrap();
            assert_eq!(subject, stat.subject().name());
            assert!(stat.doc().ends_with('.') && !stat.doc().starts_with(' '), "{:?}", stat.doc());
        }
        assert_eq!(Stat::from_name("stream.songs"), None);
    }
}
