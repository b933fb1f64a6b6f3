#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod admin;
mod client;
mod cluster;
pub mod compat;
mod consumer;
mod error;
mod metrics;
mod options;
mod producer;
mod reader;
mod record;
mod retry;
mod routing;
mod runtime;

pub use admin::{
    AdminAnswer, ClusterDescription, ClusterRates, ClusterStats, Column, ConnectorInfo, ConnectorKind,
    ConnectorState, ConsumerInfo, DeleteStreamOptions, NodeFailure, NodeStats, ParsedSql, QueryInfo,
    QueryKind, ResourceKind, Row, Schema, ShardInfo, StartFrom, Stat, StatRefusal, StatSubject, StatUnit,
    StatValues, StreamInfo, StreamOptions, StreamRate, SubscriptionInfo, SubscriptionOptions, TaskState,
    ViewInfo, plain_row,
};
pub use client::{Client, ClientBuilder};
pub use cluster::{AuthToken, ClientEvent, Events, Node, NodeAddress, NodeState};
pub use consumer::{
    Acker, Batches, Consumer, ConsumerBuilder, ConsumerEvent, ConsumerSink, ConsumerState, ConsumerStats,
    Failure, FailureAction, FailureReason, HandlerContext, OnFailure, RunOptions, StopReport,
};
pub use error::{Error, ErrorKind, Result};
pub use metrics::{DurationSummary, MetricKind, MetricSpec, MetricsRecorder, MetricsSnapshot, metric_table};
pub use options::{OptionKind, OptionScope, OptionSpec, OptionValue, option_table};
pub use producer::{
    AppendOptions, AppendOutcome, BatchPart, BatchReport, CloseReport, Completion, Compression, ManyReceipt,
    Pending, Producer, ProducerBuilder, Receipt, UnresolvedShard, WhenFull,
};
pub use reader::{
    GapKind, PolledReader, PolledReaderBuilder, ReadFrom, ReadGap, Reader, ReaderBatches, ReaderBuilder,
    StreamPosition,
};
pub use record::{
    HRecord, Offset, PayloadKind, ReceivedBatch, ReceivedRecord, Record, RecordBatch, RecordId,
};
pub use routing::ShardMap;
pub use runtime::{CancelToken, LogLevel, LogLine, LogQueue, Runtime, RuntimeOptions};

/// Version of this crate, as it appears in the user agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
