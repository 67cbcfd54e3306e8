"""Supervised training on chats: the loss that the learner takes is the loss on what the assistant said."""

import json

import harness

TURNS = ("{%% for m in messages %%}{%% if m.role == 'assistant' %%}=%s{%% else %%}{{ m.content }}{%% endif %%}"
         "{%% endfor %%}{%% if add_generation_prompt %%}={%% endif %%}")
BLOCKS = TURNS % "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
NO_BLOCKS = TURNS % "{{ m.content }}{{ eos_token }}"
# Says of earlier answers only that there was one, as templates that drop earlier thinking do.
FORGETFUL = TURNS % "{% if loop.last %}{{ m.content }}{% else %},{% endif %}{{ eos_token }}"

# Each with the text that the templates make of it, and which of its tokens the assistant said.
ROWS = [
    (["1+2", "3", "+4", "7"], "1+2=3<eos>+4=7<eos>", "00001100011"),
    (["5+5", "10"], "5+5=10<eos>", "0000111"),
]


def messages(texts):
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


class ChatTrainingTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        self.write_chats([{"messages": messages(texts)} for texts, _, _ in ROWS])

    def write_chats(self, rows):
        (self.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train_on(self, name, template, *sets, code=0):
        (self.folder / "init" / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<eos>", "pad_token": "<pad>", "chat_template": template}))
        return self.train(name, "stage=sft", "learner.steps=1", "learner.prompts_per_step=2", "data.evaluation=[]",
                          *sets, code=code)

    def loss(self, name):
        row = self.metrics(name)[0]
        return row["loss"], row["loss_tokens"]

    def test_the_loss_is_on_what_the_assistant_said(self):
        self.train_on("blocks", BLOCKS)
        total = count = 0
        for _, text, mask in ROWS:
            scores = json.loads(self.rollcall("logprobs", str(self.folder / "init"), text, "--json")[0])
            self.assertEqual(len(scores["ids"]), len(mask))
            for value, taught in zip(scores["logprobs"], mask[1:]):
                total -= value * int(taught)
                count += int(taught)
        loss, tokens = self.loss("blocks")
        self.assertEqual(tokens, count)
        self.assertAlmostEqual(loss, total / count, places=5)
        # Without blocks the differences between ever longer chats say the same.
        self.train_on("prefixes", NO_BLOCKS)
        self.assertEqual(self.loss("prefixes"), (loss, tokens))

    def test_rewritten_history_is_not_trained_on(self):
        _, stderr = self.train_on("forgetful", FORGETFUL, code=1)
        said = stderr + self.logs()
        self.assertIn("train.jsonl:1: the chat template rewrites history at message 3", said)
        self.assertIn("teach the last answer alone", said)
        self.assertEqual(self.metrics("forgetful"), [])
        # What it says to do works: only the last answer of each chat.
        self.write_chats([{"prompt": messages(texts)[:-1], "completion": texts[-1]} for texts, _, _ in ROWS])
        self.train_on("last", FORGETFUL)
        self.assertEqual(self.loss("last")[1], 2 + 3)

    def test_rows_that_cannot_be_taught_are_skipped_and_counted(self):
        rows = (self.folder / "train.jsonl").read_bytes()
        (self.folder / "train.jsonl").write_bytes(rows + b'{"messages": 3}\n{"messages": "caf\xe9"}\n\0\n')
        _, stderr = self.train_on("fails", BLOCKS, code=1)
        self.assertRegex(stderr + self.logs(), r'train.jsonl:3: column .*messages.*: expected a list of messages')
        self.train_on("skips", BLOCKS, "data.on_bad_row=skip")
        self.assertRegex(self.logs(), "data read.*rows_used=2.*skipped=3")


if __name__ == "__main__":
    harness.main()
