"""The reference service as a user meets it: log-probs of given tokens over grpcio."""

import math
import pathlib
import signal
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tiny_model
from harness import DEADLINE_S, contract, listed_services, scrape, start_service

logprob, logprob_grpc = contract("logprob")
VOCABULARY = len(tiny_model.VOCABULARY)


class ReferenceTest(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_reference_"))
        model = tiny_model.write(pathlib.Path(self.folder) / "model")
        self.process, address, self.metrics = start_service(
            "reference", f"model: {{path: {model}}}\nreference: {{threads: 1, batch_tokens: 128}}\n", self.folder)
        self.enterContext(self.process)
        self.channel = self.enterContext(grpc.insecure_channel(address))
        self.stub = logprob_grpc.LogProbStub(self.channel)

    def score(self, *sequences, **fields):
        made = [sequence if isinstance(sequence, logprob.TokenSequence) else logprob.TokenSequence(token_ids=sequence)
                for sequence in sequences]
        response = self.stub.Score(logprob.LogProbRequest(sequences=made, **fields), timeout=DEADLINE_S)
        self.assertEqual(len(response.sequences), len(made))
        return [list(sequence.logprobs) for sequence in response.sequences]

    def refused(self, code, *sequences, **fields):
        with self.assertRaises(grpc.RpcError) as raised:
            self.score(*sequences, **fields)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        return raised.exception.details()

    def test_scores_tokens_and_describes_its_model(self):
        # What follows "1+" with each token in its place is a distribution.
        prefix = tiny_model.encode("1+")
        last = [logprobs[-1] for logprobs in self.score(*([*prefix, token] for token in range(VOCABULARY)))]
        self.assertAlmostEqual(sum(map(math.exp, last)), 1, places=5)
        entropy = -sum(value * math.exp(value) for value in last)
        response = self.stub.Score(logprob.LogProbRequest(
            sequences=[logprob.TokenSequence(token_ids=[*prefix, 5])], with_entropy=True), timeout=DEADLINE_S)
        self.assertEqual(list(response.sequences[0].logprobs)[-1], last[5])
        self.assertAlmostEqual(response.sequences[0].entropies[-1], entropy, places=5)
        self.assertEqual(response.numerics.dtype, "float32")

        # Tempered, the same logits, sharper.
        cold = [logprobs[-1] for logprobs in self.score(*([*prefix, token] for token in range(VOCABULARY)),
                                                        temperature=0.5)]
        total = math.log(sum(math.exp(2 * value) for value in last))
        for value, tempered in zip(last, cold):
            self.assertAlmostEqual(tempered, 2 * value - total, places=5)

        description = self.stub.Describe(logprob.DescribeModelRequest(), timeout=DEADLINE_S)
        self.assertEqual((description.vocab_size, description.context_length), (VOCABULARY, tiny_model.CONTEXT))
        self.assertEqual({len(description.manifest_hash), len(description.architecture_hash),
                          len(description.tokenizer_hash)}, {32})
        self.assertEqual(description.manifest_hash, response.manifest_hash)
        self.score([1, 2], manifest_hash=description.manifest_hash)

        serving = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        self.assertEqual(serving.status, health_pb2.HealthCheckResponse.SERVING)
        self.assertIn("rollcall.v1.LogProb", listed_services(self.process))
        page = scrape(self.metrics)
        self.assertIn("rollcall_reference_requests_total 4", page)
        self.assertIn(f"rollcall_reference_tokens_total {2 * 3 * VOCABULARY + 3 + 2}", page)

    def test_a_sequence_alone_or_among_others_scores_the_same(self):
        # Far more than fits one batch, of every length.
        sequences = [[(3 * i + j) % VOCABULARY for j in range(i)] for i in range(2, tiny_model.CONTEXT + 1)]
        together = self.score(*sequences)
        self.assertEqual([len(logprobs) for logprobs in together], [len(made) - 1 for made in sequences])
        for index in (0, 1, 17, len(sequences) - 1):
            self.assertEqual(self.score(sequences[index]), [together[index]])
        tail = logprob.TokenSequence(token_ids=sequences[40], score_from=30)
        self.assertEqual(self.score(tail), [together[40][29:]])

    def test_bad_requests_name_the_field_and_the_server_lives_on(self):
        expected = self.score([1, 2, 3])
        sequence = logprob.TokenSequence
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        for message, sequences, fields in (
                ("sequences: must be 1 to 1024, got 0", [], {}),
                ("sequences: must be 1 to 1024, got 1025", [[1, 2]] * 1025, {}),
                ("sequences[1].token_ids: must hold 2 to 64 tokens, got 1", [[1, 2], [1]], {}),
                ("sequences[0].token_ids: must hold 2 to 64 tokens, got 0", [[]], {}),
                ("sequences[0].token_ids: must hold 2 to 64 tokens, got 65", [[1] * 65], {}),
                (f"sequences[0].token_ids[2]: must be < {VOCABULARY}, got {VOCABULARY}", [[1, 2, VOCABULARY]], {}),
                ("sequences[0].token_ids[1]", [[1, 2**32 - 1]], {}),
                ("sequences[0].score_from: must be 1 to 2, got 3", [sequence(token_ids=[1, 2, 3], score_from=3)], {}),
                ("temperature: must be > 0 and finite, got 0", [[1, 2]], {"temperature": 0}),
                ("temperature: must be > 0 and finite, got nan", [[1, 2]], {"temperature": math.nan}),
                ("temperature: must be > 0 and finite, got inf", [[1, 2]], {"temperature": math.inf})):
            with self.subTest(message):
                self.assertIn(message, self.refused(invalid, *sequences, **fields))
        self.assertIn("manifest_hash", self.refused(grpc.StatusCode.FAILED_PRECONDITION, [1, 2],
                                                    manifest_hash=bytes(32)))
        self.assertEqual(self.score([1, 2, 3]), expected)
        self.assertIn("rollcall_reference_refused_total 12", scrape(self.metrics))

    def test_drains_and_exits_0(self):
        sequences = [logprob.TokenSequence(token_ids=[1] * tiny_model.CONTEXT)] * 1000
        call = self.stub.Score.future(logprob.LogProbRequest(sequences=sequences), timeout=DEADLINE_S)
        # A call of the same connection is read after it: by the time of this answer it is in.
        self.stub.Describe(logprob.DescribeModelRequest(), timeout=DEADLINE_S)
        self.process.signal(signal.SIGTERM)
        try:
            self.assertEqual(len(call.result().sequences), 1000)
        except grpc.RpcError as error:
            # Not yet admitted when the signal came.
            self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(self.process.await_end(), 0)


if __name__ == "__main__":
    unittest.main()
