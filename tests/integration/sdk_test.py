"""The Python package by itself: what a scoring function may do, and what becomes of it."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import grpc

from harness import BIN, DEADLINE_S, SOURCE, contract

verifier, verifier_grpc = contract("verifier")
generator, _ = contract("generator")
sys.path.insert(0, str(SOURCE / "sdk/python"))
from rollcall_verifier import Abstain, Retry, Sample, Score, Tls, Verifier, start  # noqa: E402


def request(*texts):
    group = verifier.VerifierGroup(group_id=3, prompt_text="p")
    group.prompt_messages.add(role="user", content="p")
    group.columns.update({"answer": 4, "ratio": 0.5, "tests": ["a", {"b": None}], "flag": True})
    for index, text in enumerate(texts):
        group.samples.add(index=index, text=text, token_ids=[5, 6], finish_reason=generator.FINISH_REASON_LENGTH)
    return verifier.ScoreRequest(groups=[group], idempotency_key="k", deadline_seconds=30)


class SdkTest(unittest.TestCase):
    def outcomes(self, served, *texts):
        server, address = start(served)
        self.addCleanup(lambda: server.stop(0).wait())
        with grpc.insecure_channel(address) as channel:
            response = verifier_grpc.VerifierStub(channel).Score(request(*texts), timeout=DEADLINE_S)
        return response.groups[0].samples

    def test_a_sample_is_plain_python(self):
        seen = []
        self.outcomes(Verifier(lambda sample: seen.append(sample) or 0), "text")
        self.assertEqual(seen, [Sample(
            text="text", token_ids=(5, 6), finish_reason="length", prompt="p",
            prompt_messages=[{"role": "user", "content": "p"}],
            columns={"answer": 4, "ratio": 0.5, "tests": ["a", {"b": None}], "flag": True}, group_id=3, index=0)])
        self.assertIs(type(seen[0].columns["answer"]), int)

    def test_over_tls_only_the_reward_service_and_operators_may_call(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_sdk_")))

        def issue():
            subprocess.run([BIN / "rollcall", "certs", "dev", "--out", folder], check=True, capture_output=True)

        def call(role):
            files = [(folder / name).read_bytes() for name in ("ca.pem", f"{role}.key", f"{role}.pem")]
            with grpc.secure_channel(address, grpc.ssl_channel_credentials(*files)) as channel:
                try:
                    verifier_grpc.VerifierStub(channel).Score(request("text"), timeout=DEADLINE_S)
                except grpc.RpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

        issue()
        server, address = start(Verifier(lambda sample: 1), "localhost:0",
                                tls=Tls(folder / "verifier.pem", folder / "verifier.key", folder / "ca.pem"))
        self.addCleanup(lambda: server.stop(0).wait())
        self.assertEqual(call("reward"), grpc.StatusCode.OK)
        self.assertEqual(call("learner"), grpc.StatusCode.PERMISSION_DENIED)
        with grpc.insecure_channel(address) as channel, self.assertRaises(grpc.RpcError):
            verifier_grpc.VerifierStub(channel).Score(request("text"), timeout=DEADLINE_S)
        # Another authority altogether, while it serves.
        for file in folder.iterdir():
            file.unlink()
        issue()
        self.assertEqual(call("reward"), grpc.StatusCode.OK)

    def test_each_outcome(self):
        def score(sample):
            return {
                "number": lambda: 2,
                "score": lambda: Score(0.5, {"a": 1}, "why", [(0, 1, 0.25)]),
                "abstain": lambda: Abstain("not mine"),
                "nan": lambda: float("nan"),
                "nothing": lambda: None,
                "components": lambda: Score(1, {"a": "x"}),
                "retry": lambda: (_ for _ in ()).throw(Retry("busy")),
                "boom": lambda: {}["missing"],
            }[sample.text]()

        texts = ("number", "score", "abstain", "nan", "nothing", "components", "retry", "boom")
        results = dict(zip(texts, self.outcomes(Verifier(score), *texts)))
        self.assertEqual(results["number"].score.value, 2)
        self.assertEqual(results["score"].score, verifier.Score(
            value=0.5, components={"a": 1}, detail="why", spans=[verifier.SpanScore(begin=0, end=1, value=0.25)]))
        self.assertEqual(results["abstain"].abstain.reason, "not mine")
        self.assertIn("finite", results["nan"].error.reason)
        self.assertIn("NoneType", results["nothing"].error.reason)
        self.assertTrue(results["components"].HasField("error"))
        self.assertEqual(results["retry"].retry.reason, "busy")
        self.assertEqual(results["boom"].error.reason, "KeyError: 'missing'")

    def test_groups_are_scored_whole(self):
        results = self.outcomes(Verifier(score_group=lambda samples: range(len(samples))), "a", "b")
        self.assertEqual([result.score.value for result in results], [0, 1])
        short = self.outcomes(Verifier(score_group=lambda samples: [1]), "a", "b")
        self.assertTrue(all("1 outcomes for 2 samples" in result.error.reason for result in short))
        with self.assertRaises(ValueError):
            Verifier()

    def test_the_package_builds_with_its_contract(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder, "checkout/sdk/python")  # setuptools writes beside what it builds
            shutil.copytree(SOURCE / "sdk/python", copy)
            shutil.copytree(SOURCE / "proto", copy.parents[1] / "proto")
            subprocess.run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", f"{folder}/built"],
                           cwd=copy, check=True, capture_output=True, timeout=DEADLINE_S)
            made = {str(path.relative_to(f"{folder}/built")) for path in pathlib.Path(folder, "built").rglob("*.py")}
        self.assertLessEqual({"rollcall/v1/verifier_pb2_grpc.py", "rollcall/v1/identity_pb2.py",
                              "rollcall_verifier/server.py"}, made)


if __name__ == "__main__":
    unittest.main()
