"""A run whose services speak mutual TLS, each with its own certificate; all of them are replaced while it trains."""

import pathlib
import re
import subprocess
import tempfile
import unittest

import grpc

import small_run
from harness import BIN, DEADLINE_S, await_condition, contract, scrape, start_service

learner, learner_grpc = contract("learner")

SECURITY = """
security: {{certificate: {certs}/{role}.pem, private_key: {certs}/{role}.key, trust_roots: {certs}/ca.pem, refresh_interval: 1}}
"""
ROLES = ("generator", "reward", "reference", "learner")


class TlsRunTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_tls_run_")))
        self.certs = self.folder / "certs"
        self.issue(self.certs)
        small_run.write(self.folder)
        self.addresses = dict.fromkeys(ROLES, "127.0.0.1:1")
        self.metrics = {}
        for role in ROLES:
            self.start(role)

    def start(self, role):
        others = {name: address for name, address in self.addresses.items() if name != "learner"}
        config = small_run.config(self.folder, **others) + SECURITY.format(certs=self.certs, role=role)
        process, self.addresses[role], self.metrics[role] = start_service(role, config, self.folder)
        self.enterContext(process)
        return process

    @staticmethod
    def issue(folder):
        subprocess.run([BIN / "rollcall", "certs", "dev", "--out", folder], check=True, capture_output=True)

    def value(self, role, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", scrape(self.metrics[role]), re.MULTILINE)
        return float(found[1]) if found else 0

    def await_steps(self, more):
        begin = self.value("learner", "rollcall_learner_step")
        await_condition(lambda: self.value("learner", "rollcall_learner_step") >= begin + more, "no step was taken")

    def status(self, role):
        files = [(self.certs / name).read_bytes() for name in ("ca.pem", f"{role}.key", f"{role}.pem")]
        with grpc.secure_channel(self.addresses["learner"], grpc.ssl_channel_credentials(*files)) as channel:
            return learner_grpc.LearnerStub(channel).GetStatus(learner.GetStatusRequest(), timeout=DEADLINE_S)

    def test_a_run_goes_on_while_every_certificate_is_replaced(self):
        self.await_steps(2)
        with self.assertRaises(grpc.RpcError) as refused:
            self.status("generator")
        self.assertEqual(refused.exception.code(), grpc.StatusCode.PERMISSION_DENIED)

        # Another authority altogether: first both are trusted, then the certificates change.
        other = self.folder / "other"
        self.issue(other)
        old_roots = (self.certs / "ca.pem").read_text()
        self.replace("ca.pem", old_roots + (other / "ca.pem").read_text())
        for role in (*ROLES, "operator"):
            self.replace(f"{role}.key", (other / f"{role}.key").read_text())
            self.replace(f"{role}.pem", (other / f"{role}.pem").read_text())
        self.await_steps(2)
        # Connections are kept over a rotation; a generator that starts anew needs a new one.
        await_condition(self.operator_is_answered, "the learner never took its new certificate")
        status = self.status("operator")
        counts = status.rollouts
        self.assertEqual(counts.issued, counts.trained + counts.filtered + sum(counts.dropped.values())
                         + counts.in_flight)
        self.assertEqual(sum(counts.dropped.values()), 0)
        for role in ROLES:
            self.assertEqual(self.value(role, "rollcall_rpc_denied_total"), 1 if role == "learner" else 0)
            self.assertGreater(self.value(role, "rollcall_certificate_expiry_timestamp_seconds"), 1e9)
            self.assertEqual(self.value(role, "rollcall_insecure"), 0)

    def operator_is_answered(self):
        try:
            return self.status("operator")
        except grpc.RpcError:
            return None

    def replace(self, name, text):
        fresh = self.certs / f".{name}"
        fresh.write_text(text)
        fresh.rename(self.certs / name)

    def test_the_command_line_is_an_operator(self):
        self.await_steps(1)
        sets = {"learner.listen": self.addresses["learner"], "security.certificate": self.certs / "operator.pem",
                "security.private_key": self.certs / "operator.key"}
        flags = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
        done = subprocess.run([BIN / "rollcall", "status", self.folder / "learner.yaml", "--all", *flags],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for service in ROLES:
            self.assertRegex(done.stdout, rf"{service}\s+up")


if __name__ == "__main__":
    unittest.main(verbosity=2)
