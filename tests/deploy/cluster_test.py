"""The chart's manifests, run on a cluster in miniature (cluster.py): a run completes, what its policies forbid is refused,
and it loses nothing while pods are deleted, the fleet is scaled and rolled, and certificates are renewed."""

import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import cluster as miniature

if why := miniature.missing_tools():
    print(f"skipped: {why}")
    sys.exit(77)
miniature.enter_node()

import grpc  # noqa: E402
import yaml  # noqa: E402

import tiny_model  # noqa: E402
from harness import contract  # noqa: E402
from manifests import Manifests  # noqa: E402

ROOT = pathlib.Path(os.environ["ROLLCALL_SOURCE_DIR"])
BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
TORCH = pathlib.Path(os.environ["ROLLCALL_TORCH_ROOT"])
ROTATION_SECONDS = 120
ROTATE_EVERY = 10
SERVICES = {"learner": 7400, "generator": 7401, "reward": 7402, "reference": 7403}
METRICS, ADMIN = 9090, 7410

learner, learner_grpc = contract("learner")


def policy_table():
    """[(server, method, roles that may)] of docs/security.md."""
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")]
             for line in (ROOT / "docs/security.md").read_text().splitlines() if line.startswith("| ")]
    begin, = [i for i, cells in enumerate(lines) if cells[:2] == ["server", "method"]]
    roles = lines[begin][2:]
    rows = [cells for cells in lines[begin + 1:] if len(cells) == len(roles) + 2 and "rollcall.v1" in cells[1]]
    return roles, [(cells[0], cells[1], {role for role, cell in zip(roles, cells[2:]) if cell == "yes"})
                   for cells in rows]


