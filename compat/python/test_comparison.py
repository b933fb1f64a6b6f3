"""Our package beside the published one: what programs see of both, and what the same programs get from both."""

import json
import os
import random
import subprocess
import sys
import unittest

import hstreamdb
from server import OURS, TEST_SECONDS, shared, wire

HERE = os.path.dirname(os.path.abspath(__file__))
PUBLISHED = os.environ.get("HSTREAM_PUBLISHED_PYTHON")

#: Names that are not there any more, as the migration guide says: they take or make messages of protobuf, or are the
#: inside of the old producer.
GONE = {
    "hstreamdb.aio.consumer.decode_records",
    "hstreamdb.aio.producer.PayloadGroup",
    "hstreamdb.utils.decode_records",
    "hstreamdb.utils.encode_records",
    "hstreamdb.utils.encode_records_from_append_payload",
}
#: Classes that programs get from `new_producer` and `new_consumer`; what these pass on to the constructor is their
#: business.
MADE_BY_THE_CLIENT = ("BufferedProducer", "Consumer")
#: These were plain imports of the module and are at home elsewhere.
IMPORTED = {"hstreamdb.aio.consumer.RecordId", "hstreamdb.aio.consumer.record_id_to"}
IMPORTED |= {"hstreamdb.utils." + each for each in ("Record", "RecordHeader", "Shard", "TimeStamp", "record_id_from")}


def output(python, script, *arguments):
    done = subprocess.run(
        [python, os.path.join(HERE, script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=4 * TEST_SECONDS,
    )
    if done.returncode:
        raise AssertionError("%s %s:\n%s" % (python, script, done.stderr.decode()[-4000:]))
    return json.loads(done.stdout.decode())


@unittest.skipUnless(OURS and PUBLISHED, "needs both packages")
class Comparison(unittest.TestCase):
    maxDiff = None

    def test_every_public_name_is_there_with_its_parameters_defaults_and_fields(self):
        published, ours = output(PUBLISHED, "surface.py"), output(sys.executable, "surface.py")
        self.assertGreater(len(published), 40)
        for name, described in published.items():
            if name in GONE:
                self.assertNotIn(name, ours)
            elif name not in IMPORTED:
                with self.subTest(name=name):
                    self.assertIn(name, ours)
                    if not name.endswith("types.ShardOffset"):
                        self.compare(name, described, ours[name])

    def compare(self, name, published, ours):
        if name.rsplit(".", 1)[1] == "Consumer" and name.startswith("hstreamdb.Consumer"):
            # The new API's, which accepts the other one in isinstance.
            return
        self.assertEqual(ours["is"], published["is"], name)
        for each in ("tuple", "exception", "abstract", "behaviour"):
            self.assertEqual(ours.get(each), published.get(each), "%s: %s" % (name, each))
        if "parameters" in published and name.rsplit(".", 1)[1] not in MADE_BY_THE_CLIENT:
            # More may follow, if it has a default.
            count = len(published["parameters"])
            mine, more = ours["parameters"][:count], ours["parameters"][count:]
            if not name.endswith("__aexit__"):
                self.assertEqual(mine, published["parameters"], name)
                self.assertTrue(all(default != "required" for _, _, default in more), name)
        for member, described in published.get("members", {}).items():
            self.assertIn(member, ours["members"], name)
            self.compare("%s.%s" % (name, member), described, ours["members"][member])

    def test_the_same_programs_get_the_same(self):
        where = ["127.0.0.1", str(shared().port)]
        published, ours = output(PUBLISHED, "programs.py", *where), output(sys.executable, "programs.py", *where)
        self.assertEqual(sorted(ours), sorted(published))
        for program, expected in published.items():
            with self.subTest(program=program):
                self.assertEqual(ours[program], expected)

    def test_offsets_do_what_messages_of_protobuf_do(self):
        chance = random.Random(5)
        values = {"shardId": 2**64 - 1, "batchId": 7, "batchIndex": 2**32 - 1, "timestampInMs": -5}
        groups = [("recordOffset", each) for each in ("shardId", "batchId", "batchIndex")]
        groups += [("timestampOffset", "timestampInMs"), ("timestampOffset", "strictAccuracy")]

        def step(message, kind, what, value):
            part, field = what
            if kind == "special":
                message.specialOffset = value % 2
            elif kind == "set":
                setattr(getattr(message, part), field, values.get(field, True))
            elif kind == "zero":
                setattr(getattr(message, part), field, 0)
            elif kind == "read":
                getattr(getattr(message, part), field)
            elif kind == "clear":
                message.ClearField(["offset", "specialOffset", part][value % 3])
            elif kind == "set in parent":
                getattr(message, part).SetInParent()
            elif kind == "unknown":
                message.nothing = value

        def state(message):
            return (
                message.WhichOneof("offset"),
                message.specialOffset,
                [getattr(getattr(message, part), field) for part, field in groups],
                [message.HasField(each) for each in ("specialOffset", "recordOffset", "timestampOffset")],
            )

        kinds = ["special", "set", "set", "zero", "read", "clear", "set in parent", "unknown"]
        for _ in range(300):
            ours, theirs = hstreamdb.ShardOffset(), wire.ShardOffset()
            for _ in range(12):
                arguments = (chance.choice(kinds), chance.choice(groups), chance.randrange(100))
                errors = []
                for message in (ours, theirs):
                    try:
                        step(message, *arguments)
                        errors.append(None)
                    except (TypeError, ValueError, AttributeError) as error:
                        errors.append(type(error).__name__)
                self.assertEqual(errors[0], errors[1], arguments)
                self.assertEqual(state(ours), state(theirs), arguments)

    def test_offsets_refuse_what_messages_of_protobuf_refuse(self):
        for wrong in (2**70, -(2**70), -1, "x", 1.5, None, b"1"):
            for part, field in [("recordOffset", "shardId"), ("recordOffset", "batchIndex")]:
                raised = []
                for message in (hstreamdb.ShardOffset(), wire.ShardOffset()):
                    with self.assertRaises((TypeError, ValueError)) as error:
                        setattr(getattr(message, part), field, wrong)
                    raised.append(type(error.exception))
                self.assertEqual(raised[0], raised[1], (field, wrong))

    def test_messages_of_protobuf_are_taken_where_offsets_are(self):
        from hstreamdb.aio.messages import start_of

        theirs = wire.ShardOffset(recordOffset=wire.RecordId(shardId=1, batchId=2, batchIndex=3))
        self.assertEqual(start_of(theirs), hstreamdb.RecordId(1, 2, 3))
        self.assertEqual(hstreamdb.types.record_id_from(theirs.recordOffset), (1, 2, 3))
        copied = hstreamdb.ShardOffset(recordOffset=theirs.recordOffset)
        self.assertEqual(copied, hstreamdb.ShardOffset(recordOffset={"shardId": 1, "batchId": 2, "batchIndex": 3}))
