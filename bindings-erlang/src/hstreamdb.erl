%% @doc Client of HStreamDB.
%%
%% Calls block the calling process only, never a scheduler. Failures are `{error, Map}' with the keys `kind'
%% (an atom such as `not_found'), `message', `status', `code', `extra', `node' and `may_have_been_applied'.
%%
%% Options are a map with the core's option names as atoms or binaries, for example
%% `#{batch_max_records => 1000, compression => zstd}'; unknown names are refused with the list of known ones.
-module(hstreamdb).

-include("hstreamdb.hrl").

-export([
    connect/1,
    connect/2,
    close/1,
    close/2,
    create_stream/2,
    create_stream/3,
    delete_stream/2,
    delete_stream/3,
    list_streams/1,
    list_streams/2,
    get_stream/2,
    list_shards/2,
    tail_record_id/3,
    trim_stream/3,
    trim_shard/4,
    trim_shards/3,
    create_subscription/3,
    create_subscription/4,
    delete_subscription/2,
    delete_subscription/3,
    get_subscription/2,
    list_subscriptions/1,
    list_subscriptions/2,
    list_consumers/2,
    producer/2,
    producer/3,
    append/3,
    append_async/2,
    append_many/2,
    await/1,
    await/2,
    flush/1,
    close_producer/1,
    close_producer/2,
    subscribe/2,
    subscribe/3,
    set_active/2,
    ack/2,
    ack_batch/1,
    unsubscribe/1,
    unsubscribe/2,
    shard_reader/4,
    stream_reader/3,
    single_shard_reader/3,
    key_reader/4,
    read/2,
    close_reader/1,
    record_id_to_binary/1,
    version/0
]).
-export_type([
    client/0,
    producer/0,
    consumer/0,
    reader/0,
    options/0,
    record/0,
    received/0,
    batch/0,
    offset/0,
    error/0,
    receipt/0
]).

-opaque client() :: reference().
-opaque producer() :: reference().
-opaque consumer() :: {reference(), reference()}.
-opaque reader() :: reference().
-opaque receipt() :: {reference(), non_neg_integer()}.
-type options() :: #{atom() | binary() => term()}.
-type record() :: {Key :: unicode:chardata(), Payload :: iodata()}.
-type received() :: #{
    id := #record_id{},
    key := binary(),
    payload := binary(),
    attributes := #{binary() => binary()},
    publish_time_ms := integer()
}.
%% `records' is an error of kind `codec' for a batch that cannot be decoded: {@link ack_batch/1} passes over it,
%% otherwise it comes again.
-type batch() :: #{consumer := consumer(), handle := reference(), records := [received()] | {error, error()}}.
%% A record, or the first record at or after a time in milliseconds since 1970.
-type offset() :: earliest | latest | #record_id{} | integer() | binary().
-type error() :: #{
    kind := atom(),
    message := binary(),
    status := non_neg_integer() | undefined,
    code := integer() | undefined,
    extra := binary() | undefined,
    node := binary() | undefined,
    may_have_been_applied := boolean()
}.

%% Bound on closing when the caller names none, milliseconds.
-define(CLOSE_MS, 30000).
%% A call that the core bounds itself needs no second bound here, but no process should wait for ever on a
%% message that a bug swallowed.
-define(REPLY_MS, 300000).
%% A native call handles at most this many records, so that it stays short.
-define(CHUNK, 64).

