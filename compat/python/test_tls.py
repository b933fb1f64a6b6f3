"""`secure_client`, with and without a certificate of the client's own."""

import os
import shutil
import subprocess
import tempfile

import grpc
import hstreamdb
from server import PublishedTestCase, Server, consume, single_node_if_published, unique

EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Authority:
    """Certificates for one test run."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="hstream-tls-")
        self._openssl("req", "-x509", *EC, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")

    def issue(self, name, subject_alternative="IP:127.0.0.1,DNS:localhost"):
        with open(self.path(name + ".ext"), "w") as extensions:
            extensions.write("subjectAltName=%s\n" % subject_alternative)
        self._openssl("req", *EC, "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
        self._openssl(
            *["x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
            *["-days", "2", "-extfile", name + ".ext", "-out", name + ".pem"],
        )

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


class Tls(PublishedTestCase):
    mutual = False

    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        cls.authority.issue("server")
        cls.authority.issue("client")
        path = cls.authority.path
        flags = ["--enable-tls", "--tls-key-path", path("server.key"), "--tls-cert-path", path("server.pem")]
        if cls.mutual:
            flags += ["--tls-ca-path", path("ca.pem")]
        cls.server = Server(*flags)

    @classmethod
    def tearDownClass(cls):
        cls.server.remove()
        shutil.rmtree(cls.authority.folder, ignore_errors=True)

    def setUp(self):
        self.port = self.server.port

    async def asyncSetUp(self):
        # Every test makes its own client.
        pass

    async def secure(self, **arguments):
        client = await hstreamdb.secure_client(**arguments)
        self.addAsyncCleanup(client.__aexit__, None, None, None)
        return client

    async def use(self, client):
        stream = unique()
        await client.create_stream(stream, shard_count=2)
        await client.append(stream, [b"secret"])
        subscription = unique("sub")
        await client.create_subscription(subscription, stream, offset=hstreamdb.SpecialOffset.EARLIEST)
        self.assertEqual([record.payload for record in await consume(client, subscription, 1)], [b"secret"])


class ServerCertificate(Tls):
    @single_node_if_published("the client speaks TLS to the first node only")
    async def test_a_client_that_trusts_the_authority_gets_in_by_every_way_to_say_so(self):
        root = self.authority.read("ca.pem")
        await self.use(await self.secure(host="127.0.0.1", port=self.port, root_certificates=root))
        url = "hstreams://127.0.0.1:%d" % self.port
        await self.use(await self.secure(url=url, root_certificates=root))

    async def test_strangers_and_clear_text_do_not_get_in(self):
        with self.assertRaises(grpc.aio.AioRpcError) as raised:
            await hstreamdb.secure_client(port=self.port)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
        with self.assertRaises(grpc.aio.AioRpcError) as raised:
            await hstreamdb.insecure_client(port=self.port)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)


class ClientCertificate(Tls):
    mutual = True

    @single_node_if_published("the client speaks TLS to the first node only")
    async def test_a_client_with_a_certificate_gets_in_from_memory_and_from_files(self):
        names = {"root_certificates": "ca.pem", "private_key": "client.key", "certificate_chain": "client.pem"}
        contents = {option: self.authority.read(name) for option, name in names.items()}
        await self.use(await self.secure(port=self.port, **contents))
        paths = {option: self.authority.path(name) for option, name in names.items()}
        await self.use(await self.secure(port=self.port, is_creds_file=True, **paths))

    async def test_a_client_without_one_does_not(self):
        with self.assertRaises(grpc.aio.AioRpcError) as raised:
            await hstreamdb.secure_client(port=self.port, root_certificates=self.authority.read("ca.pem"))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)


#: The base class is no test.
del Tls
