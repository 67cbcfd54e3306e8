"""What the learning bench trains: one Method each, with the settings that are its own."""

import dataclasses

# The demo's reinforcement learning; presets differ in their cells alone.
RL_OPTIMIZER = "lr: 3e-4, schedule: cosine, warmup_steps: 5, min_lr_ratio: 0.1, beta2: 0.99"
CORRECT = '    - {name: correct, exact_match: {answer_column: answer, after: "="}}'
# Reported, and no part of what is learned from.
WATCHED = '    - {name: correct, weight: 0, exact_match: {answer_column: answer, after: "="}}'
# The critic learns from nothing, hence faster than the policy.
CRITIC = "  critic: {optimizer: {lr: 1e-3, schedule: cosine, warmup_steps: 5, min_lr_ratio: 0.1, beta2: 0.99}}\n"
# One that starts from the reward model knows the task.
TAUGHT_CRITIC = ("  critic: {path: {folder}/reward_model/final, optimizer: {lr: 3e-4, schedule: cosine, warmup_steps: 5, "
                 "min_lr_ratio: 0.1, beta2: 0.99}}\n")


LORA = ", lora: {r: 8, alpha: 16, merge_on_export: true}"


@dataclasses.dataclass(frozen=True)
class Method:
    """One way from the SFT start. `needs` are methods of the same seed whose results it takes, `model` is what it adds to
    the section `model`."""
    name: str
    task: str = "add"
    needs: tuple = ()
    model: str = ""
    # Of held-out accuracy, in the mean over the seeds: below it the method is said not to learn.
    least_gain: float = 0.2

    @property
    def online(self):
        return isinstance(self, Online)


@dataclasses.dataclass(frozen=True)
class Online(Method):
    """Stage rl. `sections`, `learner` and `verifiers` may name {folder}, where the seed's runs lie."""
    preset: str = ""
    cells: str = ""
    steps: int = 40
    prompts: int = 32
    optimizer: str = RL_OPTIMIZER
    learner: str = ""
    sections: str = ""
    verifiers: str = CORRECT


@dataclasses.dataclass(frozen=True)
class Recorded(Method):
    """A stage that learns from the SFT model's own samples, judged by the rule. `data` is the kind of file: pairs,
    labelled, verified; of the first `prompts` prompts, seen `epochs` times, `batch` rows a step."""
    stage: str = "dpo"
    data: str = "pairs"
    prompts: int = 512
    epochs: float = 1
    batch: int = 64
    lr: float = 1e-4
    preference: str = ""
    learner: str = ""

    @property
    def rewards(self):
        """Whether it makes a reward model, which samples nothing."""
        return self.stage == "reward_model"


# One update a batch where nothing is said; two mini-batches for those whose clipping is the point of them. KL
# coefficients are those of the demo, not of the papers' large models.
_CELLS = {
    "grpo": "kl_coefficient: 0.01",
    "dr_grpo": "",
    "dapo": "mini_batches: 2, max_sampling_rounds: 50",
    "gspo": "mini_batches: 2, clip_low: 3e-3, clip_high: 4e-3",
    "cispo": "mini_batches: 2",
    "rloo": "kl_coefficient: 0.01",
    "reinforce_pp": "kl_coefficient: 0.01",
    "reinforce_pp_baseline": "kl_coefficient: 0.01",
    "opo": "",
    "ppo": "mini_batches: 2, epochs_per_batch: 1, gae_lambda: 1, kl_coefficient: 0.01",
    "remax": "kl_coefficient: 0.01",
    "online_dpo": "",
}
# Once nearly every group is all right, dynamic sampling finds few that are not: DAPO is there after a few steps.
_STEPS = {"dapo": 8}

ONLINE = [Online(name=preset, preset=preset, cells=cells, steps=_STEPS.get(preset, 40),
                 learner=CRITIC if preset == "ppo" else "") for preset, cells in _CELLS.items()]
ONLINE += [
    # Rounds of 1,024 samples: as many samples as 40 steps of the others, in 10 rounds of 8 updates.
    Online(name="iterative_dpo", preset="iterative_dpo", steps=10, prompts=128,
           optimizer="lr: 1e-4, schedule: cosine, min_lr_ratio: 0.1, beta2: 0.99"),
    Online(name="distillation", preset="distillation", needs=("grpo",), verifiers=WATCHED,
           sections="reference: {model_path: {folder}/grpo/final}\n"),
    # The KL is what keeps the policy where the reward model has seen examples: at 0.01 it learns to carry always, which
    # that model never saw and likes, and accuracy falls below the start's.
    Online(name="ppo_reward_model", preset="ppo", needs=("reward_model",), learner=TAUGHT_CRITIC, steps=24,
           cells="mini_batches: 2, epochs_per_batch: 1, gae_lambda: 1, kl_coefficient: 0.5",
           verifiers=WATCHED + "\n    - {name: quality, reward_model: {path: {folder}/reward_model/final}}"),
    Online(name="async_grpo", preset="grpo", cells="kl_coefficient: 0.01, behavior_correction: token_truncate",
           learner="  max_staleness: 1\n"),
    # Of a matrix's 16,384 or 32,768 numbers an adapter trains 2,048 or 3,072, and takes larger steps.
    Online(name="grpo_lora", preset="grpo", cells="kl_coefficient: 0.01", model=LORA,
           optimizer="lr: 3e-3, schedule: cosine, warmup_steps: 5, min_lr_ratio: 0.1, beta2: 0.99"),
    Online(name="cups_grpo", task="cups", preset="grpo", cells="kl_coefficient: 0", steps=90,
           optimizer="lr: 3e-4, schedule: constant, beta2: 0.99"),
]

