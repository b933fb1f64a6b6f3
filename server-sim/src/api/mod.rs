//! The wire: one file per family of calls, translating between messages and the domain. Errors of the
//! domain become gRPC statuses here and nowhere else.

mod admin;
mod append;
mod cluster;
mod fetch;
mod lookup;
mod placement;
mod reading;
mod shard_reader;
mod stats;
pub(crate) mod status;
mod stream;
pub mod subscription;
mod trim;

pub(crate) use fetch::ForOthers;

use self::status::status;
use crate::error::{Result, ServerError};
use crate::limits::{Charge, hand_over};
use crate::node::context::NodeContext;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hstreamdb_proto::api::h_stream_api_server::HStreamApi;
use hstreamdb_proto::{api as wire, metadata};
use std::future::Future;
use std::sync::{Arc, LazyLock};
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Response, Status, Streaming};

/// Implements the service over a node.
#[derive(Debug, Clone)]
pub struct Api {
    node: Arc<NodeContext>,
}

impl Api {
    /// The service of this node.
    pub fn new(node: Arc<NodeContext>) -> Self {
        Api { node }
    }
}

/// Runs a change to its end even if the caller hangs up half-way, so that memory and store agree.
async fn to_the_end<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    node: &Arc<NodeContext>,
    change: impl FnOnce(Arc<NodeContext>) -> F,
) -> Result<T> {
    // The semaphore is never closed.
    let place = node.changes.clone().acquire_owned().await.ok();
    let change = change(node.clone());
    let change = async move {
        let outcome = change.await;
        drop(place);
        outcome
    };
    match tokio::spawn(change).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ServerError::plain(Code::Internal, format!("the call failed inside: {error}"))),
    }
}

/// Announces what this server does beyond the published protocol.
fn announce<T>(mut response: Response<T>) -> Response<T> {
    static CAPABILITIES: LazyLock<MetadataValue<Ascii>> = LazyLock::new(|| {
        let names = [
            metadata::CAPABILITY_PRODUCER_SEQUENCE,
            metadata::CAPABILITY_ACK_CONFIRMATION,
            metadata::CAPABILITY_SUBSCRIPTION_POLICY,
        ];
        MetadataValue::try_from(names.join(",")).unwrap_or_else(|_| MetadataValue::from_static(""))
    });
    response.metadata_mut().insert(metadata::CAPABILITIES, CAPABILITIES.clone());
    response
}

/// A response stream out of what a task sends. A task that vanished without a word is an error: a read that
/// ends with OK says that everything was read.
fn responses<T: Send + 'static>(
    receiver: mpsc::Receiver<Result<Option<(T, Charge)>>>,
) -> BoxStream<'static, Result<T, Status>> {
    futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Ok(Some((response, charge)))) => {
                hand_over(charge);
                Some((Ok(response), Some(receiver)))
            }
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(status(error)), None)),
            None => {
                let error = ServerError::plain(Code::Internal, "the read failed inside the server");
                Some((Err(status(error)), None))
            }
        }
    })
    .boxed()
}

