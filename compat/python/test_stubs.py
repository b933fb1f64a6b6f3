"""The published stubs: every kind of call that the client itself does not make, over gRPC's own implementation."""

import grpc
import hstreamdb
from server import PublishedTestCase, offset, single_node, unique, wire, wire_offset

EARLIEST, LATEST = hstreamdb.SpecialOffset.EARLIEST, hstreamdb.SpecialOffset.LATEST


class Stubs(PublishedTestCase):
    async def filled(self):
        stream = await self.stream()
        ids = [id for number in range(4) for id in await self.client.append(stream, [b"%d" % number], key="k")]
        return stream, ids, self.stub()

    async def test_streaming_reads(self):
        stream, ids, stub = await self.filled()
        first, last = wire.StreamOffset(specialOffset=EARLIEST), wire.StreamOffset(specialOffset=LATEST)
        calls = [
            stub.ReadShardStream(
                wire.ReadShardStreamRequest(
                    shardId=ids[0].shard_id,
                    **{"from": wire_offset(special=EARLIEST), "until": wire_offset(special=LATEST)},
                )
            ),
            stub.ReadSingleShardStream(
                wire.ReadSingleShardStreamRequest(
                    streamName=stream, **{"from": wire_offset(record=ids[0]), "until": wire_offset(record=ids[3])}
                )
            ),
            stub.ReadStream(wire.ReadStreamRequest(streamName=stream, **{"from": first, "until": last})),
        ]
        for call in calls:
            read = [each async for response in call for each in response.receivedRecords]
            self.assertEqual([each.recordIds[0].batchId for each in read], [id.batch_id for id in ids])

    async def test_reads_by_key_with_credit(self):
        stream, ids, stub = await self.filled()
        await self.client.append(stream, [b"other"], key="other")
        call = stub.ReadStreamByKey()
        await call.write(wire.ReadStreamByKeyRequest(streamName=stream, key="k", readRecordCount=3))
        read = []
        while len(read) < 3:
            read.extend((await call.read()).receivedRecords)
        await call.write(wire.ReadStreamByKeyRequest(readRecordCount=0))
        await call.write(wire.ReadStreamByKeyRequest(readRecordCount=5))
        while True:
            response = await call.read()
            if response is grpc.aio.EOF:
                break
            read.extend(response.receivedRecords)
        self.assertEqual([record.payload for record in read], [b"0", b"1", b"2", b"3"])
        self.assertEqual((await call.code()).name, "OK")

    async def test_trims_and_tails(self):
        stream, ids, stub = await self.filled()
        tail = await stub.GetTailRecordId(wire.GetTailRecordIdRequest(streamName=stream, shardId=ids[0].shard_id))
        self.assertEqual(tail.tailRecordId.batchId, ids[3].batch_id)
        await stub.TrimShard(wire.TrimShardRequest(shardId=ids[0].shard_id, trimPoint=wire_offset(record=ids[1])))
        await stub.TrimStream(
            wire.TrimStreamRequest(streamName=stream, trimPoint=wire.StreamOffset(specialOffset=EARLIEST))
        )
        reader = unique("reader")
        await self.client.create_reader(stream, reader, offset(special=EARLIEST), 0)
        self.assertEqual([r.payload for r in await self.client.read_reader(reader, 10)], [b"2", b"3"])

    @single_node("lookups name any node")
    async def test_lists_and_lookups(self):
        stream, ids, stub = await self.filled()
        cluster = await stub.DescribeCluster(wire.google_dot_protobuf_dot_empty__pb2.Empty())
        self.assertEqual(cluster.protocolVersion, "0.1.0")
        self.assertEqual([status.node for status in cluster.serverNodesStatus], list(cluster.serverNodes))
        listed = await stub.ListStreamsWithPrefix(wire.ListStreamsWithPrefixRequest(prefix=stream))
        self.assertEqual([each.streamName for each in listed.streams], [stream])
        subscription = await self.subscription(stream)
        listed = await stub.ListSubscriptionsWithPrefix(wire.ListSubscriptionsWithPrefixRequest(prefix=subscription))
        self.assertEqual([each.subscriptionId for each in listed.subscription], [subscription])
        node = await stub.LookupKey(wire.LookupKeyRequest(partitionKey="k"))
        self.assertEqual(node, cluster.serverNodes[0])
        node = await stub.LookupResource(wire.LookupResourceRequest(resType=wire.ResShard, resId=str(ids[0].shard_id)))
        self.assertEqual(node, cluster.serverNodes[0])
        self.assertEqual((await stub.Echo(wire.EchoRequest(msg="hello"))).msg, "hello")
        table = await stub.SendAdminCommand(wire.AdminCommandRequest(command="server status"))
        self.assertIn("Running", table.result)
