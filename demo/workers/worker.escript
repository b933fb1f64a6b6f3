#!/usr/bin/env escript
%% The Erlang worker of the demo; see `demo/src/worker.rs` for arguments and output.
-mode(compile).

-define(CHUNK, 1000).
-define(IDLE_MS, 30000).

main(Arguments) ->
    true = code:add_path("bindings-erlang/_build/default/lib/hstreamdb_erl/ebin"),
    case Arguments of
        ["append", Url, Stream, Path] -> append(Url, Stream, Path);
        ["read", Url, Subscription, Expected] -> read(Url, Subscription, list_to_integer(Expected))
    end.

append(Url, Stream, Path) ->
    Began = erlang:monotonic_time(millisecond),
    {ok, Content} = file:read_file(Path),
    Records = [list_to_tuple(binary:split(Line, <<"\t">>)) || Line <- binary:split(Content, <<"\n">>, [global, trim])],
    {ok, Client} = hstreamdb:connect(Url),
    {ok, Producer} = hstreamdb:producer(Client, Stream, #{batch_max_records => ?CHUNK}),
    Rows = append_chunks(Producer, Records, 0),
    {ok, _} = hstreamdb:close_producer(Producer),
    ok = hstreamdb:close(Client),
    say("{\"event\":\"done\",\"rows\":~b,\"seconds\":~.3f}", [Rows, seconds(Began)]).

append_chunks(_Producer, [], Rows) ->
    Rows;
append_chunks(Producer, Records, Rows) ->
    {Chunk, Rest} = lists:split(min(?CHUNK, length(Records)), Records),
    {ok, Ids} = hstreamdb:append_many(Producer, Chunk),
    Total = Rows + length(Ids),
    say("{\"event\":\"progress\",\"rows\":~b}", [Total]),
    append_chunks(Producer, Rest, Total).

read(Url, Subscription, Expected) ->
    Began = erlang:monotonic_time(millisecond),
    {ok, Client} = hstreamdb:connect(Url),
    {ok, Consumer} = hstreamdb:subscribe(Client, Subscription),
    ok = hstreamdb:set_active(Consumer, 10),
    Empty = #{rows => 0, violations => 0, checksum => 0, seen => #{}, last => #{}},
    #{rows := Rows, violations := Violations, checksum := Checksum, seen := Seen} =
        receive_rows(Consumer, Expected, Empty),
    {ok, #{clean := true}} = hstreamdb:unsubscribe(Consumer),
    ok = hstreamdb:close(Client),
    say(
        "{\"event\":\"done\",\"rows\":~b,\"violations\":~b,\"duplicates\":~b,\"checksum\":\"~16.16.0b\",\"seconds\":~.3f}",
        [Rows, Violations, Rows - maps:size(Seen), Checksum, seconds(Began)]
    ).

receive_rows(_Consumer, Expected, #{seen := Seen} = Tally) when map_size(Seen) >= Expected ->
    Tally;
receive_rows(Consumer, Expected, Tally) ->
    receive
        {hstreamdb_records, Consumer, #{records := Records} = Batch} ->
            ok = hstreamdb:ack_batch(Batch),
            ok = hstreamdb:set_active(Consumer, 1),
            Next = lists:foldl(fun count/2, Tally, Records),
            say("{\"event\":\"progress\",\"rows\":~b}", [maps:get(rows, Next)]),
            receive_rows(Consumer, Expected, Next);
        {hstreamdb_closed, Consumer, Reason} ->
            error({closed, Reason})
    after ?IDLE_MS -> Tally
    end.

count(#{key := Key, payload := Payload}, Tally) ->
    #{rows := Rows, violations := Violations, checksum := Checksum, seen := Seen, last := Last} = Tally,
    {match, [Digits]} = re:run(Payload, "\"seq\":([0-9]+)", [{capture, [1], binary}]),
    {match, [Producer]} = re:run(Payload, "\"producer\":\"([a-z]+)\"", [{capture, [1], binary}]),
    Sequence = binary_to_integer(Digits),
    Place = {Producer, Key},
    Early = case maps:get(Place, Last, -1) of Before when Sequence =< Before -> 1; _ -> 0 end,
    Tally#{
        rows := Rows + 1,
        violations := Violations + Early,
        checksum := (Checksum + erlang:crc32(Payload)) band 16#FFFFFFFFFFFFFFFF,
        seen := Seen#{Sequence => true},
        last := Last#{Place => Sequence}
    }.

say(Format, Arguments) -> io:format(Format ++ "~n", Arguments).

seconds(Began) -> max(1, erlang:monotonic_time(millisecond) - Began) / 1000.
