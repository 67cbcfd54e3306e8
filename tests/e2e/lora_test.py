"""A low-rank adapter in place of whole weights: trained, sent, saved, resumed, served."""

import hashlib
import json
import os
import shutil
import signal

import harness
import tiny_model

LORA = ("model.lora.r=4", "model.lora.alpha=8", "learner.steps=4", "learner.optimizer.lr=5e-2")


class LoraTest(harness.EndToEndTest):
    def adapter_hash(self, name):
        return hashlib.sha256((self.folder / name / "final" / "adapter_model.safetensors").read_bytes()).hexdigest()

    def files(self, *parts):
        return sorted(path.name for path in self.folder.joinpath(*parts).iterdir())

    def test_only_the_adapter_is_trained_sent_and_saved(self):
        self.train("run", *LORA, "model.lora.merge_on_export=true")
        rows = [row for row in self.metrics("run") if "reward/mean" in row]
        self.assertTrue(all(row["logprob_gap"] == 0 for row in rows), rows)
        self.assertTrue(all(row["grad_norm"] > 0 for row in rows), rows)

        final = self.folder / "run" / "final"
        config = json.loads((final / "adapter_config.json").read_text())
        self.assertEqual((config["r"], config["lora_alpha"], config["base_model_name_or_path"]),
                         (4, 8, str(self.folder / "init")))
        self.assertIn("tokenizer.json", self.files("run", "final"))
        self.assertNotIn("model.safetensors", self.files("run", "final"))
        checkpoint = self.files("run", "checkpoints", "step-00000004")
        self.assertEqual(checkpoint, ["adapter", "checkpoint.pb", "optimizer.safetensors"])
        tensors = (final / "adapter_model.safetensors").stat().st_size
        sent = rows[-1]["publish/bytes"]
        self.assertTrue(0 < tensors - sent < 8192, (tensors, sent))  # the file has a header, too
        whole = (self.folder / "init" / "model.safetensors").stat().st_size
        self.assertLess(sent, whole / 4)

        # The adapter beside its base and the merged model are one policy.
        ask = ("1+2=", "--max-tokens", "8", "--greedy", "--json")
        base = str(self.folder / "init")
        adapted, _ = self.rollcall("generate", base, "--adapter", str(final), *ask)
        merged, _ = self.rollcall("generate", str(self.folder / "run" / "final_merged"), *ask)
        plain, _ = self.rollcall("generate", base, *ask)
        text = lambda stdout: json.loads(stdout)["token_ids"]
        self.assertEqual(text(adapted), text(merged))
        self.assertNotEqual(adapted, plain)
        stdout, _ = self.rollcall("eval", str(self.config), "--adapter", str(final), "--json")
        self.assertIn("eval/reward/mean", json.loads(stdout))
        described = json.loads(self.rollcall("inspect", base, "--adapter", str(final), "--json")[0])
        self.assertEqual(described["adapter"]["r"], 4)
        self.assertEqual(described["adapter"]["parameters"] * 4, sent)

    def test_a_run_goes_on_from_another_runs_adapter(self):
        self.train("first", *LORA)
        start = f"model.lora.path={self.folder}/first/final"
        self.train("second", start, "learner.steps=1", "learner.optimizer.lr=1e-9")
        config = json.loads((self.folder / "second" / "final" / "adapter_config.json").read_text())
        self.assertEqual((config["r"], config["lora_alpha"]), (4, 8))
        sizes = [(self.folder / name / "final" / "adapter_model.safetensors").stat().st_size
                 for name in ("first", "second")]
        self.assertEqual(*sizes)

    def test_killed_processes_change_no_bit(self):
        self.train("undisturbed", *LORA)
        process = self.start_train("killed", *LORA)
        self.await_step("killed", 1)
        os.kill(self.child(process, "generator-0"), signal.SIGKILL)
        stdout, _ = self.finish(process)
        self.assertIn("generator-0 died (signal 9", stdout)
        self.assertEqual(self.adapter_hash("killed"), self.adapter_hash("undisturbed"))

        process = self.start_train("resumed", *LORA)
        self.await_step("resumed", 2)
        os.kill(self.child(process, "learner"), signal.SIGKILL)
        self.finish(process, code=1)
        self.train("resumed", *LORA)
        self.assertEqual(self.adapter_hash("resumed"), self.adapter_hash("undisturbed"))

    def test_a_checkpoint_goes_with_its_base(self):
        self.train("run", *LORA, "learner.steps=1")
        _, stderr = self.train("run", "learner.steps=2", code=1)
        self.assertIn("holds an adapter, and model.lora asks for none", stderr + self.logs())
        shutil.rmtree(self.folder / "init")
        tiny_model.write(self.folder / "init", seed=99)
        _, stderr = self.train("run", *LORA, code=1)
        self.assertIn("was trained on other base weights", stderr + self.logs())

    def test_what_cannot_be_adapted_is_refused(self):
        for field, said in (("model.lora.dropout=0.1", "without dropout"),
                            ("model.lora.target_modules=[lm_head]", "lm_head"),
                            ("model.lora.r=0", "model.lora.r: must be at least 1"),
                            ("model.lora.path=/absent", "/absent/adapter_config.json")):
            sets = ["model.lora.r=4", "model.lora.rslora=true", field]
            code = 2 if "dropout" in field or "r=0" in field else 1
            _, stderr = self.train("refused", *sets, code=code)
            self.assertIn(said, stderr + self.logs(), field)


if __name__ == "__main__":
    harness.main()