macro_rules! service {
    (
        messages { $($call:ident($request:ident) -> $response:ty = $handler:path;)* }
        addressed { $($lookup:ident($lookup_request:ident) -> $lookup_response:ty = $lookup_handler:path;)* }
        whole { $($whole:ident($whole_request:ty) -> $whole_response:ty = $whole_handler:path;)* }
        streams { $($stream:ident: $stream_type:ident($stream_request:ty) -> $stream_response:ty = $stream_handler:path;)* }
        fetch = $fetch:path;
        missing { $($missing:ident($missing_request:ident) -> $missing_response:ty = $name:literal;)* }
    ) => {
        #[tonic::async_trait]
        impl HStreamApi for Api {
            $(
                async fn $call(&self, request: Request<wire::$request>) -> Result<Response<$response>, Status> {
                    $handler(&self.node, request.into_inner()).await.map(Response::new).map_err(status)
                }
            )*
            $(
                async fn $lookup(
                    &self,
                    request: Request<wire::$lookup_request>,
                ) -> Result<Response<$lookup_response>, Status> {
                    let through = cluster::listener(request.extensions());
                    $lookup_handler(&self.node, through, request.into_inner())
                        .await
                        .map(Response::new)
                        .map_err(status)
                }
            )*
            $(
                async fn $whole(
                    &self,
                    request: Request<$whole_request>,
                ) -> Result<Response<$whole_response>, Status> {
                    $whole_handler(&self.node, request).await.map_err(status)
                }
            )*
            $(
                type $stream_type = BoxStream<'static, Result<$stream_response, Status>>;

                async fn $stream(
                    &self,
                    request: Request<$stream_request>,
                ) -> Result<Response<Self::$stream_type>, Status> {
                    $stream_handler(&self.node, request).await.map_err(status)
                }
            )*
            type StreamingFetchStream = fetch::Responses;

            async fn streaming_fetch(
                &self,
                request: Request<Streaming<wire::StreamingFetchRequest>>,
            ) -> Result<Response<Self::StreamingFetchStream>, Status> {
                // Its errors may be another node's statuses.
                $fetch(&self.node, request).await
            }

            $(
                async fn $missing(
                    &self,
                    _: Request<wire::$missing_request>,
                ) -> Result<Response<$missing_response>, Status> {
                    Err(Status::unimplemented(concat!("this server does not have ", $name)))
                }
            )*
        }
    };
}