# Settings that worked in a prototype in PyTorch. Addition by plain DPO or SimPO hardly moves: the pairs share nearly every
# token, and both completions lose probability together; the chosen one's likelihood in the loss is what helps.
RECORDED = [
    Recorded(name="rft", stage="sft", data="verified", lr=3e-4),
    Recorded(name="dpo", prompts=1024, epochs=5, preference="beta: 0.5, sft_weight: 1"),
    Recorded(name="simpo", stage="simpo", prompts=1024, epochs=5, preference="beta: 2, sft_weight: 1"),
    Recorded(name="orpo", stage="orpo", prompts=1024, epochs=3, lr=3e-4, preference="beta: 1"),
    # At beta 0.1 wrong completions are pushed away by 25 nats before the loss lets go of them, and right ones with them.
    Recorded(name="kto", stage="kto", data="labelled", preference="beta: 0.5"),
    Recorded(name="dpo_lora", prompts=1024, epochs=5, lr=1e-3, preference="beta: 0.5, sft_weight: 1", model=LORA),
    Recorded(name="reward_model", stage="reward_model", prompts=1024, epochs=3, lr=1e-3),
    Recorded(name="cups_rft", task="cups", stage="sft", data="verified", epochs=2, lr=3e-4),
    Recorded(name="cups_dpo", task="cups", epochs=3, preference="beta: 0.1"),
    Recorded(name="cups_simpo", task="cups", stage="simpo", epochs=3, preference="beta: 2, target_margin: 0.5",
             least_gain=0.1),
    Recorded(name="cups_orpo", task="cups", stage="orpo", epochs=6, lr=3e-4, preference="beta: 1",
             least_gain=0.1),
    Recorded(name="cups_kto", task="cups", stage="kto", data="labelled", epochs=2, lr=3e-4, preference="beta: 0.1"),
]

METHODS = {method.name: method for method in ONLINE + RECORDED}

_RUN = """# {name} on the demo's task, from its SFT model.
name: {name}
output_dir: {folder}
seed: {seed}
model: {{path: {folder}/sft/final{model}}}
data:
  train: [{{path: {folder}/data/train.jsonl}}]
  evaluation: [{{path: {folder}/data/held_out.jsonl}}]
sampling: {{temperature: 1.0, max_tokens: 32}}
algorithm: {{preset: {preset}, samples_per_prompt: 8{cells}}}
{sections}reward:
  verifiers:
{verifiers}
learner:
  steps: {steps}
  prompts_per_step: {prompts}
  optimizer: {{{optimizer}}}
{learner}  checkpoint: {{every_steps: 20}}
evaluation: {{at_start: true, samples_per_prompt: 4, max_prompts: {evaluation}}}
"""


def online_yaml(method, folder, seed, steps, prompts, evaluation):
    def within(text):
        return text.replace("{folder}", str(folder))

    return _RUN.format(name=method.name, preset=method.preset, folder=folder, seed=seed, model=method.model,
                       cells=f", {method.cells}" if method.cells else "", steps=steps or method.steps,
                       prompts=prompts or method.prompts, optimizer=method.optimizer, evaluation=evaluation,
                       sections=within(method.sections), learner=within(method.learner),
                       verifiers=within(method.verifiers))


_RECORDED = """# {name}: {stage} on samples of the SFT model.
name: {name}
output_dir: {folder}
seed: {seed}
stage: {stage}
model: {{path: {folder}/sft/final{model}}}
data:
  train: [{{path: {train}}}]
{evaluation}{preference}learner:
  steps: {steps}
  prompts_per_step: {batch}
  optimizer: {{lr: {lr:g}, schedule: cosine, warmup_steps: 5, min_lr_ratio: 0.1, beta2: 0.99}}
{learner}  checkpoint: {{every_steps: 0}}
"""


def recorded_yaml(method, folder, seed, train, held_out_pairs, rows, steps):
    """`rows`: of the file `train`."""
    pairs = f"  evaluation: [{{path: {held_out_pairs}}}]\nevaluation: {{at_start: true}}\n"
    return _RECORDED.format(name=method.name, folder=folder, seed=seed, stage=method.stage, model=method.model,
                            train=train, evaluation=pairs if method.rewards else "",
                            preference=f"preference: {{{method.preference}}}\n" if method.preference else "",
                            steps=steps or max(1, round(method.epochs * rows / method.batch)), batch=method.batch,
                            lr=method.lr, learner=method.learner)


# The margin of a model over the SFT start on pairs that neither has seen: DPO's own measure, with beta 1 in nats, by a step
# that moves nothing.
MARGIN_PROBE = """name: margin
output_dir: {folder}
stage: dpo
model: {{path: {model}}}
reference: {{model_path: {start}}}
preference: {{beta: 1}}
data:
  train: [{{path: {pairs}}}]
  evaluation: [{{path: {pairs}}}]
learner: {{steps: 1, prompts_per_step: 1, optimizer: {{lr: 0}}, checkpoint: {{every_steps: 0}}}}
evaluation: {{at_start: true}}
"""
