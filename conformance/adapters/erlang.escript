#!/usr/bin/env escript
%% The Erlang adapter: the application's public API behind JSON lines.
-mode(compile).

-define(CLOSE_MS, 20000).

main(_) ->
    true = code:add_path("../bindings-erlang/_build/default/lib/hstreamdb_erl/ebin"),
    ok = io:setopts(standard_io, [binary, {encoding, latin1}]),
    loop(#{}).

loop(State) ->
    %% Bytes, not characters: io:get_line would encode them once more.
    case file:read_line(standard_io) of
        eof ->
            ok;
        {ok, Line} ->
            {Command, _} = decode(skip(Line)),
            {Answer, Next} = run(maps:get(<<"do">>, Command), Command, State),
            ok = file:write(standard_io, [encode(answer(Answer)), $\n]),
            loop(Next)
    end.

answer(ok) ->
    #{<<"ok">> => #{}};
answer({ok, Ok}) ->
    #{<<"ok">> => Ok};
answer({error, #{kind := Kind, code := Code, may_have_been_applied := Applied, message := Message}}) ->
    #{
        <<"error">> => #{
            <<"kind">> => atom_to_binary(Kind),
            <<"code">> => Code,
            <<"may_have_been_applied">> => Applied,
            <<"message">> => Message
        }
    }.

run(<<"connect">>, #{<<"url">> := Url}, State) ->
    keep(client, hstreamdb:connect(Url), State#{url => Url});
run(<<"together">>, #{<<"connections">> := Connections, <<"command">> := Command}, #{url := Url} = State) ->
    {{ok, #{<<"answers">> => together(Url, Connections, Command)}}, State};
run(<<"producer">>, #{<<"stream">> := Stream, <<"options">> := Options}, State) ->
    keep(producer, hstreamdb:producer(client(State), Stream, Options), State);
run(<<"append">>, #{<<"records">> := Records}, #{producer := Producer} = State) ->
    {with(hstreamdb:append_many(Producer, pairs(Records)), fun(Ids) -> #{<<"ids">> => ids(Ids)} end), State};
run(<<"close_producer">>, #{<<"records">> := Records, <<"timeout_ms">> := TimeoutMs}, #{producer := Producer} = State) ->
    {ok, Receipt} = hstreamdb:append_async(Producer, pairs(Records)),
    {ok, Report} = hstreamdb:close_producer(Producer, TimeoutMs),
    Shown = shown([acknowledged, failed, unresolved], Report),
    case hstreamdb:await(Receipt) of
        {ok, Ids} ->
            {{ok, Shown#{<<"ids">> => ids(Ids)}}, State};
        {error, _} = Error ->
            #{<<"error">> := Failure} = answer(Error),
            {{ok, Shown#{<<"failure">> => Failure}}, State}
    end;
run(<<"attach">>, #{<<"subscription">> := Id, <<"consumer">> := Name, <<"options">> := Options}, State) ->
    keep({consumer, Name}, hstreamdb:subscribe(client(State), Id, Options), State#{{asked, Name} => false});
run(<<"receive">>, #{<<"consumer">> := Name, <<"timeout_ms">> := TimeoutMs, <<"ack">> := Ack}, State) ->
    Consumer = maps:get({consumer, Name}, State),
    %% What an earlier command asked for and did not get is still on its way.
    maps:get({asked, Name}, State) orelse (ok = hstreamdb:set_active(Consumer, 1)),
    receive
        {hstreamdb_records, Consumer, #{records := Records} = Batch} ->
            ok = acknowledge(Ack, Batch),
            {{ok, received(Records)}, State#{{asked, Name} => false}};
        {hstreamdb_closed, Consumer, Reason} ->
            {{error, Reason}, State}
    after TimeoutMs -> {{ok, #{<<"records">> => []}}, State#{{asked, Name} => true}}
    end;
run(<<"ack">>, #{<<"consumer">> := Name, <<"ids">> := Ids}, State) ->
    {hstreamdb:ack(maps:get({consumer, Name}, State), [id(Id) || Id <- Ids]), State};
run(<<"detach">>, #{<<"consumer">> := Name}, State) ->
    Report = hstreamdb:unsubscribe(maps:get({consumer, Name}, State), ?CLOSE_MS),
    {with(Report, fun(#{clean := Clean}) -> #{<<"clean">> => Clean} end), maps:remove({consumer, Name}, State)};
run(<<"open_reader">>, #{<<"kind">> := Kind, <<"stream">> := Stream, <<"options">> := Options} = Command, State) ->
    Opened =
        case Kind of
            <<"shard">> ->
                Shard = binary_to_integer(maps:get(<<"shard">>, Command)),
                hstreamdb:shard_reader(client(State), Stream, Shard, Options);
            <<"stream">> ->
                hstreamdb:stream_reader(client(State), Stream, Options);
            <<"single">> ->
                hstreamdb:single_shard_reader(client(State), Stream, Options);
            <<"key">> ->
                hstreamdb:key_reader(client(State), Stream, maps:get(<<"key">>, Command), Options);
            _ ->
                unimplemented()
        end,
    keep(reader, Opened, State);
run(<<"read">>, #{<<"timeout_ms">> := TimeoutMs}, #{reader := Reader} = State) ->
    case hstreamdb:read(Reader, TimeoutMs) of
        {ok, Records} -> {{ok, (received(Records))#{<<"end">> => false}}, State};
        eof -> {{ok, #{<<"records">> => [], <<"end">> => true}}, State};
        {error, #{kind := timeout}} -> {{ok, #{<<"records">> => [], <<"end">> => false}}, State};
        {error, _} = Error -> {Error, State}
    end;
run(<<"close_reader">>, _, #{reader := Reader} = State) ->
    {hstreamdb:close_reader(Reader), State};
run(<<"close">>, _, State) ->
    {hstreamdb:close(client(State), ?CLOSE_MS), State};
run(Name, Command, State) ->
    {admin(Name, Command, client(State)), State}.

%% What a client does besides records.
admin(<<"create_stream">>, #{<<"stream">> := Stream, <<"options">> := Options}, Client) ->
    hstreamdb:create_stream(Client, Stream, Options);
admin(<<"delete_stream">>, #{<<"stream">> := Stream} = Command, Client) ->
    hstreamdb:delete_stream(Client, Stream, #{
        force => maps:get(<<"force">>, Command, false),
        ignore_missing => maps:get(<<"ignore_missing">>, Command, false)
    });
admin(<<"get_stream">>, #{<<"stream">> := Stream}, Client) ->
    with(hstreamdb:get_stream(Client, Stream), fun(Found) ->
        shown([name, shard_count, replication_factor, backlog_duration_secs], Found)
    end);
admin(<<"list_streams">>, #{<<"prefix">> := Prefix}, Client) ->
    with(hstreamdb:list_streams(Client, Prefix), fun names/1);
admin(<<"list_streams">>, _, Client) ->
    with(hstreamdb:list_streams(Client), fun names/1);
admin(<<"list_shards">>, #{<<"stream">> := Stream}, Client) ->
    Show = fun(#{id := Id, start := Start, 'end' := End}) ->
        #{
            <<"id">> => integer_to_binary(Id),
            <<"start">> => integer_to_binary(Start),
            <<"end">> => integer_to_binary(End)
        }
    end,
    with(hstreamdb:list_shards(Client, Stream), fun(Shards) -> #{<<"shards">> => lists:map(Show, Shards)} end);
admin(<<"tail_record_id">>, #{<<"stream">> := Stream, <<"shard">> := Shard}, Client) ->
    Tail = hstreamdb:tail_record_id(Client, Stream, binary_to_integer(Shard)),
    with(Tail, fun(Id) -> #{<<"id">> => hstreamdb:record_id_to_binary(Id)} end);
admin(<<"trim_stream">>, #{<<"stream">> := Stream, <<"before">> := Before}, Client) ->
    hstreamdb:trim_stream(Client, Stream, Before);
admin(<<"trim_shard">>, #{<<"stream">> := Stream, <<"shard">> := Shard, <<"before">> := Before}, Client) ->
    hstreamdb:trim_shard(Client, Stream, binary_to_integer(Shard), Before);
admin(<<"trim_shards">>, #{<<"stream">> := Stream, <<"ids">> := Ids}, Client) ->
    Points = hstreamdb:trim_shards(Client, Stream, [id(Id) || Id <- Ids]),
    with(Points, fun(Found) -> #{<<"ids">> => ids(Found)} end);
admin(<<"create_subscription">>, #{<<"subscription">> := Id, <<"stream">> := Stream, <<"options">> := Options}, Client) ->
    hstreamdb:create_subscription(Client, Id, Stream, Options);
admin(<<"get_subscription">>, #{<<"subscription">> := Id}, Client) ->
    with(hstreamdb:get_subscription(Client, Id), fun(#{offset := Offset} = Found) ->
        Shown = shown([id, stream, ack_timeout_secs, max_unacked_records], Found),
        Shown#{<<"offset">> => atom_to_binary(Offset)}
    end);
admin(<<"list_subscriptions">>, #{<<"prefix">> := Prefix}, Client) ->
    with(hstreamdb:list_subscriptions(Client, Prefix), fun names/1);
admin(<<"list_subscriptions">>, _, Client) ->
    with(hstreamdb:list_subscriptions(Client), fun names/1);
admin(<<"delete_subscription">>, #{<<"subscription">> := Id} = Command, Client) ->
    hstreamdb:delete_subscription(Client, Id, #{force => maps:get(<<"force">>, Command, false)});
admin(<<"list_consumers">>, #{<<"subscription">> := Id}, Client) ->
    with(hstreamdb:list_consumers(Client, Id), fun(Consumers) ->
        names([Name || #{name := Name} <- Consumers])
    end);
admin(_, _, _) ->
    unimplemented().

%% The same command over several connections at once, each in a process of its own.
together(Url, Connections, #{<<"do">> := Name} = Command) ->
    Clients = [element(2, {ok, _} = hstreamdb:connect(Url)) || _ <- lists:seq(1, Connections)],
    Self = self(),
    Run = fun(Client) -> spawn_link(fun() -> Self ! {self(), answer(admin(Name, Command, Client))} end) end,
    Answers = [
        receive
            {Process, Answer} -> Answer
        end
     || Process <- lists:map(Run, Clients)
    ],
    [ok = hstreamdb:close(Client, ?CLOSE_MS) || Client <- Clients],
    Answers.

client(#{client := Client}) -> Client.

keep(Name, {ok, Handle}, State) -> {ok, State#{Name => Handle}};
keep(_, {error, _} = Error, State) -> {Error, State}.

with({ok, Value}, Show) -> {ok, Show(Value)};
with({error, _} = Error, _) -> Error.

acknowledge(true, Batch) -> hstreamdb:ack_batch(Batch);
acknowledge(false, _) -> ok.

unimplemented() ->
    {error, #{kind => unimplemented, code => undefined, may_have_been_applied => false, message => <<"no such call">>}}.

names(Names) -> #{<<"names">> => lists:sort(Names)}.

shown(Keys, Map) -> maps:from_list([{atom_to_binary(Key), maps:get(Key, Map)} || Key <- Keys]).

pairs(Records) -> [{Key, base64:decode(Payload)} || [Key, Payload] <- Records].

ids(Ids) -> [hstreamdb:record_id_to_binary(Id) || Id <- Ids].

id(Text) ->
    [Shard, Batch, Index] = [binary_to_integer(Part) || Part <- binary:split(Text, <<"-">>, [global])],
    {record_id, Shard, Batch, Index}.

received({error, Error}) ->
    #{<<"error">> := Shown} = answer({error, Error}),
    #{<<"records">> => [], <<"unreadable">> => Shown};
received(Records) ->
    Show = fun(#{id := Id, key := Key, payload := Payload}) ->
        #{
            <<"id">> => hstreamdb:record_id_to_binary(Id),
            <<"key">> => Key,
            <<"payload">> => base64:encode(Payload)
        }
    end,
    #{<<"records">> => lists:map(Show, Records)}.

%% JSON as far as the runner speaks it; OTP has none of its own before 27.

decode(<<"{", Rest/binary>>) -> members(skip(Rest), #{});
decode(<<"[", Rest/binary>>) -> items(skip(Rest), []);
decode(<<"\"", Rest/binary>>) -> string(Rest, []);
decode(<<"true", Rest/binary>>) -> {true, Rest};
decode(<<"false", Rest/binary>>) -> {false, Rest};
decode(<<"null", Rest/binary>>) -> {undefined, Rest};
decode(Text) ->
    {match, [{0, Length}]} = re:run(Text, "^-?[0-9]+"),
    <<Digits:Length/binary, Rest/binary>> = Text,
    {binary_to_integer(Digits), Rest}.

members(<<"}", Rest/binary>>, Map) ->
    {Map, Rest};
members(<<",", Rest/binary>>, Map) ->
    members(skip(Rest), Map);
members(Text, Map) ->
    {Name, Colon} = decode(Text),
    <<":", Rest/binary>> = skip(Colon),
    {Value, More} = decode(skip(Rest)),
    members(skip(More), Map#{Name => Value}).

items(<<"]", Rest/binary>>, Items) ->
    {lists:reverse(Items), Rest};
items(<<",", Rest/binary>>, Items) ->
    items(skip(Rest), Items);
items(Text, Items) ->
    {Item, Rest} = decode(Text),
    items(skip(Rest), [Item | Items]).

string(<<"\"", Rest/binary>>, Parts) -> {iolist_to_binary(lists:reverse(Parts)), Rest};
string(<<"\\n", Rest/binary>>, Parts) -> string(Rest, [$\n | Parts]);
string(<<"\\t", Rest/binary>>, Parts) -> string(Rest, [$\t | Parts]);
string(<<"\\", Byte, Rest/binary>>, Parts) -> string(Rest, [Byte | Parts]);
string(<<Byte, Rest/binary>>, Parts) -> string(Rest, [Byte | Parts]).

skip(<<Byte, Rest/binary>>) when Byte =< $\s -> skip(Rest);
skip(Text) -> Text.

encode(Map) when is_map(Map) ->
    Members = [[encode(Name), $:, encode(Value)] || {Name, Value} <- maps:to_list(Map)],
    [${, lists:join($,, Members), $}];
encode(List) when is_list(List) -> [$[, lists:join($,, [encode(Item) || Item <- List]), $]];
encode(undefined) ->
    <<"null">>;
encode(Flag) when is_boolean(Flag) -> atom_to_binary(Flag);
encode(Number) when is_integer(Number) -> integer_to_binary(Number);
encode(Text) when is_binary(Text) ->
    [$", [escape(Byte) || <<Byte>> <= Text], $"].

escape($") -> <<"\\\"">>;
escape($\\) -> <<"\\\\">>;
escape(Byte) when Byte < $\s -> io_lib:format("\\u~4.16.0b", [Byte]);
escape(Byte) -> Byte.
