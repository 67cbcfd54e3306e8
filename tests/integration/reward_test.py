"""The reward service as a user meets it: the real binary, verifiers in Python over TCP and a Unix socket, grpcio."""

import pathlib
import signal
import sys
import tempfile
import unittest
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import BIN, DEADLINE_S, SOURCE, Process, contract, listed_services, start_service

verifier, verifier_grpc = contract("verifier")
generator, _ = contract("generator")
EXAMPLES = SOURCE / "sdk/python/examples"

CONFIG = """
reward:
  verifiers:
    - {{name: answer, exact_match: {{after: "="}}}}
    - {{name: ending, weight: 0.5, timeout: 20, remote: {{address: "{ending}"}}}}
    - {{name: nearest, weight: 0.25, timeout: {timeout}, retries: 0, remote: {{address: "{nearest}"}}}}
    - {{name: form, weight: 0, length: {{max_tokens: 2, require_stop: true}}}}
"""


def request(texts, key="k", answer=5):
    group = verifier.VerifierGroup(group_id=7, prompt_text="2+3=")
    group.prompt_messages.add(role="user", content="2+3=")
    group.columns.update({"answer": answer})
    for index, text in enumerate(texts):
        group.samples.add(index=index, text=text, token_ids=[1, 2], finish_reason=generator.FINISH_REASON_STOP_TOKEN)
    return verifier.ScoreRequest(groups=[group], idempotency_key=key, deadline_seconds=30)


class RewardTest(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_reward_"))

    def start_verifier(self, name, listen):
        process = self.enterContext(Process(sys.executable, EXAMPLES / f"{name}.py", "--listen", listen))
        return process, process.await_line(r"serving (\S+)")[1]

    def start_reward(self, ending, nearest, timeout=20):
        config = CONFIG.format(ending=ending, nearest=nearest, timeout=timeout)
        process, address, metrics = start_service("reward", config, self.folder)
        self.enterContext(process)
        channel = self.enterContext(grpc.insecure_channel(address))
        return process, channel, verifier_grpc.VerifierStub(channel), metrics

    def score(self, stub, *texts, **fields):
        response = stub.Score(request(texts, **fields), timeout=DEADLINE_S)
        self.assertEqual([group.group_id for group in response.groups], [7])
        self.assertEqual([sample.index for sample in response.groups[0].samples], list(range(len(texts))))
        return response.groups[0].samples

    def test_composes_rules_and_python_verifiers(self):
        _, ending = self.start_verifier("closing_words", "127.0.0.1:0")
        _, nearest = self.start_verifier("closest_guess", f"unix:{self.folder}/nearest.sock")
        process, channel, stub, metrics = self.start_reward(ending, nearest)

        right, wrong = self.score(stub, "so it is =5", "9 happily ever after.")
        self.assertAlmostEqual(right.score.value, 1 + 0.25)
        self.assertAlmostEqual(wrong.score.value, 0.5)
        self.assertEqual(dict(wrong.score.components), {
            "answer": 0, "answer/correct": 0, "ending": 1, "ending/words": 4, "nearest": 0, "form": 1,
            "form/stopped": 1, "form/tokens": 2})
        abstained, = self.score(stub, "=x", key="text", answer="x")
        self.assertEqual(abstained.score.value, 1)
        self.assertNotIn("nearest", abstained.score.components)

        description = stub.Describe(verifier.DescribeRequest(), timeout=DEADLINE_S)
        self.assertEqual((description.min_score, description.max_score), (0, 1.75))
        self.assertIn("ending/words", description.components)
        serving = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        self.assertEqual(serving.status, health_pb2.HealthCheckResponse.SERVING)
        self.assertIn("rollcall.v1.Verifier", listed_services(process))
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=DEADLINE_S) as page:
            text = page.read().decode()
        self.assertIn('rollcall_reward_samples_total{outcome="score"} 3', text)
        self.assertIn('rollcall_reward_verifier_samples_total{outcome="abstain",verifier="nearest"} 1', text)

        process.signal(signal.SIGTERM)
        self.assertEqual(process.await_end(), 0)

    def test_bad_requests_name_the_field_and_the_server_lives_on(self):
        _, ending = self.start_verifier("closing_words", "127.0.0.1:0")
        _, nearest = self.start_verifier("closest_guess", "127.0.0.1:0")
        _, _, stub, _ = self.start_reward(ending, nearest)
        twice = request(["a", "b"])
        twice.groups[0].samples[1].index = 0
        hostile = {
            "groups: must not be empty": verifier.ScoreRequest(idempotency_key="k", deadline_seconds=1),
            "groups[0].samples: must not be empty": request([]),
            "groups[0].samples[1].index: 0 is given twice": twice,
            "idempotency_key: expected 1 to 128 bytes": request(["a"], key=""),
            "groups[0].samples[0].text: 1048577 bytes": request(["x" * ((1 << 20) + 1)]),
        }
        for message, bad in hostile.items():
            with self.assertRaises(grpc.RpcError) as raised:
                stub.Score(bad, timeout=DEADLINE_S)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(message, raised.exception.details())
        many = request(["=5"] * 4097)
        with self.assertRaises(grpc.RpcError) as raised:
            stub.Score(many, timeout=DEADLINE_S)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        # Above gRPC's and our servers' usual limits, within the contract's.
        large = self.score(stub, *(["y" * (1 << 20)] * 20 + ["=5"]), key="large")
        self.assertEqual(large[20].score.components["answer"], 1)

    def test_faults_are_outcomes_and_pass_when_the_verifier_is_back(self):
        _, ending = self.start_verifier("closing_words", "127.0.0.1:0")
        socket = f"unix:{self.folder}/nearest.sock"
        process, nearest = self.start_verifier("closest_guess", socket)
        _, _, stub, _ = self.start_reward(ending, nearest, timeout=1)

        busy, = self.score(stub, "=-1", key="busy", answer=-1)
        self.assertEqual(busy.WhichOneof("outcome"), "retry")
        self.assertIn("nearest: negative answers", busy.retry.reason)
        process.signal(signal.SIGKILL)
        process.await_end()
        lost, = self.score(stub, "=5")
        self.assertEqual(lost.WhichOneof("outcome"), "retry")
        self.assertIn(socket, lost.retry.reason)
        pathlib.Path(self.folder, "nearest.sock").unlink(missing_ok=True)
        self.start_verifier("closest_guess", socket)
        # Meanwhile the channel reconnects: the same call is tried until it has.
        for attempt in range(DEADLINE_S):
            again, = self.score(stub, "=5", key=f"again{attempt}")
            if again.WhichOneof("outcome") == "score":
                break
        self.assertAlmostEqual(again.score.value, 1.25)

    def test_a_broken_configuration_says_where_and_exits_2(self):
        path = pathlib.Path(self.folder) / "bad.yaml"
        path.write_text("reward:\n  verifiers:\n    - {name: a, regex: {patern: x}}\n")
        with Process(BIN / "rollcall-reward", "--config", path) as process:
            self.assertEqual(process.await_end(), 2)
            self.assertIn("bad.yaml:3: reward.verifiers[0].regex.patern: unknown field; did you mean pattern?",
                          "\n".join(process.log))
        path.write_text("reward:\n  verifiers:\n    - {name: a, regex: {pattern: '('}}\n")
        with Process(BIN / "rollcall-reward", "--config", path, "--listen", "127.0.0.1:0") as process:
            self.assertEqual(process.await_end(), 2)
            self.assertIn("reward.verifiers[0].regex.pattern: RE2 refuses it", "\n".join(process.log))


if __name__ == "__main__":
    unittest.main()
