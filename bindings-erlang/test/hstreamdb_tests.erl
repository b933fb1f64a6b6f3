%% Against a real server process, whose binary is named by HSTREAM_SERVER_BINARY.
-module(hstreamdb_tests).

-include_lib("eunit/include/eunit.hrl").
-include("hstreamdb.hrl").

-define(WAIT_MS, 20000).

server_test_() ->
    {setup, fun start_server/0, fun stop_server/1, fun({_, _, Url}) ->
        [
            {timeout, 60, {Name, fun() -> Test(Url) end}}
         || {Name, Test} <- [
                {"records come back in order with their keys", fun records_come_back/1},
                {"a receipt can be awaited later", fun receipt_is_awaited_later/1},
                {"acknowledged records are not delivered again", fun acks_hold/1},
                {"nothing is delivered that was not asked for", fun demand_is_kept/1},
                {"errors carry kind and code", fun errors_are_typed/1},
                {"unknown options are refused by name", fun unknown_option/1},
                {"closing twice is fine and use after close an error", fun close_twice/1},
                {"a consumer ends with its owner", fun consumer_ends_with_owner/1}
            ]
        ]
    end}.

unreachable_server_test_() ->
    {timeout, 60, fun() ->
        {error, #{kind := Kind, message := Message}} =
            hstreamdb:connect(<<"hstream://127.0.0.1:1">>, #{connect_timeout_ms => 500}),
        ?assert(lists:member(Kind, [unavailable, timeout])),
        ?assertNotEqual(nomatch, binary:match(Message, <<"127.0.0.1:1">>))
    end}.

records_come_back(Url) ->
    {Client, Stream, Subscription} = fresh(Url, 4),
    {ok, Producer} = hstreamdb:producer(Client, Stream, #{batch_max_records => 50}),
    Records = [{key(N rem 7), integer_to_binary(N)} || N <- lists:seq(1, 500)],
    {ok, Ids} = hstreamdb:append_many(Producer, Records),
    ?assertEqual(500, length(lists:usort(Ids))),
    {ok, Consumer} = hstreamdb:subscribe(Client, Subscription),
    Received = receive_records(Consumer, 500, []),
    [
        ?assertEqual(
            [Payload || {K, Payload} <- Records, K =:= Key],
            [Payload || #{key := K, payload := Payload} <- Received, K =:= Key]
        )
     || Key <- [key(N) || N <- lists:seq(0, 6)]
    ],
    {ok, #{clean := true}} = hstreamdb:unsubscribe(Consumer),
    {ok, #{unresolved := 0}} = hstreamdb:close_producer(Producer),
    ok = hstreamdb:close(Client).

receipt_is_awaited_later(Url) ->
    {Client, Stream, _} = fresh(Url, 1),
    {ok, Producer} = hstreamdb:producer(Client, Stream),
    {ok, Receipt} = hstreamdb:append_async(Producer, [{<<"k">>, <<"a">>}, {<<"k">>, <<"b">>}]),
    ok = hstreamdb:flush(Producer),
    {ok, [First, Second]} = hstreamdb:await(Receipt),
    ?assert(First < Second),
    ok = hstreamdb:close(Client).

acks_hold(Url) ->
    {Client, Stream, Subscription} = fresh(Url, 1),
    {ok, Producer} = hstreamdb:producer(Client, Stream),
    {ok, _} = hstreamdb:append(Producer, "k", "first"),
    {ok, One} = hstreamdb:subscribe(Client, Subscription),
    [#{payload := <<"first">>}] = receive_records(One, 1, []),
    {ok, #{clean := true}} = hstreamdb:unsubscribe(One),
    {ok, _} = hstreamdb:append(Producer, "k", "second"),
    {ok, Two} = hstreamdb:subscribe(Client, Subscription),
    ?assertMatch([#{payload := <<"second">>}], receive_records(Two, 1, [])),
    ok = hstreamdb:close(Client).

demand_is_kept(Url) ->
    {Client, Stream, Subscription} = fresh(Url, 1),
    {ok, Producer} = hstreamdb:producer(Client, Stream),
    [{ok, _} = hstreamdb:append(Producer, "k", "x") || _ <- lists:seq(1, 3)],
    {ok, Consumer} = hstreamdb:subscribe(Client, Subscription),
    ok = hstreamdb:set_active(Consumer, 1),
    receive
        {hstreamdb_records, Consumer, Batch} -> ok = hstreamdb:ack_batch(Batch)
    after ?WAIT_MS -> ?assert(false)
    end,
    %% The rest is delivered after it was asked for, not before.
    receive
        {hstreamdb_records, Consumer, _} -> ?assert(false)
    after 300 -> ok
    end,
    ?assertEqual(2, length(receive_records(Consumer, 2, []))),
    ok = hstreamdb:close(Client).

errors_are_typed(Url) ->
    {ok, Client} = hstreamdb:connect(Url),
    {error, #{kind := not_found, code := 300, may_have_been_applied := false}} =
        hstreamdb:delete_subscription(Client, "nobody"),
    {error, #{kind := invalid_argument, code := 204}} = hstreamdb:create_stream(Client, "1 bad name"),
    ok = hstreamdb:close(Client).

unknown_option(Url) ->
    {error, #{kind := invalid_argument, message := Message}} = hstreamdb:connect(Url, #{no_such_option => 1}),
    ?assertNotEqual(nomatch, binary:match(Message, <<"no_such_option">>)),
    ?assertNotEqual(nomatch, binary:match(Message, <<"request_timeout_ms">>)).

close_twice(Url) ->
    {ok, Client} = hstreamdb:connect(Url),
    ok = hstreamdb:close(Client),
    ok = hstreamdb:close(Client),
    {error, #{kind := closed}} = hstreamdb:list_streams(Client).

consumer_ends_with_owner(Url) ->
    {Client, _, Subscription} = fresh(Url, 1),
    Self = self(),
    {Owner, Monitor} = spawn_monitor(fun() ->
        {ok, _} = hstreamdb:subscribe(Client, Subscription, #{name => <<"only-one">>}),
        Self ! subscribed,
        receive
            stop -> ok
        end
    end),
    receive
        subscribed -> ok
    after ?WAIT_MS -> ?assert(false)
    end,
    Owner ! stop,
    receive
        {'DOWN', Monitor, process, Owner, normal} -> ok
    after ?WAIT_MS -> ?assert(false)
    end,
    %% Deleting without force works as soon as no consumer is attached.
    ok = eventually(fun() -> hstreamdb:delete_subscription(Client, Subscription) end, ?WAIT_MS),
    ok = hstreamdb:close(Client).

eventually(Call, LeftMs) ->
    case Call() of
        ok ->
            ok;
        Other when LeftMs =< 0 ->
            Other;
        _ ->
            receive
            after 50 -> eventually(Call, LeftMs - 50)
            end
    end.

receive_records(_Consumer, Missing, Records) when Missing =< 0 ->
    lists:append(lists:reverse(Records));
receive_records(Consumer, Missing, Records) ->
    ok = hstreamdb:set_active(Consumer, 1),
    receive
        {hstreamdb_records, Consumer, #{records := More} = Batch} ->
            ok = hstreamdb:ack_batch(Batch),
            receive_records(Consumer, Missing - length(More), [More | Records])
    after ?WAIT_MS -> error({missing, Missing})
    end.

key(N) -> <<"key-", (integer_to_binary(N))/binary>>.

fresh(Url, Shards) ->
    Unique = integer_to_list(erlang:unique_integer([positive])),
    {ok, Client} = hstreamdb:connect(Url),
    Stream = "stream-" ++ Unique,
    Subscription = "subscription-" ++ Unique,
    ok = hstreamdb:create_stream(Client, Stream, #{shard_count => Shards}),
    ok = hstreamdb:create_subscription(Client, Subscription, Stream, #{offset => earliest}),
    {Client, Stream, Subscription}.

start_server() ->
    Binary = os:getenv("HSTREAM_SERVER_BINARY"),
    ?assertNotEqual(false, Binary),
    Directory = string:trim(os:cmd("mktemp -d")),
    Port = open_port({spawn_executable, Binary}, [
        {args, ["--port", "0", "--internal-port", "0", "--data-dir", filename:join(Directory, "data")]},
        stderr_to_stdout,
        binary,
        exit_status,
        {line, 4096}
    ]),
    {Port, Directory, await_port(Port, undefined)}.

await_port(Port, Url) ->
    receive
        {Port, {data, {eol, Line}}} ->
            case re:run(Line, "Server is started on port ([0-9]+)", [{capture, [1], binary}]) of
                {match, [Number]} ->
                    await_port(Port, <<"hstream://127.0.0.1:", Number/binary>>);
                nomatch ->
                    case binary:match(Line, <<"Cluster is ready!">>) of
                        nomatch -> await_port(Port, Url);
                        _ -> Url
                    end
            end;
        {Port, {exit_status, Status}} ->
            error({server_ended, Status})
    after ?WAIT_MS -> error(server_not_ready)
    end.

stop_server({Port, Directory, _}) ->
    {os_pid, Pid} = erlang:port_info(Port, os_pid),
    os:cmd("kill -9 " ++ integer_to_list(Pid)),
    catch port_close(Port),
    os:cmd("rm -rf " ++ Directory).
