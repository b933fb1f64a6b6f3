%% @private The native functions. Every one returns at once; what takes time answers the calling process with
%% `{hstreamdb, Reference, Reply}'.
-module(hstreamdb_nif).

-export([
    connect/2,
    close/2,
    create_stream/3,
    delete_stream/4,
    list_streams/1,
    create_subscription/4,
    delete_subscription/3,
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
    version/0
]).
-nifs([
    connect/2,
    close/2,
    create_stream/3,
    delete_stream/4,
    list_streams/1,
    create_subscription/4,
    delete_subscription/3,
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
list_streams(_Client) -> erlang:nif_error(not_loaded).
create_subscription(_Client, _Id, _Stream, _Options) -> erlang:nif_error(not_loaded).
delete_subscription(_Client, _Id, _Force) -> erlang:nif_error(not_loaded).
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
version() -> erlang:nif_error(not_loaded).
