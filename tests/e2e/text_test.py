"""What `rollcall` says about text: tokens, chat templates, log-probs, through the binary."""

import json
import math
import subprocess

import harness

CHAT_TEMPLATE = ("{% for m in messages %}{{ m.role }}={{ m.content }}{{ eos_token }}{% endfor %}"
                 "{% if tools %}+{{ tools|length }}{% endif %}{% if shout %}{{ shout }}{% endif %}"
                 "{% if add_generation_prompt %}assistant={% endif %}")
MESSAGES = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3"}]


class TextTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        self.model = str(self.folder / "init")
        (self.folder / "init" / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<eos>", "pad_token": "<pad>", "chat_template": CHAT_TEMPLATE}))

    def piped(self, text, *arguments, code=0):
        done = subprocess.run([harness.BIN / "rollcall", *arguments], input=text, capture_output=True, text=True,
                              timeout=harness.DEADLINE_S, cwd=self.folder)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stdout, done.stderr

    def test_tokenize_and_back(self):
        stdout, _ = self.rollcall("tokenize", self.model, "12+<eos>", "--ids")
        self.assertEqual(stdout, "3 4 12 1\n")
        stdout, _ = self.piped("12+", "tokenize", self.model, "--json")
        self.assertEqual(json.loads(stdout), {"ids": [3, 4, 12], "tokens": ["1", "2", "+"],
                                              "offsets": [[0, 1], [1, 2], [2, 3]]})
        stdout, _ = self.rollcall("tokenize", self.model, "12")
        self.assertIn("2 tokens", stdout)
        for ids in ("3 4 1", "[3, 4, 1]"):
            self.assertEqual(self.rollcall("tokenize", self.model, ids, "--decode")[0], "12<eos>\n")
        stdout, _ = self.piped("3,4,1", "tokenize", self.model, "--decode", "--no-special", "--json")
        self.assertEqual(json.loads(stdout), {"text": "12"})

    def test_tokenize_says_what_is_wrong(self):
        _, stderr = self.rollcall("tokenize", self.model, "3 x", "--decode", code=2)
        self.assertIn('expected token ids, got "x"', stderr)
        _, stderr = self.rollcall("tokenize", str(self.folder / "absent"), "1", code=2)
        self.assertIn("tokenizer.json", stderr)
        (self.folder / "init" / "tokenizer.json").rename(self.folder / "init" / "tokenizer.model")
        _, stderr = self.rollcall("tokenize", self.model, "1", code=2)
        self.assertIn("Convert it once with transformers", stderr)

    def test_a_template_that_grows_without_end_is_refused(self):
        for template, message in (("{% set ns = namespace(x='12') %}{% for i in range(99) %}"
                                   "{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "more than 256 MiB of memory"),
                                  ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion")):
            (self.folder / "init" / "chat_template.jinja").write_text(template)
            _, stderr = self.piped("[]", "chat-template", self.model, code=2)
            self.assertIn(f"{self.model}/chat_template.jinja: ", stderr)
            self.assertIn(message, stderr)

    def test_chat_template(self):
        messages = self.folder / "messages.json"
        messages.write_text(json.dumps(MESSAGES))
        tools = self.folder / "tools.json"
        tools.write_text('[{"name": "add"}]')
        call = ["chat-template", self.model, "--messages", str(messages)]
        self.assertEqual(self.rollcall(*call)[0], "user=1+2<eos>assistant=3<eos>")
        self.assertEqual(self.piped(json.dumps(MESSAGES[:1]), "chat-template", self.model,
                                    "--add-generation-prompt")[0], "user=1+2<eos>assistant=")
        self.assertEqual(self.rollcall(*call, "--continue-final-message")[0], "user=1+2<eos>assistant=3")
        self.assertEqual(self.rollcall(*call, "--tools", str(tools), "--var", "shout=hey")[0],
                         "user=1+2<eos>assistant=3<eos>+1hey")
        stdout, _ = self.rollcall(*call, "--var", "shout=7", "--json")
        self.assertEqual(json.loads(stdout), {"text": "user=1+2<eos>assistant=3<eos>7", "generation_spans": []})
        config = json.loads((self.folder / "init" / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": "default", "template": CHAT_TEMPLATE},
                                   {"name": "rag", "template": "{{ documents[0].text }}"}]
        (self.folder / "init" / "tokenizer_config.json").write_text(json.dumps(config))
        documents = self.folder / "documents.json"
        documents.write_text('[{"title": "t", "text": "12"}]')
        self.assertEqual(self.rollcall(*call, "--template", "rag", "--documents", str(documents))[0], "12")
        self.assertEqual(self.rollcall(*call)[0], "user=1+2<eos>assistant=3<eos>")
        _, stderr = self.rollcall(*call, "--template", "tool", code=2)
        self.assertIn('no chat template "tool", it has default, rag', stderr)
        _, stderr = self.rollcall(*call, "--var", "shout", code=2)
        self.assertIn("expected name=value", stderr)
        _, stderr = self.piped("{}", "chat-template", self.model, code=2)
        self.assertIn("expected a JSON array", stderr)

    def logprobs(self, *arguments):
        return json.loads(self.rollcall("logprobs", self.model, *arguments, "--json")[0])

    def test_logprobs_are_those_of_a_softmax(self):
        address = f"unix:{self.folder}/reference.sock"
        self.start("serve", "reference", "--config", str(self.config), "--listen", address)
        harness.await_condition((self.folder / "reference.sock").exists, "the reference never listened")
        one = self.logprobs("1+2=", "--connect", address)
        self.assertEqual(one["ids"], [3, 12, 4, 13])
        self.assertEqual((len(one["logprobs"]), len(one["entropies"])), (3, 3))
        self.assertTrue(all(value < 0 for value in one["logprobs"]))
        self.assertAlmostEqual(one["sum"], sum(one["logprobs"]), places=5)
        self.assertAlmostEqual(one["perplexity"], math.exp(-one["mean"]), places=5)
        # One that is started for the command says the same.
        self.assertEqual(self.logprobs("1+2="), one)
        # Over all possible last tokens the probabilities sum to one.
        last = [self.logprobs(f"1{token}", "--connect", address) for token in ("<pad>", "<eos>", *"0123456789+=, ")]
        self.assertAlmostEqual(sum(math.exp(scores["sum"]) for scores in last), 1, places=5)
        # Hot logits are flat: every token is as likely as any other.
        hot = self.logprobs("1+2=", "--connect", address, "--temperature", "1e6")
        for value, entropy in zip(hot["logprobs"], hot["entropies"]):
            self.assertAlmostEqual(value, -math.log(16), places=4)
            self.assertAlmostEqual(entropy, math.log(16), places=4)
        stdout, _ = self.rollcall("logprobs", self.model, "1+2=", "--connect", address)
        self.assertIn("3 scored", stdout)
        _, stderr = self.rollcall("logprobs", self.model, "1", code=2)
        self.assertIn("at least 2 tokens", stderr)


if __name__ == "__main__":
    harness.main()
