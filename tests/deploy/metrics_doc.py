"""docs/metrics.md, made from the registrations in the sources: python3 tests/deploy/metrics_doc.py --write"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/metrics.md"
FOLDERS = {"common/rpc": "every service", "common/metrics": "every service", "services/learner": "learner",
           "services/generator": "generator", "services/reward/model": "reward model", "services/reward": "reward", "services/reference": "reference"}

# A name and its help, the help perhaps in several literals; before them the call that says the type.
REGISTRATION = re.compile(r'(\w+)\(\s*(?:(?:registry|context\.metrics),\s*)?"(rollcall_[a-z0-9_]+)",\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
TYPES = {"AddCounter": "counter", "AddGauge": "gauge", "AddComputedGauge": "gauge", "AddHistogram": "histogram",
         "outcomes": "counter", "outcomes_": "counter"}  # OutcomeMetrics counts
# The services that score in batches share one struct; their names are put together from theirs.
COMPOSED = re.compile(r'(\w+)\(absl::StrCat\("rollcall_", service, "(_[a-z_]+)"\),\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
BATCHING = {"reference": "reference", "reward_model": "reward model"}

HEAD = """# Metrics

What each service serves at `metrics_listen`, in the Prometheus text format. This page is made from the code (`python3 tests/deploy/metrics_doc.py --write`) and compared with it, and with a live scrape, by a test.

Units are base units and part of the name; counters end in `_total`; a histogram `x` is `x_bucket`, `x_sum` and `x_count`. Labels have few values: services, verifiers, methods, outcomes, reasons; never a prompt, a group or a peer.

`rollcall_learner_step_value` has the figures of the last step under the names that `metrics.jsonl` and TensorBoard have: `reward/mean`, `reward/std`, `reward/<verifier>`, `reward/zero_variance_groups`, `length/mean`, `length/truncated`, `kl`, `reference_kl_k1`, `reference_kl_k3`, `behavior_kl_k1`, `behavior_kl_k3`, `mfu` (where `learner.peak_tflops` is set), `entropy`, `clip_fraction_low`, `clip_fraction_high`, `ratio_min`, `ratio_max`, `grad_norm`, `lr`, `logprob_gap`, `skipped_updates`, `tokens_per_second`, `time/*_seconds`, `rollout/staleness`, `eval/…` and the rest of the algorithm's.

`mfu`, the model FLOPs utilisation of the trainer, is `F · passes · f / (time/train_seconds · learner.peak_tflops · 10¹² · learner.ranks)`. `F` is what a forward pass over the batch takes: for each layer and token 2 FLOPs a weight that the token is multiplied with (of experts, those that it visits), 4 · heads · head_dim for each key that it sees, and 2 · hidden · vocabulary for each token in the loss. `passes` is how often the step went over the batch (epochs), `f` is 3 (the backward pass takes twice the forward's) or 2 with an adapter. Passes that only score are not counted. `behavior_kl` is KL(sampler ‖ policy) over all passes of the step, `reference_kl` KL(policy ‖ reference), each by the estimators k1 and k3. The age of the last checkpoint is `time() - rollcall_learner_last_checkpoint_timestamp_seconds`.

`rollcall_work_stands_still_seconds` is what liveness probes go by: see [operate](operate.md#probes).
"""


def registrations():
    """{name: (type, service, help)} of everything that the sources register."""
    found = {}
    for folder, service in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".cc", ".h") or re.search(r"_(test|bench)\.cc$|_test_service|testing/", str(path)):
                continue
            code = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
            for call, name, literals in REGISTRATION.findall(code):
                text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals)).replace('\\"', '"')
                entry = (TYPES.get(call, "?"), service, text)
                if call not in TYPES:
                    raise ValueError(f"{path}: {name} is registered by {call}, which metrics_doc.py does not know")
                if service == "reward" and "reward/model/" in str(path):
                    continue
                if found.setdefault(name, entry) != entry:
                    raise ValueError(f"{path}: {name} is registered twice and differently")
    for call, suffix, literals in COMPOSED.findall((ROOT / "common/batching/batch_metrics.h").read_text()):
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals))
        for name, service in BATCHING.items():
            found[f"rollcall_{name}{suffix}"] = (TYPES[call], service, text)
    return found


def page():
    lines = [HEAD]
    entries = registrations()
    for service in dict.fromkeys(FOLDERS.values()):
        lines += [f"## {service[0].upper()}{service[1:]}", "", "| metric | type | what |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {kind} | {text} |" for name, (kind, owner, text) in sorted(entries.items())
                  if owner == service]
        lines.append("")
    return "\n".join(lines)


def documented():
    """{name: type} of docs/metrics.md."""
    return dict(re.findall(r"^\| `(rollcall_\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    PAGE.write_text(page())
