%% @private The native functions. Every one returns at once; what takes time answers the calling process with
%% `{hstreamdb, Reference, Reply}'.
-module(hstreamdb_nif).

-export([
    connect/2,
    close/2,
    create_stream/3,
    delete_stream/4,
    list_streams/2,
    get_stream/2,
    list_shards/2,
    tail_record_id/3,
    trim_stream/3,
    trim_shard/4,
    trim_shards/3,
    create_subscription/4,
    delete_subscription/3,
    get_subscription/2,
    list_subscriptions/2,
    list_consumers/2,
    producer/3,
    append/2,
    room/3,
    flush/1,
    close_producer/2,
    subscribe/3,
    grant/2,
    ack/2,
    ack_batch/2,
    unsubscribe/2,
    shard_reader/4,
    stream_reader/3,
    single_shard_reader/3,
    key_reader/4,
    read/2,
    close_reader/1,
    version/0
]).
-nifs([
    connect/2,
    close/2,
    create_stream/3,
    delete_stream/4,
    list_streams/2,
    get_stream/2,
    list_shards/2,
    tail_record_id/3,
    trim_stream/3,
    trim_shard/4,
    trim_shards/3,
    create_subscription/4,
    delete_subscription/3,
    get_subscription/2,
    list_subscriptions/2,
    list_consumers/2,
    producer/3,
    append/2,
    room/3,
    flush/1,
    close_producer/2,
    subscribe/3,
    grant/2,
    ack/2,
    ack_batch/2,
    unsubscribe/2,
    shard_reader/4,
    stream_reader/3,
    single_shard_reader/3,
    key_reader/4,
    read/2,
    close_reader/1,
    version/0
]).
-on_load(load/0).

load() ->
    Directory =
        case code:priv_dir(hstreamdb_erl) of
            {error, bad_name} ->
                filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv");
            Found ->
                Found
        end,
    erlang:load_nif(filename:join(Directory, "libhstreamdb_nif"), 0).

connect(_Url, _Options) -> erlang:nif_error(not_loaded).
close(_Client, _TimeoutMs) -> erlang:nif_error(not_loaded).
create_stream(_Client, _Name, _Options) -> erlang:nif_error(not_loaded).
delete_stream(_Client, _Name, _Force, _IgnoreMissing) -> erlang:nif_error(not_loaded).
list_streams(_Client, _Prefix) -> erlang:nif_error(not_loaded).
get_stream(_Client, _Name) -> erlang:nif_error(not_loaded).
list_shards(_Client, _Stream) -> erlang:nif_error(not_loaded).
tail_record_id(_Client, _Stream, _ShardId) -> erlang:nif_error(not_loaded).
trim_stream(_Client, _Stream, _Before) -> erlang:nif_error(not_loaded).
trim_shard(_Client, _Stream, _ShardId, _Before) -> erlang:nif_error(not_loaded).
trim_shards(_Client, _Stream, _Ids) -> erlang:nif_error(not_loaded).
create_subscription(_Client, _Id, _Stream, _Options) -> erlang:nif_error(not_loaded).
delete_subscription(_Client, _Id, _Force) -> erlang:nif_error(not_loaded).
get_subscription(_Client, _Id) -> erlang:nif_error(not_loaded).
list_subscriptions(_Client, _Prefix) -> erlang:nif_error(not_loaded).
list_consumers(_Client, _Subscription) -> erlang:nif_error(not_loaded).
producer(_Client, _Stream, _Options) -> erlang:nif_error(not_loaded).
append(_Producer, _Records) -> erlang:nif_error(not_loaded).
room(_Producer, _Records, _Bytes) -> erlang:nif_error(not_loaded).
flush(_Producer) -> erlang:nif_error(not_loaded).
close_producer(_Producer, _TimeoutMs) -> erlang:nif_error(not_loaded).
subscribe(_Client, _Subscription, _Options) -> erlang:nif_error(not_loaded).
grant(_Consumer, _Batches) -> erlang:nif_error(not_loaded).
ack(_Consumer, _Ids) -> erlang:nif_error(not_loaded).
ack_batch(_Consumer, _Batch) -> erlang:nif_error(not_loaded).
unsubscribe(_Consumer, _TimeoutMs) -> erlang:nif_error(not_loaded).
shard_reader(_Client, _Stream, _ShardId, _Options) -> erlang:nif_error(not_loaded).
stream_reader(_Client, _Stream, _Options) -> erlang:nif_error(not_loaded).
single_shard_reader(_Client, _Stream, _Options) -> erlang:nif_error(not_loaded).
key_reader(_Client, _Stream, _Key, _Options) -> erlang:nif_error(not_loaded).
read(_Reader, _TimeoutMs) -> erlang:nif_error(not_loaded).
close_reader(_Reader) -> erlang:nif_error(not_loaded).
version() -> erlang:nif_error(not_loaded).
