"""Tables and pictures of the learning bench's results."""

import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import chart  # noqa: E402

# Curves are means over this many steps: single batches of 256 samples jump by some points.
SMOOTHING = 3


def spread(values):
    return {"mean": statistics.mean(values), "min": min(values), "max": max(values)}


def summarize(rows, methods):
    """One entry a method, over its seeds."""
    table = []
    for method in methods:
        of = [row for row in rows if row["method"] == method]
        if not of:
            continue
        entry = {"method": method, "seeds": [row["seed"] for row in of], "steps": of[0]["steps"],
                 "online": of[0]["online"],
                 "max_logprob_gap": max((row.get("max_logprob_gap") or 0 for row in of), default=0)}
        # A run that was interrupted would count the time it stood still.
        if whole := [row["seconds"] for row in of if not row["resumed"]]:
            entry["seconds"] = spread(whole)
        for figure in ("accuracy_start", "accuracy_end", "win_rate", "margin", "pair_accuracy", "kl_start", "kl_end",
                       "optimizer_bytes"):
            values = [row[figure] for row in of if row.get(figure) is not None]
            if values:
                entry[figure] = spread(values)
        if "accuracy_end" in entry:
            entry["gain"] = spread([row["accuracy_end"] - row["accuracy_start"] for row in of])
        table.append(entry)
    return table


def _percent(of):
    return f"{100 * of['mean']:.1f} %"


def _range(of):
    return f"{100 * of['mean']:.1f} % ({100 * of['min']:.1f} to {100 * of['max']:.1f})"


def _seconds(entry):
    of = entry.get("seconds")
    return f"{of['mean']:.0f} ({of['max']:.0f})" if of else "interrupted"


def _bytes(of):
    return f"{of['max']:,}" if of else ""


def _of(whole, entry, figure, write):
    """The figure of the method that trains all parameters."""
    other = whole.get(entry["method"].removesuffix("_lora"), {})
    return write(other[figure]) if figure in other else ""


def _table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def as_markdown(table, missing):
    lines = []
    online = [entry for entry in table if entry["online"]]
    if online:
        lines += _table(["online", "seeds", "steps", "held-out accuracy, start", "end: mean (least to most)", "gain",
                         "training s: mean (most)"],
                        [[f"`{e['method']}`", str(len(e["seeds"])), str(e["steps"]), _percent(e["accuracy_start"]),
                          _range(e["accuracy_end"]), f"{100 * e['gain']['mean']:+.1f}", _seconds(e)] for e in online])
    taught = [entry for entry in table if "kl_end" in entry]
    if taught:
        lines += ["", *_table(["online", "KL to the teacher, nats a token: start", "end"],
                              [[f"`{e['method']}`", f"{e['kl_start']['mean']:.4f}", f"{e['kl_end']['mean']:.4f}"]
                               for e in taught])]
    recorded = [entry for entry in table if not entry["online"] and "accuracy_end" in entry]
    if recorded:
        lines += ["", *_table(["recorded", "seeds", "steps", "held-out accuracy, start", "end: mean (least to most)",
                               "win rate against the start", "preference margin, nats", "held-out pairs in order",
                               "training s: mean (most)"],
                              [[f"`{e['method']}`", str(len(e["seeds"])), str(e["steps"]),
                                _percent(e["accuracy_start"]), _range(e["accuracy_end"]), _range(e["win_rate"]),
                                f"{e['margin']['mean']:.2f}" if "margin" in e else "",
                                _range(e["pair_accuracy"]) if "pair_accuracy" in e else "", _seconds(e)]
                               for e in recorded])]
    rewards = [entry for entry in table if not entry["online"] and "accuracy_end" not in entry]
    if rewards:
        lines += ["", *_table(["reward model", "seeds", "steps", "held-out pairs in order: mean (least to most)",
                               "training s: mean (most)"],
                              [[f"`{e['method']}`", str(len(e["seeds"])), str(e["steps"]), _range(e["pair_accuracy"]),
                                _seconds(e)] for e in rewards])]
    adapters = [entry for entry in table if entry["method"].endswith("_lora")]
    whole = {entry["method"]: entry for entry in table}
    if adapters:
        lines += ["", *_table(["low-rank adapter", "held-out accuracy", "all parameters: accuracy", "optimizer bytes",
                               "all parameters: bytes"],
                              [[f"`{e['method']}`", _percent(e["accuracy_end"]), _of(whole, e, "accuracy_end", _percent),
                                _bytes(e.get("optimizer_bytes")), _of(whole, e, "optimizer_bytes", _bytes)]
                               for e in adapters])]
    if missing:
        lines += ["", *(f"No result of `{method}`: {reason}" for method, reason in missing.items())]
    return "\n".join(lines).strip() + "\n"


def smooth(curve):
    return [(curve[i][0], statistics.mean(y for _, y in curve[max(0, i - SMOOTHING + 1):i + 1]))
            for i in range(len(curve))]


def mean_curve(rows):
    """The curves of several seeds as one: step by step, the mean of their values. Over steps, since seconds are those of
    the machine's other work, too."""
    curves = [smooth(row["curve"]) for row in rows]
    return [(i + 1, statistics.mean(c[i][1] for c in curves)) for i in range(min(map(len, curves)))]


def write(folder, rows, methods, missing):
    """learning.json, .md and two pictures; returns the table and its text."""
    table = summarize(rows, methods)
    (folder / "learning.json").write_text(json.dumps({"methods": table, "not_run": missing, "runs": rows}) + "\n")
    text = as_markdown(table, missing)
    (folder / "learning.md").write_text(text)
    for name, online, title, label in (("learning.png", True, "reward of the training batches", "reward"),
                                       ("recorded.png", False, "pairs in order in training", "share")):
        curves = {entry["method"]: mean_curve([row for row in rows if row["method"] == entry["method"]])
                  for entry in table if entry["online"] == online}
        curves = {method: curve for method, curve in curves.items() if len(curve) > 1}
        if curves or online:
            (folder / name).write_bytes(chart.line_chart(curves, title, "steps", label, (0, 1)))
    return table, text
