"""What the end-to-end tests share: a small task, the real binaries, and waiting on conditions with deadlines."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import tiny_model  # noqa: E402

BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
DEADLINE_S = 120

RUN = """
name: run
output_dir: {folder}
seed: 11
model: {{path: {folder}/init}}
data:
  train: [{{path: {folder}/train.jsonl}}]
  evaluation: [{{path: {folder}/held_out.jsonl}}]
sampling: {{max_tokens: 8}}
algorithm: {{samples_per_prompt: 4, kl_coefficient: 0.05}}
reward:
  verifiers:
    - {{name: shape, regex: {{pattern: "[0-9]"}}}}
    - {{name: short, weight: 0.5, length: {{max_tokens: 3, soft_tokens: 6}}}}
generator: {{threads: 1, kv_cache_bytes: 16777216}}
reference: {{threads: 1}}
learner:
  steps: 3
  prompts_per_step: 4
  threads: 2
  optimizer: {{lr: 1e-2}}
  checkpoint: {{every_steps: 1}}
"""


def await_condition(condition, what, deadline_s=DEADLINE_S):
    """Returns the first true value of `condition()`."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"gave up waiting after {deadline_s} s: {what}")


def children_of(pid):
    """{pid: name of binary} of the live children of a process."""
    found = {}
    try:
        tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
        for task in tasks:
            for child in (task / "children").read_text().split():
                arguments = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                found[int(child)] = " ".join(a.decode() for a in arguments)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class EndToEndTest(unittest.TestCase):
    """A folder with a tiny model, data and run.yaml, and ways to run `rollcall` there."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="rollcall-e2e-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.processes = []
        self.addCleanup(self.kill_all)
        tiny_model.write(self.folder / "init")
        self.write_rows("train.jsonl", 40)
        self.write_rows("held_out.jsonl", 6)
        self.write_config(RUN)

    def write_rows(self, name, count):
        rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(count)]
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_config(self, text):
        self.config = self.folder / "run.yaml"
        self.config.write_text(text.format(folder=self.folder))

    def kill_all(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def rollcall(self, *arguments, code=0, timeout=DEADLINE_S):
        """Runs to the end; returns (stdout, stderr) and checks the exit code."""
        done = subprocess.run([BIN / "rollcall", *arguments], capture_output=True, text=True, timeout=timeout,
                              cwd=self.folder)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}\n{self.logs()}")
        return done.stdout, done.stderr

    def start(self, *arguments):
        process = subprocess.Popen([BIN / "rollcall", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=self.folder, start_new_session=True)
        self.processes.append(process)
        return process

    def train(self, name, *sets, code=0):
        overrides = [x for s in (f"name={name}", *sets) for x in ("--set", s)]
        return self.rollcall("train", str(self.config), *overrides, code=code)

    def start_train(self, name, *sets):
        overrides = [x for s in (f"name={name}", *sets) for x in ("--set", s)]
        return self.start("train", str(self.config), *overrides)

    def finish(self, process, code=0):
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
        self.assertEqual(process.returncode, code, f"{stdout}\n{stderr}\n{self.logs()}")
        return stdout, stderr

    def metrics(self, name):
        path = self.folder / name / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def await_step(self, name, step):
        await_condition(lambda: any(row.get("step", 0) >= step and "reward/mean" in row for row in self.metrics(name)),
                        f"{name} never finished step {step}\n{self.logs()}")

    def model_hash(self, name, which="final"):
        return hashlib.sha256((self.folder / name / which / "model.safetensors").read_bytes()).hexdigest()

    def child(self, process, name):
        """Pid of a service of a run, by the name of its socket."""
        def find():
            return next((pid for pid, line in children_of(process.pid).items() if f"{name}.sock" in line), None)
        return await_condition(find, f"{name} never started")

    def logs(self):
        parts = []
        for path in sorted(self.folder.glob("*/logs/*.log")):
            parts.append(f"--- {path.relative_to(self.folder)}\n" + path.read_text()[-2000:])
        return "\n".join(parts)


def main():
    # Ctrl-C is what some tests send; a test runner started in the background may ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main(verbosity=2)