%% @doc Connects with default options.
-spec connect(unicode:chardata()) -> {ok, client()} | {error, error()}.
connect(Url) -> connect(Url, #{}).

%% @doc Connects to `hstream://host:port,host2' (`hstreams://' for TLS).
-spec connect(unicode:chardata(), options()) -> {ok, client()} | {error, error()}.
connect(Url, Options) -> call(hstreamdb_nif:connect(text(Url), pairs(Options))).

-spec close(client()) -> ok | {error, error()}.
close(Client) -> close(Client, ?CLOSE_MS).

%% @doc Closes the client with its producers and consumers within `TimeoutMs'. Closing twice is fine.
-spec close(client(), non_neg_integer()) -> ok | {error, error()}.
close(Client, TimeoutMs) -> call(hstreamdb_nif:close(Client, TimeoutMs)).

-spec create_stream(client(), unicode:chardata()) -> ok | {error, error()}.
create_stream(Client, Name) -> create_stream(Client, Name, #{}).

%% @doc Options: `shard_count' (1), `replication_factor' (1), `backlog_duration_secs' (86400, 0 keeps for ever).
-spec create_stream(client(), unicode:chardata(), options()) -> ok | {error, error()}.
create_stream(Client, Name, Options) ->
    call(hstreamdb_nif:create_stream(Client, text(Name), pairs(Options))).

-spec delete_stream(client(), unicode:chardata()) -> ok | {error, error()}.
delete_stream(Client, Name) -> delete_stream(Client, Name, #{}).

%% @doc Options: `force' and `ignore_missing', both false by default.
-spec delete_stream(client(), unicode:chardata(), #{force => boolean(), ignore_missing => boolean()}) ->
    ok | {error, error()}.
delete_stream(Client, Name, Options) ->
    Force = maps:get(force, Options, false),
    IgnoreMissing = maps:get(ignore_missing, Options, false),
    call(hstreamdb_nif:delete_stream(Client, text(Name), Force, IgnoreMissing)).

-spec list_streams(client()) -> {ok, [binary()]} | {error, error()}.
list_streams(Client) -> call(hstreamdb_nif:list_streams(Client, nil)).

%% @doc Names that begin with a prefix.
-spec list_streams(client(), unicode:chardata()) -> {ok, [binary()]} | {error, error()}.
list_streams(Client, Prefix) -> call(hstreamdb_nif:list_streams(Client, text(Prefix))).

%% @doc `name', `shard_count', `replication_factor', `backlog_duration_secs', `created_ms'.
-spec get_stream(client(), unicode:chardata()) -> {ok, map()} | {error, error()}.
get_stream(Client, Name) -> call(hstreamdb_nif:get_stream(Client, text(Name))).

%% @doc The shards by ascending range: `id', `start' and `end' (hashes of keys, both inclusive), `epoch'.
-spec list_shards(client(), unicode:chardata()) -> {ok, [map()]} | {error, error()}.
list_shards(Client, Stream) ->
    case call(hstreamdb_nif:list_shards(Client, text(Stream))) of
        {ok, Shards} ->
            {ok, [
                Shard#{start := binary_to_integer(Start), 'end' := binary_to_integer(End)}
             || #{start := Start, 'end' := End} = Shard <- Shards
            ]};
        {error, _} = Error ->
            Error
    end.

%% @doc The newest record of a shard; its batch is 0 when nothing was appended yet.
-spec tail_record_id(client(), unicode:chardata(), non_neg_integer()) -> {ok, #record_id{}} | {error, error()}.
tail_record_id(Client, Stream, ShardId) -> call(hstreamdb_nif:tail_record_id(Client, text(Stream), ShardId)).

%% @doc Forgets records of all shards: `latest' all there are, a time those before it and the first batch at or
%% after it.
-spec trim_stream(client(), unicode:chardata(), offset()) -> ok | {error, error()}.
trim_stream(Client, Stream, Before) ->
    call(hstreamdb_nif:trim_stream(Client, text(Stream), offset(Before))).

%% @doc Forgets records of one shard up to and with the batch of a record; other offsets as for
%% {@link trim_stream/3}.
-spec trim_shard(client(), unicode:chardata(), non_neg_integer(), offset()) -> ok | {error, error()}.
trim_shard(Client, Stream, ShardId, Before) ->
    call(hstreamdb_nif:trim_shard(Client, text(Stream), ShardId, offset(Before))).

%% @doc Forgets what lies before the earliest given record of each shard; returns that record of each.
-spec trim_shards(client(), unicode:chardata(), [#record_id{}]) -> {ok, [#record_id{}]} | {error, error()}.
trim_shards(Client, Stream, Ids) -> call(hstreamdb_nif:trim_shards(Client, text(Stream), Ids)).

-spec create_subscription(client(), unicode:chardata(), unicode:chardata()) -> ok | {error, error()}.
create_subscription(Client, Id, Stream) -> create_subscription(Client, Id, Stream, #{}).

%% @doc Options: `offset' (`earliest' or `latest', the default), `ack_timeout_secs' (600),
%% `max_unacked_records' (10000), `redeliver_on_disconnect' (false), `max_deliveries' (0, no limit) with
%% `dead_letter_stream'.
-spec create_subscription(client(), unicode:chardata(), unicode:chardata(), options()) ->
    ok | {error, error()}.
create_subscription(Client, Id, Stream, Options) ->
    call(hstreamdb_nif:create_subscription(Client, text(Id), text(Stream), pairs(Options))).

-spec delete_subscription(client(), unicode:chardata()) -> ok | {error, error()}.
delete_subscription(Client, Id) -> delete_subscription(Client, Id, #{}).

-spec delete_subscription(client(), unicode:chardata(), #{force => boolean()}) -> ok | {error, error()}.
delete_subscription(Client, Id, Options) ->
    call(hstreamdb_nif:delete_subscription(Client, text(Id), maps:get(force, Options, false))).

%% @doc `id', `stream', `ack_timeout_secs', `max_unacked_records', `offset', `created_ms' and `checkpoints': by shard,
%% the last batch that is acknowledged with everything before it.
-spec get_subscription(client(), unicode:chardata()) -> {ok, map()} | {error, error()}.
get_subscription(Client, Id) -> call(hstreamdb_nif:get_subscription(Client, text(Id))).

-spec list_subscriptions(client()) -> {ok, [binary()]} | {error, error()}.
list_subscriptions(Client) -> call(hstreamdb_nif:list_subscriptions(Client, nil)).

%% @doc Ids that begin with a prefix.
-spec list_subscriptions(client(), unicode:chardata()) -> {ok, [binary()]} | {error, error()}.
list_subscriptions(Client, Prefix) -> call(hstreamdb_nif:list_subscriptions(Client, text(Prefix))).

%% @doc The consumers attached now: `name', `uri', `user_agent'.
-spec list_consumers(client(), unicode:chardata()) -> {ok, [map()]} | {error, error()}.
list_consumers(Client, Subscription) -> call(hstreamdb_nif:list_consumers(Client, text(Subscription))).

-spec producer(client(), unicode:chardata()) -> {ok, producer()} | {error, error()}.
producer(Client, Stream) -> producer(Client, Stream, #{}).

%% @doc A batching producer for one stream.
-spec producer(client(), unicode:chardata(), options()) -> {ok, producer()} | {error, error()}.
producer(Client, Stream, Options) -> call(hstreamdb_nif:producer(Client, text(Stream), pairs(Options))).

%% @doc Appends one record and waits until it is stored.
-spec append(producer(), unicode:chardata(), iodata()) -> {ok, #record_id{}} | {error, error()}.
append(Producer, Key, Payload) ->
    case append_many(Producer, [{Key, Payload}]) of
        {ok, [Id]} -> {ok, Id};
        {error, _} = Error -> Error
    end.

%% @doc Hands records over and returns a receipt for {@link await/1}; waits only while the producer is full.
-spec append_async(producer(), [record()]) -> {ok, receipt()} | {error, error()}.
append_async(Producer, Records) when length(Records) =< ?CHUNK ->
    submit(Producer, [{text(Key), iolist_to_binary(Payload)} || {Key, Payload} <- Records]);
append_async(_Producer, _Records) ->
    error({too_many_records, ?CHUNK}).

%% @doc Appends records in their order and waits until all are stored. The first error is returned; its key
%% `may_have_been_applied' tells whether sending again could double a record.
-spec append_many(producer(), [record()]) -> {ok, [#record_id{}]} | {error, error()}.
append_many(Producer, Records) -> append_many(Producer, Records, []).

append_many(_Producer, [], Receipts) ->
    await_all(lists:reverse(Receipts), []);
append_many(Producer, Records, Receipts) ->
    {Chunk, Rest} = split(?CHUNK, Records, []),
    case append_async(Producer, Chunk) of
        {ok, Receipt} ->
            append_many(Producer, Rest, [Receipt | Receipts]);
        {error, _} = Error ->
            %% What was handed over is awaited, so that no reply is left in the mailbox.
            _ = await_all(lists:reverse(Receipts), []),
            Error
    end.

await_all([], Ids) ->
    {ok, lists:append(lists:reverse(Ids))};
await_all([Receipt | Rest], Ids) ->
    case await(Receipt) of
        {ok, More} ->
            await_all(Rest, [More | Ids]);
        {error, _} = Error ->
            _ = await_all(Rest, []),
            Error
    end.

%% A full producer answers `overloaded' at once; the calling process waits for room, which keeps its order.
submit(Producer, Records) ->
    case hstreamdb_nif:append(Producer, Records) of
        {ok, Reference} ->
            {ok, {Reference, length(Records)}};
        {error, #{kind := overloaded}} ->
            Bytes = lists:sum([byte_size(Key) + byte_size(Payload) || {Key, Payload} <- Records]),
            case call(hstreamdb_nif:room(Producer, length(Records), Bytes)) of
                ok -> submit(Producer, Records);
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec await(receipt()) -> {ok, [#record_id{}]} | {error, error()}.
await(Receipt) -> await(Receipt, ?REPLY_MS).

%% @doc Waits for the ids of records handed over by {@link append_async/2}.
-spec await(receipt(), timeout()) -> {ok, [#record_id{}]} | {error, error()}.
await({Reference, _Records}, TimeoutMs) -> reply(Reference, TimeoutMs).

%% @doc Resolves when everything appended before is resolved.
-spec flush(producer()) -> ok | {error, error()}.
flush(Producer) -> call(hstreamdb_nif:flush(Producer)).

-spec close_producer(producer()) -> {ok, map()} | {error, error()}.
close_producer(Producer) -> close_producer(Producer, ?CLOSE_MS).

%% @doc Sends what is buffered and reports `acknowledged', `failed' and `unresolved' records.
-spec close_producer(producer(), non_neg_integer()) -> {ok, map()} | {error, error()}.
close_producer(Producer, TimeoutMs) -> call(hstreamdb_nif:close_producer(Producer, TimeoutMs)).

-spec subscribe(client(), unicode:chardata()) -> {ok, consumer()} | {error, error()}.
subscribe(Client, Subscription) -> subscribe(Client, Subscription, #{}).

%% @doc Attaches a consumer. The calling process becomes its owner and receives
%% `{hstreamdb_records, Consumer, Batch}' for every batch it has asked for with {@link set_active/2}, and
%% `{hstreamdb_closed, Consumer, normal | Error}' once. When the owner dies the consumer is stopped.
-spec subscribe(client(), unicode:chardata(), options()) -> {ok, consumer()} | {error, error()}.
subscribe(Client, Subscription, Options) ->
    Reference = hstreamdb_nif:subscribe(Client, text(Subscription), pairs(Options)),
    case call(Reference) of
        {ok, Consumer} -> {ok, {Consumer, Reference}};
        {error, _} = Error -> Error
    end.

%% @doc Asks for `Batches' more batches. Nothing is delivered that was not asked for.
-spec set_active(consumer(), pos_integer()) -> ok | {error, error()}.
set_active({Consumer, _}, Batches) -> hstreamdb_nif:grant(Consumer, Batches).

%% @doc Acknowledges records. Never blocks: acks are kept until they are confirmed.
-spec ack(consumer(), [#record_id{}]) -> ok | {error, error()}.
ack({Consumer, _}, Ids) -> hstreamdb_nif:ack(Consumer, Ids).

%% @doc Acknowledges all records of a received batch.
-spec ack_batch(batch()) -> ok | {error, error()}.
ack_batch(#{consumer := {Consumer, _}, handle := Handle}) -> hstreamdb_nif:ack_batch(Consumer, Handle).

-spec unsubscribe(consumer()) -> {ok, map()} | {error, error()}.
unsubscribe(Consumer) -> unsubscribe(Consumer, ?CLOSE_MS).

%% @doc Leaves cleanly: delivery stops, acks are sent, the server confirms. Reports `clean' and `unsent_acks'.
-spec unsubscribe(consumer(), non_neg_integer()) -> {ok, map()} | {error, error()}.
unsubscribe({Consumer, _}, TimeoutMs) -> call(hstreamdb_nif:unsubscribe(Consumer, TimeoutMs)).

%% @doc Opens a reader of one shard. Options: `from' (`earliest') and `until' (none) as {@type offset()},
%% `max_batches' (0: all).
-spec shard_reader(client(), unicode:chardata(), non_neg_integer(), options()) ->
    {ok, reader()} | {error, error()}.
shard_reader(Client, Stream, ShardId, Options) ->
    call(hstreamdb_nif:shard_reader(Client, text(Stream), ShardId, bounds(Options))).

%% @doc Opens a reader of all shards of a stream; ordered within each shard.
-spec stream_reader(client(), unicode:chardata(), options()) -> {ok, reader()} | {error, error()}.
stream_reader(Client, Stream, Options) ->
    call(hstreamdb_nif:stream_reader(Client, text(Stream), bounds(Options))).

%% @doc Opens a reader of a stream that has one shard only: the stream's name is enough.
-spec single_shard_reader(client(), unicode:chardata(), options()) -> {ok, reader()} | {error, error()}.
single_shard_reader(Client, Stream, Options) ->
    call(hstreamdb_nif:single_shard_reader(Client, text(Stream), bounds(Options))).

%% @doc Opens a reader of the records of one key.
-spec key_reader(client(), unicode:chardata(), unicode:chardata(), options()) ->
    {ok, reader()} | {error, error()}.
key_reader(Client, Stream, Key, Options) ->
    call(hstreamdb_nif:key_reader(Client, text(Stream), text(Key), bounds(Options))).

%% @doc The records of the next batch, `eof' at the end. After `timeout' nothing is lost: the next call gets the
%% batch. After `codec' (a batch that cannot be decoded) the next call goes on behind it.
-spec read(reader(), non_neg_integer()) -> {ok, [received()]} | eof | {error, error()}.
read(Reader, TimeoutMs) -> call(hstreamdb_nif:read(Reader, TimeoutMs)).

-spec close_reader(reader()) -> ok | {error, error()}.
close_reader(Reader) -> call(hstreamdb_nif:close_reader(Reader)).

%% @doc `<<"shard-batch-index">>', the form every client and tool uses.
-spec record_id_to_binary(#record_id{}) -> binary().
record_id_to_binary(#record_id{shard_id = Shard, batch_id = Batch, batch_index = Index}) ->
    iolist_to_binary(io_lib:format("~b-~b-~b", [Shard, Batch, Index])).

%% @doc Version of the core client.
-spec version() -> binary().
version() -> hstreamdb_nif:version().

call(Reference) when is_reference(Reference) -> reply(Reference, ?REPLY_MS);
call({error, _} = Error) -> Error.

reply(Reference, TimeoutMs) ->
    receive
        {hstreamdb, Reference, Reply} -> Reply
    after TimeoutMs ->
        {error, #{
            kind => timeout,
            message => <<"no reply in time; the call may still be applied">>,
            status => undefined,
            code => undefined,
            extra => undefined,
            node => undefined,
            may_have_been_applied => true
        }}
    end.

%% Keys are hashed and sent as UTF-8.
text(Text) when is_binary(Text) -> Text;
text(Text) when is_atom(Text) -> atom_to_binary(Text, utf8);
text(Text) -> unicode:characters_to_binary(Text).

offset(#record_id{} = Id) -> record_id_to_binary(Id);
offset(Ms) when is_integer(Ms) -> integer_to_binary(Ms);
offset(Text) -> text(Text).

bounds(Options) ->
    Text = fun
        (Name, Value) when Name =:= from; Name =:= until -> offset(Value);
        (_, Value) -> Value
    end,
    pairs(maps:map(Text, Options)).

pairs(Options) -> [{text(Name), value(Value)} || {Name, Value} <- maps:to_list(Options)].

value(Value) when is_boolean(Value); is_integer(Value); is_float(Value); is_binary(Value) -> Value;
value(Value) -> text(Value).

split(0, Rest, Taken) -> {lists:reverse(Taken), Rest};
split(_, [], Taken) -> {lists:reverse(Taken), []};
split(Left, [Item | Rest], Taken) -> split(Left - 1, Rest, [Item | Taken]).