service! {
    messages {
        create_stream(Stream) -> wire::Stream = stream::create;
        delete_stream(DeleteStreamRequest) -> () = stream::delete;
        get_stream(GetStreamRequest) -> wire::GetStreamResponse = stream::get;
        list_streams(ListStreamsRequest) -> wire::ListStreamsResponse = stream::list;
        list_streams_with_prefix(ListStreamsWithPrefixRequest) -> wire::ListStreamsResponse
            = stream::list_with_prefix;
        list_shards(ListShardsRequest) -> wire::ListShardsResponse = stream::list_shards;
        get_tail_record_id(GetTailRecordIdRequest) -> wire::GetTailRecordIdResponse = stream::tail_record_id;
        trim_stream(TrimStreamRequest) -> () = trim::stream;
        trim_shard(TrimShardRequest) -> () = trim::shard;
        trim_shards(TrimShardsRequest) -> wire::TrimShardsResponse = trim::shards;
        create_shard_reader(CreateShardReaderRequest) -> wire::CreateShardReaderResponse = shard_reader::create;
        list_shard_readers(ListShardReadersRequest) -> wire::ListShardReadersResponse = shard_reader::list;
        delete_shard_reader(DeleteShardReaderRequest) -> () = shard_reader::delete;
        get_stats(GetStatsRequest) -> wire::GetStatsResponse = stats::get;
        per_stream_time_series_stats(PerStreamTimeSeriesStatsRequest) -> wire::PerStreamTimeSeriesStatsResponse
            = stats::time_series;
        per_stream_time_series_stats_all(PerStreamTimeSeriesStatsAllRequest)
            -> wire::PerStreamTimeSeriesStatsAllResponse = stats::time_series_of_all;
        list_subscriptions(ListSubscriptionsRequest) -> wire::ListSubscriptionsResponse = subscription::list;
        list_subscriptions_with_prefix(ListSubscriptionsWithPrefixRequest) -> wire::ListSubscriptionsResponse
            = subscription::list_with_prefix;
        list_consumers(ListConsumersRequest) -> wire::ListConsumersResponse = subscription::list_consumers;
        check_subscription_exist(CheckSubscriptionExistRequest) -> wire::CheckSubscriptionExistResponse
            = subscription::check_exist;
        delete_subscription(DeleteSubscriptionRequest) -> () = subscription::delete;
    }
    addressed {
        send_admin_command(AdminCommandRequest) -> wire::AdminCommandResponse = admin::command;
        lookup_shard(LookupShardRequest) -> wire::LookupShardResponse = lookup::shard;
        lookup_key(LookupKeyRequest) -> wire::ServerNode = lookup::key;
        lookup_resource(LookupResourceRequest) -> wire::ServerNode = lookup::resource;
        lookup_subscription(LookupSubscriptionRequest) -> wire::LookupSubscriptionResponse
            = lookup::subscription;
        lookup_shard_reader(LookupShardReaderRequest) -> wire::LookupShardReaderResponse
            = lookup::shard_reader;
    }
    whole {
        append(wire::AppendRequest) -> wire::AppendResponse = append::append;
        create_subscription(wire::Subscription) -> wire::Subscription = subscription::create_at;
        get_subscription(wire::GetSubscriptionRequest) -> wire::GetSubscriptionResponse = subscription::get;
        echo(wire::EchoRequest) -> wire::EchoResponse = cluster::echo;
        read_shard(wire::ReadShardRequest) -> wire::ReadShardResponse = shard_reader::read;
        describe_cluster(()) -> wire::DescribeClusterResponse = cluster::describe;
    }
    streams {
        read_shard_stream: ReadShardStreamStream(wire::ReadShardStreamRequest)
            -> wire::ReadShardStreamResponse = reading::shard;
        read_stream: ReadStreamStream(wire::ReadStreamRequest) -> wire::ReadStreamResponse = reading::stream;
        read_single_shard_stream: ReadSingleShardStreamStream(wire::ReadSingleShardStreamRequest)
            -> wire::ReadSingleShardStreamResponse = reading::single_shard;
        read_stream_by_key: ReadStreamByKeyStream(Streaming<wire::ReadStreamByKeyRequest>)
            -> wire::ReadStreamByKeyResponse = reading::by_key;
    }
    fetch = fetch::fetch;
    missing {
        execute_query(CommandQuery) -> wire::CommandQueryResponse = "queries";
        create_query(CreateQueryRequest) -> wire::Query = "queries";
        create_query_with_namespace(CreateQueryWithNamespaceRequest) -> wire::Query = "queries";
        list_queries(ListQueriesRequest) -> wire::ListQueriesResponse = "queries";
        get_query(GetQueryRequest) -> wire::Query = "queries";
        terminate_query(TerminateQueryRequest) -> () = "queries";
        delete_query(DeleteQueryRequest) -> () = "queries";
        resume_query(ResumeQueryRequest) -> () = "queries";
        pause_query(PauseQueryRequest) -> () = "queries";
        parse_sql(ParseSqlRequest) -> wire::ParseSqlResponse = "queries";
        list_views(ListViewsRequest) -> wire::ListViewsResponse = "views";
        get_view(GetViewRequest) -> wire::View = "views";
        delete_view(DeleteViewRequest) -> () = "views";
        execute_view_query(ExecuteViewQueryRequest) -> wire::ExecuteViewQueryResponse = "views";
        execute_view_query_with_namespace(ExecuteViewQueryWithNamespaceRequest)
            -> wire::ExecuteViewQueryResponse = "views";
        register_schema(Schema) -> () = "schemas";
        get_schema(GetSchemaRequest) -> wire::Schema = "schemas";
        unregister_schema(UnregisterSchemaRequest) -> () = "schemas";
        create_connector(CreateConnectorRequest) -> wire::Connector = "connectors";
        list_connectors(ListConnectorsRequest) -> wire::ListConnectorsResponse = "connectors";
        get_connector(GetConnectorRequest) -> wire::Connector = "connectors";
        get_connector_spec(GetConnectorSpecRequest) -> wire::GetConnectorSpecResponse = "connectors";
        get_connector_logs(GetConnectorLogsRequest) -> wire::GetConnectorLogsResponse = "connectors";
        delete_connector(DeleteConnectorRequest) -> () = "connectors";
        pause_connector(PauseConnectorRequest) -> () = "connectors";
        resume_connector(ResumeConnectorRequest) -> () = "connectors";
        alter_connector_config(AlterConnectorConfigRequest) -> () = "connectors";
    }
}
