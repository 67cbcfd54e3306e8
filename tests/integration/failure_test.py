"""What each binary does when it cannot serve: it says why, in a line, and the exit code tells usage from failure."""

import json
import pathlib
import socket
import tempfile
import unittest

import tiny_model
from harness import BIN, Process

# What the configuration of any one of them needs.
CONFIG = """
name: fails
output_dir: {folder}
model: {{path: {model}}}
data: {{train: [{{path: {folder}/train.jsonl}}]}}
reward:
  address: "127.0.0.1:1"
  verifiers: [{{name: digit, regex: {{pattern: "[0-9]"}}}}]
generator: {{threads: 1, kv_cache_bytes: 16777216, addresses: ["127.0.0.1:1"]}}
reference: {{threads: 1, addresses: ["127.0.0.1:1"]}}
learner: {{threads: 1}}
rpc: {{connect_timeout: {connect_timeout}}}
"""
SERVICES = ("generator", "reward", "reference", "learner")


class FailureTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_failure_")))
        self.model = tiny_model.write(self.folder / "model")
        (self.folder / "train.jsonl").write_text(json.dumps({"prompt": "1+1="}) + "\n")

    def run_to_end(self, service, *arguments, model=None, connect_timeout=60):
        """(exit code, log) of a service on free ports unless `arguments` say otherwise."""
        path = self.folder / "run.yaml"
        path.write_text(CONFIG.format(folder=self.folder, model=model or self.model, connect_timeout=connect_timeout))
        with Process(BIN / f"rollcall-{service}", "--config", path, *arguments) as process:
            code = process.await_end()
        return code, "\n".join(process.log)

    def test_a_model_that_does_not_exist(self):
        for service in ("generator", "reference", "learner"):
            with self.subTest(service):
                code, log = self.run_to_end(service, "--listen", "127.0.0.1:0", model="/no/such/model")
                self.assertEqual(code, 1, log)
                self.assertRegex(log, r"(?m)error .*/no/such/model")

    def test_a_model_whose_weights_are_cut_short(self):
        weights = self.model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        for service in ("generator", "reference", "learner"):
            with self.subTest(service):
                code, log = self.run_to_end(service, "--listen", "127.0.0.1:0")
                self.assertEqual(code, 1, log)
                self.assertRegex(log, r"(?m)error .*model\.safetensors")

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for service in SERVICES:
                with self.subTest(service):
                    code, log = self.run_to_end(service, "--listen", address)
                    self.assertEqual(code, 1, log)
                    self.assertIn(f"cannot listen on {address}", log)
                with self.subTest(service, what="metrics"):
                    code, log = self.run_to_end(service, "--listen", "127.0.0.1:0", "--metrics-listen", address)
                    self.assertEqual(code, 1, log)
                    self.assertIn(address, log)

    def test_a_configuration_it_cannot_use(self):
        for service in SERVICES:
            with self.subTest(service):
                code, log = self.run_to_end(service, "--set", f"{service}.listen=nowhere")
                self.assertEqual(code, 2, log)
                self.assertIn(f"{service}.listen: expected host:port or unix:/path", log)
                code, log = self.run_to_end(service, "--no-such-flag")
                self.assertEqual(code, 2, log)
                self.assertIn("--no-such-flag", log)

    def test_services_that_never_come_up(self):
        code, log = self.run_to_end("learner", "--listen", "127.0.0.1:0", connect_timeout=0.2)
        self.assertEqual(code, 1, log)
        self.assertRegex(log, r"(?m)error .*127\.0\.0\.1:1")


if __name__ == "__main__":
    unittest.main()
