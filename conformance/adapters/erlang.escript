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
    keep(client, hstreamdb:connect(Url), State);
run(<<"create_stream">>, #{<<"stream">> := Stream, <<"shards">> := Shards}, State) ->
    {hstreamdb:create_stream(client(State), Stream, #{shard_count => Shards}), State};
run(<<"delete_stream">>, #{<<"stream">> := Stream}, State) ->
    {hstreamdb:delete_stream(client(State), Stream), State};
run(<<"list_streams">>, _, State) ->
    case hstreamdb:list_streams(client(State)) of
        {ok, _} -> {ok, State};
        {error, _} = Error -> {Error, State}
    end;
run(<<"create_subscription">>, #{<<"subscription">> := Id, <<"stream">> := Stream} = Command, State) ->
    Options = #{offset => earliest, ack_timeout_secs => maps:get(<<"ack_timeout_secs">>, Command, 600)},
    {hstreamdb:create_subscription(client(State), Id, Stream, Options), State};
run(<<"delete_subscription">>, #{<<"subscription">> := Id}, State) ->
    {hstreamdb:delete_subscription(client(State), Id), State};
run(<<"producer">>, #{<<"stream">> := Stream, <<"options">> := Options}, State) ->
    keep(producer, hstreamdb:producer(client(State), Stream, Options), State);
run(<<"append">>, #{<<"records">> := Records}, #{producer := Producer} = State) ->
    Pairs = [{Key, base64:decode(Payload)} || [Key, Payload] <- Records],
    case hstreamdb:append_many(Producer, Pairs) of
        {ok, Ids} -> {{ok, #{<<"ids">> => [hstreamdb:record_id_to_binary(Id) || Id <- Ids]}}, State};
        {error, _} = Error -> {Error, State}
    end;
run(<<"attach">>, #{<<"subscription">> := Id}, State) ->
    keep(consumer, hstreamdb:subscribe(client(State), Id), State#{asked => false});
run(<<"receive">>, #{<<"timeout_ms">> := TimeoutMs, <<"ack">> := Ack}, #{consumer := Consumer} = State) ->
    %% What an earlier command asked for and did not get is still on its way.
    maps:get(asked, State) orelse (ok = hstreamdb:set_active(Consumer, 1)),
    receive
        {hstreamdb_records, Consumer, #{records := Records} = Batch} ->
            ok = acknowledge(Ack, Batch),
            {{ok, #{<<"records">> => [received(Record) || Record <- Records]}}, State#{asked => false}};
        {hstreamdb_closed, Consumer, Reason} ->
            {{error, Reason}, State}
    after TimeoutMs -> {{ok, #{<<"records">> => []}}, State#{asked => true}}
    end;
run(<<"detach">>, _, #{consumer := Consumer} = State) ->
    case hstreamdb:unsubscribe(Consumer, ?CLOSE_MS) of
        {ok, #{clean := Clean}} -> {{ok, #{<<"clean">> => Clean}}, maps:remove(consumer, State)};
        {error, _} = Error -> {Error, State}
    end;
run(<<"close">>, _, State) ->
    {hstreamdb:close(client(State), ?CLOSE_MS), State}.

client(#{client := Client}) -> Client.

keep(Name, {ok, Handle}, State) -> {ok, State#{Name => Handle}};
keep(_, {error, _} = Error, State) -> {Error, State}.

acknowledge(true, Batch) -> hstreamdb:ack_batch(Batch);
acknowledge(false, _) -> ok.

received(#{id := Id, key := Key, payload := Payload}) ->
    #{
        <<"id">> => hstreamdb:record_id_to_binary(Id),
        <<"key">> => Key,
        <<"payload">> => base64:encode(Payload)
    }.

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
