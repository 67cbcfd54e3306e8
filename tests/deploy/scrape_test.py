"""A live scrape of every service of a run is what docs/metrics.md says, and small."""

import json
import pathlib
import re
import tempfile
import time
import unittest

import metrics_doc
import tiny_model
from harness import await_condition, contract, scrape, start_service

learner, learner_grpc = contract("learner")

CONFIG = """
name: run
output_dir: {folder}
model: {{path: {folder}/model}}
data: {{train: [{{path: {folder}/train.jsonl}}]}}
sampling: {{max_tokens: 8}}
algorithm: {{preset: grpo, samples_per_prompt: 4, kl_coefficient: 0.01}}
reward: {{address: "{reward}", verifiers: [{{name: length, length: {{max_tokens: 6}}}}]}}
generator: {{addresses: ["{generator}"], threads: 1, kv_cache_bytes: 16777216}}
reference: {{addresses: ["{reference}"], threads: 1}}
learner: {{threads: 1, steps: 100000, prompts_per_step: 4, on_gap: warn}}
"""
MAX_SERIES = 500
MAX_SCRAPE_SECONDS = 0.02


def families(text):
    """{name: (type, help)}"""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    return {name: (kind, helps.get(name, "")) for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)}


class ScrapeTest(unittest.TestCase):
    def test_the_page_is_that_of_a_run(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_scrape_")))
        tiny_model.write(folder / "model")
        rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        addresses = dict.fromkeys(("generator", "reward", "reference"), "127.0.0.1:1")
        metrics = {}
        for name in (*addresses, "learner"):
            process, address, metrics[name] = start_service(name, CONFIG.format(folder=folder, **addresses), folder)
            self.enterContext(process)
            addresses.setdefault(name, None)
            if name != "learner":
                addresses[name] = address
        await_condition(lambda: re.search(r"^rollcall_learner_step ([3-9]|\d\d)", scrape(metrics["learner"]),
                                          re.MULTILINE), "no step was taken")

        documented = {name: (kind, text) for name, (kind, _, text) in metrics_doc.registrations().items()}
        owners = {name: owner for name, (_, owner, _) in metrics_doc.registrations().items()}
        seen = set()
        for service, address in metrics.items():
            text = scrape(address)
            for name, entry in families(text).items():
                if name.startswith("exposer_"):
                    continue  # of the Prometheus library
                self.assertEqual(entry, documented[name], name)
                self.assertIn(owners[name], ("every service", service))
                seen.add(name)
            samples = [line for line in text.splitlines() if not line.startswith("#")]
            self.assertLess(len(samples), MAX_SERIES, service)
            self.assertIn(f'service="{service}"', text)
            best = min(self.seconds_of_a_scrape(address) for _ in range(5))
            self.assertLess(best, MAX_SCRAPE_SECONDS, service)
        # What shows only once something went wrong, or with a certificate.
        rare = {"rollcall_learner_call_faults_total", "rollcall_learner_groups_dropped",
                "rollcall_certificate_expiry_timestamp_seconds", "rollcall_rpc_denied_total"}
        absent = {name for name, owner in owners.items() if owner == "reward model"}  # none in this run
        self.assertEqual(set(documented) - seen - rare - absent, set())

    @staticmethod
    def seconds_of_a_scrape(address):
        begin = time.monotonic()
        scrape(address)
        return time.monotonic() - begin


if __name__ == "__main__":
    unittest.main(verbosity=2)