class ClusterTest(unittest.TestCase):
    manifests = Manifests.of("cpu-demo")

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_cluster_")))
        models = self.folder / "models"
        models.mkdir()
        tiny_model.write(models / "model", max_position_embeddings=128)
        rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(50)]
        (models / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def cluster(self, steps):
        """The chart's configuration but for what suits this machine: length of the run, threads, cache."""
        config = self.manifests.config()
        config["learner"].update(steps=steps, threads=1, prompts_per_step=4, checkpoint={"every_steps": 20})
        config["generator"].update(threads=1, kv_cache_bytes=16 << 20)
        config["reference"].update(threads=1)
        config["sampling"].update(max_tokens=16)
        made = miniature.Cluster(self.manifests, self.folder, BIN, TORCH.parent, self.folder / "models", yaml.safe_dump(config))
        self.addCleanup(made.stop)
        return made

    def value(self, pod, name):
        with urllib.request.urlopen(f"http://{pod.address}:{METRICS}/metrics", timeout=10) as page:
            text = page.read().decode()
        found = re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def await_value(self, made, name, wanted, seconds=miniature.DEADLINE_S):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pod = made.pods["rollcall-learner-0"]
            self.assertTrue(pod.running(), pod.tail())
            try:
                value = self.value(pod, name)
            except OSError:
                value = None  # it is starting
            if value is not None and wanted(value):
                return value
            time.sleep(0.1)
        raise AssertionError(f"{name} is {value} after {seconds} s:\n{pod.tail()}")

    def channel(self, pod, role):
        """As a holder of the role's certificate, from the node."""
        secret = self.folder / "secrets" / f"rollcall-{role}-tls"
        files = [(secret / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
        host = f"{pod.name}.rollcall-{pod.component}.rollcall.svc"
        # The reward service's certificate is of its Service's name alone.
        host = f"rollcall-{pod.component}.rollcall.svc" if pod.component == "reward" else host
        return grpc.secure_channel(f"{pod.address}:{SERVICES[pod.component]}", grpc.ssl_channel_credentials(*files),
                                   options=[("grpc.ssl_target_name_override", host)])

    def status(self, made):
        with self.channel(made.pods["rollcall-learner-0"], "operator") as channel:
            return learner_grpc.LearnerStub(channel).GetStatus(learner.GetStatusRequest(), timeout=30)

    def check_nothing_is_lost(self, made):
        counts = self.status(made).rollouts
        self.assertEqual(dict(counts.dropped), {})
        self.assertEqual(counts.issued, counts.trained + counts.filtered + counts.in_flight)
        return counts

    def test_a_run_completes_and_its_learner_stays_to_say_so(self):
        made = self.cluster(steps=3)
        made.start_all()
        self.await_value(made, "rollcall_learner_run_over", lambda value: value == 1)
        status = self.status(made)
        self.assertEqual(status.phase, learner.LEARNER_PHASE_DONE)
        self.assertTrue(made.pods["rollcall-learner-0"].probe("readinessProbe"))
        self.assertEqual(self.check_nothing_is_lost(made).in_flight, 0)
        # Started again, as after a drain of its node: there is nothing to do, and it stays again.
        made.replace("rollcall-learner-0")
        self.await_value(made, "rollcall_learner_run_over", lambda value: value == 1)
        self.edges(made)
        self.matrix(made)

    def edges(self, made):
        """Who reaches which port of whom, found by trying: the edges of a run and no other."""
        allowed = {("learner", "generator"), ("learner", "reward"), ("learner", "reference")}
        found = set()
        pods = list(made.pods.values())
        for here in pods:
            targets = {(there.address, port): (there, port) for there in pods if there is not here
                       for port in (*SERVICES.values(), METRICS, ADMIN)}
            for target in made.reachable(here, list(targets)):
                there, port = targets[target]
                found.add((here.component, there.component, port))
        self.assertEqual(found, {(a, b, SERVICES[b]) for a, b in allowed})

    def matrix(self, made):
        """Every method under every role's certificate, against the servers that run."""
        roles, table = policy_table()
        secrets = {path.name for path in (self.folder / "secrets").iterdir()}
        tried = 0
        for server, method, may in sorted(table, key=lambda row: row[1].endswith("/Stop")):  # the last one ends the run
            pods = [pod for pod in made.pods.values() if pod.component == server]
            for role in roles:
                if not pods or f"rollcall-{role}-tls" not in secrets:
                    continue  # the run has no such server, or no such peer
                with self.channel(pods[0], role) as channel:
                    call = channel.stream_stream(f"/{method}")
                    code = grpc.StatusCode.OK
                    try:
                        for _ in call(iter([b""]), timeout=5):
                            break
                    except grpc.RpcError as error:
                        code = error.code()
                tried += 1
                self.assertEqual(code != grpc.StatusCode.PERMISSION_DENIED, role in may, f"{role} {method}: {code}")
        self.assertGreater(tried, 60)

    def test_nothing_is_lost_while_pods_come_and_go_and_certificates_are_renewed(self):
        made = self.cluster(steps=1000000)
        made.start_all()
        self.await_value(made, "rollcall_learner_generators_serving", lambda value: value == 2)
        renewals = threading.Thread(target=self.renew, args=(made,), daemon=True)
        begin = time.monotonic()
        renewals.start()

        # A node dies, and another takes its pod.
        made.replace("rollcall-generator-1", grace=False).await_ready()
        self.await_value(made, "rollcall_learner_generators_serving", lambda value: value == 2)
        # kubectl scale statefulset rollcall-generator --replicas=3, and back.
        made.start("rollcall-generator-2").await_ready()
        self.await_value(made, "rollcall_learner_generators_serving", lambda value: value == 3)
        made.delete("rollcall-generator-2")
        self.await_value(made, "rollcall_learner_generators_serving", lambda value: value == 2)
        # kubectl rollout restart, each in turn.
        for workload in ("rollcall-generator", "rollcall-reward", "rollcall-reference", "rollcall-learner"):
            made.roll(workload)
            step = self.await_value(made, "rollcall_learner_step", lambda value: value > 0)
            self.await_value(made, "rollcall_learner_step", lambda value: value > step + 1)
        renewals.join()
        self.assertEqual(self.failures, [])
        self.assertGreaterEqual(time.monotonic() - begin, ROTATION_SECONDS)
        # With the last certificates, too.
        step = self.await_value(made, "rollcall_learner_step", lambda value: value > 0)
        self.await_value(made, "rollcall_learner_step", lambda value: value > step + 1)
        counts = self.check_nothing_is_lost(made)
        self.assertGreater(counts.trained, 100)
        for pod in made.pods.values():
            self.assertIn(self.value(pod, "rollcall_rpc_denied_total"), (0, None), pod.name)
        print(f"steps {step:.0f}, groups trained {counts.trained}, dropped {sum(counts.dropped.values())}")

    failures = []

    def renew(self, made):
        end = time.monotonic() + ROTATION_SECONDS
        while time.monotonic() < end:
            try:
                made.rotate()
            except AssertionError as error:
                self.failures.append(error)
            time.sleep(ROTATE_EVERY)


if __name__ == "__main__":
    unittest.main(verbosity=2)
