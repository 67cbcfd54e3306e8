"""The reward model's server as a user meets it: alone over grpcio, and behind a reward service."""

import pathlib
import signal
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tiny_model
from harness import BIN, DEADLINE_S, Process, contract, scrape, start_service

verifier, verifier_grpc = contract("verifier")
generator, _ = contract("generator")
ENDED = generator.FINISH_REASON_STOP_TOKEN


def request(prompt, texts, key="k", ended=True):
    group = verifier.VerifierGroup(group_id=7, prompt_text=prompt, prompt_token_ids=tiny_model.encode(prompt))
    group.prompt_messages.add(role="user", content=prompt)
    for index, text in enumerate(texts):
        ids = tiny_model.encode(text) + ([tiny_model.EOS] if ended else [])
        group.samples.add(index=index, text=text, token_ids=ids,
                          finish_reason=ENDED if ended else generator.FINISH_REASON_LENGTH)
    return verifier.ScoreRequest(groups=[group], idempotency_key=key, deadline_seconds=30)


class RewardModelTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_rm_")))
        self.model = tiny_model.write_reward_model(self.folder / "reward_model")

    def config(self, extra="", before=""):
        return (f"{before}\nreward:\n  verifiers:\n    - {{name: quality, weight: 2, reward_model: "
                f"{{path: {self.model}, threads: 1, batch_tokens: 32{extra}}}}}\n")

    def start(self, name, config):
        process, address, metrics = start_service(name, config, self.folder)
        self.enterContext(process)
        channel = self.enterContext(grpc.insecure_channel(address))
        return process, address, channel, metrics

    def scores(self, channel, *arguments, **fields):
        response = verifier_grpc.VerifierStub(channel).Score(request(*arguments, **fields), timeout=DEADLINE_S)
        return [sample.score.value for sample in response.groups[0].samples]

    def test_scores_texts_and_tokens_alike_and_drains(self):
        process, _, channel, metrics = self.start("reward-model", self.config())
        self.assertIn("policy_tokens=false", "\n".join(process.log))
        together = self.scores(channel, "1+2=", ["3", "4", "12, 12", "33"])
        self.assertEqual(len(set(together)), 4)
        self.assertEqual(self.scores(channel, "1+2=", ["4"], key="one"), [together[1]])
        # An end that was sampled is read, too; one that was cut off is not.
        cut, = self.scores(channel, "1+2=", ["3"], key="cut", ended=False)
        self.assertNotEqual(cut, together[0])

        policy = tiny_model.write(self.folder / "policy")
        process2, _, same, _ = self.start("reward-model", self.config(before=f"model: {{path: {policy}}}"))
        self.assertIn("policy_tokens=true", "\n".join(process2.log))
        # One character is one token here, so the policy's tokens are those of the text.
        self.assertEqual(self.scores(same, "1+2=", ["3", "4", "12, 12", "33"]), together)

        stub = verifier_grpc.VerifierStub(channel)
        long = stub.Score(request("1+2=", ["3" * tiny_model.CONTEXT, "3"]), timeout=DEADLINE_S).groups[0].samples
        self.assertIn("the reward model reads 1 to 64", long[0].error.reason)
        self.assertEqual(long[1].score.value, together[0])
        self.assertEqual(stub.Describe(verifier.DescribeRequest(), timeout=DEADLINE_S).name, "quality")
        serving = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        self.assertEqual(serving.status, health_pb2.HealthCheckResponse.SERVING)
        self.assertIn('rollcall_reward_model_samples_total{outcome="score"} 7', scrape(metrics))
        process.signal(signal.SIGTERM)
        self.assertEqual(process.await_end(), 0)

    def test_a_reward_service_calls_it_and_outlives_it(self):
        socket = f"unix:{self.folder}/rm.sock"
        config = self.config(extra=f', address: "{socket}", listen: "{socket}"')
        path = self.folder / "rm.yaml"
        path.write_text(config)
        model = self.enterContext(Process(BIN / "rollcall-reward-model", "--config", path))
        model.await_line("serving")
        direct = self.scores(self.enterContext(grpc.insecure_channel(socket)), "1+2=", ["3", "4"])
        _, _, channel, _ = self.start("reward", config)
        self.assertEqual(self.scores(channel, "1+2=", ["3", "4"]), [2 * score for score in direct])

        model.signal(signal.SIGKILL)
        model.await_end()
        stub = verifier_grpc.VerifierStub(channel)
        call = stub.Score.future(request("1+2=", ["33"], key="meanwhile"), timeout=DEADLINE_S)
        model = self.enterContext(Process(BIN / "rollcall-reward-model", "--config", path))
        result = call.result().groups[0].samples[0]
        self.assertTrue(result.HasField("score"), result)
        self.assertNotEqual(result.score.value, 0)

    def test_a_configuration_that_cannot_work_says_why(self):
        path = self.folder / "bad.yaml"

        def refused(binary, config, *arguments):
            path.write_text(config)
            with Process(BIN / binary, "--config", path, "--listen", "127.0.0.1:0", *arguments) as process:
                code = process.await_end()
            return code, "\n".join(process.log)

        code, log = refused("rollcall-reward", self.config())
        self.assertEqual(code, 2)
        self.assertIn("reward.verifiers[0].reward_model.address: is needed", log)
        code, log = refused("rollcall-reward-model", self.config(), "--verifier", "other")
        self.assertEqual(code, 2)
        self.assertIn("--verifier: expected one of quality, got other", log)
        two = self.config() + f"    - {{name: second, reward_model: {{path: {self.model}}}}}\n"
        code, log = refused("rollcall-reward-model", two)
        self.assertEqual(code, 2)
        self.assertIn("expected one of quality, second, got none", log)
        language = tiny_model.write(self.folder / "language")
        code, log = refused("rollcall-reward-model", self.config().replace(str(self.model), str(language)))
        self.assertEqual(code, 1)
        self.assertIn("config.json: architectures: expected a reward model", log)


if __name__ == "__main__":
    unittest.main()
