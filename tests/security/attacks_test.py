"""What a hostile or broken peer tries against a generator behind TLS: refused, and the service serves on."""

import pathlib
import resource
import socket
import subprocess
import tempfile
import time
import unittest

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import http2
import tiny_model
from harness import BIN, DEADLINE_S, Process, contract, scrape

generator, generator_grpc = contract("generator")
weights, weights_grpc = contract("weights")
identity, _ = contract("identity")

MAX_CONNECTIONS = 300
MAX_STREAMS = 100
STREAMS = 10_000
CONNECTIONS = 1000

CONFIG = """
model: {{path: {model}}}
generator: {{threads: 1, kv_cache_bytes: 16777216}}
security:
  certificate: {certs}/generator.pem
  private_key: {certs}/generator.key
  trust_roots: {certs}/ca.pem
  limits: {{max_connections: {connections}, max_streams: {streams}, handshake_timeout: 1, keepalive_time: 1,
           keepalive_timeout: 0.5}}
"""


def run(*command):
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def self_signed_certificate(folder, name):
    """A certificate with the learner's name that nobody but itself has signed."""
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
        "/CN=learner", "-addext", "subjectAltName=URI:spiffe://rollcall/learner,DNS:localhost", "-keyout",
        folder / f"{name}.key", "-out", folder / f"{name}.pem")


def expired_certificate(folder):
    """A certificate of our authority that ended in 2020."""
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=learner",
        "-keyout", folder / "expired.key", "-out", folder / "expired.csr")
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(f"""
[ca]
default_ca = own
[own]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[names]
subjectAltName = URI:spiffe://rollcall/learner,DNS:localhost
extendedKeyUsage = clientAuth,serverAuth
""")
    run("openssl", "ca", "-batch", "-config", folder / "ca.cnf", "-extensions", "names", "-cert", folder / "ca.pem",
        "-keyfile", folder / "ca.key", "-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-in",
        folder / "expired.csr", "-out", folder / "expired.pem", "-notext")


class AttacksTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="rollcall_attacks_")))
        cls.certs = cls.folder / "certs"
        run(BIN / "rollcall", "certs", "dev", "--out", cls.certs)
        model = tiny_model.write(cls.folder / "model")
        config = cls.folder / "run.yaml"
        config.write_text(CONFIG.format(model=model, certs=cls.certs, connections=MAX_CONNECTIONS,
                                        streams=MAX_STREAMS))
        cls.process = cls.enterClassContext(
            Process(BIN / "rollcall-generator", "--config", config, "--listen", "localhost:0", "--metrics-listen",
                    "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"))
        found = cls.process.await_line(r"serving address=(\S+) metrics=(\S+) admin=(\S+) tls=true")
        cls.address, cls.metrics, cls.admin = found[1], found[2], found[3]

    def tearDown(self):
        """The service is alive: the learner is answered, and may sample."""
        self.assertEqual(self.state("learner"), grpc.StatusCode.OK)
        with self.channel("learner") as channel:
            request = generator.GenerateRequest(
                key=identity.RandomKey(run_seed=1, purpose=identity.RANDOM_PURPOSE_INTERACTIVE, group_id=1),
                prompt_token_ids=tiny_model.encode("1+1="), num_samples=1,
                sampling=generator.SamplingParams(max_tokens=2))
            answers = list(generator_grpc.GeneratorStub(channel).Generate(request, timeout=DEADLINE_S))
        self.assertTrue(answers)

    def channel(self, name, folder=None, roots=None, options=()):
        folder = folder or self.certs
        credentials = grpc.ssl_channel_credentials(
            (roots or self.certs / "ca.pem").read_bytes(), (folder / f"{name}.key").read_bytes(),
            (folder / f"{name}.pem").read_bytes())
        return grpc.secure_channel(self.address, credentials, [("grpc.use_local_subchannel_pool", 1), *options])

    def state(self, name, folder=None):
        with self.channel(name, folder) as channel:
            return self.code(weights_grpc.WeightsStub(channel).GetState, weights.GetStateRequest())

    @staticmethod
    def code(method, request, **options):
        try:
            method(request, timeout=DEADLINE_S, **options)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def http2(self, timeout=DEADLINE_S):
        return http2.Connection(self.address, http2.tls_context(self.certs, "learner"), timeout)

    def test_certificates_of_others_are_refused(self):
        other = self.folder / "other"
        run(BIN / "rollcall", "certs", "dev", "--out", other, "--role", "learner")
        self.assertEqual(self.state("learner", other), grpc.StatusCode.UNAVAILABLE)

    def test_self_signed_and_expired_certificates_are_refused(self):
        self_signed_certificate(self.certs, "own")
        self.assertEqual(self.state("own"), grpc.StatusCode.UNAVAILABLE)
        expired_certificate(self.certs)
        self.assertEqual(self.state("expired"), grpc.StatusCode.UNAVAILABLE)

    def test_no_certificate_and_plain_text_are_refused(self):
        bare = grpc.ssl_channel_credentials((self.certs / "ca.pem").read_bytes())
        with grpc.secure_channel(self.address, bare) as channel:
            self.assertEqual(self.code(weights_grpc.WeightsStub(channel).GetState, weights.GetStateRequest()),
                             grpc.StatusCode.UNAVAILABLE)
        with grpc.insecure_channel(self.address) as channel:
            self.assertEqual(self.code(weights_grpc.WeightsStub(channel).GetState, weights.GetStateRequest()),
                             grpc.StatusCode.UNAVAILABLE)

    def test_another_role_is_denied_and_counted(self):
        before = self.figure("rollcall_rpc_denied_total")
        with self.channel("reward") as channel:
            self.assertEqual(self.code(weights_grpc.WeightsStub(channel).Abort, weights.AbortRequest()),
                             grpc.StatusCode.PERMISSION_DENIED)
        self.assertEqual(self.figure("rollcall_rpc_denied_total"), before + 1)

    def figure(self, name):
        line, = [line for line in scrape(self.metrics).splitlines() if line.startswith(name + " ")]
        return float(line.split()[1])

    def test_reflection_is_on_the_admin_port_alone(self):
        def reflect(channel):
            ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            answers = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=DEADLINE_S)
            return [service.name for answer in answers for service in answer.list_services_response.service]

        with self.channel("operator") as channel, self.assertRaises(grpc.RpcError) as refused:
            reflect(channel)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.PERMISSION_DENIED)
        with grpc.insecure_channel(self.admin) as channel:
            self.assertIn("rollcall.v1.Weights", reflect(channel))
            self.assertEqual(self.code(weights_grpc.WeightsStub(channel).GetState, weights.GetStateRequest()),
                             grpc.StatusCode.UNIMPLEMENTED)

    def test_oversized_messages_and_headers_are_refused(self):
        with self.channel("learner", options=[("grpc.max_send_message_length", -1)]) as channel:
            request = generator.GenerateRequest(prompt_token_ids=[1 << 31] * (4 << 20))
            with self.assertRaises(grpc.RpcError) as refused:
                list(generator_grpc.GeneratorStub(channel).Generate(request, timeout=DEADLINE_S))
            self.assertEqual(refused.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        with self.channel("learner", options=[("grpc.max_metadata_size", 8 << 20)]) as channel:
            self.assertNotEqual(
                self.code(weights_grpc.WeightsStub(channel).GetState, weights.GetStateRequest(),
                          metadata=[("x-large", "y" * (1 << 20))]), grpc.StatusCode.OK)

    def test_ten_thousand_streams_on_one_connection(self):
        headers = http2.call_headers("/rollcall.v1.Weights/Push")
        refused = 0
        with self.http2() as peer:
            frames = peer.frames()
            # The limit holds once the peer has acknowledged it; the answer to a later ping says that this was seen.
            self.assertEqual(next(frames)[0], http2.SETTINGS)
            peer.send(http2.frame(http2.PING, 0, 0, bytes(8)))
            next(kind for kind, flags, _, _ in frames if kind == http2.PING and flags & http2.ACK)
            try:
                for first in range(0, STREAMS, 500):
                    peer.send(b"".join(http2.frame(http2.HEADERS, http2.END_HEADERS, 2 * i + 1, headers)
                                       for i in range(first, first + 500)))
            except OSError:
                pass  # closed meanwhile
            for kind, _, _, _ in frames:
                refused = STREAMS if kind == http2.GOAWAY else refused + (kind == http2.RST_STREAM)
                if refused >= STREAMS - MAX_STREAMS:
                    break
            else:
                refused = STREAMS  # the whole connection was closed
        self.assertGreaterEqual(refused, STREAMS - MAX_STREAMS)

    def test_ten_thousand_streams_of_a_peer_that_never_acknowledges_the_limit(self):
        """gRPC lets them come; what bounds them is memory_bytes. The service serves on beside them and after them."""
        headers = http2.call_headers("/rollcall.v1.Weights/Push")
        with self.http2() as peer:
            try:
                for first in range(0, STREAMS, 500):
                    peer.send(b"".join(http2.frame(http2.HEADERS, http2.END_HEADERS, 2 * i + 1, headers)
                                       for i in range(first, first + 500)))
            except OSError:
                pass  # closed: better still
            self.assertEqual(self.state("learner"), grpc.StatusCode.OK)

    def test_a_thousand_connections(self):
        host, port = self.address.rsplit(":", 1)
        peers = []
        try:
            for _ in range(CONNECTIONS):
                peers.append(socket.create_connection((host, int(port)), timeout=DEADLINE_S))
            # Those past the limit are closed at once; the others, which say nothing, after the handshake's time.
            for peer in peers:
                try:
                    while peer.recv(4096):
                        pass
                except ConnectionError:
                    pass
        finally:
            for peer in peers:
                peer.close()
        # How many depends on how fast they came: each second the silent ones among the first make room.
        self.assertGreater(self.figure("rollcall_connections_refused_total"), 0)
        self.assertLessEqual(self.figure("rollcall_connections"), MAX_CONNECTIONS)

    def test_a_peer_that_never_finishes_tls_is_cut(self):
        host, port = self.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as peer:
            peer.sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a ClientHello
            begin = time.monotonic()
            try:
                while peer.recv(4096):
                    pass
            except ConnectionError:
                pass
            self.assertLess(time.monotonic() - begin, DEADLINE_S / 2)

    def test_a_peer_that_goes_silent_within_a_message_is_cut(self):
        with self.http2() as peer:
            peer.send(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers("/rollcall.v1.Weights/Push")))
            peer.send(http2.frame(http2.DATA, 0, 1, b"\x00\x00\x00\x10\x00half"))
            begin = time.monotonic()
            for _ in peer.frames(answer_pings=False):
                pass
            self.assertLess(time.monotonic() - begin, DEADLINE_S / 2)

    def test_names_that_are_paths_make_no_files(self):
        target = self.folder / "escaped"
        manifest = weights.WeightManifest(architecture_hash=bytes(32))
        manifest.tensors.add(name=f"../../../../../../..{target}", dtype=weights.DATA_TYPE_FLOAT32, shape=[1],
                             sha256=bytes(32))
        version = identity.PolicyVersion(run_id=f"../..{target}", lineage=1, step=1, manifest_hash=bytes(32))
        request = weights.BeginTransferRequest(version=version, manifest=manifest, stream={})
        with self.channel("learner") as channel:
            stub = weights_grpc.WeightsStub(channel)
            self.assertIn(self.code(stub.Begin, request),
                          (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION))
            shared = weights.BeginTransferRequest(version=version, manifest=manifest,
                                                  shared_memory={"name": f"/../..{target}"})
            self.assertNotEqual(self.code(stub.Begin, shared), grpc.StatusCode.OK)
        self.assertFalse(target.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
