"""`rollcall generate`: completions and chats, every sampling flag, a running generator, a chat on a terminal."""

import json
import os
import pty
import subprocess

import harness

CHAT_TEMPLATE = ("{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %},{% else %}={% endif %}"
                 "{% endfor %}")
FLAGS = ("--set", "generator.threads=1", "--set", "generator.kv_cache_bytes=16777216")


class GenerateTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        self.model = str(self.folder / "init")
        (self.folder / "init" / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<eos>", "pad_token": "<pad>", "chat_template": CHAT_TEMPLATE}))
        self.address = f"unix:{self.folder}/generator.sock"

    def serve(self):
        self.start("serve", "generator", "--config", str(self.config), "--listen", self.address)
        harness.await_condition((self.folder / "generator.sock").exists, "the generator never listened")

    def generate(self, *arguments, code=0):
        return self.rollcall("generate", self.model, *arguments, "--connect", self.address, code=code)

    def samples(self, *arguments):
        lines = self.generate(*arguments, "--json", "--max-tokens", "12")[0].splitlines()
        return sorted((json.loads(line) for line in lines), key=lambda sample: sample["index"])

    def test_flags_reach_the_generator(self):
        self.serve()
        plain = self.samples("1+2=", "-n", "4")
        self.assertEqual([s["index"] for s in plain], [0, 1, 2, 3])
        self.assertEqual(plain, self.samples("1+2=", "-n", "4", "--seed", "0"))
        self.assertNotEqual(plain, self.samples("1+2=", "-n", "4", "--seed", "1"))
        greedy = self.samples("1+2=", "--greedy", "--ignore-eos")[0]
        for same in (("--top-k", "1"), ("--top-p", "1e-6"), ("--min-p", "1"), ("--temperature", "0")):
            self.assertEqual(self.samples("1+2=", "--ignore-eos", *same)[0]["token_ids"], greedy["token_ids"], same)
        # Tokens 9 and 10 are "7" and "8". One that is favoured beyond everything is all there is; one that is banned never comes.
        self.assertEqual(self.samples("1", "--logit-bias", "9=100")[0]["text"], "7" * 12)
        self.assertEqual(self.samples("1", "--logit-bias", "+=100")[0]["text"], "+" * 12)
        banned = self.samples("1", "--logit-bias", "9=100", "--logit-bias", "10=50", "--bad-word", "7")[0]
        self.assertEqual(banned["text"], "8" * 12)
        pair = self.samples("1", "--logit-bias", "9=100", "--logit-bias", "10=50", "--bad-word", "77")[0]
        self.assertEqual(pair["text"], "78" * 6)
        ngram = self.samples("1", "--logit-bias", "9=100", "--no-repeat-ngram", "2", "--ignore-eos")[0]["text"]
        self.assertNotIn("777", ngram)
        for penalty in (("--repetition-penalty", "100"), ("--presence-penalty", "100"), ("--frequency-penalty", "100")):
            text = self.samples("1", "--logit-bias", "9=5", "--greedy", "--ignore-eos", *penalty)[0]["text"]
            self.assertLess(text.count("7"), 12, penalty)

    def test_ends(self):
        self.serve()
        seven = ("--logit-bias", "9=100")
        stopped = self.samples("1", *seven, "--stop", "777")[0]
        self.assertEqual((stopped["text"], stopped["finish_reason"]), ("777", "FINISH_REASON_STOP_STRING"))
        nine = self.samples("1", *seven, "--stop-token", "9")[0]
        self.assertEqual((nine["token_ids"], nine["finish_reason"]), ([9], "FINISH_REASON_STOP_TOKEN"))
        later = self.samples("1", *seven, "--stop-token", "9", "--min-tokens", "5")[0]
        self.assertGreaterEqual(len(later["token_ids"]), 5)
        ends = self.samples("1", "--logit-bias", "<eos>=100")[0]
        self.assertEqual((ends["token_ids"], ends["finish_reason"]), ([1], "FINISH_REASON_STOP_TOKEN"))
        goes_on = self.samples("1", "--logit-bias", "<eos>=100", "--ignore-eos")[0]
        self.assertEqual(goes_on["token_ids"], [1] * 12)
        top = self.samples("1", "--top-logprobs", "3", "--greedy", "--ignore-eos")[0]
        self.assertEqual([len(pairs) for pairs in top["top_logprobs"]], [3] * 12)
        self.assertEqual([pairs[0][0] for pairs in top["top_logprobs"]], top["token_ids"])

    def test_prompts_chats_and_streams(self):
        self.serve()
        greedy = ("--greedy", "--max-tokens", "5", "--logit-bias", "<eos>=-100", "--logit-bias", "<pad>=-100")
        streamed, _ = self.generate("4+5=", *greedy)
        self.assertEqual(len(streamed.rstrip("\n")), 5)
        piped = subprocess.run([harness.BIN / "rollcall", "generate", self.model, "--connect", self.address, *greedy],
                               input="4+5=", capture_output=True, text=True, timeout=harness.DEADLINE_S)
        self.assertEqual((piped.returncode, piped.stdout), (0, streamed))
        # The template puts "=" behind the user's message.
        self.assertEqual(self.generate("4+5", "--chat", *greedy)[0], streamed)
        self.assertEqual(self.generate("5", "--chat", "--system", "4", *greedy)[0], self.generate("4=5=", *greedy)[0])
        many, _ = self.generate("4+5=", "-n", "3", *greedy)
        self.assertEqual(many.count("--- "), 3)
        # Without --connect it starts one, which says the same.
        self.assertEqual(self.rollcall("generate", self.model, "4+5=", *greedy, *FLAGS)[0], streamed)

    def test_a_chat_on_a_terminal(self):
        self.serve()
        greedy = ("--greedy", "--max-tokens", "3", "--logit-bias", "<eos>=-100", "--logit-bias", "<pad>=-100")
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = subprocess.Popen([harness.BIN / "rollcall", "generate", self.model, "--connect", self.address, *greedy],
                                   stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.close(theirs)
        self.processes.append(process)
        os.write(ours, b"1+1\n2+2\n/reset\n2+2\n" + b"9" * 300 + b"\n2+2\n/exit\n")
        stdout, stderr = process.communicate(timeout=harness.DEADLINE_S)
        self.assertEqual(process.returncode, 0, stderr)
        answers = stdout.split("\n")[:-1]
        first = self.generate("1+1=", *greedy)[0].rstrip("\n")
        second = self.generate(f"1+1={first},2+2=", *greedy)[0].rstrip("\n")
        alone = self.generate("2+2=", *greedy)[0].rstrip("\n")
        self.assertEqual(answers[:3], [first, second, alone])
        # What does not fit is said, forgotten, and the chat goes on.
        self.assertIn("context", stderr)
        self.assertEqual(answers[3:], [self.generate(f"2+2={alone},2+2=", *greedy)[0].rstrip("\n")])

    def test_wrong_calls_say_why(self):
        for flags, message in ((("--logit-bias", "7"), 'expected token=number, got "7"'),
                               (("--logit-bias", "12+=1"), "which is 3 tokens"),
                               (("--bad-word", ""), "at least one token")):
            _, stderr = self.rollcall("generate", self.model, "1", *flags, code=2)
            self.assertIn(message, stderr)
        self.serve()
        _, stderr = self.generate("1", "--top-p", "0", code=2)
        self.assertIn("top_p", stderr)


if __name__ == "__main__":
    harness.main()
